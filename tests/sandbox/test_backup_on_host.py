"""Backups on a machine as it is deployed: by its timers, by hand, and from the operator's machine.

Repositories are read with restic itself, past Stackroom.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from backup_hands import (
    BASE,
    COLLECTION,
    JOBS,
    LOCAL,
    count,
    restic,
    snapshots,
    verb,
    write_points,
)
from hands import (
    ENVIRONMENT,
    NAME,
    changed_environment,
    deploy,
    on_host,
    plan,
    qdrant,
    ssh,
    stackroom,
)

from ops.settings import Environment

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module", autouse=True)
def points(deployed: Environment) -> int:
    """Something to lose."""
    write_points(deployed, 1, 200)
    return count(deployed)


# timers and units


def test_every_timer_is_enabled_and_waits(deployed: Environment) -> None:
    listed = json.loads(on_host("systemctl list-timers --all --output=json 'stackroom-*'"))
    found = {timer["unit"]: timer for timer in listed}
    assert set(found) == {f"stackroom-{job}.timer" for job in JOBS}
    for job in JOBS:
        timer = f"stackroom-{job}.timer"
        assert found[timer]["activates"] == f"stackroom-{job}.service"
        assert found[timer]["next"] > time.time() * 1e6
        assert on_host(f"systemctl is-enabled {timer}") == "enabled"
        assert on_host(f"systemctl is-active {timer}") == "active"


def test_systemd_finds_no_fault_in_the_units(deployed: Environment) -> None:
    units = [f"stackroom-{job}.{kind}" for job in JOBS for kind in ("service", "timer")]
    done = on_host(f"systemd-analyze verify --man=no {' '.join(units)} 2>&1")
    assert [line for line in done.splitlines() if "stackroom-" in line] == []
    for job in JOBS:
        told = on_host(f"systemd-analyze security --no-pager stackroom-{job}.service | tail -1")
        print(told)
        exposure = re.search(r": ([\d.]+) ", told)
        assert exposure
        assert float(exposure[1]) < 3.5  # of 10; a service without any hardening has 9.6


def test_the_unit_makes_a_backup(deployed: Environment, points: int) -> None:
    before = snapshots()
    on_host("systemctl start stackroom-backup.service", timeout=300)

    (made,) = snapshots()[len(before) :]
    run = made["tags"][0].removeprefix("run=")
    manifest = json.loads(restic("dump", made["short_id"], f"{BASE}/current/manifest.json"))
    assert manifest["run"] == run
    assert manifest["environment"] == ENVIRONMENT
    assert set(manifest["sources"]) == {"qdrant", "edge", "settings"}
    (collection,) = [
        each for each in manifest["sources"]["qdrant"]["collections"] if each["name"] == COLLECTION
    ]
    assert collection["count"] == [points, points]
    record = json.loads(on_host(f"cat {BASE}/records/{run}.backup.json"))
    assert (record["outcome"], record["trigger"]) == ("ok", "timer")
    # Qdrant keeps no snapshot of it
    assert qdrant(deployed, "GET", f"/collections/{COLLECTION}/snapshots")["result"] == []


@pytest.mark.parametrize("job", ["check", "drill", "prune"])
def test_the_other_units_do_their_work(deployed: Environment, job: str) -> None:
    on_host(f"systemctl start stackroom-{job}.service", timeout=600)
    assert on_host(f"systemctl show -p Result --value stackroom-{job}.service") == "success"
    newest = on_host(f"ls {BASE}/records/*.{job}.json | tail -1")
    record = json.loads(on_host(f"cat {newest}"))
    assert (record["outcome"], record["exit_code"], record["trigger"]) == ("ok", 0, "timer"), record


def test_metrics_are_there_for_prometheus(deployed: Environment) -> None:
    on_host("systemctl start stackroom-backup.service", timeout=300)
    found = on_host("ls -l /var/lib/prometheus/node-exporter/*.prom").split()
    assert found[0] == "-rw-r--r--"
    assert "stackroom_" in on_host("cat /var/lib/prometheus/node-exporter/*.prom")


def test_two_units_at_once_wait_for_each_other(deployed: Environment) -> None:
    on_host("systemctl start stackroom-backup.service stackroom-check.service", timeout=600)
    for job in ("backup", "check"):
        assert on_host(f"systemctl show -p Result --value stackroom-{job}.service") == "success"


# secrets


@pytest.fixture(scope="module")
def canaries(deployed: Environment) -> list[str]:
    kept = deployed.settings.secrets
    return [kept.qdrant_api_key.get_secret_value(), kept.restic_password.get_secret_value()]


def test_credentials_are_for_root_alone(deployed: Environment) -> None:
    folder = "/etc/stackroom/secrets"
    assert on_host(f"stat -c '%a %u' {folder}") == "700 0"
    assert set(on_host(f"stat -c '%a %u %F' {folder}/*").splitlines()) == {"600 0 regular file"}
    for path in (folder, f"{folder}/restic_password", LOCAL, f"{BASE}/records"):
        said = on_host(f"su -s /bin/sh nobody -c 'ls {path}/ {path} 2>&1; cat {path} 2>&1'; true")
        assert "Permission denied" in said
        assert "restic_password\n" not in said


@contextmanager
def watching_processes(canaries: list[str]) -> Iterator[list[str]]:
    """Command lines and environments with a secret in them, of every process of the machine."""
    found: list[str] = []
    samples = 0
    ended = threading.Event()

    def sample() -> None:
        nonlocal samples
        while not ended.wait(0.02):
            samples += 1
            for process in Path("/proc").glob("[0-9]*"):
                for kind in ("cmdline", "environ"):
                    try:
                        text = (process / kind).read_bytes().decode(errors="replace")
                    except OSError:
                        continue
                    if any(canary in text for canary in canaries):
                        found.append(f"{kind} {text[:60]!r}")

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
        assert samples > 10


def test_no_process_and_no_log_shows_them(deployed: Environment, canaries: list[str]) -> None:
    with watching_processes(canaries) as seen:
        on_host("systemctl start stackroom-backup.service", timeout=300)
        on_host("systemctl start stackroom-drill.service", timeout=300)
    assert seen == []
    units = " ".join(f"stackroom-{job}.service" for job in JOBS)
    for source in (
        f"systemctl show {units}",
        f"systemctl cat {units}",
        "journalctl -q --no-pager",
        f"cat {BASE}/records/*",
        "cat /etc/stackroom/backup.json /etc/stackroom/settings/*",
        "cat /var/lib/prometheus/node-exporter/*",
    ):
        said = on_host(source)
        assert said
        assert [source for canary in canaries if canary in said] == []


def test_the_backup_holds_no_secret(deployed: Environment, canaries: list[str]) -> None:
    """Of the settings; the edge's own CA is in it on purpose."""
    on_host("systemctl start stackroom-backup.service", timeout=300)
    for canary in canaries:
        done = subprocess.run(
            ["docker", "exec", "-i", NAME, "grep", "-rlaF", "-f", "-", f"{BASE}/current"],
            input=canary,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == ""
    listed = on_host(f"tar -tf {BASE}/current/settings/settings.tar")
    assert {Path(name).name for name in listed.split()} >= {"settings.toml", "developers.toml"}
    assert "secrets.toml" not in listed


# from the operator's machine


def test_the_verbs_from_the_operators_machine(deployed: Environment) -> None:
    made = verb("backup", "run")
    assert (made["kind"], made["outcome"], made["trigger"]) == ("backup", "ok", "hand")
    assert verb("backup", "show", made["run"])["run"] == made["run"]
    listed = verb("backup", "list")["backups"]
    assert listed[0]["run"] == made["run"]
    assert verb("backup", "check", "--full")["outcome"] == "ok"
    proof = verb("drill", "--run", made["run"], "--from", "local")
    assert (proof["subject"], proof["outcome"]) == (made["run"], "ok")
    assert proof["details"]["comparisons"]
    assert all(each["ok"] for each in proof["details"]["comparisons"])
    assert verb("backup", "unlock")["unlocked"] == ["local"]
    assert verb("backup", "prune", "--yes")["outcome"] == "ok"
    # as people see it: one line that says it all
    shown = stackroom("backup", "list")
    assert shown.returncode == 0
    assert len(shown.stdout.splitlines()[0]) < 80
    assert made["run"] in shown.stdout


def test_an_exit_code_comes_through_and_nothing_else_is_printed(deployed: Environment) -> None:
    done = stackroom("backup", "show", "20200101T000000Z-000000")
    assert done.returncode == 3
    assert done.stdout == ""
    assert "next: stackroom backup list" in done.stderr
    assert stackroom("backup", "no-such-verb").returncode == 64


def test_a_bar_is_drawn_on_a_terminal(deployed: Environment) -> None:
    """`script` gives it one, as a person's shell does."""
    program = Path(sys.executable).with_name("stackroom")
    done = subprocess.run(
        ["script", "-qec", f"{program} -e {ENVIRONMENT} backup run", "/dev/null"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "\x1b[" in done.stdout
    assert "went well" in done.stdout
    assert "Connection to" not in done.stdout


def test_snapshots_by_hand(deployed: Environment, tmp_path: Path) -> None:
    made = [verb("snapshot", "create", COLLECTION)]
    time.sleep(1.1)  # Qdrant names them by the second, and would write over the first
    made.append(verb("snapshot", "create", COLLECTION))
    names = {each["name"] for each in made}
    assert len(names) == 2
    assert {each["name"] for each in verb("snapshot", "list")["snapshots"]} == names
    name = made[0]["name"]
    got = verb("snapshot", "download", COLLECTION, name, "--to", str(tmp_path))
    assert (tmp_path / name).stat().st_size == made[0]["bytes"]
    assert got["sha256"] == made[0]["sha256"]
    refused = stackroom("snapshot", "download", COLLECTION, name, "--to", str(tmp_path))
    assert refused.returncode == 3
    asked = stackroom("snapshot", "prune")
    assert asked.returncode == 1
    assert "next: add --yes" in asked.stderr
    assert len(verb("snapshot", "prune", "--yes")["deleted"]) == 1
    (left,) = verb("snapshot", "list", COLLECTION)["snapshots"]
    verb("snapshot", "delete", COLLECTION, left["name"], "--yes")
    assert on_host("stackroom snapshot list") == "there is none"


def test_another_login_than_root(deployed: Environment) -> None:
    """The operator's account, through sudo: the same verbs, and none of them without it."""
    with changed_environment(settings=lambda text: text + "\n# another login\n") as name:
        hosts = Path("inventory", name, "hosts.py")
        text = hosts.read_text(encoding="utf-8")
        hosts.write_text(text.replace("address=", 'user="stackroom", address='), encoding="utf-8")
        assert verb("backup", "list", environment=name)["backups"]
    done = subprocess.run(
        ["docker", "exec", "-u", "stackroom", NAME, "stackroom", "backup", "list"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "as root" in done.stderr


# restores


def test_a_whole_restore_on_the_same_host_its_undo_and_its_end(deployed: Environment) -> None:
    was = count(deployed)
    later = was + 5000  # ids that no run before this one has used
    made = verb("backup", "run")
    write_points(deployed, later, 50)
    assert count(deployed) == was + 50

    refused = stackroom("restore", "run", "--run", made["run"], "--yes")
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "--replace" in refused.stderr
    assert count(deployed) == was + 50

    restored = verb("restore", "run", "--run", made["run"], "--replace", "--yes")
    assert (restored["outcome"], restored["subject"]) == ("ok", made["run"])
    assert count(deployed) == was
    assert plan() == set()

    stackroom("restore", "undo", "--yes")
    assert count(deployed) == was + 50
    assert plan() == set()
    assert stackroom("restore", "confirm", "--yes").returncode == 0
    assert stackroom("restore", "confirm", "--yes").returncode == 2
    assert on_host("ls /var/lib/docker/volumes/stackroom_qdrant_storage") == "_data"
    # the safety backup has what the restore took away
    assert restored["details"]["safety"] in {
        each["run"] for each in verb("backup", "list")["backups"]
    }


def test_one_collection_beside_the_others(deployed: Environment) -> None:
    was = count(deployed)
    verb("backup", "run")
    verb("restore", "run", "--collection", COLLECTION, "--as", "restored", "--yes")
    answer = qdrant(deployed, "POST", "/collections/restored/points/count", {"exact": True})
    assert answer["result"]["count"] == was
    assert count(deployed) == was
    qdrant(deployed, "DELETE", "/collections/restored")


# deploys


def test_without_a_schedule_everything_else_stays(deployed: Environment) -> None:
    with changed_environment(
        settings=lambda text: text.replace("[backup]\n", "[backup]\nenabled = false\n")
    ) as name:
        assert deploy(environment=name).returncode in (0, 1)
        assert on_host("systemctl list-timers --all --no-legend 'stackroom-*'") == ""
        assert plan(name) == set()
        assert verb("backup", "run", environment=name)["outcome"] == "ok"
    assert deploy().returncode == 0
    assert plan() == set()
    assert on_host("systemctl is-active stackroom-backup.timer") == "active"


HARMED_TOGETHER: list[dict[str, set[str]]] = [
    {
        "rm -r /opt/stackroom/venv-*/lib/python3*/site-packages/httpx": {"Backup | verbs"},
        "systemctl disable -q --now stackroom-drill.timer": {"Backup | timers"},
        "chmod 755 /etc/stackroom/secrets /var/backups/stackroom": {"Backup | folders"},
        "chmod 644 /etc/stackroom/secrets/restic_password": {"Backup | files"},
    },
    {
        "rm -r /opt/stackroom/venv-*": {"Backup | verbs"},
        "rm /usr/local/bin/stackroom": {"Backup | verbs"},
        "echo old >/etc/stackroom/secrets/notices": {"Backup | folders"},
        "sed -i s/02:30/03:30/ /etc/systemd/system/stackroom-backup.timer": {
            "Backup | files",
            "Backup | timers",
        },
    },
]


@pytest.mark.parametrize("harms", HARMED_TOGETHER, ids=["in part", "as a whole"])
def test_what_was_harmed_is_mended(
    deployed: Environment, unchanged: None, harms: dict[str, set[str]]
) -> None:
    for harm in harms:
        on_host(harm)
    named = plan()
    assert [harm for harm, steps in harms.items() if not named & steps] == []
    assert named <= set().union(*harms.values())
    assert deploy().returncode == 0
    assert verb("backup", "list")["backups"]


def test_a_changed_time_is_the_timers_time(deployed: Environment) -> None:
    with changed_environment(
        settings=lambda text: text.replace("[backup]\n", '[backup]\ndaily_at = "13:07"\n')
    ) as name:
        assert deploy(environment=name).returncode in (0, 1)
        shown = on_host("systemctl show -p TimersCalendar stackroom-backup.timer")
    assert "13:07:00" in shown
    assert deploy().returncode == 0
    assert "02:30:00" in on_host("systemctl show -p TimersCalendar stackroom-backup.timer")


def test_the_version_before_is_kept_and_older_ones_go(deployed: Environment) -> None:
    on_host("cd /opt/stackroom && mkdir -p oldest older && touch -d '3 days ago' oldest")
    on_host("touch -d '2 days ago' /opt/stackroom/older; rm /usr/local/bin/stackroom")
    assert deploy().returncode == 0
    kept = on_host("ls /opt/stackroom").split()
    assert "oldest" not in kept
    assert len([name for name in kept if not name.startswith("venv-")]) == 2
    on_host("rm -rf /opt/stackroom/older")


def test_the_record_of_the_deploy_names_the_files(deployed: Environment) -> None:
    newest = on_host("ls /var/lib/stackroom/deploys/*.json | tail -1")
    files = json.loads(on_host(f"cat {newest}"))["files"]
    for path in ("/etc/stackroom/backup.json", "/usr/local/bin/stackroom",
                 "/etc/systemd/system/stackroom-drill.timer"):  # fmt: skip
        assert files[path] == on_host(f"sha256sum {path}").split()[0]


def test_a_restic_out_of_the_pinned_image(deployed: Environment) -> None:
    """As on distributions whose own is too old; the image is made of this machine's restic."""
    from ops.host.backup import RESTIC_IMAGE, RESTIC_PROGRAM, restic_commands

    on_host(
        "t=$(mktemp -d) && install -D $(command -v restic) $t/usr/bin/restic"
        f" && tar -C $t -c . | docker import -c 'CMD [\"/usr/bin/restic\"]' - {RESTIC_IMAGE}"
        " && rm -r $t"
    )
    try:
        for command in restic_commands():
            on_host(command)
        assert on_host(f"{RESTIC_PROGRAM} version").startswith("restic 0.")
        assert "cannot be pulled" not in on_host("docker ps --all --format '{{.Names}}'")
    finally:
        on_host(f"rm -f {RESTIC_PROGRAM} {RESTIC_PROGRAM}.new; docker rmi {RESTIC_IMAGE}")


def test_a_login_that_is_no_operators_cannot_run_them(deployed: Environment) -> None:
    done = ssh("su -s /bin/sh nobody -c 'stackroom backup list'")
    assert done.returncode == 3
    assert "cannot be read" in done.stderr
