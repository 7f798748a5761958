"""The inventory as typed values. Reads one environment folder; never writes, never connects."""

from ops.settings.environment import (
    Environment,
    Machine,
    check_host_address,
    check_user,
    load_environment,
    machines,
)
from ops.settings.model import Collection, Edge, Person, Qdrant, Secrets, Settings

__all__ = [
    "Collection",
    "Edge",
    "Environment",
    "Machine",
    "Person",
    "Qdrant",
    "Secrets",
    "Settings",
    "check_host_address",
    "check_user",
    "load_environment",
    "machines",
]
