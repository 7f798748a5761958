"""The inventory as typed values. Writes nothing but the secrets it lacks; never connects."""

from ops.settings.environment import (
    Environment,
    Machine,
    check_host_address,
    check_user,
    load_environment,
    machines,
)
from ops.settings.model import Collection, Edge, Qdrant, Secrets, Settings
from ops.settings.people import ACCESS_COLLECTION, Developer, Operator, Person
from ops.settings.secrets import ensure_secrets

__all__ = [
    "ACCESS_COLLECTION",
    "Collection",
    "Developer",
    "Edge",
    "Environment",
    "Machine",
    "Operator",
    "Person",
    "Qdrant",
    "Secrets",
    "Settings",
    "check_host_address",
    "check_user",
    "ensure_secrets",
    "load_environment",
    "machines",
]
