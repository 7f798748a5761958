"""What every stack is as a compose project: its parts, and how they are put together.

A service's `config_sha256` covers all that shapes it; it becomes a label, so that a service is
started anew exactly when something of its own has changed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ops.render.files import RenderedFile, read_compose
from ops.settings import Settings

PROJECT = "stackroom"
STACK_DIR = "/etc/stackroom/stack"
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+):\?\}")
_LABEL = re.compile(r"\$\{([A-Z0-9_]+_CONFIG_SHA256):\?\}")


@dataclass(frozen=True)
class Service:
    """A service of the project: its pinned image and the hash of what shapes it.

    `files`: absolute paths of what it reads of the stack's folder. `once`: it ends when it is done.
    """

    name: str
    image: str
    config_sha256: str
    files: tuple[str, ...] = ()
    once: bool = False


@dataclass(frozen=True)
class Volume:
    """A named volume and the numeric user that owns its root."""

    name: str
    uid: int


@dataclass(frozen=True)
class GitBuild:
    """An image that is built on the host from a git repository."""

    image: str
    repository: str
    ref: str


@dataclass(frozen=True)
class FolderBuild:
    """An image that is built on the host from files of ours: (name, content)."""

    image: str
    files: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Stack:
    """Everything the host needs to run the stack. `data_volume` holds what the team knows.

    `ordered`: its services need their order at every start of the machine, not the first alone.
    """

    files: tuple[RenderedFile, ...]
    services: tuple[Service, ...]
    volumes: tuple[Volume, ...]
    data_volume: str
    build: GitBuild | FolderBuild | None = None
    ordered: bool = False


@dataclass(frozen=True)
class Trial:
    """How a new stack is tried beside the one that runs.

    `overlays`: file name on the host -> file below compose/. `services`: which of them, with what
    they need. `seconds`: how long they may take to become healthy. `memory`: MiB that they take;
    with less to spare what runs could be killed for it.
    """

    overlays: Mapping[str, str]
    services: tuple[str, ...]
    seconds: int
    memory: int


@dataclass(frozen=True)
class Plan:
    """A stack before it is put together.

    `compose`: file name on the host -> file below compose/, in the order in which they are merged.
    `values`: the variables the compose files may ask for; no secret is among them.
    `mounted`: what the services read.
    """

    compose: Mapping[str, str]
    values: Mapping[str, str]
    mounted: Sequence[RenderedFile]
    trial: Trial
    data_volume: str
    build: GitBuild | FolderBuild | None = None
    ordered: bool = False


def put_together(plan: Plan) -> Stack:
    """The stack: compose files as they are, and one `.env` with what they ask for."""
    compose = {name: read_compose(source) for name, source in plan.compose.items()}
    overlays = {name: read_compose(source) for name, source in plan.trial.overlays.items()}
    documents = _documents(compose)
    mounted = {file.path: file for file in plan.mounted}
    asked = {name for text in compose.values() for name in VARIABLE.findall(text)}
    values = {name: value for name, value in plan.values.items() if name in asked}
    services = []
    for name, definitions in _definitions(documents).items():
        paths = list(dict.fromkeys(path for one in definitions for path in _files_of(one)))
        texts = [text for text in (service_text(d, name) for d in documents) if text]
        digest = digest_of(texts, values, [mounted[path] for path in paths if path in mounted])
        for label in _LABEL.findall("".join(texts)):
            values[label] = digest
        once = any(one.get("restart") == "no" for one in definitions)
        services.append(Service(name, _image(definitions, values), digest, tuple(paths), once))
    env = env_text(values | _trial_values(plan.trial), list(compose))
    files = [
        *(RenderedFile(f"{STACK_DIR}/{name}", text) for name, text in (compose | overlays).items()),
        RenderedFile(f"{STACK_DIR}/.env", env, mode=0o600),
        *plan.mounted,
    ]
    return Stack(
        files=tuple(files),
        services=tuple(services),
        volumes=_volumes(documents, values),
        data_volume=plan.data_volume,
        build=plan.build,
        ordered=plan.ordered,
    )


def images_of(compose: Iterable[str], values: Mapping[str, str]) -> list[str]:
    """The images that the compose files name; `values` has at least the variables in them."""
    documents = _documents({name: read_compose(name) for name in compose})
    named = _definitions(documents).values()
    return sorted({_image(definitions, values) for definitions in named})


def host_values(settings: Settings, cpus: int) -> dict[str, str]:
    """What the services of any stack are told of the host they share."""
    return {
        # a quarter of a core is left for sshd and the edge when a search takes all it can get
        "STACK_CPUS": f"{cpus - 0.25:.2f}",
        "LOG_MAX_SIZE": settings.docker.log_max_size,
        "LOG_MAX_FILES": str(settings.docker.log_max_files),
    }


def _trial_values(trial: Trial) -> dict[str, str]:
    """For stackroom-apply, which reads `.env` as Compose does."""
    return {
        "TRIAL_FILES": ":".join(trial.overlays),
        "TRIAL_SERVICES": ",".join(trial.services),
        "TRIAL_SECONDS": str(trial.seconds),
        "TRIAL_MEMORY": str(trial.memory),
    }


# -- what the compose files say --------------------------------------------------------------


def _documents(compose: Mapping[str, str]) -> list[dict[str, Any]]:
    return [yaml.safe_load(text) for text in compose.values()]


def _definitions(documents: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Service -> what each file says of it."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for document in documents:
        for name, definition in document.get("services", {}).items():
            found.setdefault(name, []).append(definition)
    return found


def _image(definitions: Sequence[Mapping[str, Any]], values: Mapping[str, str]) -> str:
    named = next(str(one["image"]) for one in definitions if "image" in one)
    return VARIABLE.sub(lambda found: values[found[1]], named)


def _files_of(definition: Mapping[str, Any]) -> list[str]:
    """The files of the stack's folder that a service reads: absolute paths."""
    sources = [*definition.get("env_file", [])]
    sources += [
        mount["source"]
        for mount in definition.get("volumes", [])
        if isinstance(mount, Mapping) and mount.get("type") == "bind"
    ]
    own = [source for source in sources if source.startswith("./")]
    return [f"{STACK_DIR}/{source.removeprefix('./')}" for source in own]


