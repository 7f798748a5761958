"""The compose project as it should lie on the host: files, services, volumes.

A service's `config_sha256` covers all that shapes it; it becomes a label, so that a service is
started anew exactly when something of its own has changed.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import SecretStr

from ops.errors import SettingsError
from ops.render.files import RenderedFile, read_compose, render
from ops.render.memory import body_limit_mb, qdrant_memory_mib
from ops.settings import Environment, Settings
from ops.settings.model import EdgeMode, Secrets

PROJECT = "stackroom"
STACK_DIR = "/etc/stackroom/stack"
QDRANT_UID = 1000  # of the image's own account
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+):\?\}")
# what an Authorization header carries (RFC 6750); none of it means anything to a file's syntax
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@dataclass(frozen=True)
class Service:
    """A service of the project: its pinned image and the hash of what shapes it."""

    name: str
    image: str
    config_sha256: str


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
class Stack:
    """Everything the host needs to run the stack."""

    files: tuple[RenderedFile, ...]
    services: tuple[Service, ...]
    volumes: tuple[Volume, ...]
    build: GitBuild | None


def render_stack(environment: Environment, memory_mib: int, cpus: int) -> Stack:
    """The stack of an environment on a host with `memory_mib` MiB of memory and `cpus` cores.

    Raises SettingsError where the host is too small, or a secret is not one line of plain letters.
    """
    settings = environment.settings
    _check_secrets(settings.secrets)
    compose = {name: read_compose(source) for name, source in _compose_files(settings).items()}
    mounted = _mounted_files(environment)
    values = _values(settings, memory_mib, cpus)
    documents = [yaml.safe_load(text) for text in compose.values()]
    services = []
    for name in _service_names(settings):
        texts = [text for text in (service_text(d, name) for d in documents) if text]
        digest = digest_of(texts, values, [file for file in mounted if _belongs(file, name)])
        values[f"{name.upper()}_CONFIG_SHA256"] = digest
        services.append(Service(name, _image(settings, name), digest))
    files = [
        *(RenderedFile(f"{STACK_DIR}/{name}", text) for name, text in compose.items()),
        *_trial_files(settings),
        RenderedFile(f"{STACK_DIR}/.env", env_text(values, list(compose)), mode=0o600),
        *mounted,
    ]
    return Stack(tuple(files), tuple(services), _volumes(settings), _build(settings))


def _check_secrets(secrets: Secrets) -> None:
    for name in ("qdrant_api_key", "qdrant_alt_api_key", "api_token", "mistral_api_key"):
        secret: SecretStr | None = getattr(secrets, name)
        if secret and not _TOKEN.fullmatch(secret.get_secret_value()):
            raise SettingsError(
                f"secrets.toml: secrets.{name} must be of A-Z, a-z, 0-9 and . _ ~ + / - only",
                "such a value does not pass through HTTP headers and configuration files unchanged",
            )


def pinned_images(settings: Settings) -> list[str]:
    """The images that a host has to pull, or be given; one that it builds is not among them."""
    built = _build(settings)
    images = {_image(settings, service) for service in _service_names(settings)}
    return sorted(images - {built.image if built else ""})


def _compose_files(settings: Settings) -> dict[str, str]:
    """File name on the host -> file below compose/, in the order in which they are merged."""
    files = {"compose.yaml": "qdrant/compose.yaml"}
    if settings.edge.mode is not EdgeMode.TUNNEL:
        files["edge.yaml"] = "edge/compose.yaml"
    if settings.edge.mode in (EdgeMode.ACME, EdgeMode.EXTERNAL):
        files[f"{settings.edge.mode}.yaml"] = f"edge/{settings.edge.mode}.yaml"
    if settings.api:
        files["api.yaml"] = "qdrant/api.yaml"
        if settings.edge.mode is not EdgeMode.TUNNEL:
            files["edge-api.yaml"] = "edge/api.yaml"
    return files


def _trial_files(settings: Settings) -> list[RenderedFile]:
    """Overlays for the trial start; not among the files that Compose reads by itself."""
    files = [RenderedFile(f"{STACK_DIR}/trial.yaml", read_compose("qdrant/trial.yaml"))]
    if settings.edge.mode is not EdgeMode.TUNNEL:
        files.append(RenderedFile(f"{STACK_DIR}/trial-edge.yaml", read_compose("edge/trial.yaml")))
    return files


def _service_names(settings: Settings) -> list[str]:
    edge = [] if settings.edge.mode is EdgeMode.TUNNEL else ["edge"]
    return ["qdrant", *edge, *(["api"] if settings.api else [])]


def _image(settings: Settings, service: str) -> str:
    if service == "api":
        return _api_image(settings)
    if service == "edge":
        return f"caddy:{settings.edge.version}"
    return pinned_qdrant(settings)


def pinned_qdrant(settings: Settings) -> str:
    """The image of Qdrant itself."""
    return f"qdrant/qdrant:{settings.qdrant.version}"


def _api_image(settings: Settings) -> str:
    if settings.api and settings.api.git:
        # a tag holds fewer characters than a git ref; the hash keeps two refs apart
        ref = settings.api.git.ref
        digest = hashlib.sha256(f"{settings.api.git.repository} {ref}".encode()).hexdigest()[:8]
        return f"stackroom-api:{re.sub(r'[^A-Za-z0-9_.-]', '-', ref)[:100]}-{digest}"
    return settings.api.image if settings.api else ""


def _build(settings: Settings) -> GitBuild | None:
    if settings.api and settings.api.git:
        git = settings.api.git
        return GitBuild(_api_image(settings), git.repository, git.ref)
    return None


def host_values(settings: Settings, cpus: int) -> dict[str, str]:
    """What the services of any stack are told of the host they share."""
    return {
        # a quarter of a core is left for sshd and the edge when a search takes all it can get
        "STACK_CPUS": f"{cpus - 0.25:.2f}",
        "LOG_MAX_SIZE": settings.docker.log_max_size,
        "LOG_MAX_FILES": str(settings.docker.log_max_files),
    }


def _values(settings: Settings, memory_mib: int, cpus: int) -> dict[str, str]:
    """The variables of the compose files. No secret is among them."""
    values = {
        "QDRANT_VERSION": settings.qdrant.version,
        "QDRANT_OPEN_FILES": str(settings.qdrant.open_files),
        "QDRANT_MEMORY": f"{qdrant_memory_mib(settings, memory_mib)}m",
        **host_values(settings, cpus),
    }
    if settings.edge.mode is not EdgeMode.TUNNEL:
        values |= {"EDGE_VERSION": settings.edge.version, "EDGE_PORT": str(settings.edge.port)}
    if settings.edge.mode is EdgeMode.EXTERNAL:
        values["EDGE_CERTIFICATE"] = settings.edge.certificate
        values["EDGE_PRIVATE_KEY"] = settings.edge.private_key
    if settings.api:
        values |= {
            "API_IMAGE": _api_image(settings),
            "API_USER": str(settings.api.user),
            "API_MEMORY": f"{settings.api.memory.lower()}",
            "API_PORT": str(settings.api.port),
        }
        if settings.edge.mode is not EdgeMode.TUNNEL:
            values["EDGE_API_PORT"] = str(settings.edge.api_port)
    return values


def _mounted_files(environment: Environment) -> list[RenderedFile]:
    settings = environment.settings
    files = [_qdrant_config(settings)]
    if settings.edge.mode is not EdgeMode.TUNNEL:
        files.append(_caddyfile(environment))
    if settings.api:
        files.append(_api_environment(settings))
    return files


def _qdrant_config(settings: Settings) -> RenderedFile:
    alt = settings.secrets.qdrant_alt_api_key
    text = render(
        "qdrant/local.yaml.j2",
        api_key=settings.secrets.qdrant_api_key.get_secret_value(),
        alt_api_key=alt.get_secret_value() if alt else "",
        dashboard=settings.qdrant.dashboard,
        max_request_size_mb=body_limit_mb(settings.edge.max_body),
        edge=settings.edge.mode is not EdgeMode.TUNNEL,
    )
    path = f"{STACK_DIR}/qdrant/local.yaml"
    return RenderedFile(path, text, mode=0o400, uid=QDRANT_UID, secret=True)


def edge_names(environment: Environment) -> list[str]:
    """What the certificate is for: the domain, and the machine's address in URL form."""
    address = environment.machine.address.lower()
    try:
        ip = ipaddress.ip_address(address)
        address = f"[{ip}]" if ip.version == 6 else str(ip)
    except ValueError:
        pass  # a host name
    settings = environment.settings
    if settings.edge.mode is not EdgeMode.INTERNAL:
        return [settings.edge.domain]  # nobody else certifies the address
    return list(dict.fromkeys(name for name in (settings.edge.domain, address) if name))


