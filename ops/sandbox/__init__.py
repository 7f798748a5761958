"""The throw-away host of the demo and the tests, and the images it cannot pull.

One container that is a real machine, and clients beside it that play other machines.
"""

from ops.sandbox.archive import image_archive, image_kinds
from ops.sandbox.client import Client, client
from ops.sandbox.engine import start_engine
from ops.sandbox.host import Sandbox, SandboxStatus, down, shell, status, up
from ops.sandbox.machine import check_machine

__all__ = [
    "Client",
    "Sandbox",
    "SandboxStatus",
    "check_machine",
    "client",
    "down",
    "image_archive",
    "image_kinds",
    "shell",
    "start_engine",
    "status",
    "up",
]
