"""Makes R2R's users what the inventory says, as R2R's administrator. What takes away comes first.

Nobody's documents are deleted: those of a user who goes stay, as the team's.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

from pydantic import SecretStr

from ops.clients.r2r import R2R, Login
from ops.clients.r2r.errors import ConflictError, UnauthorizedError
from ops.clients.r2r.models import Collection, User
from ops.clients.ssh import Remote
from ops.developers.r2r.names import Wanted, first_email, name_in, password_of, user_id, wanted
from ops.errors import ServiceError, SettingsError
from ops.render.people import tunnel_ports
from ops.render.project import PROJECT
from ops.render.r2r_env import secrets_of
from ops.settings import Environment, Settings

POSTGRES = f"{PROJECT}-postgres-1"
PSQL = f"docker exec -i {POSTGRES} psql -X -U r2r -d r2r -v ON_ERROR_STOP=1 -Atq"
RESET_TIME = "5 minutes"  # of a token that is used at once


@dataclass(frozen=True)
class Step:
    """`text` says what `do` does; nothing was done yet."""

    text: str
    do: Callable[[], None]


@dataclass(frozen=True)
class Found:
    """What R2R has: its users, and the administrator's collections by name."""

    admin: User
    users: tuple[User, ...]
    collections: dict[str, UUID]


class Place:
    """R2R of one environment, through a tunnel, as its administrator."""

    def __init__(self, environment: Environment, remote: Remote, url: str, r2r: R2R) -> None:
        self.settings: Settings = environment.settings
        self.environment = environment
        self.remote = remote
        self.url = url
        self.r2r = r2r

    def look(self) -> Found:
        admin = self.r2r.users.me()
        owned = [each for each in self.r2r.collections.every(own=True) if _owns(admin, each)]
        return Found(admin, tuple(self.r2r.users.every()), {each.name: each.id for each in owned})

    def takes(self, email: str) -> bool:
        """Whether R2R lets the user in with the password of that address."""
        return self._lets_in(email, password_of(self.settings, email))

    def _lets_in(self, email: str, password: SecretStr) -> bool:
        try:
            with R2R(self.url, Login(email, password)) as user:
                user.login()
        except UnauthorizedError:
            return False
        return True

    # -- the steps -------------------------------------------------------------------------------

    def steps(self) -> list[Step]:
        """What is to be done, in this order; looked up now."""
        found, expected = self.look(), wanted(self.settings)
        by_id = {user.id: user for user in found.users}
        ours = {user_id(name): name for name in expected}
        steps = [
            self._close(user)
            for user in found.users
            if name_in(user.email) and user.id not in ours and user.id != found.admin.id
        ]
        for name, one in expected.items():
            user = by_id.get(user_id(name))
            if user is None:
                steps.append(self._make(name, one))
            else:
                steps.extend(self._renew(one, user))
            steps.extend(self._memberships(name, one, user, found))
        return steps

    def _close(self, user: User) -> Step:
        def close() -> None:
            self.r2r.users.delete(user.id)

        return Step(f"ends R2R's user {user.email}; the documents stay", close)

    def _make(self, name: str, one: Wanted) -> Step:
        return Step(f"makes R2R's user {one.email}", lambda: self._made(name, one))

    def _made(self, name: str, one: Wanted) -> None:
        secret = password_of(self.settings, one.email)
        made = self.r2r.users.create(first_email(name), secret, name=name, verified=True)
        if made.id != user_id(name):
            self.r2r.users.delete(made.id)
            raise ServiceError(
                f"R2R makes the ids of its users in another way than 3.6.6: {name} would own"
                " nothing of theirs",
                "set the R2R version back to the pinned one",
            )
        self._rename(made, one.email)

    def _renew(self, one: Wanted, user: User) -> Iterator[Step]:
        if user.is_superuser:

            def demote() -> None:
                self.r2r.users.update(user.id, superuser=False)

            yield Step(f"{user.email} is no superuser of R2R any more", demote)
        if user.email != one.email:
            text = f"{user.email} becomes {one.email}: its password, tokens and API keys end"
            yield Step(text, lambda: self._renewed(one, user))

    def _renewed(self, one: Wanted, user: User) -> None:
        """Broken off before the new address, the next run finds the old one and goes on."""
        password = password_of(self.settings, one.email)
        if not self._lets_in(user.email, password):
            self._reset(user, password)
        self._forget_keys(user)
        self._rename(user, one.email)
        self._forget_keys(user)  # a token was good until now, and may have made another

    def _forget_keys(self, user: User) -> None:
        for key in list(self.r2r.users.keys(user.id)):
            self.r2r.users.delete_key(user.id, key.key_id)

    def _reset(self, user: User, password: SecretStr) -> None:
        """Whatever the password is: somebody may have set one of their own. R2R would send the
        token by mail, so its database is told one; and that the address, which gets no mail, needs
        no proof."""
        token = secrets.token_urlsafe(32)
        self._tell_database(
            user,
            f"reset_token = '{token}', reset_token_expiry = now() + interval '{RESET_TIME}',"
            " is_verified = true",
            hidden=token,
        )
        self.r2r.users.reset_password(SecretStr(token), password)

    def _rename(self, user: User, email: str) -> None:
        """R2R's own way refuses an address that nobody has: it looks for who has it, and answers
        404 (3.6.6). So its database is told."""
        self._tell_database(user, f"email = '{_plain(email)}', updated_at = now()")

    def _tell_database(self, user: User, change: str, hidden: str = "") -> None:
        """`change` needs no quoting. Raises ServiceError, without what is `hidden`."""
        told = (
            f'UPDATE "{self.settings.r2r.project}".users'  # noqa: S608
            f" SET {change} WHERE id = '{user.id}' RETURNING id;\n"
        )
        done = self.remote.run(PSQL, stdin=told)
        if done.returncode or done.stdout.strip() != str(user.id):
            said = (done.stderr.strip() or done.stdout.strip() or "no such user").splitlines()[-1]
            raise ServiceError(
                f"R2R's database does not change {user.email}:"
                f" {said.replace(hidden, '***') if hidden else said}",
                f"stackroom -e {self.environment.name} doctor",
            )

    def _memberships(
        self, name: str, one: Wanted, user: User | None, found: Found
    ) -> Iterator[Step]:
        """Of the administrator's collections alone: what a user shares with others is theirs."""
        has = set(user.collection_ids) if user else set()
        governed = {each: called for called, each in found.collections.items()}
        for each, called in governed.items():
            if each in has and called not in one.collections:
                yield self._left(name, each, called)
        for called in one.collections:
            there = found.collections.get(called)
            if there is None or there not in has:
                yield self._joined(name, called, new=there is None)

    def _left(self, name: str, collection: UUID, called: str) -> Step:
        def leave() -> None:
            self.r2r.collections.remove_member(collection, user_id(name))

        return Step(f"{name} is no member of R2R's collection {called} any more", leave)

    def _joined(self, name: str, called: str, *, new: bool) -> Step:
        def join() -> None:
            self.r2r.collections.add_member(self._collection(called), user_id(name))

        made = ", which is made: there is none yet" if new else ""
        return Step(f"{name} becomes a member of R2R's collection {called}{made}", join)

    def _collection(self, called: str) -> UUID:
        with contextlib.suppress(ConflictError):  # made for the developer before
            return self.r2r.collections.create(called).id
        return self.r2r.collections.named(called, self.r2r.users.me().id).id


