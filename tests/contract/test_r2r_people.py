"""R2R's users, credentials, collections and who may see them: our client against the real one."""

from __future__ import annotations

import secrets
import time
from uuid import uuid4

import jwt
import pytest
from pydantic import SecretStr
from r2r_place import MANY, ROOMY, Person, Place, person, same

from ops.clients.r2r import R2R, ApiKey, Login, Patience, session
from ops.clients.r2r.errors import (
    AbsentError,
    BadRequestError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    LimitedError,
    UnauthorizedError,
)
from ops.clients.r2r.people import Limits, RouteLimits

pytestmark = pytest.mark.slow


def new_name() -> str:
    return f"contract-{secrets.token_hex(6)}"


def test_health_needs_nobody_and_status_a_superuser(
    r2r_place: Place, admin: R2R, anna: Person
) -> None:
    with R2R(r2r_place.url) as nobody:
        assert nobody.health().message == "ok"
        with pytest.raises(UnauthorizedError):
            nobody.status()
    found = admin.status()
    raw = r2r_place.results("GET", "/v3/system/status", r2r_place.token(r2r_place.admin))
    assert set(raw) == set(type(found).model_fields)
    assert found.uptime_seconds > 0 and 0 <= found.memory_usage <= 100
    assert found.start_time.tzinfo is not None
    with pytest.raises(ForbiddenError):
        anna.r2r.status()


@pytest.mark.parametrize("email", ["", "nobody@example.com"])
def test_a_wrong_password_and_an_unknown_address(
    r2r_place: Place, anna: Person, email: str
) -> None:
    wrong = Login(email or anna.login.email, SecretStr("canary-wrong-password"))
    with R2R(r2r_place.url, wrong) as r2r:
        with pytest.raises(UnauthorizedError, match="refuses the login of") as caught:
            r2r.users.me()
        assert "canary" not in f"{caught.value}{caught.value.hint}"


def test_two_kinds_of_credentials_in_one_request_are_refused(
    r2r_place: Place, anna: Person
) -> None:
    """Which is why the client never sends both."""
    token = r2r_place.token(anna.login)
    both = r2r_place.raw("GET", "/v3/users/me", token, headers={"x-api-key": "a.b"})
    assert both.status_code == 400


def test_a_user_as_the_server_gives_it(r2r_place: Place, anna: Person) -> None:
    found = anna.r2r.users.me()
    raw = r2r_place.results("GET", "/v3/users/me", r2r_place.token(anna.login))
    same(found, raw)
    assert raw["hashed_password"] and raw["hashed_password"] not in repr(found)
    assert found.id == anna.id and not found.is_superuser
    assert anna.team.id in found.collection_ids


def test_a_token_that_ran_out_is_renewed(r2r_place: Place, anna: Person) -> None:
    with R2R(r2r_place.url, anna.login) as r2r:
        r2r.login()
        held = r2r._session._held
        assert held is not None
        claims = {"sub": anna.login.email, "token_type": "access", "exp": time.time() - 60}
        late = jwt.encode(claims, r2r_place.secret_key, "HS256")
        assert r2r_place.raw("GET", "/v3/users/me", late).status_code == 401
        held.access = SecretStr(late)
        before = held.refresh.get_secret_value()
        assert r2r.users.me().id == anna.id
        after = r2r._session._held
        assert after is not None and after.refresh.get_secret_value() != before
    # the old one was used up: sent again it is refused
    again = r2r_place.raw("POST", "/v3/users/refresh-token", json=before)
    assert again.status_code == 401


def test_a_token_signed_with_the_servers_key_is_good(r2r_place: Place, anna: Person) -> None:
    """So the one above was refused for its age, and not for its signature."""
    claims = {"sub": anna.login.email, "token_type": "access", "exp": time.time() + 600}
    good = jwt.encode(claims, r2r_place.secret_key, "HS256")
    assert r2r_place.raw("GET", "/v3/users/me", good).status_code == 200


