"""R2R's side of a developer: a user of their own, a member of the collections of the file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import httpx
import jwt
from pydantic import SecretStr

from ops.clients import edge
from ops.clients.edge import Place
from ops.clients.ssh import Remote
from ops.developers.audit_words import Difference, Row, Visit, absent
from ops.developers.probe import Probe, asked, unknown
from ops.developers.r2r import settle as settling
from ops.developers.r2r.names import Wanted, email_of, name_in, password_of, user_id, wanted
from ops.developers.reality import Reality, User
from ops.errors import SettingsError, StackroomError
from ops.render.people import tunnel_ports
from ops.render.r2r_env import secrets_of
from ops.settings import Developer, Environment, Settings
from ops.settings.model import EdgeMode

PART = "users"
PROOF_SECONDS = 600  # of a token that is made to be refused
SAID = 80  # characters of a refusal that are repeated


class R2RAccounts:
    """See ops/developers/accounts.py."""

    noun = "R2R account"
    two_at_once = False  # a user has one password, and one address that its tokens name
    parts: tuple[str, ...] = (PART,)
    file = "password"

    def secret(self, settings: Settings, name: str) -> SecretStr:
        one = settings.developers.get(name)
        if one is None or name not in wanted(settings):
            raise SettingsError(
                f"{name} has no R2R account: it needs collections, a token and a last day to come",
                f"stackroom developer rotate {name}, once developers.toml names collections",
            )
        return password_of(settings, email_of(name, one.token))

    def may(self, _settings: Settings, one: Developer) -> str:
        return f"member of R2R's {', '.join(one.collections)}: read all, add documents of their own"

    def effects(self, before: Environment, after: Environment, name: str) -> Iterator[str]:
        had, has = wanted(before.settings).get(name), wanted(after.settings).get(name)
        if had and not has:
            yield f"ends R2R's user {had.email}, its tokens and API keys; the documents stay"
        if has and not had:
            yield f"makes R2R's user {has.email}, or takes up the one that was there before"
        if had and has and had.email != has.email:
            yield f"{had.email} becomes {has.email}: its password, tokens and API keys end, at once"
        was, becomes = set(had.collections if had else ()), set(has.collections if has else ())
        if has and (new := sorted(becomes - was)):
            yield f"makes {name} a member of {', '.join(new)}; what is not there is made"
        if has and (old := sorted(was - becomes)):
            yield f"takes {name} out of {', '.join(old)}, at once"

    # -- what is there -----------------------------------------------------------------------------

    def collections(self, settings: Settings, reality: Reality, name: str) -> tuple[str, ...]:
        if reality.users is None:
            return ("?",)
        user = _user(reality, name)
        if user is None:
            return ()
        return ("*",) if user.superuser else tuple(sorted(_governed(settings, user)))

    def rights(self, _settings: Settings, reality: Reality, name: str) -> str:
        if reality.users is None:
            return "?"
        user = _user(reality, name)
        return "no R2R user" if user is None else "superuser" if user.superuser else "member"

    def seen(self, reality: Reality, name: str) -> Visit:
        user = _user(reality, name)
        return Visit(user.seen if user else None, known=reality.users is not None)

    def differences(self, settings: Settings, reality: Reality) -> Iterator[Difference]:
        if reality.users is None:
            return
        expected = wanted(settings)
        ours = {str(user_id(name)): name for name in expected}
        for user in reality.users:
            if user.id not in ours and user.email != settings.r2r.admin_email.lower():
                yield _of_stranger(settings, user)
        for name, one in expected.items():
            own = _user(reality, name)
            if own is None:
                yield Difference(name, f"there is no R2R user {one.email}")
            else:
                yield from _of_user(settings, name, one, own)

    def strangers(self, settings: Settings, reality: Reality) -> Iterator[Row]:
        ours = {str(user_id(name)) for name in wanted(settings)}
        for user in reality.users or ():
            if user.id not in ours:
                admin = user.email == settings.r2r.admin_email.lower()
                shared = tuple(sorted(name for name, _ in user.collections))
                yield Row(
                    who="R2R's administrator" if admin else name_in(user.email) or "?",
                    source="any that is open",
                    ports=(),
                    account=f"R2R {user.email}",
                    collections=("*",) if user.superuser else shared,
                    rights="superuser" if user.superuser else "member",
                    seen=Visit(user.seen),
                    listed=admin,
                )

    def traces(self, reality: Reality, name: str) -> list[str]:
        return [f"R2R's user {each.email}" for each in _named(reality, name)]

    def holds(self, _developer: Developer, name: str, reality: Reality) -> bool:
        return bool(_named(reality, name))

    def gone(self, _developer: Developer, name: str, reality: Reality) -> Iterator[Probe]:
        what = f"R2R has a user of {name}"
        if reality.users is None:
            yield unknown(what, reality, PART)
            return
        if found := _named(reality, name):
            yield Probe(what, f"yes: {', '.join(each.email for each in found)}", False)
        else:
            yield Probe(what, f"no: none of its {len(reality.users)} users is one", True)

    # -- asked of R2R ------------------------------------------------------------------------------

    def ready(self, environment: Environment, name: str, remote: Remote, *, present: bool) -> None:
        """The administrator is let in, and `present`: the developer, with the password of now."""
        with settling.opened(environment, remote) as place:
            one = wanted(environment.settings).get(name)
            if present and one and not place.takes(one.email):
                raise SettingsError(
                    f"R2R refuses {one.email} with the password that the kit would hold: it has"
                    " been changed in R2R, or the account is not there yet; nothing was changed",
                    f"stackroom -e {environment.name} deploy makes one that is missing; stackroom"
                    f" -e {environment.name} developer rotate {name} gives a new password",
                )

    def refused(
        self, environment: Environment, name: str, ids: Iterable[str], remote: Remote
    ) -> list[Probe]:
        found: list[Probe] = []
        (port,) = tunnel_ports(environment.settings)
        try:
            with remote.forward(port) as local:
                for token_id in ids:
                    email = email_of(name, token_id)
                    found += _shown(environment, email, remote, f"http://127.0.0.1:{local}")
        except StackroomError as error:
            found.append(Probe(f"R2R lets {name} in", f"unknown: {error.message}", False))
        return found

    def pending(self, environment: Environment, remote: Remote) -> list[str]:
        return settling.pending(environment, remote)

    def settle(
        self, environment: Environment, remote: Remote, on_step: Callable[[str, str], None]
    ) -> list[str]:
        return settling.settle(environment, remote, on_step)


def _user(reality: Reality, name: str) -> User | None:
    wanted_id = str(user_id(name))
    return next((each for each in reality.users or () if each.id == wanted_id), None)


def _named(reality: Reality, name: str) -> list[User]:
    wanted_id = str(user_id(name))
    return [
        each for each in reality.users or () if each.id == wanted_id or name_in(each.email) == name
    ]


def _governed(settings: Settings, user: User) -> set[str]:
    """Which of the administrator's collections the user shares: the file is about those alone."""
    admin = settings.r2r.admin_email.lower()
    return {name for name, owner in user.collections if owner == admin}


