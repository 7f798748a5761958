"""What the sandbox decides before it touches anything."""

from __future__ import annotations

import ipaddress
import json
import os
import runpy
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ops import escrow
from ops.errors import MissingToolError
from ops.sandbox import archive, cgroups, check_machine, engine, inventory, layout, start_engine
from ops.sandbox.archive import BORROWED, Source, recipe_of, source_of
from ops.sandbox.build import content_hash
from ops.sandbox.machine import CAPABILITIES, MachineKind, clashes, rights
from ops.settings import load_environment

KERNEL = (1 << 41) - 1
SYS_RESOURCE = 1 << 24  # capabilities(7)


def arguments(*, lacking: int = 0, cgroup_v2: bool = True, modules: bool = True) -> str:
    return " ".join(rights(MachineKind(KERNEL & ~lacking, KERNEL, cgroup_v2, modules)))


def test_an_ordinary_machine_runs_it_privileged() -> None:
    said = arguments()

    assert "--privileged --cgroupns=private" in said
    assert "--cap-add" not in said
    assert "/sys/fs/cgroup" not in said


def test_a_machine_without_a_capability_gets_the_others_one_by_one() -> None:
    said = arguments(lacking=SYS_RESOURCE)

    assert "--privileged" not in said
    assert "--cap-add SYS_ADMIN" in said
    assert "--cap-add SYS_RESOURCE" not in said
    assert said.count("--cap-add") == 37
    assert "seccomp=unconfined" in said
    assert "apparmor=unconfined" in said


@pytest.mark.parametrize("lacking", [0, SYS_RESOURCE])
def test_control_groups_of_version_1_are_shared_with_this_machine(lacking: int) -> None:
    said = arguments(lacking=lacking, cgroup_v2=False)

    assert "--cgroupns=host -v /sys/fs/cgroup:/sys/fs/cgroup:rw" in said
    assert "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1" in said
    assert "LEGACY" not in arguments(lacking=lacking)


def test_kernel_modules_are_shown_where_there_are_any() -> None:
    assert "/lib/modules:/lib/modules:ro" in arguments()
    assert "/lib/modules" not in arguments(modules=False)


def test_capabilities_stand_at_their_bit() -> None:
    numbers = {"CHOWN": 0, "NET_ADMIN": 12, "SYS_RESOURCE": 24, "SYS_TIME": 25, "AUDIT_READ": 37}

    assert {name: CAPABILITIES.index(name) for name in numbers} == numbers


@pytest.mark.parametrize(
    "route",
    ["198.51.100.0/24", "198.51.100.64/26", "198.51.0.0/16", "198.51.100.10", "2001:db8::/32"],
)
def test_a_range_that_is_routed_elsewhere_is_named(route: str) -> None:
    assert clashes([{"dst": route, "dev": "tun0"}], "br-own") == [f"{route} through tun0"]


def test_other_routes_are_no_clash() -> None:
    routes = [
        {"dst": "default", "dev": "eth0"},
        {"dst": "198.51.101.0/24", "dev": "eth0"},
        {"dst": "198.51.100.128/25", "dev": "br-second"},
        {"dst": "fe80::/64", "dev": "eth0"},
        {"dst": "198.51.100.0/24", "dev": "br-own"},
        {"dst": "2001:db8::/64", "dev": "br-own"},
    ]

    assert clashes(routes, "br-own") == []


def test_a_machine_without_the_tools_is_told_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(MissingToolError) as refused:
        check_machine()

    assert "a Docker engine" in refused.value.message
    assert "ssh-keygen" in refused.value.message
    assert "apt-get install docker.io" in refused.value.hint
    assert "apt-get install openssh-client" in refused.value.hint


def test_an_account_without_root_rights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    with pytest.raises(MissingToolError, match="root rights"):
        check_machine()


