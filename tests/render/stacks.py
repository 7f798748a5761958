"""Rendered stacks for the tests of this room, and Compose's own reading of them.

Compose merges files and fills in variables; both are done here by hand, so that no Docker is
needed and nothing of the code under test is trusted.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ops.render.files import RenderedFile
from ops.render.project import STACK_DIR, Stack
from ops.render.stack import render_stack
from ops.settings import Environment

MEMORY_MIB, CPUS = 8192, 4
MODES = ("tunnel", "internal", "acme", "external")
APIS = ("none", "image", "git")
# of `.env`: what is not for the compose files, but for Compose itself and for stackroom-apply
FOR_OTHERS = {"COMPOSE_FILE", "COMPOSE_PROJECT_NAME"} | {
    f"TRIAL_{name}" for name in ("FILES", "SERVICES", "SECONDS", "MEMORY")
}
ADDRESSES = ("198.51.100.10", "2001:DB8::10", "VM1.example.com")

_EDGE: dict[str, dict[str, Any]] = {
    "tunnel": {},
    "internal": {},
    "acme": {"domain": "kb.example.com", "email": "ops@example.com"},
    "external": {
        "domain": "kb.example.com",
        "certificate": "/etc/ssl/team/kb.pem",
        "private_key": "/etc/ssl/team/kb.key",
    },
}
_API: dict[str, dict[str, Any]] = {
    "none": {},
    "image": {"api": {"image": "ghcr.io/example/knowledge-api:1.4.0"}},
    "git": {"api": {"git": {"repository": "https://example.com/api", "ref": "release/1.4"}}},
}
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+):\?\}|\$\$")


def case(mode: str, api: str) -> dict[str, Any]:
    """The settings of one edge mode with one kind of api."""
    return {"edge": {"mode": mode, **_EDGE[mode]}, **_API[api]}


def tool(name: str) -> str:
    """A program of the virtual environment the tests run in."""
    return str(Path(sys.executable).with_name(name))


class StackFiles:
    """What lies on the host for a stack of either kind."""

    stack: Stack

    @cached_property
    def files(self) -> dict[str, RenderedFile]:
        """The files by their path below the stack's folder."""
        found = {file.path.removeprefix(f"{STACK_DIR}/"): file for file in self.stack.files}
        assert len(found) == len(self.stack.files), "two files of one path"
        return found

    def text(self, name: str) -> str:
        return self.files[name].content

    @property
    def digests(self) -> dict[str, str]:
        """Service -> what its label must say."""
        return {service.name: service.config_sha256 for service in self.stack.services}

    @cached_property
    def env(self) -> dict[str, str]:
        """`.env`, read strictly."""
        return dotenv(self.text(".env"))

    @property
    def compose_files(self) -> list[str]:
        """The files that Compose merges, in that order."""
        return self.env["COMPOSE_FILE"].split(":")

    @property
    def trial_files(self) -> list[str]:
        """The files that the trial of a new stack lays over them."""
        return self.env["TRIAL_FILES"].split(":")

    @cached_property
    def project(self) -> dict[str, Any]:
        """What `docker compose config` would make of the stack."""
        return self._merged(self.compose_files)

    @cached_property
    def trial(self) -> dict[str, Any]:
        """The merged project of the trial start, with the services that it starts."""
        merged = self._merged(self.compose_files + self.trial_files)
        started: set[str] = set()
        asked = self.env["TRIAL_SERVICES"].split(",")
        while asked:
            name = asked.pop()
            started.add(name)
            asked += set(merged["services"][name].get("depends_on", {})) - started
        merged["services"] = {k: v for k, v in merged["services"].items() if k in started}
        return merged

    @property
    def services(self) -> dict[str, Any]:
        """Service -> its part of the merged project."""
        found: dict[str, Any] = self.project["services"]
        return found

    def _merged(self, names: list[str]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for name in names:
            merged = merge(merged, load(self.text(name)))
        resolved = filled_in(merged, self.env)
        assert isinstance(resolved, dict)
        return resolved


@dataclass(frozen=True)
class Rendered(StackFiles):
    """An environment and its stack, as the tests look at it."""

    environment: Environment
    stack: Stack

    @property
    def qdrant_config(self) -> dict[str, Any]:
        found: dict[str, Any] = load(self.text("qdrant/local.yaml"))
        return found


def assert_touches_nothing_that_runs(trial: dict[str, Any]) -> None:
    """A trial has no port, no name, no volume and no network of the stack that runs."""
    mounted = set()
    for name, service in trial["services"].items():
        assert service.get("ports", []) == [], name
        assert "container_name" not in service
        assert service["restart"] == "no"
        assert service["networks"] == ["trial"]
        for mount in service.get("volumes", []):
            if mount["type"] == "volume":
                mounted.add(mount["source"])
            else:
                assert mount["read_only"] is True
    assert trial["networks"]["trial"] == {"internal": True}
    for name in mounted:
        assert not {"external", "name"} & set(trial["volumes"][name]), name
        assert trial["volumes"][name]["driver_opts"]["type"] == "tmpfs"


MakeEnvironment = Callable[..., Environment]
Render = Callable[..., Rendered]


def rendered(environment: Environment, memory_mib: int = MEMORY_MIB, cpus: int = CPUS) -> Rendered:
    """The stack of an environment, on a machine of this size."""
    return Rendered(environment, render_stack(environment, memory_mib, cpus))


def mib(size: str) -> int:
    """`512m`, `512M` or `2G` in MiB."""
    return int(size[:-1]) * {"m": 1, "g": 1024}[size[-1].lower()]


# -- Compose's reading -----------------------------------------------------------------------


def dotenv(text: str) -> dict[str, str]:
    """`.env` read strictly: values that every dotenv parser takes as they are, names once."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, _, value = line.partition("=")
        assert re.fullmatch(r"[A-Z][A-Z0-9_]*", name), line
        assert re.fullmatch(r"[\w.:/@+,-]+", value), f"{name} needs quoting"
        assert name not in values, f"{name} twice"
        values[name] = value
    return values


class Tagged:
    """A value that Compose is told to put in place of what came before (None: to remove)."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key stands twice: {keys}"
        return super().construct_mapping(node, deep=deep)


def _tagged(loader: yaml.SafeLoader, node: yaml.Node) -> Tagged:
    if isinstance(node, yaml.MappingNode):
        return Tagged(loader.construct_mapping(node, deep=True))
    assert isinstance(node, yaml.SequenceNode)
    return Tagged(loader.construct_sequence(node, deep=True))


_Loader.add_constructor("!override", _tagged)
_Loader.add_constructor("!reset", lambda loader, node: Tagged(None))


def load(text: str) -> Any:
    """YAML with Compose's tags; a key that stands twice fails."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def merge(base: Any, over: Any) -> Any:
    """Compose's merge: tables by key, lists one after the other, `!override` and `!reset`."""
    if isinstance(over, Tagged):
        return over.value
    if isinstance(base, dict) and isinstance(over, dict):
        both = base | {key: merge(base.get(key), value) for key, value in over.items()}
        return {key: value for key, value in both.items() if value is not None or key not in over}
    if isinstance(base, list) and isinstance(over, list):
        return base + over
    return over


def variables(value: Any) -> set[str]:
    """The names in `${NAME:?}`; any other use of `$` but `$$` fails."""
    if isinstance(value, Tagged):
        return variables(value.value)
    if isinstance(value, dict):
        return variables([*value, *value.values()])
    if isinstance(value, list):
        return set().union(*(variables(part) for part in value))
    if not isinstance(value, str):
        return set()
    assert "$" not in _VARIABLE.sub("", value), f"a variable that may be missing: {value!r}"
    return set(_VARIABLE.findall(value)) - {""}


def filled_in(value: Any, values: dict[str, str]) -> Any:
    """`value` with every variable replaced and `$$` as `$`."""
    if isinstance(value, dict):
        return {key: filled_in(part, values) for key, part in value.items()}
    if isinstance(value, list):
        return [filled_in(part, values) for part in value]
    if not isinstance(value, str):
        return value
    return _VARIABLE.sub(lambda match: values[match[1]] if match[1] else "$", value)
