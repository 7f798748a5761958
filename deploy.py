"""What happens to a host, in order. Run by `stackroom deploy`, or by hand:

pyinfra inventory/<environment>/hosts.py deploy.py
"""

from pathlib import Path

from pyinfra import config, host

from ops.host.access import access, refuse_lockout
from ops.host.backup import backup
from ops.host.base import base
from ops.host.collections import collections
from ops.host.docker import docker
from ops.host.grants import grants, revocations
from ops.host.people import people
from ops.host.preflight import preflight
from ops.host.stack import stack
from ops.render.backup import render_backups
from ops.render.stack import pinned_images, render_stack
from ops.settings import load_environment

config.REQUIRE_PYINFRA_VERSION = "==3.10.0"

environment = load_environment(Path(host.data.environment))
settings = environment.settings
archive = host.data.get("images_archive")

# Looks only. No change yet.
report = preflight(settings)
wanted = render_stack(environment, report.memory_mib, report.cpus)
backups = render_backups(environment)
force = bool(host.data.get("force_lockout"))
refuse_lockout(settings, force=force)

# From here on the host is changed, and the first step that fails ends it. So what takes away comes
# first and needs the least; the firewall comes before Docker: nothing is ever open.
revocations(settings=settings)
base(settings=settings)
people(settings=settings)
access(settings=settings, force=force)
docker(settings=settings, report=report)
stack(wanted=wanted, pinned=pinned_images(settings), archive=Path(archive) if archive else None)
collections(settings=settings)
grants(settings=settings)
backup(wanted=backups, report=report)
