"""The real R2R stack, started from compose/r2r as containers on a network of its own.

The engine of a test machine may have no Compose, and Compose would take the names and ports of a
real deploy: `run_options` reads of compose.yaml what `docker run` needs, and refuses what it does
not know. Orchestration is `simple`: Hatchet's images can be had from its registry alone.
Images are those of the compose file where this machine has or can pull them, else they are built
from packages (ops/sandbox/archive.py).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from ops.render.files import ROOT
from ops.sandbox import engine
from ops.sandbox.archive import source_of

LABEL = "stackroom.test=r2r"
COMPOSE = ROOT / "compose" / "r2r"
UPSTREAM = ROOT / "ops" / "sandbox" / "embeddings.py"
START_SECONDS = 600  # for all of it, on a machine with a lot else to do
ANSWER = "The stack room is where the books are kept."
PROJECT = "library"
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+):\?\}|\$\$")


def values() -> dict[str, str]:
    """What the compose files ask for, small enough for a test."""
    return {
        "POSTGRES_VERSION": "pg16",
        "POSTGRES_MEMORY": "1024m",
        "POSTGRES_SHM": "256m",
        "POSTGRES_CONNECTIONS": "120",
        "POSTGRES_SHARED_BUFFERS": "128MB",
        "POSTGRES_MAINTENANCE_MEMORY": "128MB",
        "LITELLM_VERSION": "v1.106.2",
        "LITELLM_MEMORY": "1536m",
        "R2R_VERSION": "3.6.6",
        "R2R_MEMORY": "2048m",
        "R2R_SCRATCH": "256m",
        "R2R_PROJECT": PROJECT,
        "R2R_POSTGRES_POOL": "40",
        "STACK_CPUS": str(os.cpu_count() or 1),
        "LOG_MAX_SIZE": "10m",
        "LOG_MAX_FILES": "3",
    } | {f"{name}_CONFIG_SHA256": "0" * 64 for name in ("POSTGRES", "LITELLM", "R2R")}


@dataclass(frozen=True)
class Secrets:
    """Every secret of the stack, none like another: what no log may hold."""

    postgres_password: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    r2r_secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    litellm_master_key: str = field(default_factory=lambda: f"sk-{secrets.token_urlsafe(24)}")
    provider_key: str = field(default_factory=lambda: f"provider-{secrets.token_urlsafe(24)}")
    admin_password: str = field(default_factory=lambda: secrets.token_urlsafe(18))

    def all(self) -> dict[str, str]:
        return dict(vars(self))


class R2rStack:
    """R2R with what it needs. A client takes `url`, `admin_email`, `secrets.admin_password`."""

    admin_email = "librarian@example.com"

    def __init__(self, folder: Path, secret: Secrets | None = None) -> None:
        self.folder = folder
        self.secrets = secret or Secrets()
        self.name = f"stackroom-test-r2r-{secrets.token_hex(4)}"
        self.url = ""
        self.seconds: dict[str, float] = {}  # from a service's start to its readiness
        self.services: dict[str, dict[str, Any]] = {}

    # -- what lies on the host -------------------------------------------------------------------

    def lay_files(self) -> None:
        """The files that the compose files mount, as a deploy would render them."""
        s = self.secrets
        text = (COMPOSE / "compose.yaml").read_text(encoding="utf-8")
        filled = values()
        text = _VARIABLE.sub(lambda m: filled[m[1]] if m[1] else "$", text)
        self.services = yaml.safe_load(text)["services"]
        self._env(
            "postgres/postgres.env",
            POSTGRES_USER="r2r",
            POSTGRES_PASSWORD=s.postgres_password,
            POSTGRES_DB="r2r",
        )
        self._env(
            "litellm/litellm.env",
            LITELLM_MASTER_KEY=s.litellm_master_key,
            EMBEDDINGS_API_KEY=s.provider_key,
        )
        self._env(
            "r2r/r2r.env",
            R2R_POSTGRES_USER="r2r",
            R2R_POSTGRES_PASSWORD=s.postgres_password,
            R2R_POSTGRES_DBNAME="r2r",
            R2R_SECRET_KEY=s.r2r_secret_key,
            OPENAI_API_KEY=s.litellm_master_key,
        )
        self._file(".env", f"R2R_PROJECT={PROJECT}\n", 0)
        self._file("litellm/config.yaml", json.dumps(litellm_config()), 1000)
        self._file("r2r/r2r.toml", r2r_toml(self.admin_email, s.admin_password), 1000)
        shutil.copy(UPSTREAM, self.folder / UPSTREAM.name)
        (self.folder / UPSTREAM.name).chmod(0o444)

    def _env(self, path: str, **variables: str) -> None:
        self._file(path, "".join(f"{name}={value}\n" for name, value in variables.items()), 0)

    def _file(self, path: str, text: str, owner: int) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(text, encoding="utf-8")
        os.chown(file, owner, owner)

    # -- what runs -------------------------------------------------------------------------------

    def up(self) -> None:
        """Start everything in the order of `depends_on`, each when what it needs is healthy."""
        self.lay_files()
        engine.docker("network", "create", "--label", LABEL, self.name)
        engine.docker("volume", "create", "--label", LABEL, self.volume("postgres"))
        place = engine.inspect("volume", self.volume("postgres")) or {}
        os.chown(place["Mountpoint"], 999, 999)
        self._upstream()
        for name in in_order(self.services):
            self.start(name)
        port = engine.docker("port", self.container("r2r"), "7272/tcp").splitlines()[0]
        self.url = f"http://{port}"

    def start(self, name: str) -> None:
        """Start one service and wait until it is healthy."""
        service = self.services[name]
        began = time.monotonic()
        command = [str(word) for word in service.get("command", [])]
        engine.docker(
            *("run", "--detach", "--name", self.container(name), "--label", LABEL),
            *("--network", self.name, "--network-alias", name),
            *run_options(service, self.folder, self.volume),
            *(image_of(service["image"]), *command),
        )
        self.wait(name)
        self.seconds[name] = time.monotonic() - began

    def wait(self, name: str, health: str = "healthy") -> None:
        """Until a service has that health. AssertionError with its last log lines else."""
        deadline = time.monotonic() + START_SECONDS
        while (state := self.state(name)).get("Health", {}).get("Status") != health:
            log = engine.attempt("logs", "--tail", "30", self.container(name))
            shown = f"{json.dumps(state)[-2000:]}\n{log.stdout}{log.stderr}"
            assert state["Status"] != "exited" or state.get("Restarting"), f"{name}: {shown}"
            assert time.monotonic() < deadline, f"{name} is not {health}: {shown}"
            time.sleep(0.5)

    def state(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = (engine.inspect("container", self.container(name)) or {})["State"]
        return found

    def down(self) -> None:
        """Remove what `up` made, also of a start that failed."""
        for name in ("r2r", "litellm", "embeddings", "postgres"):
            engine.attempt("rm", "--force", "--volumes", self.container(name))
        engine.attempt("volume", "rm", self.volume("postgres"))
        engine.attempt("network", "rm", self.name)

    def container(self, service: str) -> str:
        return f"{self.name}-{service}"

    def volume(self, name: str) -> str:
        return f"{self.name}-{name}"

    def log(self, service: str) -> str:
        """Everything `docker logs` has of it."""
        done = engine.attempt("logs", self.container(service))
        return done.stdout + done.stderr

    def memory_mib(self) -> dict[str, float]:
        """What the processes of each service hold now; what they share counts once (needs root)."""
        held = {}
        for service in self.services:
            pids = engine.docker("top", self.container(service), "-eo", "pid").split()[1:]
            rolled = [Path(f"/proc/{pid}/smaps_rollup") for pid in pids]
            texts = [file.read_text(encoding="ascii") for file in rolled if file.exists()]
            found = re.findall(r"^Pss:\s+(\d+)", "\n".join(texts), re.M)
            held[service] = sum(map(int, found)) / 1024
        return held

    def _upstream(self) -> None:
        """The small embedding server, in the image of LiteLLM: it has Python."""
        engine.docker(
            *("run", "--detach", "--name", self.container("embeddings"), "--label", LABEL),
            *("--network", self.name, "--network-alias", "embeddings", "--read-only"),
            *("--user", "1000:1000", "--cap-drop", "ALL", "--memory", "256m"),
            *("--volume", f"{self.folder / UPSTREAM.name}:/upstream.py:ro"),
            *("--entrypoint", "python3", image_of(self.services["litellm"]["image"])),
            *("/upstream.py", "8000"),
        )

    # -- a client of its own, raw: no code under test ----------------------------------------------

    def client(self) -> httpx.Client:
        """Logged in as the admin."""
        form = {"username": self.admin_email, "password": self.secrets.admin_password}
        answer = httpx.post(f"{self.url}/v3/users/login", data=form, timeout=120)
        assert answer.status_code == 200, answer.text
        token = answer.json()["results"]["access_token"]["token"]
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=120)


@contextlib.contextmanager
def r2r_stack(folder: Path) -> Iterator[R2rStack]:
    """A running stack, removed at the end."""
    stack = R2rStack(folder)
    try:
        stack.up()
        print(f"R2R {values()['R2R_VERSION']}, orchestration simple; ready after", stack.seconds)
        yield stack
    finally:
        stack.down()


# -- configuration ---------------------------------------------------------------------------------


def litellm_config() -> dict[str, Any]:
    """A completion that is always the same, and embeddings from the small server."""
    answers = {"model": "openai/answers", "api_key": "none", "mock_response": ANSWER}
    near = {
        # the library under R2R passes `dimensions` only to names with text-embedding-3 in them
        "model": "openai/text-embedding-3-local",
        "api_base": "http://embeddings:8000/v1",
        "api_key": "os.environ/EMBEDDINGS_API_KEY",
    }
    return {
        "model_list": [
            {"model_name": "answers", "litellm_params": answers},
            {"model_name": "text-embedding-3-local", "litellm_params": near},
        ],
        "litellm_settings": {"drop_params": True, "telemetry": False},
        "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
    }


def r2r_toml(email: str, password: str) -> str:
    """r2r.toml with everything through LiteLLM, authentication on and orchestration `simple`."""
    models = ("fast_llm", "quality_llm", "vlm", "audio_lm", "reasoning_llm", "planning_llm")
    embedding = """\
