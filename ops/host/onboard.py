"""Who gets in, and nothing else: the part of deploy.py that a change of people needs. By hand:

pyinfra inventory/<environment>/hosts.py ops/host/onboard.py
"""

from pathlib import Path

from pyinfra import config, host
from pyinfra.api.exceptions import DeployError

from ops.host.access import access, refuse_lockout
from ops.host.facts import Lines
from ops.host.grants import grants, revocations
from ops.host.operations import packages, place
from ops.host.people import people
from ops.render.backup import settings_copy
from ops.render.host import GUARD
from ops.render.project import STACK_DIR
from ops.settings import load_environment

config.REQUIRE_PYINFRA_VERSION = "==3.10.0"

environment = load_environment(Path(host.data.environment))
settings = environment.settings

# Looks only. No change yet.
if not host.get_fact(Lines, script=f"[ -x {GUARD} ] && [ -d {STACK_DIR} ] && echo yes || true"):
    raise DeployError("nothing is deployed on this machine yet: deploy it first")
force = bool(host.data.get("force_lockout"))
refuse_lockout(settings, force=force)

# From here on the host is changed, and the first step that fails ends it. So what takes away comes
# first and needs the least: tokens, then accounts, then addresses. New tokens come last.
revocations(settings=settings)
people(settings=settings)
packages(name="packages", names=["conntrack"])  # machines deployed before have none
access(settings=settings, force=force)
grants(settings=settings)
place(name="copy for backups", files=[settings_copy(environment, "developers.toml")])
