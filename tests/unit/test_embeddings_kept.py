"""Another embedding model or dimension under documents that are in: refused before a change."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from settings_lab import R2R_PASSWORDS, SECRETS, settings_with

from ops.clients.ssh import Completed, Remote
from ops.deploy import plan
from ops.deploy import run as running
from ops.deploy.embeddings import Stored, look, refuse_other_vectors
from ops.deploy.pyinfra import Finished
from ops.errors import DeployError
from ops.render.r2r import _litellm_config
from ops.settings import Environment
from ops.settings.environment import Machine

ALIAS = "text-embedding-3-team"
MACHINE = Machine("198.51.100.10")


def environment(model: str = "mistral/mistral-embed", dimension: int = 1024) -> Environment:
    settings = settings_with(
        stack="r2r",
        r2r={"embedding": {"dimension": dimension}},
        litellm={"models": {"chat": {"model": "openai/a"}, ALIAS: {"model": model}}},
        secrets=SECRETS | {"r2r": R2R_PASSWORDS},
    )
    return Environment(Path("inventory/team"), settings, MACHINE)


class Said(Remote):
    def __init__(self, environment: Environment, stdout: str) -> None:
        super().__init__(environment)
        self.stdout = stdout
        self.asked: list[str] = []

    def run(self, command: str, **_: Any) -> Completed:
        self.asked.append(command)
        return Completed(0, self.stdout, "")


def there(
    row: str = "1024|t",
    alias: str = ALIAS,
    deployed: Environment | None = None,
    project: str = "stackroom",
) -> Said:
    """A machine with a table of chunks and the files of an earlier deploy."""
    of = deployed or environment()
    config = _litellm_config(of.settings).content
    files = (f'base_model = "openai/{alias}"\n', config, f"R2R_PROJECT={project}\n")
    return Said(of, "== \n".join([f"{row}\n", *files]))


def refusal(wanted: Environment, remote: Said) -> DeployError:
    with pytest.raises(DeployError) as caught:
        refuse_other_vectors(wanted, remote)
    return caught.value


def test_what_is_stored_is_read() -> None:
    assert look(there(), "stackroom") == Stored(1024, True, "mistral/mistral-embed")
    assert look(there("512|f", "text-embedding-3-gone"), "stackroom") == Stored(512, False, "")


def test_another_dimension_is_refused_even_of_an_empty_table() -> None:
    error = refusal(environment(dimension=512), there("1024|f"))
    assert error.message == (
        "nothing was changed: r2r.embedding.dimension is 512, and the vectors of project stackroom"
        " have 1024: R2R would not start"
    )
    assert error.hint == (
        "put it back; or set another r2r.project, which begins empty beside this one, and ingest"
        " everything anew"
    )


def test_another_model_is_refused_where_documents_are_in() -> None:
    wanted = environment("openai/bge-m3")
    assert refusal(wanted, there()).message == (
        "nothing was changed: the vectors of project stackroom are of mistral/mistral-embed, and"
        " text-embedding-3-team is openai/bge-m3 now: a search would find noise"
    )
    refuse_other_vectors(wanted, there("1024|f"))


def test_the_deployed_model_says_nothing_of_another_project() -> None:
    """Back in an older project: what is deployed did not make the vectors that are there."""
    assert look(there(project="newer"), "stackroom") == Stored(1024, True, "")
    refuse_other_vectors(environment("openai/bge-m3"), there(project="newer"))
    refusal(environment(dimension=512), there(project="newer"))


def test_the_same_model_by_another_alias_is_the_same() -> None:
    earlier = environment()
    chat, same = {"model": "openai/a"}, {"model": "mistral/mistral-embed"}
    earlier = Environment(
        earlier.folder,
        settings_with(
            stack="r2r",
            r2r={"embedding": {"model": "text-embedding-3-old", "dimension": 1024}},
            litellm={"models": {"chat": chat, "text-embedding-3-old": same}},
            secrets=SECRETS | {"r2r": R2R_PASSWORDS},
        ),
        MACHINE,
    )
    refuse_other_vectors(environment(), there(alias="text-embedding-3-old", deployed=earlier))


@pytest.mark.parametrize(
    "stdout", ["", "no row", "== \n== \n", "1024|t\n== \n== \nno: models\n== \n"]
)
def test_what_cannot_be_told_is_no_reason(stdout: str) -> None:
    refuse_other_vectors(environment(), Said(environment(), stdout))


def test_the_other_stack_has_no_such_table() -> None:
    remote = there("512|t")
    refuse_other_vectors(Environment(Path("inventory/team"), settings_with(), MACHINE), remote)
    assert remote.asked == []


def test_a_plan_and_a_deploy_ask_and_a_change_of_people_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def refuse(*_: object) -> None:
        raise DeployError("another model")

    def done(*_: object, **__: object) -> Any:
        asked.append("applied")
        return []

    for where in (plan, running):
        monkeypatch.setattr(where, "refuse_changed", lambda *_: None)
        monkeypatch.setattr(where, "refuse_other_vectors", refuse)
    monkeypatch.setattr(running, "hold_lock", lambda *_: nullcontext())
    monkeypatch.setattr(running, "apply", done)
    nothing = Finished(0, '{"plan": []}', "")
    monkeypatch.setattr(plan, "run_pyinfra", lambda *_, **__: nothing)
    for ask in (
        lambda: plan.make_plan(environment()),
        lambda: running.carry_out(environment(), "it", on_step=lambda *_: None),
    ):
        with pytest.raises(DeployError, match="another model"):
            ask()
    assert asked == []
    assert plan.make_plan(environment(), part="people").is_clean
    running.carry_out(environment(), "it", part="people", on_step=lambda *_: None)
    assert asked == ["applied"]
