"""What stands on the host, read in one round trip each. Pure parsing, no decisions."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

from pyinfra.api import FactBase

SHA256_DIGITS = 64


@dataclass(frozen=True)
class FileState:
    """A file on the host: content hash, mode, numeric owner."""

    sha256: str
    mode: int
    uid: int


class FileStates(FactBase[dict[str, FileState]]):
    """The state of each of the named files; absent files are left out."""

    default = dict

    def command(self, paths: list[str]) -> str:
        names = " ".join(shlex.quote(path) for path in paths)
        # two programs for all of them: a deploy looks at dozens
        return (
            f'set --; for f in {names}; do [ ! -f "$f" ] || set -- "$@" "$f"; done;'
            ' [ $# -eq 0 ] || { stat -c "%a %u %n" -- "$@"; sha256sum -- "$@"; }'
        )

    def process(self, output: list[str]) -> dict[str, FileState]:
        owned: dict[str, tuple[int, int]] = {}
        states = {}
        for line in output:
            first, _, rest = line.partition(" ")
            if len(first) == SHA256_DIGITS:
                path = rest[1:]
                states[path] = FileState(first, *owned[path])
            else:
                uid, _, path = rest.partition(" ")
                owned[path] = int(first, 8), int(uid)
        return states


class FileTexts(FactBase[dict[str, str]]):
    """The text of each of the named files; absent files are left out."""

    default = dict

    def command(self, paths: list[str]) -> str:
        names = " ".join(shlex.quote(path) for path in paths)
        return f'for f in {names}; do [ -f $f ] || continue; echo "== $f"; sed "s/^/= /" "$f"; done'

    def process(self, output: list[str]) -> dict[str, str]:
        texts: dict[str, str] = {}
        path = ""
        for line in output:
            if line.startswith("== "):
                path = line[3:]
                texts[path] = ""
            else:
                texts[path] += line[2:] + "\n"
        return texts


class Units(FactBase[dict[str, dict[str, str]]]):
    """`systemctl show` of each unit, with `StartedAt` (seconds since the epoch, empty if never)."""

    default = dict

    def command(self, units: list[str]) -> str:
        return (
            f"for u in {' '.join(shlex.quote(unit) for unit in units)}; do"
            ' systemctl show -p ActiveState,UnitFileState,ConditionResult,NeedDaemonReload "$u";'
            ' systemctl show -p ConditionTimestampMonotonic "$u";'
            ' t=$(systemctl show -p ActiveEnterTimestamp --value "$u");'
            ' echo "Asked=$u"; echo "StartedAt=$([ -z "$t" ] || date -d "$t" +%s)"; done'
        )

    def process(self, output: list[str]) -> dict[str, dict[str, str]]:
        units: dict[str, dict[str, str]] = {}
        values: dict[str, str] = {}
        for line in output:
            key, _, value = line.partition("=")
            values[key] = value
            if key == "StartedAt":
                units[values["Asked"]] = values
                values = {}
        return units


class NewestChange(FactBase[int]):
    """When the newest of the files was last changed, in seconds since the epoch; 0 if none is."""

    default = int

    def command(self, paths: list[str]) -> str:
        names = " ".join(shlex.quote(path) for path in paths)
        return f"stat -c %Y {names} 2>/dev/null | sort -n | tail -n 1"

    def process(self, output: list[str]) -> int:
        return int(output[0]) if output else 0


class Json(FactBase[Any]):
    """The JSON that a shell command prints; None when it prints nothing."""

    def command(self, script: str) -> str:
        return script

    def process(self, output: list[str]) -> Any:
        text = "\n".join(output).strip()
        return json.loads(text) if text else None


class Lines(FactBase[list[str]]):
    """The lines that a shell command prints."""

    default = list

    def command(self, script: str) -> str:
        return script

    def process(self, output: list[str]) -> list[str]:
        return list(output)
