"""What the contract tests hold on to: a running Qdrant, spoken to without any code of ours."""

from __future__ import annotations

import os
from typing import Any

import httpx
import jwt

REAL = os.environ.get("STACKROOM_QDRANT_URL", "")
WHICH = f"the real server at {REAL}" if REAL else "the stand-in on qdrant-edge-py"
UUID = "5c56c793-69f3-4fbf-87e6-c4bf54c28c26"


class Server:
    """`url` without a slash at its end, `grpc` as host:port, `key` the full one."""

    def __init__(self, url: str, grpc: str, key: str) -> None:
        self.url, self.grpc, self.key = url, grpc, key
        self._http = httpx.Client()

    def send(self, method: str, path: str, json: Any = None, **headers: str) -> httpx.Response:
        """A raw request with the full key, or with `headers` alone where any is given."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._http.request(
            method, self.url + path, json=json, headers=names or {"api-key": self.key}
        )

    def result(self, method: str, path: str, json: Any = None) -> Any:
        answer = self.send(method, path, json)
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]

    def refused(self, method: str, path: str, json: Any = None) -> tuple[int, str]:
        """Status and words of a refusal by a handler, which come as JSON."""
        answer = self.send(method, path, json)
        return answer.status_code, answer.json()["status"]["error"]

    def token(self, key: str = "", /, **claims: Any) -> str:
        return jwt.encode(claims, key or self.key, "HS256")