provider = "litellm"
base_model = "openai/text-embedding-3-local"
base_dimension = 512
"""
    return f"""\
[app]
project_name = "{PROJECT}"
{"".join(f'{model} = "openai/answers"{chr(10)}' for model in models)}
[auth]
require_authentication = true
default_admin_email = "{email}"
default_admin_password = "{password}"
access_token_lifetime_in_minutes = 60

[completion]
provider = "r2r"
concurrent_request_limit = 16

[completion.generation_config]
model = "openai/answers"

[embedding]
{embedding}
[completion_embedding]
{embedding}
[ingestion]
provider = "r2r"
automatic_extraction = false

[orchestration]
provider = "simple"

[database.limits]
global_per_min = 6000
route_per_min = 6000
monthly_limit = 1000000
"""


# -- Compose's words in those of docker run --------------------------------------------------------

# said by the stack itself, or of no meaning to one container alone
_ELSEWHERE = {"image", "pull_policy", "command", "networks", "depends_on", "labels", "healthcheck"}


def in_order(services: dict[str, dict[str, Any]]) -> list[str]:
    """The names of the services, each after those it depends on."""
    done: list[str] = []

    def add(name: str) -> None:
        if name not in done:
            for needed in services[name].get("depends_on", {}):
                add(needed)
            done.append(name)

    for name in services:
        add(name)
    return done


def run_options(service: dict[str, Any], folder: Path, volume: Any) -> list[str]:
    """The options of `docker run` for a service; KeyError for a word that none is known for."""
    one = {
        "user": "--user",
        "mem_limit": "--memory",
        "shm_size": "--shm-size",
        "cpus": "--cpus",
        "pids_limit": "--pids-limit",
        "restart": "--restart",
        "stop_signal": "--stop-signal",
    }
    many = {"tmpfs": "--tmpfs", "cap_drop": "--cap-drop", "security_opt": "--security-opt"}
    options: list[str] = []
    for word, value in service.items():
        if word in _ELSEWHERE:
            continue
        if word in one:
            options += [one[word], str(value)]
        elif word in many:
            options += [part for each in value for part in (many[word], str(each))]
        else:
            options += _OPTIONS[word](value, folder, volume)
    return options + _health(service["healthcheck"])


def _free_port() -> int:
    """One that stays: Docker gives another with every start where none is named."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _health(check: dict[str, Any]) -> list[str]:
    # `docker run` knows shell lines alone; every image here has a shell
    words = " ".join(_quoted(word) for word in check["test"][1:])
    return [
        *("--health-cmd", words, "--health-interval", "3s"),
        *("--health-timeout", check["timeout"], "--health-retries", str(check["retries"])),
        *("--health-start-period", check["start_period"]),
    ]


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def _mount(value: list[dict[str, Any]], folder: Path, volume: Any) -> list[str]:
    options = []
    for mount in value:
        if mount["type"] == "bind":
            source = folder / mount["source"]
            options += ["--mount", f"type=bind,src={source},dst={mount['target']},readonly"]
        else:
            source = volume(mount["source"])
            options += [
                "--mount",
                f"type=volume,src={source},dst={mount['target']},volume-nocopy",
            ]
    return options


_OPTIONS = {
    "read_only": lambda value, *_: ["--read-only"] if value else [],
    "ulimits": lambda value, *_: [f"--ulimit={k}={v}" for k, v in value.items()],
    "stop_grace_period": lambda value, *_: ["--stop-timeout", value.removesuffix("s")],
    "env_file": lambda value, folder, _: [f"--env-file={folder / path}" for path in value],
    "environment": lambda value, *_: [f"--env={k}={v}" for k, v in value.items()],
    # a port of its own choice: the pinned one may be in use
    "ports": lambda value, *_: [
        f"--publish=127.0.0.1:{_free_port()}:{port.rsplit(':', 1)[1]}" for port in value
    ],
    "logging": lambda value, *_: [f"--log-opt={k}={v}" for k, v in value["options"].items()],
    "volumes": _mount,
}


@functools.cache
def image_of(pinned: str) -> str:
    """The image that stands for a pinned name on this machine; what it is, is printed."""
    source = source_of(pinned, print)
    print(f"image {pinned}: {source.kind}")
    return source.image
