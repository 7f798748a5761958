"""The whole examination, of a machine that nobody can log in to, and of this one by its shell."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from settings_lab import R2R_PASSWORDS, SECRETS, settings_with

from ops.clients.ssh import Completed, Remote
from ops.errors import ServiceError, SettingsError
from ops.health import Report, Status, doctor, examine
from ops.health.doctor import catalogue
from ops.health.host import collect
from ops.health.model import critical
from ops.health.runner import Check
from ops.settings import Environment, Machine, load_environment

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f anna"
SECRET = "canary-secret-0123456789-0123456789"


def environment(folder: Path, port: int, edge: str = "") -> Environment:
    """An environment on loopback whose SSH port is `port`."""
    (folder / "settings.toml").write_text(f"[collections]\n[edge]\n{edge}")
    (folder / "developers.toml").write_text(
        f'[operators.anna]\naddresses = ["127.0.0.1"]\nkeys = ["{KEY}"]\n'
    )
    secrets = folder / "secrets.toml"
    secrets.touch(0o600)
    names = ("qdrant_api_key", "api_token", "restic_password")
    secrets.write_text("[secrets]\n" + "".join(f'{name} = "{SECRET}"\n' for name in names))
    (folder / "hosts.py").write_text(
        "from ops.settings import machines\n"
        f'hosts = machines(__file__, address="127.0.0.1", port={port})\n'
    )
    return load_environment(folder)


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """A port that accepts and then says nothing: the SSH of a machine that hangs."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def verdicts(report: Report) -> dict[str, Status]:
    return {check.id: check.verdict.status for check in report.checks}


def test_without_a_login_one_check_is_critical_and_the_others_are_not_known(
    tmp_path: Path,
) -> None:
    lab = environment(tmp_path, unused_port(), f"port = {unused_port()}")
    report = examine(lab, only=["ssh", "host", "firewall", "containers", "stack", "qdrant"])
    found = verdicts(report)
    assert found.pop("ssh.login") is Status.CRITICAL
    assert set(found.values()) == {Status.UNKNOWN}
    told = {check.id: check.verdict for check in report.checks}
    assert told["host.disk"].summary == "not checked: no SSH login"
    assert told["qdrant.closed"].summary == "not checked: no SSH tunnel"
    assert told["ssh.login"].hint
    assert report.first_line() == (f"CRITICAL: 1 of {len(report.checks)} checks failed: ssh.login")
    assert report.status is Status.CRITICAL


def test_the_edge_is_looked_at_without_a_login(tmp_path: Path) -> None:
    lab = environment(tmp_path, unused_port(), f"port = {unused_port()}")
    found = verdicts(examine(lab, only=["edge", "outside"]))
    assert found["edge.closed"] is Status.CRITICAL  # nobody answers
    assert found["edge.tls"] is Status.UNKNOWN  # its CA is only known over SSH
    assert found["edge.open"] is Status.UNKNOWN
    assert found["outside.ports"] is Status.UNKNOWN  # SSH does not answer: nothing is proven


def test_a_machine_that_hangs_is_critical_within_the_deadline(tmp_path: Path) -> None:
    with silent_port() as port:
        lab = environment(tmp_path, port, 'mode = "tunnel"')
        report = examine(lab, only=["host.disk"], deadline=1)
    told = {check.id: check.verdict for check in report.checks}
    assert told["ssh.login"].status is Status.CRITICAL
    assert told["ssh.login"].summary == "no answer within 1 s"
    assert told["host.disk"].status is Status.UNKNOWN


HOST = (
    "ssh.login ssh.hardened host.disk host.inodes host.memory host.oom host.load host.units"
    " host.time host.reboot host.updates host.listeners firewall.active firewall.host"
    " firewall.containers firewall.guard containers.running containers.restarts"
    " containers.limits containers.ports stack.files stack.config stack.images deploy.record"
    " backup.timers backup.last backup.age backup.offsite backup.size backup.clock backup.check"
    " backup.drill backup.restore backup.reach escrow"
)


def ids(lab: Environment, *, paid: bool = False) -> str:
    """The names of every check, in their order."""
    with contextlib.ExitStack() as stack:
        names = [check.id for check in catalogue(lab, Remote(lab), stack, paid=paid)]
    assert len(names) == len(set(names))
    return " ".join(names)


def test_the_catalogue_of_qdrant_is_complete_and_its_order_fixed(tmp_path: Path) -> None:
    assert ids(environment(tmp_path, 22)) == (
        f"{HOST}"
        " ssh.tunnel qdrant.ready qdrant.version qdrant.closed qdrant.transaction"
        " qdrant.collections qdrant.recovery qdrant.limits"
        " edge.ca edge.tls edge.closed edge.open outside.ports"
        " developers.access developers.expiry developers.rotation developers.tokens"
    )


def of_r2r(folder: Path, orchestration: str) -> Environment:
    model = {"model": "openai/any", "mock_response": "yes"}
    settings = settings_with(
        stack="r2r",
        r2r={"orchestration": orchestration},
        litellm={"models": {"chat": model, "text-embedding-3-team": model}},
        secrets=SECRETS | {"r2r": R2R_PASSWORDS},
    )
    return Environment(folder, settings, Machine("127.0.0.1", port=unused_port()))


