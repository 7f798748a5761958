"""The R2R client where a real server cannot be made to misbehave: tokens, retries, the breaker."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from pydantic import SecretStr
from r2r_client_lab import Lab, Reply, eventually, free_port, refused, results, running, tokens

from ops.clients.r2r import R2R, ApiKey, Breaker, Login, Patience
from ops.clients.r2r.breaker import OpenError
from ops.clients.r2r.errors import (
    BadRequestError,
    BusyError,
    FailedError,
    InvalidError,
    LimitedError,
    NoAnswerError,
    UnauthorizedError,
    refusal,
)
from ops.errors import ServiceError, SettingsError, StackroomError, UnreachableError

PASSWORD = "canary-password-0123456789"
LOGIN = Login("anna@example.com", SecretStr(PASSWORD))
QUICK = Patience(first=0.001, longest=0.01, limited_pause=0.001, limited_in_all=1)
ME = "/v3/users/me"
IN, AGAIN = "/v3/users/login", "/v3/users/refresh-token"
USER = {
    "id": "2acb499e-8428-543b-bd85-0d9098718220",
    "email": "anna@example.com",
    "is_active": True,
    "is_superuser": False,
    "is_verified": True,
    "account_type": "password",
    "collection_ids": [],
    "created_at": "2026-01-02T03:04:05",
    "updated_at": "2026-01-02T03:04:05Z",
    "hashed_password": "canary-hash",
}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with running() as opened:
        opened.on(IN, tokens())
        opened.on(ME, results(USER))
        yield opened


@pytest.fixture
def r2r(lab: Lab) -> Iterator[R2R]:
    with R2R(lab.url, LOGIN, patience=QUICK, breaker=Breaker(failures=100)) as opened:
        yield opened


def jwt(seconds: float) -> str:
    def part(of: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(of).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256'})}.{part({'exp': time.time() + seconds})}.signature"


def test_it_logs_in_once_by_a_form_and_asks_with_a_bearer(lab: Lab, r2r: R2R) -> None:
    assert r2r.users.me().email == "anna@example.com"
    r2r.users.me()
    (login,) = lab.asked(IN)
    assert login.headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qs(login.body.decode()) == {
        "username": ["anna@example.com"],
        "password": [PASSWORD],
    }
    assert "authorization" not in login.headers
    for asked in lab.asked(ME):
        assert asked.headers["authorization"] == "Bearer access-1"
        assert "x-api-key" not in asked.headers


def test_an_api_key_is_the_only_credential_of_a_request(lab: Lab) -> None:
    with R2R(lab.url, ApiKey(SecretStr("canary-key")), patience=QUICK) as r2r:
        r2r.users.me()
    (asked,) = lab.seen
    assert asked.headers["x-api-key"] == "canary-key" and "authorization" not in asked.headers


def test_without_credentials_none_are_sent(lab: Lab) -> None:
    lab.on("/v3/health", results({"message": "ok"}))
    with R2R(lab.url, patience=QUICK) as r2r:
        assert r2r.health().message == "ok"
    (asked,) = lab.seen
    assert not {"authorization", "x-api-key"} & asked.headers.keys()


def test_a_token_that_ran_out_is_refreshed_by_a_bare_string(lab: Lab, r2r: R2R) -> None:
    lab.on(ME, refused(401), results(USER))
    lab.on(AGAIN, tokens("access-2", "refresh-2"))
    r2r.users.me()
    (asked,) = lab.asked(AGAIN)
    assert asked.body == b'"refresh-1"' and "authorization" not in asked.headers
    assert [each.headers["authorization"] for each in lab.asked(ME)] == [
        "Bearer access-1",
        "Bearer access-2",
    ]
    assert len(lab.asked(IN)) == 1


def test_a_refresh_token_that_ran_out_costs_a_new_login(lab: Lab, r2r: R2R) -> None:
    lab.on(IN, tokens(), tokens("access-3", "refresh-3"))
    lab.on(ME, refused(401), results(USER))
    lab.on(AGAIN, refused(401))
    r2r.users.me()
    assert len(lab.asked(IN)) == 2
    assert lab.asked(ME)[-1].headers["authorization"] == "Bearer access-3"


def test_a_refresh_whose_answer_was_lost_is_not_sent_again(lab: Lab, r2r: R2R) -> None:
    """R2R has forgotten the old token by then. The next call logs in."""
    lab.on(ME, refused(401), results(USER))
    lab.on(AGAIN, Reply(reset=True), refused(401))
    with pytest.raises(NoAnswerError):
        r2r.users.me()
    assert len(lab.asked(AGAIN)) == 1
    lab.on(ME, refused(401), results(USER))
    r2r.users.me()
    assert len(lab.asked(IN)) == 2


def test_a_token_is_renewed_before_it_runs_out(lab: Lab, r2r: R2R) -> None:
    lab.on(IN, tokens(jwt(21)))
    lab.on(AGAIN, tokens(jwt(3600), "refresh-2"))
    r2r.users.me()
    assert not lab.asked(AGAIN)
    held = r2r._session._held
    assert held is not None
    held.ends -= 15
    r2r.users.me()
    r2r.users.me()
    assert len(lab.asked(AGAIN)) == 1
    assert len({each.headers["authorization"] for each in lab.asked(ME)}) == 2


def test_a_token_of_short_life_is_used_until_it_is_refused(lab: Lab, r2r: R2R) -> None:
    lab.on(IN, tokens(jwt(5)))
    r2r.users.me()
    r2r.users.me()
    assert len(lab.asked(IN)) == 1 and not lab.asked(AGAIN)


def test_many_threads_renew_once(lab: Lab, r2r: R2R) -> None:
    r2r.users.me()
    lab.on(AGAIN, tokens("access-2", "refresh-2"))
    # every thread is refused with the old token before one may renew it
    lab.on(ME, *[Reply(401, {"message": "no"}, hang=0.3)] * 8, results(USER))
    with ThreadPoolExecutor(8) as pool:
        found = [each.result() for each in [pool.submit(r2r.users.me) for _ in range(8)]]
    assert len(found) == 8 and len(lab.asked(AGAIN)) == 1 and len(lab.asked(IN)) == 1


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_login_is_one_error_whichever_half_is_wrong(
    lab: Lab, r2r: R2R, status: int
) -> None:
    lab.on(IN, refused(status, f"User not found {PASSWORD}"))
    with pytest.raises(
        UnauthorizedError, match=r"refuses the login of anna@example\.com"
    ) as caught:
        r2r.users.me()
    assert PASSWORD not in f"{caught.value} {caught.value.hint}" and caught.value.exit_code == 8
    assert len(lab.asked(IN)) == 1


def test_reads_are_sent_again_and_writes_only_where_they_did_not_arrive(lab: Lab, r2r: R2R) -> None:
    lab.on(ME, Reply(reset=True), refused(502), results(USER))
    assert r2r.users.me().is_active
    lab.on("/v3/collections", Reply(reset=True))
    with pytest.raises(NoAnswerError) as caught:
        r2r.collections.create("team")
    assert caught.value.arrived and len(lab.asked("/v3/collections")) == 1
    lab.on("/v3/collections", refused(502))
    with pytest.raises(FailedError):
        r2r.collections.create("team")
    assert len(lab.asked("/v3/collections")) == 2
    lab.on("/v3/collections", refused(503, retry_after="0"))
    with pytest.raises(BusyError):
        r2r.collections.create("team")
    assert len(lab.asked("/v3/collections")) == 6  # nothing was done: all four tries


def test_a_write_that_found_no_connection_is_sent_again() -> None:
    port = free_port()
    breaker = Breaker(failures=100)
    patience = Patience(attempts=200, first=0.05, longest=0.1)
    login = ApiKey(SecretStr("key"))
    made: list[Any] = []
    with R2R(f"http://127.0.0.1:{port}", login, patience=patience, breaker=breaker) as r2r:

        def create() -> None:
            with pytest.raises(ServiceError):
                r2r.collections.create("team")
            made.append(True)

        thread = threading.Thread(target=create)
        thread.start()
        eventually(lambda: breaker._failed > 1)
        import http.server

        class Refuses(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def do_POST(self) -> None:
                self.send_response(409)
                self.end_headers()

        with http.server.HTTPServer(("127.0.0.1", port), Refuses) as server:
            server.timeout = 20
            server.handle_request()
        thread.join(20)
    assert made == [True]


def test_a_limit_of_a_minute_is_waited_out_and_one_of_a_month_is_not(lab: Lab, r2r: R2R) -> None:
    limited = Reply(429, {"detail": "Per-route per-minute rate limit exceeded"})
    lab.on("/v3/retrieval/search", *[limited] * 5, results({"chunk_search_results": []}))
    assert r2r.retrieval.search("x").chunks == []
    lab.on("/v3/retrieval/search", limited)
    with pytest.raises(LimitedError, match="per-minute"):
        r2r.retrieval.search("x")
    lab.on("/v3/retrieval/search", Reply(429, {"detail": "Monthly rate limit exceeded"}))
    before = len(lab.seen)
    with pytest.raises(LimitedError, match="Monthly"):
        r2r.retrieval.search("x")
    assert len(lab.seen) == before + 1


def test_a_retry_after_is_kept(lab: Lab, r2r: R2R) -> None:
    lab.on(ME, refused(503, retry_after="0.3"), results(USER))
    began = time.monotonic()
    r2r.users.me()
    assert time.monotonic() - began >= 0.3


def test_a_slow_answer_ends_and_is_not_asked_for_again(lab: Lab, r2r: R2R) -> None:
    r2r.users.me()
    lab.on("/v3/retrieval/rag", Reply(hang=30))
    with pytest.raises(NoAnswerError, match="no answer in time") as caught:
        r2r.retrieval.answer("x", timeout=0.2)
    assert isinstance(caught.value, UnreachableError) and caught.value.exit_code == 4
    assert len(lab.asked("/v3/retrieval/rag")) == 1


def test_a_server_that_does_not_answer_is_left_alone_and_then_asked_once(lab: Lab) -> None:
    now = [0.0]
    breaker = Breaker(failures=3, pause=15, clock=lambda: now[0])
    with R2R(lab.url, LOGIN, patience=Patience(attempts=1), breaker=breaker) as r2r:
        r2r.users.me()
        lab.on(ME, refused(503))
        for _ in range(3):
            with pytest.raises(BusyError):
                r2r.users.me()
        asked = len(lab.seen)
        with pytest.raises(OpenError, match="not asked again for 15 s"):
            r2r.users.me()
        assert len(lab.seen) == asked
        now[0] = 16
        with pytest.raises(BusyError):  # the one that tries
            r2r.users.me()
        with pytest.raises(OpenError):
            r2r.users.me()
        now[0] = 32
        lab.on(ME, results(USER))
        r2r.users.me()
        r2r.users.me()
    assert len(lab.asked(ME)) == 1 + 3 + 1 + 2


def test_refusals_do_not_open_the_breaker_and_an_answer_closes_it(lab: Lab) -> None:
    breaker = Breaker(failures=3)
    with R2R(lab.url, LOGIN, patience=Patience(attempts=1), breaker=breaker) as r2r:
        lab.on(ME, *[refused(503), refused(503), refused(500)] * 3, results(USER))
        for _ in range(9):
            with pytest.raises(ServiceError):
                r2r.users.me()
        assert r2r.users.me().is_active


def test_only_one_request_at_a_time_tries_an_open_breaker() -> None:
    now = [0.0]
    breaker = Breaker(failures=1, pause=1, clock=lambda: now[0])
    breaker.enter("R2R")
    breaker.failed()
    now[0] = 2
    breaker.enter("R2R")
    with pytest.raises(OpenError):
        breaker.enter("R2R")
    breaker.leave()  # given up: the next one may try
    breaker.enter("R2R")
    breaker.answered()
    breaker.enter("R2R")
    breaker.enter("R2R")


@pytest.mark.parametrize("key", ["canary-\u043a\u043b\u044e\u0447", "canary-key\n"])
def test_a_key_that_no_header_takes_is_not_told(lab: Lab, key: str) -> None:
    """As read from a file with its line break. It tells nothing of the server: nobody was asked."""
    now = [0.0]
    breaker = Breaker(failures=1, pause=1, clock=lambda: now[0])
    with R2R(lab.url, ApiKey(SecretStr(key)), breaker=breaker) as r2r:
        breaker.enter("R2R")
        breaker.failed()
        now[0] = 2
        for _ in range(2):
            with pytest.raises(SettingsError, match="no header takes") as caught:
                r2r.users.me()
            assert "canary" not in str(caught.value)


def test_no_secret_is_in_a_message_or_a_repr(lab: Lab, r2r: R2R) -> None:
    """FastAPI repeats in a 422 what was sent; others repeat a token."""
    said = [
        {"loc": ["body", "password"], "msg": "too short", "input": {"password": PASSWORD}},
        {"loc": ["body", "email"], "msg": f"not {PASSWORD}", "input": PASSWORD},
    ]
    lab.on("/v3/users", Reply(422, {"detail": said}))
    with pytest.raises(InvalidError, match=r"body\.password: too short") as caught:
        r2r.users.create("bob@example.com", SecretStr(PASSWORD))
    lab.on(ME, refused(400, "bad header Bearer access-1"))
    with pytest.raises(BadRequestError, match=r"Bearer \[hidden\]") as other:
        r2r.users.me()
    lab.on(ME, results({**USER, "is_active": "canary-hash"}))
    with pytest.raises(ServiceError, match="unknown form") as third:
        r2r.users.me()
    shown = [repr(r2r), repr(r2r._session), repr(r2r._session._held), repr(LOGIN)]
    for error in (caught.value, other.value, third.value):
        shown += [str(error), repr(error), error.hint]
    whole = " ".join(shown)
    for secret in (PASSWORD, "access-1", "refresh-1", "canary-hash"):
        assert secret not in whole
    lab.on(ME, results(USER))
    assert "canary-hash" not in repr(r2r.users.me())


@pytest.mark.parametrize("url", ["127.0.0.1:7272", "ftp://host", "https://", "https://h:x"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(SettingsError):
        R2R(url)


def test_a_url_with_a_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(SettingsError) as caught:
        R2R(f"https://anna:{PASSWORD}@host")
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b"<html>hello</html>"),
        Reply(body={"detail": "ok"}),
        Reply(body=[1]),
        results(None),
        results({"id": "x"}),
    ],
)
def test_what_is_no_r2r_is_a_typed_error(lab: Lab, r2r: R2R, reply: Reply) -> None:
    lab.on(ME, reply)
    with pytest.raises(ServiceError, match=r"answered GET /v3/users/me in an unknown form"):
        r2r.users.me()
    lab.on(IN, reply)
    with pytest.raises(StackroomError, match=r"answered POST /v3/users/login in an unknown form"):
        r2r.login()


def test_a_page_of_an_error_is_cut(lab: Lab, r2r: R2R) -> None:
    lab.on(ME, Reply(500, b"x" * 1_000_000))
    with pytest.raises(FailedError) as caught:
        r2r.users.me()
    assert len(str(caught.value)) < 400


def test_every_page_is_fetched_and_each_thing_given_once(lab: Lab, r2r: R2R) -> None:
    def user(number: int) -> dict[str, Any]:
        return {**USER, "id": f"00000000-0000-0000-0000-{number:012d}"}

    # one came new between the pages, and moved the others back by one
    first = results([user(n) for n in range(1000)], total_entries=1500)
    second = results([user(n) for n in range(999, 1500)], total_entries=1501)
    lab.on("/v3/users", first, second)
    assert [each.id.int for each in r2r.users.every()] == [user_id_int(n) for n in range(1500)]
    assert [each.path for each in lab.asked("/v3/users")] == [
        "/v3/users?offset=0&limit=1000",
        "/v3/users?offset=1000&limit=1000",
    ]


def user_id_int(number: int) -> int:
    return int(f"{number:012d}", 16)


def test_pages_end_though_the_total_lies(lab: Lab, r2r: R2R) -> None:
    lab.on("/v3/users", results([USER], total_entries=5000), results([], total_entries=5000))
    assert len(list(r2r.users.every())) == 1


@pytest.mark.parametrize(("offset", "limit"), [(-1, 10), (0, 0), (0, 1001)])
def test_a_page_that_r2r_would_refuse_is_not_asked_for(
    lab: Lab, r2r: R2R, offset: int, limit: int
) -> None:
    with pytest.raises(ValueError, match="1 to 1000"):
        r2r.users.page(offset, limit)
    assert not lab.seen


def test_a_changed_password_is_used_at_the_next_login(lab: Lab, r2r: R2R) -> None:
    lab.on("/v3/users/change-password", results({"message": "done"}))
    lab.on("/v3/users/logout", results({"message": "done"}))
    r2r.users.change_password(SecretStr("another-one"))
    r2r.logout()
    r2r.users.me()
    given = [parse_qs(each.body.decode())["password"] for each in lab.asked(IN)]
    assert given == [[PASSWORD], ["another-one"]]


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("{'message': 'No connected db.', 'type': 'no_db_connection'}", "litellm_master_key"),
        ("There was an error parsing the body", "no room for this upload"),
        ("anything else", "docker logs"),
    ],
)
def test_what_r2r_passes_on_in_words_of_others_is_explained(said: str, hint: str) -> None:
    answer = httpx.Response(500, json={"detail": {"message": said}})
    error = refusal(answer, "POST /v3/documents")
    assert said in error.message
    assert hint in error.hint
