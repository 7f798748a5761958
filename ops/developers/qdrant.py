"""Qdrant's side of a developer: the token in force, by the list that Qdrant looks into. No secret
is stored: the token is signed anew whenever it is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial

import httpx
from pydantic import SecretStr

from ops.clients import edge
from ops.clients.edge import Place
from ops.clients.ssh import Remote
from ops.developers.audit_words import Difference, Row, Visit, absent
from ops.developers.probe import Probe, asked, unknown
from ops.developers.reality import Reality
from ops.developers.tokens import mint
from ops.errors import SettingsError, StackroomError, UnreachableError
from ops.settings import Developer, Environment, Settings
from ops.settings.explain import SECRETS_FILE
from ops.settings.model import EdgeMode
from ops.settings.rights import id_of, reachable_names, value_of, values_in_force

# what Qdrant says of a good signature whose point is gone (401), or its collection (403)
REVOKED = "Invalid JWT, stateful validation failed"
QDRANT_PORT = 6333
SAID = 80  # characters of a refusal that are repeated


class QdrantAccounts:
    """See ops/developers/accounts.py. Tokens are put in force on the host (ops/host/grants.py)."""

    noun = "token"
    two_at_once = True
    parts: tuple[str, ...] = ("tokens",)
    file = "token"

    def secret(self, settings: Settings, name: str) -> SecretStr:
        return mint(settings, name)

    def may(self, settings: Settings, one: Developer) -> str:
        return f"{one.access} {', '.join(reachable_names(settings, one.collections))}"

    def effects(self, before: Environment, after: Environment, name: str) -> Iterator[str]:
        was = before.settings.current_developers().get(name)
        becomes = after.settings.current_developers().get(name)
        had, has = _values(before.settings, was), _values(after.settings, becomes)
        if becomes and has.keys() - had.keys():
            names = ", ".join(reachable_names(after.settings, becomes.collections))
            yield f"admits a token to {becomes.access} {names} until {becomes.expires}"
        if gone := had.keys() - has.keys():
            yield f"revokes {len(gone)} token{'s' if len(gone) > 1 else ''}, at once"
        # its rights and its last day are signed into a token: with others it is another one
        if any(has.get(each, value) != value for each, value in had.items()):
            yield (
                f"ends the token of {name} as it was, at once: they need a new kit"
                f" (stackroom -e {after.name} developer kit {name})"
            )

    def collections(self, settings: Settings, reality: Reality, name: str) -> tuple[str, ...]:
        live = _live(settings, reality, name)
        if live is None:
            return ("?",)
        return (
            tuple(reachable_names(settings, settings.developers[name].collections)) if live else ()
        )

    def rights(self, settings: Settings, reality: Reality, name: str) -> str:
        live = _live(settings, reality, name)
        return "?" if live is None else settings.developers[name].access if live else "no token"

    def seen(self, reality: Reality, name: str) -> Visit:
        if reality.seen is None:
            return Visit(None, known=False)
        found = reality.seen.subjects.get(name)
        return Visit(found.at if found else None, known=found is not None or reality.seen.whole)

    def differences(self, settings: Settings, reality: Reality) -> Iterator[Difference]:
        yield from _of_tokens(settings, reality)
        yield from _of_keys(settings, reality)

    def strangers(self, settings: Settings, reality: Reality) -> Iterator[Row]:
        expected = set(values_in_force(settings))
        for token in reality.tokens or ():
            if id_of(token.id) not in expected:
                yield Row(
                    who=token.developer or "?",
                    source="any that is open",
                    ports=(),
                    account=f"token {token.id[:8]}...",
                    collections=("?",),
                    rights="?",
                    seen=self.seen(reality, token.developer),
                    listed=False,
                )

    def traces(self, reality: Reality, name: str) -> list[str]:
        tokens = [each for each in reality.tokens or () if each.developer == name]
        return [f"the token {each.id[:8]}..., which Qdrant honours" for each in tokens]

    def holds(self, developer: Developer, _name: str, reality: Reality) -> bool:
        ids = {developer.token, developer.retiring} - {""}
        return any(id_of(each.id) in ids for each in reality.tokens or ())

    def gone(self, developer: Developer, name: str, reality: Reality) -> Iterator[Probe]:
        what = f"Qdrant honours a token of {name}"
        if reality.tokens is None:
            yield unknown(what, reality, "tokens")
            return
        ids = {developer.token, developer.retiring} - {""}
        found = [each for each in reality.tokens if each.developer == name or id_of(each.id) in ids]
        if found:
            yield Probe(what, f"yes: {', '.join(each.id for each in found)}", False)
        else:
            yield Probe(what, f"no: none of its {len(reality.tokens)} tokens is one", True)

    def ready(
        self,
        environment: Environment,
        _name: str,
        remote: Remote,
        *,
        present: bool,  # noqa: ARG002 - it is good before its point is there, and after
    ) -> None:
        """What a key that was rotated away signs is dead before it is handed over."""
        secrets = environment.settings.secrets
        if not takes(remote, secrets.newest_qdrant_key()):
            raise SettingsError(
                f"Qdrant refuses the key of {environment.folder / SECRETS_FILE} that would sign the"
                " token: somebody has rotated it since; nothing was changed",
                "bring in the secrets.toml of whoever did it last; or, where a rotation was begun"
                f" here, stackroom -e {environment.name} developer rotate --server-key",
            )

    def refused(
        self, environment: Environment, name: str, ids: Iterable[str], remote: Remote
    ) -> list[Probe]:
        return list(_shown(environment, name, ids, remote))

    def pending(self, _environment: Environment, _remote: Remote) -> list[str]:
        return []

    def settle(
        self, _environment: Environment, _remote: Remote, _on_step: Callable[[str, str], None]
    ) -> list[str]:
        return []


def _live(settings: Settings, reality: Reality, name: str) -> bool | None:
    """Whether Qdrant honours a token of that name; None where its rights are not known."""
    if reality.tokens is None:
        return None
    mine = [token.id for token in reality.tokens if token.developer == name]
    expected = values_in_force(settings)
    changed = [each for each in mine if id_of(each) in expected]
    if any(expected[id_of(each)][0] != each for each in changed):
        return None
    return bool(mine)


def _values(settings: Settings, developer: Developer | None) -> dict[str, str]:
    """What Qdrant finds each token by, by its id."""
    return {each: value_of(settings, developer, each) for each in _tokens(developer) if developer}


def _tokens(developer: Developer | None) -> set[str]:
    if developer is None or not developer.collections:
        return set()
    return {developer.token, developer.retiring} - {""}


def _of_tokens(settings: Settings, reality: Reality) -> Iterator[Difference]:
    expected = dict(values_in_force(settings).values())
    if reality.tokens is None:
        return
    found = {token.id: token.developer for token in reality.tokens}
    ids = {id_of(value) for value in found}
    for value, name in found.items():
        what = f"the token {value[:8]}... is honoured"
        if value in expected:
            if expected[value] != name:
                text = f"the token {value[:8]}... stands under the name {name!r}"
                yield Difference(expected[value], text, True)
        elif owner := _owner(expected, value):
            yield Difference(owner, f"{what} with other rights than the file's", True)
        else:
            why = absent(settings, name)
            text = f"{what}, and {why}; what it opens is written in it alone"
            yield Difference(name, text, True)
    for value, name in expected.items():
        if value not in found and id_of(value) not in ids:
            yield Difference(name, f"the token {value[:8]}... is refused, and the file has it")


def _owner(expected: Mapping[str, str], value: str) -> str:
    """Whose token of that id is expected, with other rights; "" for nobody's."""
    known = (name for each, name in expected.items() if id_of(each) == id_of(value))
    return next(known, "")