R2R_ITSELF = (
    " ssh.tunnel r2r.ready r2r.closed r2r.login r2r.status r2r.transaction"
    " ssh.litellm litellm.ready litellm.closed litellm.models"
)
KEPT = (
    " services.passwords ssh.containers postgres.version postgres.connections documents.status"
    " documents.stuck documents.embedding volumes.size"
)
QUEUES = (
    " hatchet.ready hatchet.queue hatchet.worker hatchet.token rabbitmq.alarms rabbitmq.backlog"
)
BEFORE_R2R = (
    " edge.ca edge.tls edge.closed edge.open edge.header outside.ports"
    " developers.access developers.expiry developers.tokens"
)


def test_the_catalogue_of_r2r_is_complete_and_its_order_fixed(tmp_path: Path) -> None:
    queued, simple = of_r2r(tmp_path, "hatchet"), of_r2r(tmp_path, "simple")
    assert ids(queued) == f"{HOST}{R2R_ITSELF}{KEPT}{QUEUES}{BEFORE_R2R}"
    assert ids(simple) == f"{HOST}{R2R_ITSELF}{KEPT}{BEFORE_R2R}"


def test_models_are_called_only_when_that_is_asked_for(tmp_path: Path) -> None:
    paid = ids(of_r2r(tmp_path, "simple"), paid=True)
    assert paid == f"{HOST}{R2R_ITSELF} litellm.calls{KEPT}{BEFORE_R2R}"


def test_no_secret_of_r2r_is_in_its_report(tmp_path: Path) -> None:
    lab = of_r2r(tmp_path, "hatchet")
    report = examine(lab, skip=["escrow"], paid=True)
    text = json.dumps(report.to_json()) + repr(report)
    assert not [name for name, value in R2R_PASSWORDS.items() if value in text]
    told = {check.id: check.verdict for check in report.checks}
    assert told["r2r.transaction"].summary == "not checked: no login in R2R"
    assert told["documents.stuck"].summary == "not checked: nobody was asked"
    assert "{environment}" not in text


def test_tunnel_mode_has_no_edge_by_design(tmp_path: Path) -> None:
    lab = environment(tmp_path, unused_port(), 'mode = "tunnel"')
    report = examine(lab, only=["edge"])
    assert verdicts(report) == {"edge.tunnel": Status.OK}
    assert "by design" in report.checks[0].verdict.summary


def test_nothing_printed_holds_a_secret_or_an_unfilled_name(tmp_path: Path) -> None:
    lab = environment(tmp_path, unused_port(), f"port = {unused_port()}")
    text = json.dumps(examine(lab).to_json())
    assert SECRET not in text
    assert "{environment}" not in text


def test_an_api_that_answers_from_outside_is_critical_and_the_hint_can_be_pasted(
    tmp_path: Path,
) -> None:
    with silent_port() as ssh, silent_port() as api:
        stack = f'mode = "tunnel"\n[api]\nimage = "example/api:1"\nport = {api}\n'
        (check,) = examine(environment(tmp_path, ssh, stack), only=["outside"]).checks
    assert check.verdict.status is Status.CRITICAL
    assert check.verdict.summary == f"open to this machine: {api}"
    assert f"stackroom -e {tmp_path.name} deploy" in check.verdict.hint


def test_a_check_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no check is called 'hots'"):
        examine(environment(tmp_path, 22), only=["hots"])


def test_what_quotes_a_secret_is_told_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = of_r2r(tmp_path, "simple")
    key = R2R_PASSWORDS["litellm_master_key"]
    quoting = Check("r2r.transaction", lambda: critical(f"wrong key {key}", f"was it {key}?"))
    monkeypatch.setattr(doctor, "catalogue", lambda *_, **__: [quoting])
    (check,) = doctor.examine(lab).checks
    assert check.verdict.summary == "wrong key [hidden]"
    assert check.verdict.hint == "was it [hidden]?"


def test_a_stack_without_models_has_none_to_call(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="the stack qdrant calls no models"):
        examine(environment(tmp_path, 22), paid=True)


class Here(Remote):
    """The same commands in this machine's own shell: all of the round trip but ssh itself."""

    def run(self, command: str, *, stdin: str = "", timeout: float = 30) -> Completed:
        done = subprocess.run(
            ["sh", "-c", command], input=stdin, capture_output=True, text=True, timeout=timeout
        )
        return Completed(done.returncode, done.stdout, done.stderr)


def test_the_facts_come_in_one_round_trip(tmp_path: Path) -> None:
    facts = collect(Here(environment(tmp_path, 22)))
    assert facts["values"]["load"]["cpus"] >= 1
    assert facts["values"]["memory"]["total"] > 0


class Mute(Here):
    """A machine without python3."""

    def run(self, command: str, *, stdin: str = "", timeout: float = 30) -> Completed:
        return super().run(f"no-such-{command}", stdin=stdin, timeout=timeout)


def test_a_machine_without_python_says_so(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"no-such-python3.* not found") as caught:
        collect(Mute(environment(tmp_path, 22)))
    assert "python3" in caught.value.hint