def test_a_refresh_token_that_is_no_good_costs_a_login(r2r_place: Place, anna: Person) -> None:
    with R2R(r2r_place.url, anna.login) as r2r:
        r2r.login()
        held = r2r._session._held
        assert held is not None
        held.access = held.refresh = SecretStr("a.b.c")
        assert r2r.users.me().id == anna.id


def test_after_a_logout_the_token_is_void(r2r_place: Place, anna: Person) -> None:
    with R2R(r2r_place.url, anna.login) as r2r:
        r2r.login()
        held = r2r._session._held
        assert held is not None
        r2r.logout()
        token = held.access.get_secret_value()
        assert r2r_place.raw("GET", "/v3/users/me", token).status_code == 401
        assert r2r.users.me().id == anna.id


def test_an_api_key_is_made_used_listed_and_deleted(r2r_place: Place, anna: Person) -> None:
    made = anna.r2r.users.create_key(anna.id, name="backup", description="of a test")
    secret = made.api_key.get_secret_value()
    assert secret not in repr(made)
    (listed,) = [each for each in anna.r2r.users.keys(anna.id) if each.key_id == made.key_id]
    raw = r2r_place.results("GET", f"/v3/users/{anna.id}/api-keys", r2r_place.token(anna.login))
    same(listed, next(each for each in raw if each["key_id"] == str(made.key_id)))
    assert (listed.name, listed.public_key) == ("backup", made.public_key)
    with R2R(r2r_place.url, ApiKey(made.api_key)) as r2r:
        assert r2r.users.me().id == anna.id
        anna.r2r.users.delete_key(anna.id, made.key_id)
        with pytest.raises(UnauthorizedError) as caught:
            r2r.users.me()
    assert secret not in str(caught.value)


def test_users_are_made_listed_changed_and_deleted(
    r2r_place: Place, admin: R2R, anna: Person
) -> None:
    login = Login(f"{new_name()}@example.com", SecretStr("first-password-1"))
    made = admin.users.create(login.email, login.password, name="Carol", verified=True)
    try:
        assert (made.email, made.name, made.is_verified) == (login.email, "Carol", True)
        with pytest.raises((BadRequestError, ConflictError)):
            admin.users.create(login.email, login.password)
        assert admin.users.get(made.id).email == login.email
        assert made.id in {each.id for each in admin.users.every()}
        assert admin.users.page(0, 1).total >= 3
        assert admin.users.update(made.id, superuser=True).is_superuser
        assert not admin.users.update(made.id, superuser=False, name="C").is_superuser
        with pytest.raises(ForbiddenError):
            anna.r2r.users.page()
        with pytest.raises(ForbiddenError):
            anna.r2r.users.delete(made.id, password=login.password)
    finally:
        admin.users.delete(made.id)
    with pytest.raises(AbsentError):
        admin.users.get(made.id)


def test_a_wrong_address_is_told_without_the_password(admin: R2R) -> None:
    with pytest.raises(InvalidError, match=r"body\.email") as caught:
        admin.users.create("no address", SecretStr("canary-password"))
    assert "canary" not in str(caught.value)


def test_a_password_is_changed(r2r_place: Place, admin: R2R) -> None:
    with person(r2r_place, admin, "dora") as dora:
        with R2R(r2r_place.url, dora.login) as r2r:
            r2r.users.change_password(SecretStr("canary-new-password"))
            r2r.login()
        with R2R(r2r_place.url, dora.login) as old, pytest.raises(UnauthorizedError):
            old.login()
        # a wrong current one
        with R2R(r2r_place.url, dora.login) as other:
            other._session._held = dora.r2r._session._held
            with pytest.raises(BadRequestError) as caught:
                other.users.change_password(SecretStr("canary-third"))
            assert "canary" not in str(caught.value)


def test_a_token_that_is_nobodys_resets_no_password(admin: R2R) -> None:
    with pytest.raises(BadRequestError, match="reset token") as caught:
        admin.users.reset_password(SecretStr("canary-token"), SecretStr("canary-password"))
    assert "canary" not in str(caught.value)


