"""The throw-away host: start it, look at it, go in, take it away.

It changes nothing on this machine beyond what its Docker engine does for any container.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from ops.clients.ssh import Remote
from ops.errors import ServiceError, StackroomError, UnreachableError
from ops.sandbox import archive, build, cgroups, engine, inventory
from ops.sandbox.build import Say
from ops.sandbox.layout import (
    DEPUTY_KEY,
    EMBEDDINGS_IPV4,
    EMBEDDINGS_IPV6,
    EMBEDDINGS_PORT,
    ENVIRONMENT,
    GATEWAY_IPV4,
    GATEWAY_IPV6,
    HOST_IPV4,
    HOST_IPV6,
    KEY,
    NAME,
    NETWORK_IPV4,
    NETWORK_IPV6,
    OWNED,
    STATE,
    VOLUMES,
    WHICH,
)
from ops.sandbox.machine import check_machine, rights, this_machine
from ops.settings import load_environment

START_SECONDS = 60
OWN_CAS = Path("/usr/local/share/ca-certificates")


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox; `created` says whether this call made it."""

    ipv4: str
    ipv6: str
    key: Path
    environment: Path
    created: bool


@dataclass(frozen=True)
class SandboxStatus:
    """`systemd` is the word of `systemctl is-system-running`; `images` as in image_kinds()."""

    exists: bool
    running: bool
    address: str
    systemd: str
    images: dict[str, str]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


def up(say: Say) -> Sandbox:
    """Start the sandbox, or find it running; the environment `sandbox` then leads to it.

    Raises MissingToolError where this machine cannot hold it, UnreachableError when it does not
    come up within a minute.
    """
    check_machine()
    public_key = inventory.make_key()
    image = build.host_image(say)
    container = engine.inspect("container", NAME)
    if container is None:
        _create(image, say)
    else:
        if container["Image"] != (engine.inspect("image", image) or {})["Id"]:
            say("the sandbox runs an earlier image; renew it with: stackroom sandbox down")
        if not container["State"]["Running"]:
            say("starting the sandbox")
            engine.docker("start", NAME)
    _authorize(public_key)
    inventory.write_environment(public_key, inventory.make_key(DEPUTY_KEY))
    _until(lambda: _systemd_state() in ("running", "degraded"), "systemd is not up")
    if container is None:
        _trust_own_cas()
    _until(_login_works, "no login over SSH")
    if WHICH == "r2r":
        _serve_embeddings(image)
    say(f"the sandbox is up at {HOST_IPV4} and {HOST_IPV6}")
    return Sandbox(HOST_IPV4, HOST_IPV6, KEY, ENVIRONMENT, container is None)


def status() -> SandboxStatus:
    """What is there now. Changes nothing."""
    container = engine.inspect("container", NAME)
    running = bool(container and container["State"]["Running"])
    return SandboxStatus(
        exists=container is not None,
        running=running,
        address=HOST_IPV4,
        systemd=_systemd_state() if running else "",
        images=archive.image_kinds(),
    )


def shell() -> int:
    """A root shell in the sandbox, past its SSH and firewall. Returns the shell's exit status."""
    if not status().running:
        raise StackroomError("there is no running sandbox", "stackroom sandbox up")
    return subprocess.run(["docker", "exec", "-it", NAME, "bash", "-l"], check=False).returncode


def down(*, purge: bool = False, say: Say = lambda _: None) -> None:
    """Remove the sandbox, its clients, its data and its network.

    Images, archive and login key stay for the next `up`; `purge` removes them too.
    """
    containers = engine.listed("ps", "--all", "--quiet", "--no-trunc", "--filter", _ours())
    if containers:
        say("removing the sandbox")
        nested = cgroups.nested_containers(NAME)
        engine.docker("rm", "--force", "--volumes", *containers)
        cgroups.remove([*containers, *nested])
    for volume in engine.listed("volume", "ls", "--quiet", "--filter", _ours()):
        engine.docker("volume", "rm", volume)
    for network in engine.listed("network", "ls", "--quiet", "--filter", _ours()):
        engine.docker("network", "rm", network)
    inventory.forget_host_keys()
    if purge:
        say("removing its images, its archive and its key")
        build.remove_all()
        inventory.remove_environment()
        shutil.rmtree(STATE, ignore_errors=True)


def _ours() -> str:
    return f"label={OWNED}"


def _create(image: str, say: Say) -> None:
    say("starting a new sandbox")
    if engine.inspect("network", NAME) is None:
        engine.docker(
            *("network", "create", "--label", OWNED, "--ipv6"),
            *("--subnet", NETWORK_IPV4, "--gateway", GATEWAY_IPV4),
            *("--subnet", NETWORK_IPV6, "--gateway", GATEWAY_IPV6, NAME),
        )
    mounts = []
    for volume, path in VOLUMES.items():
        engine.docker("volume", "create", "--label", OWNED, volume)
        mounts += ["--volume", f"{volume}:{path}"]
    inventory.forget_host_keys()
    command = [
        *("run", "--detach", "--name", NAME, "--hostname", "sandbox", "--label", OWNED),
        *("--network", NAME, "--ip", HOST_IPV4, "--ip6", HOST_IPV6),
        # systemd ignores SIGTERM; this one shuts it down in order
        *("--stop-signal", "SIGRTMIN+3"),
        *mounts,
        *rights(this_machine()),
        image,
    ]
    try:
        engine.docker(*command)
    except ServiceError:
        engine.attempt("rm", "--force", NAME)  # one that could not start would only be in the way
        raise


def _authorize(public_key: str) -> None:
    """Let the key in as root. The engine writes it: that works before sshd runs."""
    script = (
        "install -d -m 700 /root/.ssh && touch /root/.ssh/authorized_keys && "
        'grep -qxF "$1" /root/.ssh/authorized_keys || echo "$1" >> /root/.ssh/authorized_keys'
    )
    engine.docker("exec", NAME, "sh", "-c", script, "sh", public_key)


def _trust_own_cas() -> None:
    """The authorities that this machine's administrator added sign the sandbox's traffic too."""
    if any(OWN_CAS.glob("*.crt")):
        engine.docker("cp", f"{OWN_CAS}/.", f"{NAME}:{OWN_CAS}")
        engine.docker("exec", NAME, "update-ca-certificates")


def _serve_embeddings(image: str) -> None:
    """The model behind LiteLLM, on a machine of its own: it needs no provider and no key."""
    name = f"{NAME}-embeddings"
    found = engine.inspect("container", name)
    if found and found["State"]["Running"]:
        return
    engine.attempt("rm", "--force", name)
    program = Path(__file__).with_name("embeddings.py").read_text(encoding="utf-8")
    engine.docker(
        *("run", "--detach", "--init", "--name", name, "--label", OWNED, "--network", NAME),
        *("--ip", EMBEDDINGS_IPV4, "--ip6", EMBEDDINGS_IPV6, "--user", "65534:65534"),
        *("--entrypoint", "python3", image, "-c", program, str(EMBEDDINGS_PORT)),
    )


def _until(done: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not done():
        if time.monotonic() > deadline:
            raise UnreachableError(
                f"the sandbox: {complaint} after {START_SECONDS} s",
                f"docker logs {NAME}; stackroom sandbox shell; stackroom sandbox down",
            )
        time.sleep(0.2)


def _systemd_state() -> str:
    return engine.attempt("exec", NAME, "systemctl", "is-system-running").stdout.strip()


def _login_works() -> bool:
    # a whole login: sshd takes connections without one for an attack and shuts their source out
    try:
        return Remote(load_environment(ENVIRONMENT)).run("true").returncode == 0
    except UnreachableError:
        return False
