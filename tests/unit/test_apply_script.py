"""stackroom-apply, run as it is rendered, with a docker that notes what it is asked to do.

What Docker and Compose make of it is for the throw-away machine; here it is about what is begun.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ops.render.files import render
from ops.render.host import HALF_RESTORED, RESTORE_JOURNAL

DOCKER = """#!/bin/sh
echo "$(basename "$PWD") $*" >>"$NOTES"
case "$*" in
"volume inspect"*) echo "$VOLUME" ;;
*"config --services") printf '%s\\n' $SERVICES ;;
"compose up"*)
    if [ "$COMPOSE_PROJECT_NAME" = stackroom-trial ]; then exit "${TRIAL:-0}"; fi
    exit "${UP:-0}"
    ;;
esac
"""
NEXT = {
    "COMPOSE_FILE": "compose.yaml",
    "TRIAL_FILES": "trial.yaml",
    "TRIAL_SERVICES": "r2r,edge",
    "TRIAL_SECONDS": "300",
    "TRIAL_MEMORY": "1000",
}


class Host:
    """/etc/stackroom of a machine, in a folder of its own."""

    def __init__(self, folder: Path, available_mib: int = 4000) -> None:
        self.folder, self.notes = folder / "etc", folder / "notes"
        self.journal = folder / "restore.json"
        self.folder.mkdir()
        (folder / "meminfo").write_text(f"MemAvailable:   {available_mib * 1024} kB\n")
        (folder / "bin").mkdir()
        (folder / "bin" / "docker").write_text(DOCKER)
        (folder / "bin" / "docker").chmod(0o755)
        text = render("host/stackroom-apply.sh.j2", half_restored=HALF_RESTORED)
        text = text.replace("/etc/stackroom", str(self.folder))
        text = text.replace("/proc/meminfo", str(folder / "meminfo"))
        self.script = folder / "apply"
        self.script.write_text(text.replace(RESTORE_JOURNAL, str(self.journal)))
        self.bin = folder / "bin"

    def lay(self, name: str, **values: str) -> None:
        (self.folder / name).mkdir()
        lines = [f"{key}={value}" for key, value in (NEXT | values).items()]
        (self.folder / name / ".env").write_text("\n".join(lines) + "\n")

    def apply(self, *words: str, **told: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"PATH": f"{self.bin}:{os.environ['PATH']}", "NOTES": str(self.notes)}
        return subprocess.run(
            ["sh", str(self.script), *words],
            env=env | {"SERVICES": "postgres r2r edge"} | told,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    @property
    def ups(self) -> list[str]:
        """Every `docker compose up`, with the folder it was said in."""
        if not self.notes.exists():
            return []
        return [line for line in self.notes.read_text().splitlines() if " compose up " in line]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_new_stack_is_tried_and_then_started(host: Host) -> None:
    host.lay("stack.next")
    assert host.apply("300").returncode == 0
    trial, started = host.ups
    assert trial == "stack.next compose up --detach --wait --wait-timeout 300 r2r edge"
    assert started.startswith("stack compose up --detach --wait --wait-timeout 300")
    assert not (host.folder / "stack.next").exists()


def test_a_start_of_the_machine_takes_nothing_that_a_broken_deploy_left(host: Host) -> None:
    host.lay("stack", R2R_PROJECT="before")
    host.lay("stack.next", R2R_PROJECT="aborted")
    assert host.apply("--boot", "300").returncode == 0
    assert "R2R_PROJECT=before" in (host.folder / "stack" / ".env").read_text()
    assert (host.folder / "stack.next").is_dir()
    assert [line.split()[0] for line in host.ups] == ["stack"]


@pytest.mark.parametrize("state", ["switching", "reverting", "undoing"])
@pytest.mark.parametrize("words", [["300"], ["--boot", "300"]])
def test_nothing_is_started_on_half_of_a_restore(host: Host, state: str, words: list[str]) -> None:
    host.lay("stack")
    host.lay("stack.next")
    host.journal.write_text(f'{{\n "state": "{state}"\n}}\n')
    done = host.apply(*words)
    assert done.returncode == 1
    assert "half of the data are in place" in done.stderr
    assert host.ups == []
    assert (host.folder / "stack.next").is_dir()


def test_a_restore_that_waits_for_a_word_stops_nothing(host: Host) -> None:
    host.lay("stack")
    host.journal.write_text('{\n "state": "switched"\n}\n')
    assert host.apply("--boot", "300").returncode == 0
    assert len(host.ups) == 1


def test_what_this_stack_has_not_is_not_recreated(host: Host) -> None:
    host.lay("stack")
    (host.folder / "recreate").write_text("hatchet-engine\nr2r\n")
    assert host.apply("300").returncode == 0
    assert host.ups[0] == "stack compose up --detach --no-deps --force-recreate r2r"
    assert not (host.folder / "recreate").exists()


def test_a_token_that_is_to_be_made_anew_is_taken_away_when_the_swap_is_done(
    host: Host, tmp_path: Path
) -> None:
    """The one-shot keeps a token that is there; a refused trial must not cost the one in use."""
    (tmp_path / "volume").mkdir()
    token = tmp_path / "volume" / "token"
    token.write_text("eyJ")
    queue = {"SERVICES": "r2r hatchet-token", "VOLUME": str(token.parent)}
    host.lay("stack")
    host.lay("stack.next")
    assert host.apply("300", "hatchet-token", "r2r", TRIAL="1", **queue).returncode == 1
    assert token.exists()
    assert host.apply("300", "hatchet-token", "r2r", **queue).returncode == 0
    assert not token.exists()
    assert host.ups[-2] == "stack compose up --detach --no-deps --force-recreate r2r hatchet-token"


def test_a_trial_is_left_out_where_it_could_cost_what_runs_its_memory(tmp_path: Path) -> None:
    host = Host(tmp_path, available_mib=999)
    host.lay("stack")
    host.lay("stack.next")
    done = host.apply("300")
    assert done.returncode == 0
    assert "999 MiB of memory are free and a trial takes 1000" in done.stderr
    assert [line.split()[0] for line in host.ups] == ["stack"]


def test_a_first_stack_is_tried_whatever_memory_there_is(tmp_path: Path) -> None:
    host = Host(tmp_path, available_mib=999)
    host.lay("stack.next")
    assert host.apply("300").returncode == 0
    assert len(host.ups) == 2


@pytest.mark.parametrize(
    ("before", "now", "back"),
    [
        # a recipe of the image is no version, and what was not there before has altered nothing
        ({"R2R_VERSION": "3.6.6-aa"}, {"R2R_VERSION": "3.6.6-bb"}, True),
        ({"POSTGRES_VERSION": "pg16"}, {"POSTGRES_VERSION": "pg16", "HATCHET_VERSION": "v1"}, True),
        ({"R2R_VERSION": "3.6.6-aa"}, {"R2R_VERSION": "3.6.7-aa"}, False),
        ({"QDRANT_VERSION": "v1.18.2"}, {"QDRANT_VERSION": "v1.19.0"}, False),
    ],
)
def test_what_fails_on_the_data_is_swapped_back_unless_they_may_be_altered(
    host: Host, before: dict[str, str], now: dict[str, str], back: bool
) -> None:
    host.lay("stack", **before)
    host.lay("stack.next", **now)
    done = host.apply("300", UP="1")
    assert done.returncode == 1
    stands = (host.folder / "stack" / ".env").read_text()
    name, value = next(iter((before if back else now).items()))
    assert f"{name}={value}\n" in stands
    assert ("going back to the one before" in done.stderr) is back
    assert ("is not started again by itself" in done.stderr) is not back


def test_another_major_version_of_postgres_touches_nothing(host: Host) -> None:
    host.lay("stack", POSTGRES_VERSION="pg16")
    host.lay("stack.next", POSTGRES_VERSION="pg17")
    assert host.apply("300").returncode == 1
    assert host.ups == []