def test_collections_are_made_found_changed_and_deleted(r2r_place: Place, anna: Person) -> None:
    name = f"{new_name()} ü / 1"
    made = anna.r2r.collections.create(name, "for a test")
    path = f"/v3/collections/{made.id}"
    same(
        anna.r2r.collections.get(made.id),
        r2r_place.results("GET", path, r2r_place.token(anna.login)),
    )
    assert (made.name, made.description, made.owner_id) == (name, "for a test", anna.id)
    with pytest.raises(ConflictError):
        anna.r2r.collections.create(name)
    assert made.id in {each.id for each in anna.r2r.collections.every(own=True)}
    assert made.id in {each.id for each in anna.r2r.users.collections(anna.id)}
    plain = new_name()
    assert anna.r2r.collections.update(made.id, name=plain).name == plain
    assert anna.r2r.collections.named(plain).id == made.id
    anna.r2r.collections.delete(made.id)
    with pytest.raises(AbsentError):
        anna.r2r.collections.get(made.id)
    with pytest.raises(AbsentError):
        anna.r2r.collections.named(plain)


def test_membership_lets_see_and_not_change(anna: Person, bob: Person) -> None:
    shared = anna.r2r.collections.create(new_name())
    with pytest.raises(ForbiddenError):
        bob.r2r.collections.get(shared.id)
    anna.r2r.collections.add_member(shared.id, bob.id)
    assert {each.id for each in anna.r2r.collections.members(shared.id)} == {anna.id, bob.id}
    assert bob.r2r.collections.get(shared.id).user_count == 2
    assert shared.id in {each.id for each in bob.r2r.collections.every()}
    with pytest.raises(ForbiddenError):
        bob.r2r.collections.delete(shared.id)
    with pytest.raises(ForbiddenError):
        bob.r2r.collections.add_member(shared.id, uuid4())
    anna.r2r.collections.remove_member(shared.id, bob.id)
    with pytest.raises(ForbiddenError):
        bob.r2r.collections.get(shared.id)
    anna.r2r.collections.delete(shared.id)


def test_pages_of_the_real_server(
    r2r_place: Place, anna: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {anna.r2r.collections.create(new_name()).id for _ in range(5)}
    monkeypatch.setattr(session, "PAGE", 2)
    found = [each.id for each in anna.r2r.collections.every(own=True)]
    assert made <= set(found) and len(found) == len(set(found))
    page = anna.r2r.collections.page(0, 2, own=True)
    assert len(page.items) == 2 and page.total == len(found)
    assert anna.r2r.collections.page(page.total, 2, own=True).items == []
    for each in made:
        anna.r2r.collections.delete(each)
    # what the client does not even ask for
    token = r2r_place.token(anna.login)
    assert r2r_place.raw("GET", "/v3/collections?limit=1001", token).status_code == 422


def test_limits_are_told_apart(r2r_place: Place, admin: R2R) -> None:
    hasty = Patience(limited_pause=0.01, limited_in_all=0)

    def make_many(r2r: R2R) -> None:
        for _ in range(5):
            r2r.collections.create(new_name())

    def limit(limits: Limits) -> None:
        assert admin.users.update(eve.id, limits=limits).limits_overrides

    with (
        person(r2r_place, admin, "eve") as eve,
        R2R(r2r_place.url, eve.login, patience=hasty) as r2r,
    ):
        limit(Limits(route_overrides={"/v3/collections": RouteLimits(route_per_min=1)}))
        with pytest.raises(LimitedError, match="per-minute") as caught:
            make_many(r2r)
        assert caught.value.passes
        limit(Limits(global_per_min=MANY, monthly_limit=1))
        with pytest.raises(LimitedError, match="Monthly") as caught:
            make_many(r2r)
        assert not caught.value.passes
        limit(ROOMY)