def test_an_engine_that_does_not_start_is_told_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dockerd = tmp_path / "dockerd"
    dockerd.write_text("#!/bin/sh\necho no storage\nexit 1\n", encoding="ascii")
    dockerd.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(engine, "SYSTEMD", tmp_path / "no-systemd")
    monkeypatch.setattr(engine, "DOCKERD_LOG", tmp_path / "dockerd.log")

    with pytest.raises(MissingToolError, match=r"dockerd\.log"):
        start_engine()

    assert (tmp_path / "dockerd.log").read_text(encoding="ascii") == "no storage\n"


def test_nothing_is_started_without_an_installed_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert start_engine() is None


@pytest.mark.parametrize(
    ("pinned", "folder"),
    [
        ("caddy:2.11.2", "caddy"),
        ("docker.io/library/caddy:2.11.2", "caddy"),
        ("localhost:5000/caddy:2.11.2", "caddy"),
        ("ghcr.io/example/knowledge-api:1.4.0", ""),
        ("host:1", ""),
    ],
)
def test_the_build_folder_of_a_pinned_name(pinned: str, folder: str) -> None:
    assert recipe_of(pinned) == folder


@pytest.mark.parametrize(
    ("labels", "source"),
    [({}, Source("caddy:2", "local")), ({BORROWED: "x"}, Source("ours:1", "built from packages"))],
)
def test_a_stand_in_that_bears_a_pinned_name_is_not_taken_for_it(
    monkeypatch: pytest.MonkeyPatch, labels: dict[str, str], source: Source
) -> None:
    """It may be another run's, which takes the name from it when its archive is saved."""
    monkeypatch.setattr(engine, "inspect", lambda *_: {"Config": {"Labels": labels}})
    monkeypatch.setattr(engine, "pull", lambda _: "no registry")
    monkeypatch.setattr(archive, "image_from_packages", lambda *_: "ours:1")
    assert source_of("caddy:2", print) == source


def test_the_hash_follows_contents_names_modes_and_additions(tmp_path: Path) -> None:
    folder, added = tmp_path / "folder", tmp_path / "added"
    folder.mkdir()
    added.write_text("1")
    file = folder / "init"
    file.write_text("one")

    seen = [content_hash(folder, {}, "")]
    file.write_text("two")
    seen.append(content_hash(folder, {}, ""))
    file.chmod(0o755)
    seen.append(content_hash(folder, {}, ""))
    file.rename(folder / "start")
    seen.append(content_hash(folder, {}, ""))
    seen.append(content_hash(folder, {"caddy": added}, ""))
    seen.append(content_hash(folder, {"caddy": added}, "other base"))

    assert len(set(seen)) == len(seen)


def test_the_hash_is_blind_to_compiled_python(tmp_path: Path) -> None:
    before = content_hash(tmp_path, {}, "")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "server.cpython-311.pyc").write_text("compiled")

    assert content_hash(tmp_path, {}, "") == before


def test_addresses_are_documentation_ranges_inside_the_network() -> None:
    documentation = [ipaddress.ip_network("198.51.100.0/24"), ipaddress.ip_network("2001:db8::/32")]
    networks = [
        ipaddress.ip_network(layout.NETWORK_IPV4),
        ipaddress.ip_network(layout.NETWORK_IPV6),
    ]
    pairs = [
        (layout.GATEWAY_IPV4, layout.GATEWAY_IPV6),
        (layout.HOST_IPV4, layout.HOST_IPV6),
        *layout.CLIENTS.values(),
    ]

    for pair in pairs:
        for address, network, range_ in zip(pair, networks, documentation, strict=True):
            assert ipaddress.ip_address(address) in network
            assert ipaddress.ip_address(address) in range_
    assert len(set(pairs)) == len(pairs)


def test_the_committed_half_points_at_the_sandbox() -> None:
    [(address, data)] = runpy.run_path(str(layout.ENVIRONMENT / "hosts.py"))["hosts"]

    assert address == layout.HOST_IPV4
    assert data["ssh_key"] == str(layout.KEY)


