"""The R2R stack as it should lie on the host: configuration, one environment file a service.

A service's environment file holds what that service needs and no other's secret. What a compose
file mounts, reads or asks for by name is supplied here; a test compares the two.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tomlkit
import yaml

from ops.errors import SettingsError
from ops.render.files import ROOT, RenderedFile, read_compose, render
from ops.render.r2r_env import env_files, secrets_of
from ops.render.r2r_sizes import Sizes, sizes
from ops.render.stack import (
    STACK_DIR,
    VARIABLE,
    Service,
    Volume,
    digest_of,
    edge_values,
    env_text,
    host_values,
    service_text,
)
from ops.settings import Environment, Settings
from ops.settings.model import EdgeMode
from ops.settings.r2r import size_in_bytes
from ops.settings.r2r_keys import VERSION, lint

# a major version of Postgres is never changed under its data
POSTGRES_VERSION, HATCHET_POSTGRES_VERSION = "pg16", "16.11"
HATCHET_VERSION = "v0.53.15"  # R2R's hatchet-sdk 0.47.0 speaks to this one and to no later one
RABBITMQ_VERSION = "3.13.7"  # what R2R runs it with; a major version does not start on its data
R2R_DASHBOARD_VERSION = "1.0.3"
R2R_UID = LITELLM_UID = 1000
BUILD_FILES = (".dockerignore", "Dockerfile", "ready.py", "requirements.lock", "start.py")
# of its limit the broker takes for messages: Erlang's collector needs the rest beside them
BROKER_PERCENT = 60
# LiteLLM tries again and falls back in this time; R2R must not give up before
PATIENCE_SECONDS = 30
_LABEL = re.compile(r"\$\{([A-Z0-9_]+_CONFIG_SHA256):\?\}")


@dataclass(frozen=True)
class FolderBuild:
    """An image that is built on the host from a folder there, of the files named."""

    image: str
    folder: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class R2RStack:
    """Everything the host needs to run the stack."""

    files: tuple[RenderedFile, ...]
    services: tuple[Service, ...]
    volumes: tuple[Volume, ...]
    build: FolderBuild


def render_r2r(environment: Environment, memory_mib: int, cpus: int) -> R2RStack:
    """The stack of an environment on a host with `memory_mib` MiB of memory and `cpus` cores.

    Raises SettingsError where the host is too small, or R2R would not know a key.
    """
    settings = environment.settings
    shares, build = sizes(settings, memory_mib, cpus), _build()
    compose = {name: read_compose(source) for name, source in compose_files(settings).items()}
    documents = [yaml.safe_load(text) for text in compose.values()]
    mounted = {file.path: file for file in _mounted_files(environment, shares)}
    asked = {name for text in compose.values() for name in VARIABLE.findall(text)}
    known = _values(settings, shares, cpus, build)
    values = {name: value for name, value in known.items() if name in asked}
    services = []
    for name in _service_names(documents):
        definitions = [d["services"][name] for d in documents if name in d.get("services", {})]
        paths = [path for definition in definitions for path in _files_of(definition)]
        texts = [text for text in (service_text(d, name) for d in documents) if text]
        digest = digest_of(texts, values, [mounted[path] for path in dict.fromkeys(paths)])
        for label in _LABEL.findall("".join(texts)):
            values[label] = digest
        image = next(definition["image"] for definition in definitions if "image" in definition)
        services.append(Service(name, _filled_in(image, values), digest))
    files = [
        *(RenderedFile(f"{STACK_DIR}/{name}", text) for name, text in compose.items()),
        RenderedFile(f"{STACK_DIR}/.env", env_text(values, list(compose)), mode=0o600),
        *_build_files(),
        *mounted.values(),
    ]
    return R2RStack(tuple(files), tuple(services), _volumes(documents), build)


def compose_files(settings: Settings) -> dict[str, str]:
    """File name on the host -> file below compose/, in the order in which they are merged."""
    files = {"compose.yaml": "r2r/compose.yaml"}
    if settings.r2r.orchestration == "hatchet":
        files["hatchet.yaml"] = "r2r/hatchet.yaml"
    if settings.r2r.dashboards:
        files["dashboards.yaml"] = "r2r/dashboards.yaml"
    if settings.r2r.dashboards and settings.r2r.orchestration == "hatchet":
        files["hatchet-dashboard.yaml"] = "r2r/hatchet-dashboard.yaml"
    if settings.r2r.graph_clustering:
        files["graphs.yaml"] = "r2r/graphs.yaml"
    if settings.r2r.unstructured:
        files["unstructured.yaml"] = "r2r/unstructured.yaml"
    return files


def _values(settings: Settings, shares: Sizes, cpus: int, build: FolderBuild) -> dict[str, str]:
    """The variables that compose files may ask for. No secret is among them."""
    unstructured, clustering = settings.r2r.unstructured, settings.r2r.graph_clustering
    return {
        "POSTGRES_VERSION": POSTGRES_VERSION,
        "POSTGRES_MEMORY": f"{shares.postgres}m",
        "POSTGRES_SHM": f"{shares.postgres_shm}m",
        "POSTGRES_CONNECTIONS": str(shares.max_connections),
        "POSTGRES_SHARED_BUFFERS": f"{shares.shared_buffers}MB",
        "POSTGRES_MAINTENANCE_MEMORY": f"{shares.maintenance_work_mem}MB",
        "HATCHET_VERSION": HATCHET_VERSION,
        "HATCHET_MEMORY": f"{shares.hatchet_engine}m",
        "HATCHET_POSTGRES_VERSION": HATCHET_POSTGRES_VERSION,
        "HATCHET_POSTGRES_MEMORY": f"{shares.hatchet_postgres}m",
        "RABBITMQ_VERSION": RABBITMQ_VERSION,
        "RABBITMQ_MEMORY": f"{shares.rabbitmq}m",
        "R2R_DASHBOARD_VERSION": R2R_DASHBOARD_VERSION,
        "R2R_DASHBOARD_MEMORY": f"{shares.r2r_dashboard}m",
        "HATCHET_DASHBOARD_MEMORY": f"{shares.hatchet_dashboard}m",
        "UNSTRUCTURED_VERSION": unstructured.version if unstructured else "",
        "UNSTRUCTURED_MEMORY": f"{shares.unstructured}m",
        # pages as pictures; counts into its memory while they lie there
        "UNSTRUCTURED_SCRATCH": f"{shares.unstructured // 4}m",
        "UNSTRUCTURED_WORKERS": str(shares.unstructured_workers),
        "GRAPH_CLUSTERING_VERSION": clustering.version if clustering else "",
        "GRAPH_CLUSTERING_MEMORY": f"{shares.graph_clustering}m",
        "LITELLM_VERSION": settings.litellm.version,
        "LITELLM_MEMORY": f"{shares.litellm}m",
        "R2R_VERSION": build.image.rpartition(":")[2],
        "R2R_MEMORY": f"{shares.r2r}m",
        "R2R_SCRATCH": f"{shares.scratch}m",
        "R2R_PROJECT": settings.r2r.project,
        "R2R_POSTGRES_POOL": str(shares.pool),
        **host_values(settings, cpus),
    }


# -- what the services read ------------------------------------------------------------------


def _mounted_files(environment: Environment, shares: Sizes) -> list[RenderedFile]:
    settings = environment.settings
    files = [
        r2r_config(settings, shares),
        _litellm_config(settings),
        *(
            RenderedFile(f"{STACK_DIR}/{name}.env", text, mode=0o600, secret=True)
            for name, text in env_files(settings).items()
        ),
    ]
    if settings.r2r.orchestration == "hatchet":
        files += _broker_files(shares)
    if settings.edge.mode is not EdgeMode.TUNNEL:
        files.append(caddyfile(environment))
    return files


def r2r_config(settings: Settings, shares: Sizes) -> RenderedFile:
    """r2r.toml, with the person's own keys of R2R laid over Stackroom's.

    Raises SettingsError for a key that R2R does not know: it would pass over it in silence.
    """
    litellm = settings.litellm
    text = render(
        "r2r/r2r.toml.j2",
        r2r=settings.r2r,
        sizes=shares,
        known_version=VERSION,
        # R2R takes the prefix for OpenAI's protocol and sends what follows it
        model=lambda role: f'"openai/{settings.r2r.models.alias(role)}"',
        embedding_model=f"openai/{settings.r2r.embedding.model}",
        uploads=settings.r2r.upload_bytes(),
        max_upload=size_in_bytes(settings.r2r.max_upload),
        admin_password=secrets_of(settings).admin_password.get_secret_value(),
        completion_timeout=litellm.request_timeout * (1 + litellm.retries) + PATIENCE_SECONDS,
    )
    if settings.r2r.config:
        document = tomlkit.parse(text)
        _lay_over(document, settings.r2r.config)
        text = tomlkit.dumps(document)
    unknown = lint(tomllib.loads(text))
    if unknown:
        raise SettingsError(f"r2r.toml: {'; '.join(unknown)}")
    path = f"{STACK_DIR}/r2r/r2r.toml"
    # the administrator's first password stands in it
    return RenderedFile(path, text, mode=0o400, uid=R2R_UID, secret=True)


def _lay_over(table: Any, over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(table.get(key), Mapping):
            _lay_over(table[key], value)
        else:
            table[key] = value


def _litellm_config(settings: Settings) -> RenderedFile:
    text = render(
        "r2r/config.yaml.j2", litellm=settings.litellm, models=dict(settings.litellm.models)
    )
    return RenderedFile(f"{STACK_DIR}/litellm/config.yaml", text, mode=0o400, uid=LITELLM_UID)


def _broker_files(shares: Sizes) -> list[RenderedFile]:
    text = render("r2r/rabbitmq.conf.j2", memory_mib=shares.rabbitmq * BROKER_PERCENT // 100)
    folder = f"{STACK_DIR}/rabbitmq"
    return [
        RenderedFile(f"{folder}/rabbitmq.conf", text),
        RenderedFile(f"{folder}/enabled_plugins", render("r2r/enabled_plugins.j2")),
    ]


def caddyfile(environment: Environment) -> RenderedFile:
    """The edge's configuration: R2R's API, without the header that chooses a schema."""
    settings = environment.settings
    largest = max([size_in_bytes(settings.r2r.max_upload), *settings.r2r.upload_bytes().values()])
    text = render(
        "r2r/Caddyfile.j2",
        **edge_values(environment),
        # whole megabytes, and one for the form's other fields
        max_document=f"{-(-largest // 1_000_000) + 1}MB",
    )
    return RenderedFile(f"{STACK_DIR}/edge/Caddyfile", text, mode=0o400)


# -- what the compose files say --------------------------------------------------------------


def _service_names(documents: list[Any]) -> list[str]:
    return list(dict.fromkeys(name for d in documents for name in d.get("services", {})))


def _files_of(definition: Mapping[str, Any]) -> list[str]:
    """The files on the host that a service reads: absolute paths."""
    sources = [*definition.get("env_file", [])]
    sources += [
        mount["source"]
        for mount in definition.get("volumes", [])
        if isinstance(mount, Mapping) and mount.get("type") == "bind"
    ]
    own = [source for source in sources if source.startswith("./")]
    return [f"{STACK_DIR}/{source.removeprefix('./')}" for source in own]


def _filled_in(text: str, values: Mapping[str, str]) -> str:
    return VARIABLE.sub(lambda found: values[found[1]], text)


def _volumes(documents: list[Any]) -> tuple[Volume, ...]:
    """The named volumes, each with the user of the first service that mounts it."""
    owners: dict[str, int] = {}
    for document in documents:
        for definition in document.get("services", {}).values():
            uid = int(str(definition.get("user", "0")).partition(":")[0])
            for mount in definition.get("volumes", []):
                if isinstance(mount, Mapping) and mount.get("type") == "volume":
                    owners.setdefault(mount["source"], uid)
    named = {k: v for d in documents for k, v in (d.get("volumes") or {}).items()}
    return tuple(Volume(said["name"], owners[source]) for source, said in named.items())


# -- the image of ours -----------------------------------------------------------------------


def _build_files() -> list[RenderedFile]:
    return [
        RenderedFile(f"{STACK_DIR}/r2r/{name}", read_compose(f"r2r/r2r/{name}"))
        for name in BUILD_FILES
    ]


def _build() -> FolderBuild:
    """A tag of R2R's version and of what the image is made from: another recipe, another image."""
    parts = [(ROOT / "compose" / "r2r" / "r2r" / name).read_bytes() for name in BUILD_FILES]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]
    return FolderBuild(f"stackroom/r2r:{VERSION}-{digest}", f"{STACK_DIR}/r2r", BUILD_FILES)
