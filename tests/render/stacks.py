"""Rendered stacks for the tests of this room, and Compose's own reading of them.

Compose merges files and fills in variables; both are done here by hand, so that no Docker is
needed and nothing of the code under test is trusted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import yaml

from ops.render.files import RenderedFile
from ops.render.stack import STACK_DIR, Stack, render_stack
from ops.settings import Environment

MEMORY_MIB, CPUS = 8192, 4
MODES = ("tunnel", "internal", "acme", "external")
APIS = ("none", "image", "git")
ADDRESSES = ("198.51.100.10", "2001:db8::10", "vm.example.net")
TRIAL = ("trial.yaml", "trial-edge.yaml")

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
MakeEnvironment = Callable[..., Environment]


def case(mode: str, api: str) -> dict[str, Any]:
    """The settings of one edge mode with one kind of api."""
    return {"edge": {"mode": mode, **_EDGE[mode]}, **_API[api]}


def rendered(environment: Environment) -> Stack:
    return render_stack(environment, MEMORY_MIB, CPUS)


def by_name(stack: Stack) -> dict[str, RenderedFile]:
    """The files by their path below the stack's folder."""
    return {str(PurePosixPath(file.path).relative_to(STACK_DIR)): file for file in stack.files}


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
        return set().union(*(variables(part) for part in value.values()))
    if isinstance(value, list):
        return set().union(*(variables(part) for part in value))
    if not isinstance(value, str):
        return set()
    names = re.findall(r"\$\{([A-Z0-9_]+):\?\}", value)
    rest = re.sub(r"\$\{[A-Z0-9_]+:\?\}|\$\$", "", value)
    assert "$" not in rest, f"a variable that may be missing: {value!r}"
    return set(names)


def filled_in(value: Any, values: dict[str, str]) -> Any:
    """`value` with every variable replaced and `$$` as `$`."""
    if isinstance(value, dict):
        return {key: filled_in(part, values) for key, part in value.items()}
    if isinstance(value, list):
        return [filled_in(part, values) for part in value]
    if not isinstance(value, str):
        return value
    found = re.compile(r"\$\{([A-Z0-9_]+):\?\}|\$\$")
    return found.sub(lambda match: values[match[1]] if match[1] else "$", value)


def project(stack: Stack, *, trial: bool = False) -> dict[str, Any]:
    """What `docker compose config` would make of the stack, or of its trial."""
    files = by_name(stack)
    values = dotenv(files[".env"].content)
    names = values["COMPOSE_FILE"].split(":")
    if trial:
        names += [name for name in TRIAL if name in files]
    merged: dict[str, Any] = {}
    for name in names:
        merged = merge(merged, load(files[name].content))
    resolved = filled_in(merged, values)
    assert isinstance(resolved, dict)
    return resolved
