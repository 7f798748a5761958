"""Promises of the rendered stack: files that parse, secrets that stay put, hashes that tell."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from merged import variables
from rendered import APIS, MODES, Rendered, RenderSettings, tool

from ops.errors import SettingsError
from ops.render.memory import body_limit_mb
from ops.render.stack import STACK_DIR, GitBuild, render_stack

SECRETS = '[secrets]\nqdrant_api_key = "{}"\napi_token = "{}"\n'
PLAIN = "a" * 40


def local_yaml(rendered: Rendered) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(rendered.file("qdrant/local.yaml").content)
    return found


def validated(rendered: Rendered, folder: Path, certificate: tuple[Path, Path]) -> str:
    """What the real Caddy says of the Caddyfile, with certificate files that exist here."""
    text = rendered.file("edge/Caddyfile").content
    for inside, here in zip(("certificate", "private_key"), certificate, strict=True):
        text = text.replace(f"/etc/caddy/{inside}.pem", str(here))
    path = folder / "Caddyfile"
    path.write_text(text, encoding="utf-8")
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    done = subprocess.run(
        [tool("caddy"), "validate", "--config", str(path), "--adapter", "caddyfile"],
        env=home,
        capture_output=True,
        text=True,
    )
    return f"{done.returncode} {done.stdout}{done.stderr}"


def adapted(rendered: Rendered, folder: Path) -> dict[str, Any]:
    """The Caddyfile as Caddy's own JSON."""
    path = folder / "Caddyfile"
    path.write_text(rendered.file("edge/Caddyfile").content, encoding="utf-8")
    done = subprocess.run(
        [tool("caddy"), "adapt", "--config", str(path)], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)["apps"]
    return found


# every file is what it claims to be


def test_each_kind_has_its_files_and_no_others(each_kind: Rendered) -> None:
    expected = {"compose.yaml", "trial.yaml", ".env", "qdrant/local.yaml"}
    if each_kind.mode != "tunnel":
        expected |= {"edge.yaml", "trial-edge.yaml", "edge/Caddyfile"}
    if each_kind.mode in ("acme", "external"):
        expected.add(f"{each_kind.mode}.yaml")
    if each_kind.api != "no api":
        expected |= {"api.yaml", "api/api.env"}
        expected |= set() if each_kind.mode == "tunnel" else {"edge-api.yaml"}
    assert {file.path for file in each_kind.stack.files} == {f"{STACK_DIR}/{e}" for e in expected}


def test_modes_and_owners(each_kind: Rendered) -> None:
    found = {
        file.path.removeprefix(f"{STACK_DIR}/"): (file.mode, file.uid, file.secret)
        for file in each_kind.stack.files
    }
    expected = {
        ".env": (0o600, 0, False),
        "qdrant/local.yaml": (0o400, 1000, True),
        "edge/Caddyfile": (0o400, 0, True),
        "api/api.env": (0o600, 0, True),
    }
    for name, facts in found.items():
        assert facts == expected.get(name, (0o644, 0, False)), name


@pytest.mark.parametrize("api", ["no api", "image"])
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "tunnel"])
def test_caddy_takes_the_caddyfile(
    render: RenderSettings,
    mode: str,
    api: str,
    machine: str,
    tmp_path: Path,
    certificate: tuple[Path, Path],
) -> None:
    said = validated(render(MODES[mode] + APIS[api], machine), tmp_path, certificate)
    assert said.startswith("0 "), said
    assert "Valid configuration" in said


def test_rendering_twice_is_identical(each_kind: Rendered) -> None:
    again = render_stack(each_kind.environment, 7800, 4)
    assert again == each_kind.stack


# qdrant's configuration


def test_qdrant_is_closed_and_keeps_to_itself(render: RenderSettings) -> None:
    config = local_yaml(render(MODES["internal"]))
    service = config["service"]
    assert service["jwt_rbac"] is True
    off = ("enable_cors", "enable_static_content", "enable_snapshot_url_recovery")
    assert [service[name] for name in off] == [False, False, False]
    assert service["hide_jwt_dashboard"] is True
    assert config["telemetry_disabled"] is True
    assert config["audit"]["enabled"] is True
    assert config["audit"]["trust_forwarded_headers"] is True
    assert local_yaml(render(MODES["tunnel"]))["audit"]["trust_forwarded_headers"] is False
    shown = local_yaml(render("[qdrant]\ndashboard = true\n"))
    assert shown["service"]["enable_static_content"] is True


def test_qdrant_gets_its_keys_as_they_are(render: RenderSettings, canaries: dict[str, str]) -> None:
    service = local_yaml(render())["service"]
    assert service["api_key"] == canaries["qdrant_api_key"]
    assert service["alt_api_key"] == canaries["qdrant_alt_api_key"]
    lonely = local_yaml(render(secrets=SECRETS.format(PLAIN, PLAIN)))["service"]
    assert "alt_api_key" not in lonely
    # what YAML would take for something else: a number, a date, a word that means false
    for awkward in ("1" * 40, "2026-01-01-" + "0" * 30, "0x" + "1" * 40, "1e" + "9" * 40):
        rendered = render(secrets=SECRETS.format(awkward, PLAIN))
        assert local_yaml(rendered)["service"]["api_key"] == awkward


