"""Throw-away machines beside the sandbox: they play the allowed and the refused.

A client can look (python3, ssh) but has no rights and no key of anybody.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ops.clients.ssh import Completed
from ops.errors import ServiceError
from ops.sandbox import engine
from ops.sandbox.build import host_image
from ops.sandbox.layout import CLIENTS, NAME, OWNED


class Client:
    """One more machine on the sandbox's network, as long as its `with` block lasts."""

    def __init__(self, container: str, ipv4: str, ipv6: str) -> None:
        self.container = container
        self.ipv4 = ipv4
        self.ipv6 = ipv6

    def run(self, argv: Sequence[str], timeout: float = 30, *, stdin: str = "") -> Completed:
        """Run a program there. Exit status 124: it was ended after `timeout` seconds."""
        ending = ["timeout", "--kill-after=1", str(timeout)]
        try:
            done = subprocess.run(
                ["docker", "exec", "-i", self.container, *ending, *argv],
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout + 30,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ServiceError(f"the engine does not answer for {self.container}") from None
        return Completed(done.returncode, done.stdout, done.stderr)


@contextmanager
def client(name: str, ipv4: str = "", ipv6: str = "", *, image: str = "") -> Iterator[Client]:
    """Another machine: "allowed" (the developer dora), "denied" (listed nowhere), or any name
    with addresses of its own, of layout.ipv4 and layout.ipv6. It runs the host's image, or another
    one. Removed on exit."""
    known_ipv4, known_ipv6 = CLIENTS.get(name, ("", ""))
    ipv4, ipv6 = ipv4 or known_ipv4, ipv6 or known_ipv6
    if not (ipv4 and ipv6):
        raise ValueError(f"the client {name!r} needs ipv4 and ipv6")
    container = f"{NAME}-client-{name}"
    image = image or host_image(lambda _: None)
    engine.attempt("rm", "--force", container)
    try:
        engine.docker(
            *("run", "--detach", "--init", "--name", container, "--hostname", name),
            *("--label", OWNED, "--network", NAME, "--ip", ipv4, "--ip6", ipv6),
            *(image, "sleep", "infinity"),
        )
        yield Client(container, ipv4, ipv6)
    finally:
        engine.attempt("rm", "--force", container)