def _volumes(
    documents: Sequence[Mapping[str, Any]], values: Mapping[str, str]
) -> tuple[Volume, ...]:
    """The named volumes, each with the user of the first service that mounts it."""
    owners: dict[str, int] = {}
    for definitions in _definitions(documents).values():
        user = next((str(one["user"]) for one in definitions if "user" in one), "0")
        uid = VARIABLE.sub(lambda found: values[found[1]], user).partition(":")[0]
        for mount in (each for one in definitions for each in one.get("volumes", [])):
            if isinstance(mount, Mapping) and mount.get("type") == "volume":
                owners.setdefault(mount["source"], int(uid))
    named = {k: v for d in documents for k, v in (d.get("volumes") or {}).items()}
    return tuple(Volume(said["name"], owners[source]) for source, said in named.items())


def service_text(document: Mapping[str, Any], service: str) -> str:
    """What one compose file says that shapes a service; empty where it is of others only."""
    shaping = {"networks": document["networks"]} if "networks" in document else {}
    if service in document.get("services", {}):
        shaping |= {"service": document["services"][service], "volumes": document.get("volumes")}
    return yaml.safe_dump(shaping) if shaping else ""


def digest_of(texts: list[str], values: Mapping[str, str], files: list[RenderedFile]) -> str:
    """SHA-256 over the service's compose text, the values it uses, and its mounted files."""
    used = {name for text in texts for name in VARIABLE.findall(text)}
    parts = [
        *texts,
        *(f"{name}={values[name]}" for name in sorted(used) if name in values),
        *(f"{file.path} {file.sha256}" for file in files),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def env_text(values: Mapping[str, str], compose_files: list[str]) -> str:
    lines = [
        "# Written by Stackroom. Compose reads it; no secret is in it.",
        f"COMPOSE_PROJECT_NAME={PROJECT}",
        f"COMPOSE_FILE={':'.join(compose_files)}",
        *(f"{name}={value}" for name, value in sorted(values.items())),
    ]
    return "\n".join(lines) + "\n"
