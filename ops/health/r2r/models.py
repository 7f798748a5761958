"""LiteLLM, through an SSH tunnel: ready, closed, and with every model of the settings. Raw HTTP.

Nothing here costs a model's call but `calls`, which is made only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import httpx

from ops.errors import UnreachableError
from ops.health.edge import refusal
from ops.health.model import Verdict, critical, ok, unknown

PORT = 4000
SECONDS = 5.0
CALL_SECONDS = 20.0
CONTAINER = "stackroom-litellm-1"
LOGS = f"on the host: docker logs -n 50 {CONTAINER}"
DEPLOY = "stackroom -e {environment} deploy"


def ask(
    base: str,
    method: str,
    path: str,
    *,
    key: str = "",
    body: Mapping[str, Any] | None = None,
    seconds: float = SECONDS,
) -> httpx.Response:
    """One request, whatever its answer. Raises UnreachableError; never repeats the key."""
    try:
        with httpx.Client(base_url=base, timeout=seconds, trust_env=False) as client:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            return client.request(method, path, headers=headers, json=body)
    except httpx.HTTPError as error:
        # the kind only: a message of httpx may quote the header that holds the key
        raise UnreachableError(f"LiteLLM does not answer: {type(error).__name__}", LOGS) from None


def ready(base: str) -> Verdict:
    code = ask(base, "GET", "/health/readiness").status_code
    return ok("ready") if code == 200 else critical(f"/health/readiness answers {code}", LOGS)


def closed(base: str) -> Verdict:
    """Asked once, without a key: each refusal is a traceback in LiteLLM's log."""
    return refusal("without a key", ask(base, "GET", "/v1/models").status_code, CONTAINER)


def aliases(base: str, key: str, declared: Collection[str]) -> Verdict:
    """The models that LiteLLM offers against those of the settings; no model is called."""
    answer = ask(base, "GET", "/v1/models", key=key)
    if answer.status_code in (400, 401, 403):
        return critical(
            f"LiteLLM refuses its master key ({answer.status_code}): it runs with another", DEPLOY
        )
    try:
        offered = {str(each["id"]) for each in answer.json()["data"]}
    except (ValueError, KeyError, TypeError):
        return unknown(f"/v1/models answers {answer.status_code} without a list", LOGS)
    missing = sorted(set(declared) - offered)
    if missing:
        return critical(f"LiteLLM does not know {', '.join(missing)}", DEPLOY)
    return ok(f"{len(declared)} models, as the settings say")


def calls(base: str, key: str, quality: str, embedding: str, dimension: int) -> Verdict:
    """A completion and an embedding for real, a few words each: a provider charges for them."""
    asked = {
        "model": quality,
        "messages": [{"role": "user", "content": "Answer with the word: here"}],
    }
    words = ask(base, "POST", "/v1/chat/completions", key=key, body=asked, seconds=CALL_SECONDS)
    if words.status_code != 200:
        return _refused(quality, words)
    told = {"model": embedding, "input": ["a stack room"], "dimensions": dimension}
    vector = ask(base, "POST", "/v1/embeddings", key=key, body=told, seconds=CALL_SECONDS)
    if vector.status_code != 200:
        return _refused(embedding, vector)
    try:
        size = len(vector.json()["data"][0]["embedding"])
    except (ValueError, KeyError, TypeError, IndexError):
        return unknown(f"{embedding} answers without a vector", LOGS)
    if size != dimension:
        return critical(
            f"{embedding} makes vectors of {size} dimensions, r2r.embedding.dimension is"
            f" {dimension}",
            "ask for another model in litellm.models: the dimension of a table stays",
        )
    return ok(f"{quality} answered, {embedding} made a vector of {size} dimensions")


def _refused(alias: str, answer: httpx.Response) -> Verdict:
    # a provider's words may quote the key that it was sent: LiteLLM's log has them
    return critical(
        f"the call of {alias} failed ({answer.status_code})",
        f"is its provider's key in secrets.toml good? {LOGS}",
    )