def edge_values(environment: Environment) -> dict[str, Any]:
    """What the edge of any stack is rendered with."""
    edge, names = environment.settings.edge, edge_names(environment)
    return {
        "mode": edge.mode.value,
        "names": names,
        "address": names[-1].strip("[]"),
        "port": edge.port,
        "email": edge.email,
        "max_body": edge.max_body,
    }


def _caddyfile(environment: Environment) -> RenderedFile:
    settings = environment.settings
    text = render(
        "edge/Caddyfile.j2",
        **edge_values(environment),
        api_port=settings.edge.api_port,
        api_upstream=f"api:{settings.api.port}" if settings.api else "",
        api_token=settings.secrets.api_token.get_secret_value(),
    )
    # the token of the api stands in it
    return RenderedFile(f"{STACK_DIR}/edge/Caddyfile", text, mode=0o400, secret=True)


def _api_environment(settings: Settings) -> RenderedFile:
    lines = [f"QDRANT_API_KEY={settings.secrets.newest_qdrant_key().get_secret_value()}"]
    if settings.secrets.mistral_api_key:
        lines.append(f"MISTRAL_API_KEY={settings.secrets.mistral_api_key.get_secret_value()}")
    text = "\n".join(lines) + "\n"
    return RenderedFile(f"{STACK_DIR}/api/api.env", text, mode=0o600, secret=True)