def test_a_second_machine_shares_no_name_and_no_address_with_the_first() -> None:
    script = (
        "import json, os; from ops.sandbox import layout as l;"
        "print(json.dumps([l.NAME, l.OWNED, *l.VOLUMES, l.HOST_IPV4, l.HOST_IPV6,"
        " l.NETWORK_IPV4, l.NETWORK_IPV6, l.ENVIRONMENT.name]))"
    )

    def names(which: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "STACKROOM_SANDBOX": which},
            capture_output=True,
            text=True,
            check=True,
        )
        told: list[str] = json.loads(done.stdout)
        return told

    first, second = names("sandbox"), names("second")
    assert not set(first) & set(second)
    for at in (-3, -2):
        networks = (ipaddress.ip_network(one[at]) for one in (first, second))
        assert not next(networks).overlaps(next(networks))


def test_a_machine_that_there_is_not_is_refused_by_name() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("stackroom"), "sandbox", "status"],
        env={**os.environ, "STACKROOM_SANDBOX": "third"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 3
    assert "STACKROOM_SANDBOX=third" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    folder = tmp_path / "inventory" / "sandbox"
    folder.mkdir(parents=True)
    for name in ("hosts.py", "settings.toml"):
        (folder / name).write_bytes((layout.ENVIRONMENT / name).read_bytes())
    return folder


def test_the_generated_half_makes_a_valid_environment(environment: Path, tmp_path: Path) -> None:
    key = tmp_path / ".stackroom" / "sandbox" / "id_ed25519"
    deputy = key.with_name("deputy_ed25519")
    inventory.write_environment(inventory.make_key(key), inventory.make_key(deputy), environment)

    loaded = load_environment(environment)

    assert loaded.machine.key == str(key)
    assert loaded.settings.operators["you"].keys == [key.with_suffix(".pub").read_text().strip()]
    assert loaded.settings.operators["you"].addresses == ["198.51.100.1/32", "2001:db8::1/128"]
    assert loaded.settings.developers["dora"].addresses == ["198.51.100.21/32", "2001:db8::21/128"]
    assert stat.S_IMODE((environment / "secrets.toml").stat().st_mode) == 0o600
    assert escrow.inspect(loaded).is_current
    for private in (key, deputy):
        opened = tmp_path / private.name
        escrow.open_file(environment / escrow.FILE_NAME, private, opened)
        assert (opened / "secrets.toml").read_bytes() == (environment / "secrets.toml").read_bytes()


def test_a_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    key = tmp_path / "id_ed25519"
    public = inventory.make_key(key)

    assert inventory.make_key(key) == public
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    derived = subprocess.run(
        ["ssh-keygen", "-y", "-f", key], capture_output=True, text=True, check=True
    ).stdout
    assert derived.split()[:2] == public.split()[:2]


def test_secrets_are_kept_and_only_missing_ones_added(environment: Path, tmp_path: Path) -> None:
    keys = [inventory.make_key(tmp_path / name) for name in ("one", "two")]
    (environment / "secrets.toml").write_text(
        f'[secrets]\napi_token = "{"t" * 40}"  # mine\n', encoding="ascii"
    )
    inventory.write_environment(*keys, environment)
    first = (environment / "secrets.toml").read_text()
    inventory.write_environment(*keys, environment)

    assert f'api_token = "{"t" * 40}"  # mine' in first
    assert "qdrant_api_key" in first
    assert (environment / "secrets.toml").read_text() == first


def test_groups_of_removed_containers_go_and_others_stay(tmp_path: Path) -> None:
    gone, other = "a" * 64, "b" * 64
    (tmp_path / "memory" / "docker" / gone / "system.slice" / "ssh.service").mkdir(parents=True)
    (tmp_path / "pids" / "docker" / gone).mkdir(parents=True)
    (tmp_path / "memory" / "docker" / other).mkdir(parents=True)

    cgroups.remove([gone], tmp_path)

    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["memory", "memory/docker", f"memory/docker/{other}", "pids", "pids/docker"]
    cgroups.remove([], tmp_path)
    assert (tmp_path / "memory" / "docker" / other).is_dir()
