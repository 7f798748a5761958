"""A new API key for the server itself, in two phases between which both keys work.

Phase 1 gives Qdrant the new key beside the old one and signs everybody's token anew; `finish` drops
the old key. secrets.toml alone says which phase it is, so either can be run again after a kill.
"""

from __future__ import annotations

import secrets
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import SecretStr
from tomlkit.exceptions import TOMLKitError

from ops.clients.ssh import Remote
from ops.deploy import carry_out
from ops.developers import qdrant
from ops.developers.change import refuse_for_others
from ops.developers.look_tokens import digest
from ops.developers.reality import Reality, look
from ops.errors import SettingsError, StackroomError
from ops.settings import Environment
from ops.settings.explain import SECRETS_FILE
from ops.settings.secrets import write_private

KEY, NEWER = "qdrant_api_key", "qdrant_alt_api_key"


@dataclass(frozen=True)
class Phase:
    """One phase: the environment with secrets.toml as it is and as it will be.

    `again`: an earlier run has written the file already, and this one only finishes the deploy.
    """

    before: Environment
    after: Environment
    old: str
    new: str
    finish: bool

    @property
    def again(self) -> bool:
        return self.old == self.new

    @property
    def path(self) -> Path:
        return self.before.folder / SECRETS_FILE

    def holders(self) -> list[str]:
        """The developers whose tokens work now, and are to work afterwards."""
        current = self.after.settings.current_developers()
        return [name for name, one in current.items() if one.collections and one.token]


def begin(environment: Environment) -> Phase:
    """The first phase: a new key beside the old one. Nothing is written.

    Raises SettingsError for a secrets.toml that cannot be edited.
    """
    if environment.settings.secrets.qdrant_alt_api_key is not None:
        return _unchanged(environment, finish=False)
    key = secrets.token_urlsafe(32)

    def edit(table: dict[str, Any]) -> None:
        table[NEWER] = key

    return _phase(environment, edit, {NEWER: SecretStr(key)}, finish=False)


def finish(environment: Environment) -> Phase:
    """The second phase: the new key alone. Nothing is written."""
    newer = environment.settings.secrets.qdrant_alt_api_key
    if newer is None:
        return _unchanged(environment, finish=True)

    def edit(table: dict[str, Any]) -> None:
        table[KEY] = newer.get_secret_value()
        del table[NEWER]

    return _phase(environment, edit, {KEY: newer, NEWER: None}, finish=True)


def _unchanged(environment: Environment, *, finish: bool) -> Phase:
    text = _read(environment)
    return Phase(environment, environment, text, text, finish)


def _phase(
    environment: Environment,
    edit: Callable[[dict[str, Any]], None],
    values: dict[str, SecretStr | None],
    *,
    finish: bool,
) -> Phase:
    old = _read(environment)
    settings = environment.settings
    after = settings.model_copy(update={"secrets": settings.secrets.model_copy(update=values)})
    return Phase(environment, replace(environment, settings=after), old, _edited(old, edit), finish)


def _read(environment: Environment) -> str:
    return (environment.folder / SECRETS_FILE).read_bytes().decode("utf-8")


def _edited(text: str, edit: Callable[[dict[str, Any]], None]) -> str:
    """The text with its comments, believed only where it says what was meant."""
    wanted = tomllib.loads(text)
    edit(wanted["secrets"])
    try:
        document = tomlkit.parse(text)
        edit(document["secrets"])
        new = tomlkit.dumps(document)
        if tomllib.loads(new) == wanted:
            return new
    except (TOMLKitError, ValueError, TypeError):
        pass
    raise SettingsError(
        f"{SECRETS_FILE} is written in a way that only a person can edit",
        f"write its keys below [secrets], one a line; {KEY} and {NEWER} are about this",
    )


