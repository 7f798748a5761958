"""Names, addresses and places of the throw-away host. Constants only.

The addresses are of the documentation ranges: no real machine has them.
"""

from __future__ import annotations

from ops.render.files import ROOT

STATE = ROOT / ".stackroom" / "sandbox"
KEY = STATE / "id_ed25519"
DEPUTY_KEY = STATE / "deputy_ed25519"  # a recovery file is for two people
ENVIRONMENT = ROOT / "inventory" / "sandbox"
IMAGE_FOLDERS = ROOT / "ops" / "sandbox" / "images"

NAME = "stackroom-sandbox"
LABEL = "stackroom.sandbox=true"  # of images; a container that a person makes from one has it too
OWNED = "stackroom.sandbox=machine"  # of the containers, volumes and networks that `down` removes
IMAGES = "stackroom-sandbox"  # every image of ours is <IMAGES>/<name>:<hash of its inputs>

NETWORK_IPV4 = "198.51.100.0/24"
NETWORK_IPV6 = "2001:db8::/64"
GATEWAY_IPV4 = "198.51.100.1"  # this machine, as the sandbox sees it: the operator
GATEWAY_IPV6 = "2001:db8::1"
DEPUTY_IPV4 = "198.51.100.91"  # of a second operator, who opens the recovery file too
HOST_IPV4 = "198.51.100.10"
HOST_IPV6 = "2001:db8::10"

# The other machines that tests and the demo play: (IPv4, IPv6)
CLIENTS = {
    "allowed": ("198.51.100.21", "2001:db8::21"),  # the developer dora
    "denied": ("198.51.100.66", "2001:db8::66"),  # listed nowhere
}

# Data of the host's own Docker: overlay file systems cannot be stacked, so it gets real volumes
VOLUMES = {f"{NAME}-docker": "/var/lib/docker", f"{NAME}-containerd": "/var/lib/containerd"}