def _of_keys(settings: Settings, reality: Reality) -> Iterator[Difference]:
    """Keys of Qdrant's own, with which nobody needs a token."""
    if reality.qdrant_keys is None:
        return
    if reality.qdrant_keys.get("read_only_api_key"):
        yield Difference("", "Qdrant has a read-only key for everything, and we set none", True)
    alternative = settings.secrets.qdrant_alt_api_key is not None
    if bool(reality.qdrant_keys.get("alt_api_key")) != alternative:
        text = "has none" if alternative else "has one, and the file does not"
        yield Difference("", f"of a second API key: Qdrant {text}", not alternative)


def _shown(before: Environment, name: str, ids: Iterable[str], remote: Remote) -> Iterator[Probe]:
    for token_id in ids:
        label = f"the token {token_id[:8]}..."
        try:
            token = mint(before.settings, name, token_id, until=_later(before.settings, name))
        except StackroomError as error:
            yield Probe(f"{label} is taken", f"unknown: {error.message}", False)
            continue
        ask = partial(_loopback, remote, token)
        yield asked(f"{label} is taken on loopback", ask, token_answer)
        if before.settings.edge.mode is not EdgeMode.TUNNEL:
            ask = partial(_at_edge, before, remote, token)
            yield asked(f"{label} is taken at the edge", ask, token_answer)


