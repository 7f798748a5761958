"""From an environment to a changed host: plan, lock, apply, record. Starts pyinfra as a child."""

from ops.deploy.lock import lock_holder
from ops.deploy.plan import Plan, make_plan
from ops.deploy.pyinfra import Part
from ops.deploy.record import history
from ops.deploy.run import carry_out

__all__ = ["Part", "Plan", "carry_out", "history", "lock_holder", "make_plan"]
