"""A team's folder, and a host that is what was last applied to it: the verbs without a machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import people_lab
import pytest
from pydantic import SecretStr

from ops.developers.proof import Probe, judged
from ops.developers.reality import Reality
from ops.errors import StackroomError
from ops.settings import Environment, load_environment
from ops.settings.rights import id_of

HOST = "192.0.2.1"
HOSTS = f"""\
from ops.settings import machines

hosts = machines(__file__, address="{HOST}")
"""
SETTINGS = """\
[collections.books]
vector = { size = 4 }
aliases = ["shelf"]

[collections.notes]
vector = { size = 4 }
"""
OLD_KEY = "canary-qdrant-key-0123456789abcdefghij"
SECRETS = f"""\
# Kept by anna.
[secrets]
qdrant_api_key = "{OLD_KEY}"   # of March
api_token = "canary-api-token-0123456789abcdefghijkl"
restic_password = "canary-restic-password-0123456789abcde"

[secrets.offsite_env]
AWS_ACCESS_KEY_ID = "canary-access-key"
"""
DEVELOPERS = f"""\
# Our people.
[operators.anna]
addresses = ["198.51.100.20", "2001:db8::20"]
keys = ["{people_lab.ANNA}"]

# Bob works from the library.
[developers.bob]
addresses = ["198.51.100.7"]   # the reading room
keys = ["{people_lab.BOB}"]
access = "write"
collections = ["books"]
expires = {people_lab.LATER}
token = "{people_lab.BOB_TOKEN}"

[developers.dave]
addresses = ["203.0.113.40"]
"""


@dataclass
class Team:
    """`applied`: the environment that the host is like; `fails`: what the next apply raises."""

    folder: Path
    applied: Environment
    fails: BaseException | None = None
    meanwhile: Callable[[], None] = lambda: None
    fiddle: Callable[[Reality], Reality] = lambda reality: reality
    done: list[tuple[str, str]] = field(default_factory=list)

    @property
    def environment(self) -> Environment:
        return load_environment(self.folder)

    def text(self, name: str = "developers.toml") -> str:
        return (self.folder / name).read_text()

    def look(self, _environment: Environment, _remote: Any) -> Reality:
        return self.fiddle(people_lab.host_of(self.applied))

    def carry_out(
        self, environment: Environment, doing: str, *, part: str = "all", **given: Any
    ) -> list[str]:
        self.meanwhile()
        given["first"]()
        given["on_step"]("firewall and SSH", "Success")
        if self.fails:
            raise self.fails
        given.get("last", list)()
        # what a real apply reads: the files, not the object
        self.applied = self.environment
        assert self.applied.settings.model_dump() == environment.settings.model_dump()
        self.done.append((part, doing))
        return ["firewall and SSH"]

    def takes(self, _remote: Any, key: SecretStr) -> bool:
        secrets = self.applied.settings.secrets
        return key in (secrets.qdrant_api_key, secrets.qdrant_alt_api_key)

    def prove_gone(self, before: Environment, name: str, remote: Any) -> list[Probe]:
        return judged(before, name, self.look(before, remote))

    def prove_refused(
        self, environment: Environment, _name: str, ids: list[str], remote: Any
    ) -> list[Probe]:
        live = [id_of(token.id) for token in self.look(environment, remote).tokens or ()]
        return [Probe(f"the token {each[:8]}...", "answered", each not in live) for each in ids]


def make_team(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    ca_pem: str,
    *,
    settings: str = SETTINGS,
    secrets: str = SECRETS,
) -> Team:
    folder.mkdir(parents=True)
    files = {
        "hosts.py": HOSTS,
        "settings.toml": settings,
        "developers.toml": DEVELOPERS,
        "secrets.toml": secrets,
        "known_hosts": f"{HOST} {people_lab.EVE}\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "secrets.toml").chmod(0o600)
    team = Team(folder, load_environment(folder))
    for place in ("ops.developers.change", "ops.developers.rotation"):
        monkeypatch.setattr(f"{place}.look", team.look)
        monkeypatch.setattr(f"{place}.carry_out", team.carry_out)
    for place in ("developer", "people", "removal", "server_key"):
        monkeypatch.setattr(f"ops.cli.{place}.look", team.look)
    monkeypatch.setattr("ops.developers.qdrant.takes", team.takes)
    monkeypatch.setattr("ops.cli.people.edge_ca", lambda remote: ca_pem)
    monkeypatch.setattr("ops.cli.removal.prove_gone", team.prove_gone)
    monkeypatch.setattr("ops.cli.rotation.prove_refused", team.prove_refused)
    monkeypatch.setattr("ops.inventory.INVENTORY", folder.parent)
    return team


def error_of(what: StackroomError) -> str:
    return f"{what.message}\n{what.hint}"
