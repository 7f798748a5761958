"""Qdrant itself, through an SSH tunnel: it answers, refuses, keeps and finds. Raw HTTP on purpose:
the doctor must not share the mistakes of the client it would otherwise trust.

It writes to one collection of its own, CANARY, and takes each point out again.
"""

from __future__ import annotations

import contextlib
import re
import time
import urllib.parse
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx

from ops.clients.ssh import Remote
from ops.collections import LiveState, plan
from ops.errors import ServiceError, UnreachableError
from ops.health.edge import refusal
from ops.health.model import Status, Verdict, critical, measured, ok, unknown, warning, worst
from ops.health.runner import LOGIN, Check
from ops.settings import Collection, Environment

TUNNEL = "ssh.tunnel"
TUNNEL_SECONDS = 16.0  # longer than Remote.forward waits, so that it always ends by itself
PORT = 6333
SECONDS = 5.0
CANARY = "_stackroom_canary"
CONTAINER = "stackroom-qdrant-1"
LOGS = f"on the host: docker logs -n 50 {CONTAINER}"
TRANSACTION_WARN, TRANSACTION_CRIT = 1000.0, 4000.0  # ms
NEARLY_ALL = 80.0  # percent of files or memory maps


def qdrant_checks(
    environment: Environment, remote: Remote, stack: contextlib.ExitStack
) -> list[Check]:
    """The tunnel, which `stack` closes, and every check that goes through it."""
    settings = environment.settings
    key = settings.secrets.qdrant_api_key.get_secret_value()
    base: list[str] = []

    def tunnel() -> Verdict:
        base.append(f"http://127.0.0.1:{stack.enter_context(remote.forward(PORT))}")
        return ok(f"a tunnel to port {PORT} stands")

    def check(name: str, probe: Callable[[str], Verdict], seconds: float = 8) -> Check:
        return Check(name, lambda: probe(base[0]), seconds=seconds, needs=TUNNEL)

    return [
        Check(TUNNEL, tunnel, seconds=TUNNEL_SECONDS, needs=LOGIN, lost="no SSH tunnel"),
        check("qdrant.ready", ready),
        check("qdrant.version", lambda url: version(url, settings.qdrant.version)),
        check("qdrant.closed", lambda url: closed(url)),
        check("qdrant.transaction", lambda url: transaction(url, key), seconds=12),
        check("qdrant.collections", lambda url: collections(url, key, settings.collections)),
        check("qdrant.recovery", lambda url: recovery(metrics(url, key))),
        check("qdrant.limits", lambda url: limits(metrics(url, key))),
    ]


def ask(
    base: str, method: str, path: str, *, key: str = "", body: Mapping[str, Any] | None = None
) -> httpx.Response:
    """One request, whatever its answer. Raises UnreachableError; never repeats the key."""
    try:
        with httpx.Client(base_url=base, timeout=SECONDS, trust_env=False) as client:
            headers = {"api-key": key} if key else {}
            return client.request(method, path, headers=headers, json=body)
    except httpx.HTTPError as error:
        # the kind only: a message of httpx may quote the header that holds the key
        raise UnreachableError(f"Qdrant does not answer: {type(error).__name__}", LOGS) from None


def result(base: str, method: str, path: str, key: str, body: Any = None) -> Any:
    """The `result` of an answer. Raises ServiceError with Qdrant's own words otherwise."""
    answer = ask(base, method, path, key=key, body=body)
    if answer.is_success:
        return answer.json()["result"]
    reason = answer.text[:200]
    with contextlib.suppress(ValueError, KeyError, TypeError):
        reason = answer.json()["status"]["error"]
    raise ServiceError(f"{method} {path} failed ({answer.status_code}): {reason}", LOGS)


def ready(base: str) -> Verdict:
    code = ask(base, "GET", "/readyz").status_code
    return ok("ready") if code == 200 else critical(f"/readyz answers {code}", LOGS)


def version(base: str, pinned: str) -> Verdict:
    answer = ask(base, "GET", "/")
    try:
        running = str(answer.json()["version"])
    except (ValueError, KeyError, TypeError):
        return unknown(f"answers {answer.status_code} without a version")
    if running == pinned.removeprefix("v"):
        return ok(f"{running}, as pinned")
    return warning(f"{running} runs, {pinned} is pinned", "stackroom -e {environment} deploy")


def closed(base: str) -> Verdict:
    """Everything but the health endpoints refuses whoever has no key or a wrong one."""
    wrong = f"not-the-key-{uuid.uuid4().hex}"
    verdicts = [
        refusal(f"{path} {how} key", ask(base, "GET", path, key=key).status_code, CONTAINER)
        for path in ("/collections", "/metrics", "/telemetry")
        for how, key in (("without a", ""), ("with a wrong", wrong))
    ]
    status = worst(verdict.status for verdict in verdicts)
    if status is Status.OK:
        return ok(f"{len(verdicts)} requests without the right key were refused")
    return next(verdict for verdict in verdicts if verdict.status is status)


