"""A deploy of the R2R stack that cannot succeed leaves what runs as it is, and says why."""

from __future__ import annotations

import re

import pytest
from hands import Attempt, changed_environment, deploy, on_host, plan
from r2r_hands import R2R, documents, identities

from ops.render.files import ROOT
from ops.settings import Environment

pytestmark = [pytest.mark.sandbox, pytest.mark.usefixtures("deployed")]


def with_r2r(line: str) -> dict[str, object]:
    """A line more in the table [r2r]."""
    return {"settings": lambda text: text.replace("[r2r]\n", f"[r2r]\n{line}\n")}


def test_what_r2r_does_not_start_with_never_replaces_what_runs() -> None:
    before = identities()
    wrong = 'config = { ingestion.chunking_strategy = "by_the_moon" }'
    with changed_environment(**with_r2r(wrong)) as name:
        done = deploy(environment=name)
    assert done.returncode == 6, done.stdout + done.stderr
    assert "the new stack did not start in a trial; what runs was not touched" in done.stderr
    assert "stackroom-trial-r2r" in done.stderr
    assert identities() == before
    assert plan() == set()


def test_a_key_that_r2r_does_not_know_ends_before_the_machine_is_asked() -> None:
    with changed_environment(**with_r2r("config = { agent.max_iteration = 5 }")) as name:
        done = deploy(environment=name)
    assert done.returncode != 0
    assert "agent.max_iteration" in done.stderr
    assert "max_iterations" in done.stderr


def test_a_machine_with_these_data_takes_no_other_stack(deployed: Environment) -> None:
    before = identities()
    other = (ROOT / "inventory" / "sandbox" / "settings.toml").read_text(encoding="utf-8")
    with changed_environment(settings=lambda _: other) as name:
        done = deploy(environment=name)
    assert done.returncode == 6, done.stdout + done.stderr
    assert "this machine has the data of another stack" in done.stdout + done.stderr
    assert identities() == before
    # what it had changed by then is taken back
    assert deploy().returncode == 0
    assert plan() == set()
    assert documents(deployed) is not None


def test_a_changed_password_is_refused_and_says_how_it_is_changed() -> None:
    before = identities()
    fresh = "Another-password-0123456789-0123456789"

    def edit(text: str) -> str:
        return re.sub("(?m)^postgres_password = .*$", f'postgres_password = "{fresh}"', text)

    with changed_environment(secrets=edit) as name:
        done = deploy(environment=name)
    said = done.stdout + done.stderr
    assert done.returncode == 6, said
    assert "postgres_password" in said
    assert "\\password" in said
    assert fresh not in said
    assert identities() == before


def test_a_deploy_that_was_killed_is_finished_by_the_next(deployed: Environment) -> None:
    known = documents(deployed)
    with changed_environment(**with_r2r("access_token_minutes = 30")) as name:
        attempt = Attempt.start(environment=name)
        sign = "docker ps --format '{{.Names}}' | grep -q stackroom-trial"
        assert attempt.kill_when(sign, 200), attempt.output
    assert deploy().returncode == 0
    assert plan() == set()
    assert on_host("docker ps --format '{{.Names}}' | grep stackroom-trial || true") == ""
    assert "healthy" in on_host(f"docker inspect -f '{{{{.State.Health.Status}}}}' {R2R}")
    assert documents(deployed) == known
