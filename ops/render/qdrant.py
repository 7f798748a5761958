"""The Qdrant stack as it should lie on the host: Qdrant, the edge, the team's own api."""

from __future__ import annotations

import hashlib
import re

from pydantic import SecretStr

from ops.errors import SettingsError
from ops.render.edge import edge_compose, edge_trial, edge_values, edge_variables
from ops.render.files import RenderedFile, render
from ops.render.memory import body_limit_mb, qdrant_memory_mib
from ops.render.project import STACK_DIR, GitBuild, Plan, Trial, host_values
from ops.settings import Environment, Settings
from ops.settings.model import EdgeMode, Secrets

QDRANT_UID = 1000  # of the image's own account
DATA_VOLUME = "stackroom_qdrant_storage"
TRIAL_SECONDS, TRIAL_MEMORY = 90, 100  # an empty Qdrant takes less
# what an Authorization header carries (RFC 6750); none of it means anything to a file's syntax
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def qdrant_plan(environment: Environment, memory_mib: int, cpus: int) -> Plan:
    """The stack on a host with `memory_mib` MiB of memory and `cpus` cores.

    Raises SettingsError where the host is too small, or a secret is not one line of plain letters.
    """
    settings = environment.settings
    _check_secrets(settings.secrets)
    edge = edge_trial(settings)
    return Plan(
        compose=compose_files(settings),
        values={
            "QDRANT_OPEN_FILES": str(settings.qdrant.open_files),
            "QDRANT_MEMORY": f"{qdrant_memory_mib(settings, memory_mib)}m",
            **versions(settings),
            **host_values(settings, cpus),
            **edge_variables(settings),
            **_api_values(settings),
        },
        mounted=_mounted_files(environment),
        # the api is left out: it may need services of its own
        trial=Trial(
            overlays={"trial.yaml": "qdrant/trial.yaml", **edge},
            services=("qdrant", *(["edge"] if edge else [])),
            seconds=TRIAL_SECONDS,
            memory=TRIAL_MEMORY,
        ),
        data_volume=DATA_VOLUME,
        build=build(settings),
    )


def _check_secrets(secrets: Secrets) -> None:
    for name in ("qdrant_api_key", "qdrant_alt_api_key", "api_token", "mistral_api_key"):
        secret: SecretStr | None = getattr(secrets, name)
        if secret and not _TOKEN.fullmatch(secret.get_secret_value()):
            raise SettingsError(
                f"secrets.toml: secrets.{name} must be of A-Z, a-z, 0-9 and . _ ~ + / - only",
                "such a value does not pass through HTTP headers and configuration files unchanged",
            )


def compose_files(settings: Settings) -> dict[str, str]:
    """File name on the host -> file below compose/, in the order in which they are merged."""
    files = {"compose.yaml": "qdrant/compose.yaml", **edge_compose(settings, "qdrant")}
    if settings.api:
        files["api.yaml"] = "qdrant/api.yaml"
        if settings.edge.mode is not EdgeMode.TUNNEL:
            files["edge-api.yaml"] = "edge/api.yaml"
    return files


def versions(settings: Settings) -> dict[str, str]:
    """The variables that name images."""
    return {
        "QDRANT_VERSION": settings.qdrant.version,
        "EDGE_VERSION": settings.edge.version,
        "API_IMAGE": _api_image(settings),
    }


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


def build(settings: Settings) -> GitBuild | None:
    """The image that the host builds itself, if there is one."""
    if settings.api and settings.api.git:
        git = settings.api.git
        return GitBuild(_api_image(settings), git.repository, git.ref)
    return None


def _api_values(settings: Settings) -> dict[str, str]:
    if not settings.api:
        return {}
    return {
        "API_USER": str(settings.api.user),
        "API_MEMORY": f"{settings.api.memory.lower()}",
        "API_PORT": str(settings.api.port),
    }


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