def _of_stranger(settings: Settings, user: User) -> Difference:
    name = name_in(user.email)
    power = ", a superuser, who may do everything" if user.superuser else ""
    why = absent(settings, name)
    text = f"R2R has a user {user.email}{power}, and {why}"
    # those of our own making end with the next apply; another one is a person's to judge
    slight = not (name or user.superuser or _governed(settings, user))
    return Difference(name, text, reaches=True, applies=bool(name), slight=slight)


def _of_user(settings: Settings, name: str, one: Wanted, user: User) -> Iterator[Difference]:
    if user.superuser:
        text = f"R2R's user {user.email} is a superuser, who may do everything"
        yield Difference(name, text, reaches=True)
    if user.email != one.email:
        text = f"R2R lets in {user.email}, and the file says {one.email}"
        yield Difference(name, text, reaches=True)
    has = _governed(settings, user)
    if more := sorted(has - set(one.collections)):
        yield Difference(name, f"is a member of R2R's {', '.join(more)}", reaches=True)
    if less := sorted(set(one.collections) - has):
        yield Difference(name, f"is no member of R2R's {', '.join(less)}")


# -- a password and a token, shown to R2R ----------------------------------------------------------


def _shown(environment: Environment, email: str, remote: Remote, url: str) -> Iterator[Probe]:
    """R2R's own tokens are signed here, with its own key, as it would sign them: what a program of
    theirs may still hold is refused as these are."""
    settings = environment.settings
    ask = partial(_login, settings, url, email)
    yield asked(f"R2R takes the password of {email}", ask, account_answer)
    if not _key_is_right(settings, url):
        answer = "unknown: R2R refuses the secret_key of secrets.toml"
        yield Probe(f"R2R takes a token of {email}", answer, False)
        return
    headers = _bearer(settings, email)
    yield asked(
        f"a token of {email} is taken on loopback", partial(_me, url, headers), account_answer
    )
    if settings.edge.mode is not EdgeMode.TUNNEL:
        ask = partial(_at_edge, environment, remote, headers)
        yield asked(f"a token of {email} is taken at the edge", ask, account_answer)


def account_answer(what: str, code: int, said: str) -> Probe:
    """What an answer of R2R proves: a user that is not there is 404 at a login, and its tokens are
    401. A wrong password proves nothing: the user is there."""
    if code == httpx.codes.OK:
        return Probe(what, f"yes: answered {code}", False)
    if (code == 404 and "User not found" in said) or (
        code == 401 and "Invalid token or API key" in said
    ):
        return Probe(what, f"no: answered {code}", True)
    if code == 401 and "Incorrect email or password" in said:
        return Probe(what, "unknown: there is such a user, with another password", False)
    told = f", {said}" if said.isprintable() and 0 < len(said) <= SAID else ""
    return Probe(what, f"unknown: answered {code}{told}", False)


def _bearer(settings: Settings, email: str) -> dict[str, str]:
    key = secrets_of(settings).secret_key.get_secret_value()
    said = {"sub": email, "token_type": "access", "exp": time.time() + PROOF_SECONDS}
    return {"authorization": f"Bearer {jwt.encode(said, key, 'HS256')}"}


def _key_is_right(settings: Settings, url: str) -> bool:
    """Whether R2R takes what is signed here, of its administrator."""
    try:
        return _me(url, _bearer(settings, settings.r2r.admin_email.lower()))[0] == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _login(settings: Settings, url: str, email: str) -> tuple[int, str]:
    form = {"username": email, "password": password_of(settings, email).get_secret_value()}
    with httpx.Client(trust_env=False, timeout=20) as client:
        answer = client.post(f"{url}/v3/users/login", data=form)
    return answer.status_code, answer.text


def _me(url: str, headers: dict[str, str]) -> tuple[int, str]:
    with httpx.Client(trust_env=False, timeout=20) as client:
        answer = client.get(f"{url}/v3/users/me", headers=headers)
    return answer.status_code, answer.text


def _at_edge(environment: Environment, remote: Remote, headers: dict[str, str]) -> tuple[int, str]:
    settings, machine = environment.settings, environment.machine
    place = Place(machine.address, settings.edge.port, environment.edge_name())
    ca = edge.edge_ca(remote) if settings.edge.mode is EdgeMode.INTERNAL else ""
    return edge.ask(place, edge.trust(ca), "/v3/users/me", headers=headers)
