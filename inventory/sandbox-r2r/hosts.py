"""Where: the throw-away host that `stackroom sandbox up` starts on this machine."""

from ops.settings import machines

hosts = machines(
    __file__,
    address="198.18.51.10",
    key="../../.stackroom/sandbox/id_ed25519",
)
