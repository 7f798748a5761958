"""A developer's own machine beside the sandbox: clean, and with what a kit asks its reader for.

It has uv, curl and ssh, an account without rights, and nothing of Stackroom.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ops.errors import ServiceError
from ops.sandbox.archive import CA_BUNDLE
from ops.sandbox.build import Say, built_image
from ops.sandbox.client import Client, client

HOME = "/home/you"


def workstation_image(say: Say) -> str:
    """The image, built where its folder or its base has changed. Raises ServiceError."""
    return built_image("workstation", say, passing={"ca-certificates.crt": CA_BUNDLE})


@contextmanager
def workstation(name: str, ipv4: str, ipv6: str) -> Iterator[Client]:
    """A clean machine with these addresses on the sandbox's network. Removed on exit."""
    with client(name, ipv4, ipv6, image=workstation_image(lambda _: None)) as made:
        yield made


def lay_files(machine: Client, folder: str, files: Mapping[str, str]) -> None:
    """Files for their owner alone, in a folder of their home. Raises ServiceError."""
    for name, content in files.items():
        script = 'umask 077 && mkdir -p "$1" && cat > "$1/$2"'
        done = machine.run(["sh", "-c", script, "-", f"{HOME}/{folder}", name], stdin=content)
        if done.returncode != 0:
            raise ServiceError(f"{name} cannot be laid on {machine.container}: {done.stderr}")