def _owns(user: User, collection: Collection) -> bool:
    return collection.owner_id == user.id


def _plain(email: str) -> str:
    """As it stands between quotes. Raises ValueError for what names.py does not make."""
    if not re.fullmatch(r"[a-z0-9_.-]+@[a-z.]+", email):
        raise ValueError("no address of a developer")
    return email


@contextlib.contextmanager
def opened(environment: Environment, remote: Remote) -> Iterator[Place]:
    """R2R as its administrator. Raises UnreachableError, and SettingsError where R2R refuses it."""
    settings = environment.settings
    secret = secrets_of(settings).admin_password
    (port,) = tunnel_ports(settings)
    with remote.forward(port) as local:
        url = f"http://127.0.0.1:{local}"
        with R2R(url, Login(settings.r2r.admin_email, secret)) as r2r:
            try:
                r2r.login()
            except UnauthorizedError:
                raise SettingsError(
                    f"R2R refuses its administrator {settings.r2r.admin_email} with the"
                    " admin_password of secrets.toml",
                    f"stackroom -e {environment.name} doctor --only r2r.login says what to do",
                ) from None
            yield Place(environment, remote, url, r2r)


def pending(environment: Environment, remote: Remote) -> list[str]:
    """What `settle` would do now; a sentence each. Nothing is changed."""
    with opened(environment, remote) as place:
        return [step.text for step in place.steps()]


def settle(
    environment: Environment,
    remote: Remote,
    on_step: Callable[[str, str], None] = lambda name, result: None,
) -> list[str]:
    """Make R2R's users those of the inventory; what was done. A second time it is nothing.

    Raises UnreachableError, SettingsError, ServiceError; what was done until then stays done.
    """
    done = []
    with opened(environment, remote) as place:
        for step in place.steps():
            step.do()
            on_step(step.text, "Success")
            done.append(step.text)
    return done
