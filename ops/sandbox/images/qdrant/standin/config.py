"""Settings in the real server's order: config files, then QDRANT__ variables. Last one wins.

A key the stand-in does not use is passed over, as the real server does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Config:
    """What the stand-in uses. Empty keys are no keys, as in the real server."""

    host: str
    http_port: int
    grpc_port: int | None
    api_key: str | None
    alt_api_key: str | None
    read_only_api_key: str | None
    jwt_rbac: bool
    storage: Path
    snapshots: Path
    audit: Path | None
    trust_forwarded_headers: bool


def load(folder: Path, environ: Mapping[str, str]) -> Config:
    """Read config/config.yaml, config/$RUN_MODE.yaml and config/local.yaml below `folder`.

    Raises ValueError for what the stand-in must not ignore, yaml.YAMLError for a broken file.
    """
    tree: dict[str, Any] = {}
    for name in ("config", environ.get("RUN_MODE", "development"), "local"):
        file = folder / "config" / f"{name}.yaml"
        if file.is_file():
            _merge(tree, yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    for variable, value in environ.items():
        if variable.startswith("QDRANT__"):
            _merge(tree, _nested(variable.lower().split("__")[1:], yaml.safe_load(value or "''")))
    service, storage, audit = (tree.get(part) or {} for part in ("service", "storage", "audit"))
    if service.get("enable_tls"):
        raise ValueError("service.enable_tls: the stand-in has no TLS, put a proxy before it")
    return Config(
        host=service.get("host", "0.0.0.0"),  # noqa: S104 - the real server's default
        http_port=int(service.get("http_port", 6333)),
        grpc_port=service.get("grpc_port", 6334),
        api_key=_key(service, "api_key"),
        alt_api_key=_key(service, "alt_api_key"),
        read_only_api_key=_key(service, "read_only_api_key"),
        jwt_rbac=bool(service.get("jwt_rbac", False)),
        storage=folder / storage.get("storage_path", "storage"),
        snapshots=folder / storage.get("snapshots_path", "snapshots"),
        audit=folder / audit.get("dir", "storage/audit") if audit.get("enabled") else None,
        trust_forwarded_headers=bool(audit.get("trust_forwarded_headers", False)),
    )


def _key(service: Mapping[str, Any], name: str) -> str | None:
    return str(service[name]) if service.get(name) else None


def _merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _nested(path: list[str], value: Any) -> dict[str, Any]:
    head, *rest = path
    return {head: _nested(rest, value) if rest else value}
