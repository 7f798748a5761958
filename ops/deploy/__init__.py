"""From an environment to a changed host: plan, lock, apply, record. Starts pyinfra as a child."""

from ops.deploy.apply import apply
from ops.deploy.lock import hold_lock, lock_holder
from ops.deploy.plan import Plan, make_plan
from ops.deploy.record import history, write_record

__all__ = [
    "Plan",
    "apply",
    "history",
    "hold_lock",
    "lock_holder",
    "make_plan",
    "write_record",
]
