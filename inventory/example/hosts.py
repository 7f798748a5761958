"""Where: the one machine of this environment, and how to log in to it."""

from ops.settings import machines

hosts = machines(
    __file__,
    address="203.0.113.10",  # IPv4, IPv6 or a host name
    user="root",  # a fresh Hetzner VM has root; later, the operator account of settings.toml
    port=22,
    key="",  # path of a private key; empty: the SSH agent or your default keys
)