def _volumes(settings: Settings) -> tuple[Volume, ...]:
    volumes = [
        Volume("stackroom_qdrant_storage", QDRANT_UID),
        Volume("stackroom_qdrant_snapshots", QDRANT_UID),
    ]
    if settings.edge.mode is not EdgeMode.TUNNEL:
        volumes += [Volume("stackroom_edge_data", 0), Volume("stackroom_edge_config", 0)]
    if settings.api:
        kinds = ("library", "sessions", "configs")
        volumes += [Volume(f"stackroom_api_{kind}", settings.api.user) for kind in kinds]
    return tuple(volumes)


def _belongs(file: RenderedFile, service: str) -> bool:
    return file.path.startswith(f"{STACK_DIR}/{service}/")


def service_text(document: dict[str, Any], service: str) -> str:
    """What one compose file says that shapes a service; empty where it is of others only."""
    shaping = {"networks": document["networks"]} if "networks" in document else {}
    if service in document["services"]:
        shaping |= {"service": document["services"][service], "volumes": document.get("volumes")}
    return yaml.safe_dump(shaping) if shaping else ""


def digest_of(texts: list[str], values: dict[str, str], files: list[RenderedFile]) -> str:
    """SHA-256 over the service's compose text, the values it uses, and its mounted files."""
    used = {name for text in texts for name in VARIABLE.findall(text)}
    parts = [
        *texts,
        *(f"{name}={values[name]}" for name in sorted(used) if name in values),
        *(f"{file.path} {file.sha256}" for file in files),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def env_text(values: dict[str, str], compose_files: list[str]) -> str:
    lines = [
        "# Written by Stackroom. Compose reads it; no secret is in it.",
        f"COMPOSE_PROJECT_NAME={PROJECT}",
        f"COMPOSE_FILE={':'.join(compose_files)}",
        *(f"{name}={value}" for name, value in sorted(values.items())),
    ]
    return "\n".join(lines) + "\n"
