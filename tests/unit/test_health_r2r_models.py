"""LiteLLM's probes against HTTP servers on loopback that behave well, and badly on purpose."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ops.errors import UnreachableError
from ops.health.model import Status, Verdict
from ops.health.r2r import models

KEY = "sk-canary-the-right-key"
OK, CRITICAL, UNKNOWN = Status.OK, Status.CRITICAL, Status.UNKNOWN


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as LiteLLM does, but for the path `fault`, which gets `code` and `said`."""

    fault, code, said = "", 200, ""

    def _any(self) -> None:
        size = int(self.headers.get("content-length") or 0)
        asked = json.loads(self.rfile.read(size) or b"{}")
        code, answer = self._answer(self.path, asked)
        data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(code)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _any

    def _answer(self, path: str, asked: dict[str, Any]) -> tuple[int, Any]:
        if path == self.fault:
            return self.code, self.said
        if path == "/health/readiness":
            return 200, {"status": "healthy", "db": "Not connected"}
        sent = self.headers.get("authorization", "")
        if sent != f"Bearer {KEY}":
            return (400 if sent else 401), {"error": {"message": sent}}
        if path == "/v1/models":
            return 200, {"data": [{"id": "chat"}, {"id": "text-embedding-3-team"}]}
        if path == "/v1/embeddings":
            return 200, {"data": [{"embedding": [0.1] * asked["dimensions"]}]}
        return 200, {"choices": [{"message": {"content": "here"}}]}

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def litellm(fault: str = "", code: int = 200, said: str = "") -> Iterator[str]:
    kind = type("Faulty", (Handler,), {"fault": fault, "code": code, "said": said})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def calls(url: str) -> Verdict:
    return models.calls(url, KEY, "chat", "text-embedding-3-team", 4)


def known(url: str) -> Verdict:
    return models.aliases(url, KEY, ["chat", "text-embedding-3-team"])


@pytest.mark.parametrize("probe", [models.ready, models.closed, known, calls])
def test_all_is_well(probe: Callable[[str], Verdict]) -> None:
    with litellm() as url:
        assert probe(url).status is OK


@pytest.mark.parametrize(
    ("probe", "path", "code", "said", "status", "words"),
    [
        (models.ready, "/health/readiness", 503, "", CRITICAL, "503"),
        (models.closed, "/v1/models", 200, "{}", CRITICAL, "OPEN"),
        (models.closed, "/v1/models", 500, "", UNKNOWN, "500"),
        (known, "/v1/models", 200, "[]", UNKNOWN, "without a list"),
        (known, "/v1/models", 200, '{"data": [{"id": "chat"}]}', CRITICAL, "does not know text-"),
        (calls, "/v1/chat/completions", 401, KEY, CRITICAL, "the call of chat failed (401)"),
        (calls, "/v1/embeddings", 429, KEY, CRITICAL, "the call of text-embedding-3-team failed"),
        (calls, "/v1/embeddings", 200, "[]", UNKNOWN, "without a vector"),
        (
            *(calls, "/v1/embeddings", 200, '{"data": [{"embedding": [1, 2, 3]}]}'),
            *(CRITICAL, "vectors of 3 dimensions, r2r.embedding.dimension is 4"),
        ),
    ],
)
def test_what_is_wrong(
    probe: Callable[[str], Verdict], path: str, code: int, said: str, status: Status, words: str
) -> None:
    with litellm(path, code, said) as url:
        verdict = probe(url)
    assert verdict.status is status
    assert words in verdict.summary
    assert KEY not in repr(verdict)


def test_a_master_key_that_was_changed_is_named_so() -> None:
    with litellm() as url:
        verdict = models.aliases(url, "sk-another", ["chat"])
    assert verdict.status is CRITICAL
    assert "runs with another" in verdict.summary


def test_nobody_there_and_a_key_that_no_header_can_hold() -> None:
    with pytest.raises(UnreachableError, match="LiteLLM does not answer"):
        models.ready("http://127.0.0.1:1")
    with litellm() as url, pytest.raises(UnreachableError) as caught:
        models.aliases(url, "canary\n", ["chat"])
    assert "canary" not in str(caught.value) + caught.value.hint
    assert caught.value.__cause__ is None