@pytest.mark.parametrize(
    ("max_body", "megabytes"), [("64MB", 64), ("2GB", 2000), ("500KB", 1), ("2500KB", 3)]
)
def test_qdrant_takes_what_the_edge_lets_in(
    render: RenderSettings, max_body: str, megabytes: int
) -> None:
    rendered = render(f'[edge]\nmode = "internal"\nmax_body = "{max_body}"\n')
    assert local_yaml(rendered)["service"]["max_request_size_mb"] == megabytes
    assert body_limit_mb(max_body) == megabytes


# secrets


def test_secrets_stand_only_in_files_marked_secret(
    each_kind: Rendered, canaries: dict[str, str]
) -> None:
    holding = {
        secret: {
            file.path.removeprefix(f"{STACK_DIR}/")
            for file in each_kind.stack.files
            if secret in file.content
        }
        for secret in canaries.values()
    }
    api = {"api/api.env"} if each_kind.api != "no api" else set()
    edge_api = {"edge/Caddyfile"} if api and each_kind.mode != "tunnel" else set()
    assert holding == {
        canaries["qdrant_api_key"]: {"qdrant/local.yaml"} | api,
        canaries["qdrant_alt_api_key"]: {"qdrant/local.yaml"},
        canaries["api_token"]: edge_api,
        canaries["mistral_api_key"]: api,
    }
    secret = {f.path.removeprefix(f"{STACK_DIR}/") for f in each_kind.stack.files if f.secret}
    assert set().union(*holding.values()) <= secret
    public = [each_kind.stack.services, each_kind.stack.volumes, each_kind.stack.build]
    assert not any(value in repr(public) for value in canaries.values())


@pytest.mark.parametrize(
    "awkward",
    ["*" + PLAIN, PLAIN + '" x', PLAIN + "{env.HOME}", PLAIN + "$HOME", PLAIN + "\\nX=1", "ä" * 40],
)
def test_a_secret_that_would_be_read_as_syntax_is_refused(
    render: RenderSettings, awkward: str
) -> None:
    escaped = awkward.replace('"', '\\"')
    for place, secrets in (
        ("api_token", SECRETS.format(PLAIN, escaped)),
        ("qdrant_api_key", SECRETS.format(escaped, PLAIN)),
    ):
        with pytest.raises(SettingsError, match=rf"secrets\.{place} must be of") as refusal:
            render(secrets=secrets)
        assert PLAIN not in str(refusal.value) + refusal.value.hint


def test_the_api_gets_what_it_is_promised(render: RenderSettings, canaries: dict[str, str]) -> None:
    rendered = render(APIS["image"])
    lines = dict(line.split("=", 1) for line in rendered.file("api/api.env").content.splitlines())
    assert lines == {
        "QDRANT_API_KEY": canaries["qdrant_api_key"],
        "MISTRAL_API_KEY": canaries["mistral_api_key"],
    }
    without = render(APIS["image"], secrets=SECRETS.format(PLAIN, PLAIN))
    assert without.file("api/api.env").content == f"QDRANT_API_KEY={PLAIN}\n"
    environment = yaml.safe_load(rendered.file("api.yaml").content)["services"]["api"]
    assert environment["environment"]["QDRANT_URL"] == "http://qdrant:6333"
    assert environment["environment"]["QDRANT_PORT"] == "6333"
    mounts = {mount["target"] for mount in environment["volumes"]}
    assert mounts == {"/data/library", "/data/sessions", "/data/configs"}


# hashes: a service is started anew exactly when something of its own has changed

BASE = MODES["internal"] + APIS["image"]


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        (BASE + '[qdrant]\nversion = "v1.19.1"\n', {"qdrant"}),
        (BASE + '[qdrant]\nmemory = "2G"\n', {"qdrant"}),
        (BASE + "[qdrant]\ndashboard = true\n", {"qdrant"}),
        (BASE.replace("[edge]\n", '[edge]\nversion = "2.11.3"\n'), {"edge"}),
        (BASE.replace("[edge]\n", "[edge]\nport = 4443\n"), {"edge"}),
        (BASE.replace("[edge]\n", '[edge]\nmax_body = "64000KB"\n'), {"edge"}),
        (BASE.replace("1.4.0", "1.5.0"), {"api"}),
        (BASE + "[docker]\nlog_max_files = 2\n", {"qdrant", "edge", "api"}),
        (BASE.replace("port = 8000", "port = 9000"), {"edge", "api"}),
        (BASE + "[collections.a]\nvector = { size = 4 }\n", set()),
    ],
)
def test_a_change_starts_only_what_it_is_about(
    render: RenderSettings, settings: str, changed: set[str]
) -> None:
    before, after = render(BASE).digests(), render(settings).digests()
    assert {name for name in before if before[name] != after[name]} == changed


