"""The R2R stack as it should lie on the host: configuration, one environment file a service.

A service's environment file holds what that service needs and no other's secret. What a compose
file mounts, reads or asks for by name is supplied here; a test compares the two.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from typing import Any

import tomlkit

from ops.errors import SettingsError
from ops.render.edge import edge_compose, edge_trial, edge_values, edge_variables
from ops.render.files import RenderedFile, read_compose, render
from ops.render.project import STACK_DIR, FolderBuild, Plan, Trial, host_values
from ops.render.r2r_env import env_files, secrets_of
from ops.render.r2r_sizes import Sizes, sizes
from ops.settings import Environment, Settings
from ops.settings.model import EdgeMode
from ops.settings.r2r import size_in_bytes
from ops.settings.r2r_keys import VERSION, lint

DATA_VOLUME = "stackroom_postgres"
# a major version of Postgres is never changed under its data
POSTGRES_VERSION, HATCHET_POSTGRES_VERSION = "pg16", "16.11"
HATCHET_VERSION = "v0.53.15"  # R2R's hatchet-sdk 0.47.0 speaks to this one and to no later one
RABBITMQ_VERSION = "3.13.7"  # what R2R runs it with; a major version does not start on its data
R2R_DASHBOARD_VERSION = "1.0.3"
R2R_UID = LITELLM_UID = 1000
PROGRAMS = ("new_password.py", "ready.py", "start.py")
BUILD_FILES = (".dockerignore", "Dockerfile", "requirements.lock", *PROGRAMS)
# of its limit the broker takes for messages: Erlang's collector needs the rest beside them
BROKER_PERCENT = 60
# LiteLLM tries again and falls back in this time; R2R must not give up before
PATIENCE_SECONDS = 30
# eight services one after the other, the first database of a machine among them
TRIAL_SECONDS = 300
# seen at rest: R2R 440, LiteLLM 330, the database 140; Hatchet's three 540 more
TRIAL_MEMORY = {"simple": 1000, "hatchet": 1600}


def r2r_plan(environment: Environment, memory_mib: int, cpus: int) -> Plan:
    """The stack on a host with `memory_mib` MiB of memory and `cpus` cores.

    Raises SettingsError where the host is too small, or R2R would not know a key.
    """
    settings = environment.settings
    shares, edge = sizes(settings, memory_mib, cpus), edge_trial(settings)
    return Plan(
        compose=compose_files(settings),
        values={
            **_values(settings, shares),
            **versions(settings),
            **host_values(settings, cpus),
            **edge_variables(settings),
        },
        mounted=_mounted_files(environment, shares),
        # what these need is started with them
        trial=Trial(
            overlays={**_trials(settings), **edge},
            services=("r2r", *(["edge"] if edge else [])),
            seconds=TRIAL_SECONDS,
            memory=TRIAL_MEMORY[settings.r2r.orchestration],
        ),
        data_volume=DATA_VOLUME,
        build=build(),
        ordered=True,
    )


def compose_files(settings: Settings) -> dict[str, str]:
    """File name on the host -> file below compose/, in the order in which they are merged."""
    files = {"compose.yaml": "r2r/compose.yaml", **edge_compose(settings, "r2r")}
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


def _trials(settings: Settings) -> dict[str, str]:
    files = {"trial.yaml": "r2r/trial.yaml"}
    if settings.r2r.orchestration == "hatchet":
        files["trial-hatchet.yaml"] = "r2r/trial-hatchet.yaml"
    return files


def versions(settings: Settings) -> dict[str, str]:
    """The variables that name images."""
    unstructured, clustering = settings.r2r.unstructured, settings.r2r.graph_clustering
    return {
        "POSTGRES_VERSION": POSTGRES_VERSION,
        "HATCHET_VERSION": HATCHET_VERSION,
        "HATCHET_POSTGRES_VERSION": HATCHET_POSTGRES_VERSION,
        "RABBITMQ_VERSION": RABBITMQ_VERSION,
        "R2R_DASHBOARD_VERSION": R2R_DASHBOARD_VERSION,
        "UNSTRUCTURED_VERSION": unstructured.version if unstructured else "",
        "GRAPH_CLUSTERING_VERSION": clustering.version if clustering else "",
        "LITELLM_VERSION": settings.litellm.version,
        "R2R_VERSION": build().image.rpartition(":")[2],
        "EDGE_VERSION": settings.edge.version,
    }


def _values(settings: Settings, shares: Sizes) -> dict[str, str]:
    """The sizes that compose files may ask for, and the project's name."""
    return {
        "POSTGRES_MEMORY": f"{shares.postgres}m",
        "POSTGRES_SHM": f"{shares.postgres_shm}m",
        "POSTGRES_CONNECTIONS": str(shares.max_connections),
        "POSTGRES_SHARED_BUFFERS": f"{shares.shared_buffers}MB",
        "POSTGRES_MAINTENANCE_MEMORY": f"{shares.maintenance_work_mem}MB",
        "HATCHET_MEMORY": f"{shares.hatchet_engine}m",
        "HATCHET_POSTGRES_MEMORY": f"{shares.hatchet_postgres}m",
        "RABBITMQ_MEMORY": f"{shares.rabbitmq}m",
        "R2R_DASHBOARD_MEMORY": f"{shares.r2r_dashboard}m",
        "HATCHET_DASHBOARD_MEMORY": f"{shares.hatchet_dashboard}m",
        "UNSTRUCTURED_MEMORY": f"{shares.unstructured}m",
        # pages as pictures; counts into its memory while they lie there
        "UNSTRUCTURED_SCRATCH": f"{shares.unstructured // 4}m",
        "UNSTRUCTURED_WORKERS": str(shares.unstructured_workers),
        "GRAPH_CLUSTERING_MEMORY": f"{shares.graph_clustering}m",
        "LITELLM_MEMORY": f"{shares.litellm}m",
        "R2R_MEMORY": f"{shares.r2r}m",
        "R2R_SCRATCH": f"{shares.scratch}m",
        "R2R_PROJECT": settings.r2r.project,
        "R2R_POSTGRES_POOL": str(shares.pool),
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


def build() -> FolderBuild:
    """Our own image: R2R's version and what the image is made from make its tag, so that another
    recipe is another image."""
    files = tuple((name, read_compose(f"r2r/r2r/{name}")) for name in BUILD_FILES)
    digest = hashlib.sha256("\0".join(text for _, text in files).encode()).hexdigest()[:12]
    return FolderBuild(f"stackroom/r2r:{VERSION}-{digest}", files)
