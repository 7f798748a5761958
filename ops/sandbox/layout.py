"""Names, addresses and places of the throw-away host. Constants only.

The addresses are of the ranges for documentation and benchmarks: no real machine has them.
STACKROOM_SANDBOX=second, or r2r, means another machine, with a network of its own, that can run
beside the first.
"""

from __future__ import annotations

import ipaddress
import os

from ops.errors import SettingsError
from ops.render.files import ROOT

# by the machine's own name: its network of 128 addresses, and its IPv6 prefix
NETWORKS = {
    "sandbox": ("198.51.100.0", "2001:db8::"),
    "second": ("198.51.100.128", "2001:db8:0:2::"),
    "r2r": ("198.18.51.0", "2001:db8:0:3::"),  # for the other stack
}
WHICH = os.environ.get("STACKROOM_SANDBOX") or "sandbox"
if WHICH not in NETWORKS:
    raise SettingsError(
        f"STACKROOM_SANDBOX={WHICH}: there is no such throw-away machine",
        f"unset STACKROOM_SANDBOX, or one of: {', '.join(NETWORKS)}",
    )


def ipv4(number: int, which: str = WHICH) -> str:
    """The address with this number, 1 to 126, on a machine's network."""
    return str(ipaddress.IPv4Address(NETWORKS[which][0]) + number)


def ipv6(number: int, which: str = WHICH) -> str:
    """The same over IPv6; it ends with the number's decimal digits."""
    return f"{NETWORKS[which][1]}{number}"


STATE = ROOT / ".stackroom" / "sandbox"  # keys, images and logs; all machines share them
KEY = STATE / "id_ed25519"
DEPUTY_KEY = STATE / "deputy_ed25519"  # a recovery file is for two people
# the committed environment of the stack; a machine at other addresses has a copy
PATTERN = ROOT / "inventory" / ("sandbox-r2r" if WHICH == "r2r" else "sandbox")
ENVIRONMENT = ROOT / "inventory" / "sandbox-second" if WHICH == "second" else PATTERN
IMAGE_FOLDERS = ROOT / "ops" / "sandbox" / "images"

NAME = f"stackroom-{WHICH}"
LABEL = "stackroom.sandbox=true"  # of images; a container that a person makes from one has it too
OWNED = f"stackroom.machine={WHICH}"  # of the containers, volumes and networks that `down` removes
IMAGES = "stackroom-sandbox"  # every image of ours is <IMAGES>/<name>:<hash of its inputs>

NETWORK_IPV4 = f"{ipv4(0)}/25"
NETWORK_IPV6 = f"{NETWORKS[WHICH][1]}/64"
GATEWAY_IPV4, GATEWAY_IPV6 = ipv4(1), ipv6(1)  # this machine, as the sandbox sees it: the operator
DEPUTY_IPV4 = ipv4(91)  # of a second operator, who opens the recovery file too
HOST_IPV4, HOST_IPV6 = ipv4(10), ipv6(10)

# The small server of vectors that R2R's stack asks, through LiteLLM
EMBEDDINGS_IPV4, EMBEDDINGS_IPV6, EMBEDDINGS_PORT = ipv4(90), ipv6(90), 8000

# The other machines that tests and the demo play: (IPv4, IPv6)
CLIENTS = {
    "allowed": (ipv4(21), ipv6(21)),  # the developer dora
    "denied": (ipv4(66), ipv6(66)),  # listed nowhere
}

# Data of the host's own Docker: overlay file systems cannot be stacked, so it gets real volumes
VOLUMES = {f"{NAME}-docker": "/var/lib/docker", f"{NAME}-containerd": "/var/lib/containerd"}