def test_a_new_key_starts_those_who_read_it(
    render: RenderSettings, canaries: dict[str, str]
) -> None:
    secrets = "[secrets]\n" + "".join(f'{name} = "{value}"\n' for name, value in canaries.items())
    before = render(BASE).digests()
    for name, readers in {
        "qdrant_api_key": {"qdrant", "api"},
        "qdrant_alt_api_key": {"qdrant"},
        "api_token": {"edge"},
        "mistral_api_key": {"api"},
    }.items():
        after = render(BASE, secrets=secrets.replace(canaries[name], PLAIN)).digests()
        assert {service for service in before if before[service] != after[service]} == readers


def test_another_service_beside_it_starts_nothing_anew(render: RenderSettings) -> None:
    # but where "auto" shares the memory out anew
    fixed = '[qdrant]\nmemory = "2G"\n'
    without, with_api = render(MODES["internal"] + fixed), render(BASE + fixed)
    assert without.digests()["qdrant"] == with_api.digests()["qdrant"]


def test_a_comment_starts_nothing_anew(
    render: RenderSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ops.render import stack

    before = render(BASE).digests()
    read: Callable[[str], str] = stack.read_compose
    monkeypatch.setattr(stack, "read_compose", lambda name: "# a remark\n" + read(name))
    assert render(BASE).digests() == before


# the edge's names and certificates


def names_of(apps: dict[str, Any]) -> set[str]:
    """The names that Caddy manages certificates for."""
    tls = apps["tls"]
    assert "on_demand" not in json.dumps(tls)  # a certificate for whatever a stranger asks for
    names = set(tls["certificates"]["automate"])
    for server in apps["http"]["servers"].values():
        for policy in server.get("tls_connection_policies", []):
            assert policy["default_sni"] in names
    return names


def test_internal_certificates_name_the_machine_and_the_domain(
    render: RenderSettings, tmp_path: Path, machine: str
) -> None:
    canonical = machine.lower()
    assert names_of(adapted(render(BASE, machine), tmp_path)) == {canonical}
    domain = BASE.replace("[edge]\n", '[edge]\ndomain = "kb.example.com"\n')
    apps = adapted(render(domain, machine), tmp_path)
    assert names_of(apps) == {canonical, "kb.example.com"}
    issuers = [i for policy in apps["tls"]["automation"]["policies"] for i in policy["issuers"]]
    assert {issuer["module"] for issuer in issuers} == {"internal"}


def test_acme_asks_one_issuer_on_port_80_only(render: RenderSettings, tmp_path: Path) -> None:
    apps = adapted(render(MODES["acme"] + APIS["image"]), tmp_path)
    assert names_of(apps) == {"kb.example.com"}
    (policy,) = apps["tls"]["automation"]["policies"]
    (issuer,) = policy["issuers"]
    assert issuer["module"] == "acme"
    assert issuer["email"] == "ops@example.com"
    # port 443 is shut to those who would check there
    assert issuer["challenges"]["tls-alpn"]["disabled"] is True
    assert issuer["challenges"]["http"].get("disabled", False) is False
    servers = apps["http"]["servers"].values()
    assert {port for server in servers for port in server["listen"]} == {
        "127.0.0.1:2020",
        ":443",
        ":8443",
    }


# images


def test_an_api_from_git_is_built_under_a_tag_of_its_own(render: RenderSettings) -> None:
    def build(ref: str, repository: str = "https://example.com/api") -> GitBuild:
        git = f'[api]\ngit = {{ repository = "{repository}", ref = "{ref}" }}\n'
        rendered = render(git)
        found = rendered.stack.build
        assert found is not None
        assert (found.repository, found.ref) == (repository, ref)
        assert variables(rendered)["API_IMAGE"] == found.image
        return found

    refs = ["feature/x", "feature-x", "v1.4.0", "a" * 200, "a" * 201]
    images = [build(ref).image for ref in refs] + [build("v1.4.0", "https://example.com/b").image]
    assert len(set(images)) == len(images)
    for image in images:
        assert re.fullmatch(r"stackroom-api:[\w][\w.-]{0,127}", image)
    assert render(APIS["image"]).stack.build is None


# memory


@pytest.mark.parametrize(
    ("settings", "memory_mib"),
    [
        (BASE, 2000),  # a 2 GB machine has no room for an api of 1G
        (MODES["tunnel"], 1200),
        ('[qdrant]\nmemory = "8G"\n', 7800),
        ('[qdrant]\nmemory = "100M"\n', 7800),
    ],
)
def test_a_host_too_small_is_refused(
    render: RenderSettings, settings: str, memory_mib: int
) -> None:
    with pytest.raises(SettingsError, match="do not fit") as refusal:
        render(settings, memory_mib=memory_mib)
    assert "qdrant.memory" in refusal.value.hint


def test_a_size_in_the_settings_is_the_limit(render: RenderSettings) -> None:
    assert variables(render('[qdrant]\nmemory = "3G"\n'))["QDRANT_MEMORY"] == "3072m"
    assert variables(render(MODES["tunnel"]))["QDRANT_MEMORY"] == f"{7800 - 768}m"