def _later(settings: Settings, name: str) -> datetime | None:
    """A day ahead: a token that has expired would be refused for that alone."""
    if not settings.developers[name].is_expired():
        return None
    return datetime.now(UTC) + timedelta(days=1)


def token_answer(what: str, code: int, said: str) -> Probe:
    """What an answer to the token proves. Refused alone is nothing: with another key than Qdrant's
    in secrets.toml the signature is refused, and a live token would be, too."""
    if code in (401, 403) and said == REVOKED:
        return Probe(what, f"no: answered {code}, {said}", True)
    if code == httpx.codes.OK:
        return Probe(what, f"yes: answered {code}", False)
    # longer ones are pages of somebody else's
    told = f", {said}" if said.isprintable() and 0 < len(said) <= SAID else ""
    stale = "; has secrets.toml the key of now?" if said == "InvalidSignature" else ""
    return Probe(what, f"unknown: answered {code}{told}{stale}", False)


def _loopback(remote: Remote, token: SecretStr) -> tuple[int, str]:
    with remote.forward(QDRANT_PORT) as port, httpx.Client(trust_env=False, timeout=10) as client:
        headers = {"api-key": token.get_secret_value()}
        answer = client.get(f"http://127.0.0.1:{port}/collections", headers=headers)
        return answer.status_code, answer.text


def _at_edge(environment: Environment, remote: Remote, token: SecretStr) -> tuple[int, str]:
    settings, machine = environment.settings, environment.machine
    place = Place(machine.address, settings.edge.port, environment.edge_name())
    ca = edge.edge_ca(remote) if settings.edge.mode is EdgeMode.INTERNAL else ""
    return edge.ask(place, edge.trust(ca), "/collections", token.get_secret_value())


def takes(remote: Remote, key: SecretStr) -> bool:
    """Whether the host's Qdrant takes the key. Raises UnreachableError where it does not answer."""
    try:
        with (
            remote.forward(QDRANT_PORT) as port,
            httpx.Client(trust_env=False, timeout=10) as client,
        ):
            headers = {"api-key": key.get_secret_value()}
            answer = client.get(f"http://127.0.0.1:{port}/collections", headers=headers)
    except httpx.HTTPError as error:
        # the kind only: a message of httpx may quote the header that holds the key
        raise UnreachableError(
            f"Qdrant on the host gives no answer: {type(error).__name__}",
            f"stackroom -e {remote.environment.name} deploy makes it run, with the same keys",
        ) from None
    return answer.status_code == httpx.codes.OK