def transaction(base: str, key: str) -> Verdict:
    """Write, find and delete a point for real, waiting for each step.

    Raises ServiceError when a step fails; the point is taken out whatever happens.
    """
    _ensure_canary(base, key)
    point = str(uuid.uuid4())
    vector = [0.1, 0.2, 0.3, 0.4]
    points = f"/collections/{CANARY}/points"
    started = time.monotonic()
    try:
        written = {"points": [{"id": point, "vector": vector, "payload": {"canary": point}}]}
        result(base, "PUT", f"{points}?wait=true", key, written)
        wanted = {"must": [{"has_id": [point]}]}
        query = {"query": vector, "filter": wanted, "limit": 1, "with_payload": True}
        hits = result(base, "POST", f"{points}/query", key, query)["points"]
    finally:
        result(base, "POST", f"{points}/delete?wait=true", key, {"points": [point]})
    if not any(hit["id"] == point and hit["payload"] == {"canary": point} for hit in hits):
        return critical("the point just written is not found", LOGS)
    if result(base, "POST", points, key, {"ids": [point]}):
        return critical("the point just deleted is still there", LOGS)
    spent = (time.monotonic() - started) * 1000
    return measured(
        f"wrote, found and deleted a point in {spent:.0f} ms",
        spent,
        TRANSACTION_WARN,
        TRANSACTION_CRIT,
        "the disk or the processors are busy: see host.load; on the host, docker stats",
    )


def _ensure_canary(base: str, key: str) -> None:
    exists = f"/collections/{CANARY}/exists"
    if result(base, "GET", exists, key)["exists"]:
        return
    try:
        shape = {"vectors": {"size": 4, "distance": "Cosine"}}
        result(base, "PUT", f"/collections/{CANARY}", key, shape)
    except ServiceError:
        # another doctor may have been faster
        if not result(base, "GET", exists, key)["exists"]:
            raise


def collections(base: str, key: str, declared: Mapping[str, Collection]) -> Verdict:
    """The state of every collection, and the declared ones against what is there."""
    answers = {
        path: {"result": result(base, "GET", path, key)} for path in ("/collections", "/aliases")
    }
    for each in answers["/collections"]["result"]["collections"]:
        path = f"/collections/{each['name']}"
        quoted = f"/collections/{urllib.parse.quote(each['name'], safe='')}"
        answers[path] = {"result": result(base, "GET", quoted, key)}
    live = LiveState.of(answers)
    made = plan(declared, live)
    return judge_collections(
        live.collections, [request.says for request in made.requests], made.differences
    )


def judge_collections(
    infos: Mapping[str, Any], missing: Sequence[str], differences: Sequence[str]
) -> Verdict:
    """`infos`: what GET /collections/<name> answers, by name; `missing`: what a deploy would do;
    `differences`: what it would leave to a person."""
    broken = [
        f"{name} is {info['status']}{_why(info)}"
        for name, info in infos.items()
        if info["status"] == "red" or _why(info)
    ]
    if broken:
        return critical(", ".join(broken), f"a full disk is the usual cause: see host.disk; {LOGS}")
    if missing:
        return warning(f"not there yet: {_few(missing)}", "stackroom -e {environment} deploy")
    if differences:
        return warning(
            _few(differences), "a deploy never changes it: copy to a new one, or edit settings"
        )
    busy = [f"{name} {info['status']}" for name, info in infos.items() if info["status"] != "green"]
    note = f"; at work: {', '.join(busy)}" if busy else ""
    return ok(f"collections in order: {len([name for name in infos if name != CANARY])}{note}")


def _few(lines: Sequence[str]) -> str:
    return ", ".join(lines[:3]) + (f" and {len(lines) - 3} more" if len(lines) > 3 else "")


def _why(info: Mapping[str, Any]) -> str:
    state = info.get("optimizer_status", "ok")
    return f" ({state['error']})" if isinstance(state, dict) and "error" in state else ""


def metrics(base: str, key: str) -> dict[str, float]:
    """The figures of /metrics by name, labels included in the name. Raises ServiceError."""
    answer = ask(base, "GET", "/metrics", key=key)
    if answer.status_code != 200:
        raise ServiceError(f"/metrics answers {answer.status_code} to the right key", LOGS)
    pairs = re.findall(r"^([a-z_]+(?:\{[^}]*\})?) ([-+.\deE]+)$", answer.text, re.MULTILINE)
    return {name: float(value) for name, value in pairs}


def recovery(figures: Mapping[str, float]) -> Verdict:
    """Recovery mode holds names of collections and no data; a quota refuses writes."""
    mode = figures.get("app_status_recovery_mode")
    if mode is None:
        return unknown("no app_status_recovery_mode in /metrics")
    if mode:
        return critical("runs in recovery mode: collections are not loaded", LOGS)
    full = [name for name, value in figures.items() if name.startswith("quota_exceeded") and value]
    if full:
        return critical(f"writes are refused: {', '.join(full)}", "see host.disk and host.memory")
    return ok("not in recovery mode")


def limits(figures: Mapping[str, float]) -> Verdict:
    """Open files and memory maps of the server against what the kernel allows it."""
    used = {
        label: 100 * figures[part] / figures[whole]
        for label, part, whole in (
            ("open files", "process_open_fds", "process_max_fds"),
            ("memory maps", "process_open_mmaps", "system_max_mmaps"),
        )
        if figures.get(whole) and part in figures
    }
    if not used:
        return unknown("no figures of open files in /metrics")
    most = max(used.values())
    return measured(
        ", ".join(f"{value:.0f} % of its {label}" for label, value in used.items()),
        most,
        NEARLY_ALL,
        95,
        "many small collections: merge them, or raise ulimits.nofile or vm.max_map_count",
    )