def refuse(phase: Phase, reality: Reality, remote: Remote) -> None:
    """Raise SettingsError where the phase would shut out somebody on a host like that."""
    _refuse_foreign_keys(phase, reality)
    refuse_for_others(_as_hosted(phase.before, reality), reality)
    held, name = phase.before.settings.secrets, phase.before.name
    if phase.finish and held.qdrant_alt_api_key:
        if not qdrant.takes(remote, held.qdrant_alt_api_key):
            raise SettingsError(
                "Qdrant does not take the new key yet, so the old one stays",
                f"stackroom -e {name} developer rotate --server-key, then --finish again",
            )
    elif not qdrant.takes(remote, held.qdrant_api_key):
        raise _rotated_since(f"Qdrant refuses the {KEY} of {phase.path}")


def _refuse_foreign_keys(phase: Phase, reality: Reality) -> None:
    """A key of the host that this secrets.toml does not hold is another operator's: applying the
    phase would drop it, and with it every kit that they have handed out."""
    hosted = reality.qdrant_keys
    if hosted is None:
        raise SettingsError(
            "it cannot be seen which keys Qdrant has"
            f" ({reality.unknown.get('qdrant_keys', 'not told')}); nothing was changed",
            f"stackroom -e {phase.before.name} doctor",
        )
    held = _held(phase.before)
    first, second = hosted.get("api_key", ""), hosted.get("alt_api_key", "")
    if second and second not in held:
        raise _rotated_since(f"Qdrant has a {NEWER} that {phase.path} does not hold")
    if first in held or (phase.finish and second):  # then the first is the old one, to be dropped
        return
    if second:
        raise SettingsError(
            f"Qdrant still has the key before the one of {phase.path}: a --finish broke off",
            f"stackroom -e {phase.before.name} developer rotate --server-key --finish",
        )
    raise _rotated_since(f"Qdrant has a {KEY} that {phase.path} does not hold")


def _rotated_since(told: str) -> SettingsError:
    return SettingsError(
        f"{told}: somebody has rotated it since",
        "bring in the secrets.toml of whoever did it last",
    )


def is_finished(phase: Phase, reality: Reality) -> bool:
    """Whether `finish` has nothing to do: one key in secrets.toml, and the host has it alone."""
    hosted = reality.qdrant_keys or {}
    alone = not hosted.get("alt_api_key") and hosted.get("api_key") in _held(phase.before)
    return phase.finish and phase.again and alone


def _held(environment: Environment) -> dict[str, SecretStr]:
    """The keys that secrets.toml holds, by digest."""
    secrets = environment.settings.secrets
    keys = (secrets.qdrant_api_key, secrets.qdrant_alt_api_key)
    return {digest(key.get_secret_value()): key for key in keys if key is not None}


def _as_hosted(environment: Environment, reality: Reality) -> Environment:
    """With a second key where the host has one: an interrupted phase is not about people."""
    alternative = _held(environment).get((reality.qdrant_keys or {}).get("alt_api_key", ""))
    settings = environment.settings
    told = settings.secrets.model_copy(update={NEWER: alternative})
    return replace(environment, settings=settings.model_copy(update={"secrets": told}))


def carry(
    phase: Phase, doing: str, *, on_step: Callable[[str, str], None] = lambda name, result: None
) -> list[str]:
    """Write secrets.toml and deploy; the steps that changed something.

    A deploy that fails leaves the file as written: both files and host then hold keys that work,
    and the same command goes on. Raises what `carry_out` raises.
    """
    remote = Remote(phase.before)
    written = False

    def compare_and_write() -> None:
        nonlocal written
        refuse(phase, look(phase.before, remote), remote)
        if _read(phase.before) != phase.old:
            raise SettingsError(f"{phase.path} was edited meanwhile; nothing was changed")
        if not phase.again:
            write_private(phase.path, phase.new.encode())
        written = True

    try:
        return carry_out(phase.after, doing, first=compare_and_write, on_step=on_step)
    except StackroomError as error:
        if written:
            error.amend(
                f"{phase.path.name} holds the keys of this phase; none is lost",
                f"{doing} goes on where this ended",
            )
        raise
