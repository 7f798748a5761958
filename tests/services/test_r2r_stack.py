"""The real R2R stack, as its compose file starts it: ready, closed, silent about its secrets."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
from r2r_live import ANSWER, PROJECT, R2rStack

from ops.sandbox import engine

READY = ("/opt/r2r/bin/python", "-I", "/opt/r2r/ready.py")
RECOVERY_SECONDS = 240


def holds(stack: R2rStack, test: Callable[[], bool]) -> None:
    """Wait until it does."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while not test():
        assert time.monotonic() < deadline, stack.log("r2r")[-3000:]
        time.sleep(0.5)


def is_ready(stack: R2rStack) -> bool:
    return engine.attempt("exec", stack.container("r2r"), *READY).returncode == 0


def found(client: httpx.Client, query: str) -> list[str]:
    asked: dict[str, Any] = {"query": query, "search_settings": {"limit": 3}}
    answer = client.post("/v3/retrieval/search", json=asked)
    answer.raise_for_status()
    return [chunk["text"] for chunk in answer.json()["results"]["chunk_search_results"]]


def test_it_is_ready_for_its_admin_and_closed_to_everybody_else(r2r: R2rStack) -> None:
    assert is_ready(r2r)
    with r2r.client() as client:
        assert client.get("/v3/system/status").status_code == 200
    for headers in ({}, {"Authorization": "Bearer none"}, {"x-project-name": PROJECT}):
        answer = httpx.get(f"{r2r.url}/v3/documents", headers=headers, timeout=60)
        assert answer.status_code in (401, 403), headers
    known = {"username": "admin@example.com", "password": "change_me_immediately"}
    refused = httpx.post(f"{r2r.url}/v3/users/login", data=known, timeout=60)
    assert refused.status_code in (401, 404)


def test_a_document_is_ingested_found_and_answered_from(r2r: R2rStack) -> None:
    text = "The otter keeps a stone in the pocket under its arm."
    with r2r.client() as client:
        made = client.post("/v3/documents", files={"raw_text": (None, text)})
        assert made.status_code == 202, made.text
        one = client.get(f"/v3/documents/{made.json()['results']['document_id']}").json()["results"]
        assert one["ingestion_status"] == "success"
        assert found(client, "where does the otter keep its stone")[0] == text
        asked = client.post("/v3/retrieval/rag", json={"query": "where is the stone"})
        assert asked.json()["results"]["generated_answer"] == ANSWER


def test_it_is_not_ready_without_postgres_and_recovers_by_itself(r2r: R2rStack) -> None:
    text = "A heron stands on one leg to keep the other warm."
    container = r2r.container("postgres")
    started = r2r.state("r2r")["StartedAt"]
    with r2r.client() as client:
        client.post("/v3/documents", files={"raw_text": (None, text)}).raise_for_status()
        engine.docker("stop", container, timeout=200)
        try:
            assert not is_ready(r2r)
            # what R2R itself calls healthy: the reason for a test of ours
            assert client.get("/v3/health").status_code == 200
        finally:
            engine.docker("start", container)
        r2r.wait("postgres")
        holds(r2r, lambda: is_ready(r2r))
        assert found(client, "heron leg warm")[0] == text
    assert r2r.state("r2r")["StartedAt"] == started, "it was started anew"
    r2r.wait("r2r")


def test_no_secret_is_in_a_log_or_a_command_line(r2r: R2rStack) -> None:
    log = r2r.log("r2r")
    # the line is there, and what it would give away is not
    assert "Environment R2R_POSTGRES_PASSWORD: ***" in log
    assert "?readiness" not in log
    for service in r2r.services:
        container = r2r.container(service)
        shown = r2r.log(service) + engine.docker("top", container, "-eo", "pid,args")
        held = engine.inspect("container", container) or {}
        shown += repr([held["Path"], held["Args"], held["Config"]["Labels"]])
        for name, value in r2r.secrets.all().items():
            assert value not in shown, f"{name} in the log or a command of {service}"


def test_a_letter_with_a_way_into_an_account_is_not_logged(r2r: R2rStack) -> None:
    ask = "/v3/users/request-password-reset"
    assert httpx.post(f"{r2r.url}{ask}", json=r2r.admin_email, timeout=60).status_code == 200
    kept = f"SELECT reset_token FROM {PROJECT}.users WHERE reset_token IS NOT NULL"  # noqa: S608
    psql = ("psql", "-XAt", "-U", "r2r", "-d", "r2r", "-c", kept)
    token = engine.docker("exec", r2r.container("postgres"), *psql).strip()
    assert len(token) > 15
    log = r2r.log("r2r")
    assert f"POST {ask}" in log
    assert token not in log
    assert "Reset token" not in log


def test_a_service_knows_the_secrets_it_needs_and_no_other(r2r: R2rStack) -> None:
    knows = {
        "postgres": {"postgres_password"},
        "litellm": {"litellm_master_key", "provider_key"},
        "r2r": {"postgres_password", "r2r_secret_key", "litellm_master_key"},
    }
    for service in r2r.services:
        held = engine.inspect("container", r2r.container(service)) or {}
        environment = "\n".join(held["Config"]["Env"])
        told = {name for name, value in r2r.secrets.all().items() if value in environment}
        assert told == knows[service], service


def test_nothing_runs_as_root_or_writes_outside_of_its_volumes(r2r: R2rStack) -> None:
    for service in r2r.services:
        held = engine.inspect("container", r2r.container(service)) or {}
        assert held["Config"]["User"] not in ("", "0", "root", "0:0"), service
        assert held["HostConfig"]["ReadonlyRootfs"], service
        assert all(
            bound["HostIp"] == "127.0.0.1"
            for ports in (held["HostConfig"]["PortBindings"] or {}).values()
            for bound in ports
        ), service


def test_the_memory_of_each_service_is_within_its_limit(r2r: R2rStack) -> None:
    for service, mib in r2r.memory_mib().items():
        limit = (engine.inspect("container", r2r.container(service)) or {})["HostConfig"]["Memory"]
        print(f"{service}: {mib:.0f} MiB, ready after {r2r.seconds[service]:.1f} s")
        assert 0 < mib < limit / 2**20, service
