"""The Caddyfile of every kind of environment, judged by Caddy; values that would break it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import stacks

from ops.errors import SettingsError

TLS_MODES = ("internal", "acme", "external")


def caddy(
    folder: Path, *arguments: str, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Caddy with its data in `folder`, where nothing of this machine's is read."""
    environment = os.environ | {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    return subprocess.run(
        [stacks.tool("caddy"), *arguments],
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
    )


def adapted(folder: Path, rendered: stacks.Rendered) -> dict[str, Any]:
    """The configuration that Caddy makes of a Caddyfile."""
    path = folder / "Caddyfile"
    path.write_text(rendered.text("edge/Caddyfile"), encoding="utf-8")
    done = caddy(folder, "adapt", "--config", str(path), "--adapter", "caddyfile")
    assert done.returncode == 0, done.stderr
    configuration: dict[str, Any] = json.loads(done.stdout)
    return configuration


# the address stands in it only where the certificate is for the address
VALID = [
    (mode, api, address)
    for mode in TLS_MODES
    for api in ("none", "image")
    for address in (stacks.ADDRESSES if mode == "internal" else stacks.ADDRESSES[:1])
]


@pytest.mark.parametrize(("mode", "api", "address"), VALID)
def test_caddy_takes_it_and_would_not_write_it_otherwise(
    render: stacks.Render,
    certificate: Path,
    tmp_path: Path,
    mode: str,
    api: str,
    address: str,
) -> None:
    text = render(address=address, **stacks.case(mode, api)).text("edge/Caddyfile")
    path = tmp_path / "Caddyfile"
    path.write_text(text.replace("/etc/caddy/", f"{certificate}/"), encoding="utf-8")
    done = caddy(tmp_path, "validate", "--config", str(path), "--adapter", "caddyfile")
    assert done.returncode == 0, done.stderr
    assert "Valid configuration" in done.stdout + done.stderr
    # unformatted text is a warning at every start
    assert caddy(tmp_path, "fmt", "-", stdin=text).stdout == text


@pytest.mark.parametrize("mode", TLS_MODES)
def test_only_the_address_of_the_machine_changes_with_the_machine(
    render: stacks.Render, mode: str
) -> None:
    texts = {
        render(address=a, **stacks.case(mode, "git")).text("edge/Caddyfile")
        for a in stacks.ADDRESSES
    }
    assert len(texts) == (len(stacks.ADDRESSES) if mode == "internal" else 1)


@pytest.mark.parametrize(("mode", "api"), [(m, a) for m in TLS_MODES for a in ("none", "image")])
def test_it_listens_where_compose_publishes_and_nowhere_else(
    render: stacks.Render, tmp_path: Path, mode: str, api: str
) -> None:
    case = stacks.case(mode, api)
    case["edge"] |= {"port": 4443, "api_port": 5443}
    rendered = render(**case)
    servers = adapted(tmp_path, rendered)["apps"]["http"]["servers"].values()
    listeners = {listener for server in servers for listener in server["listen"]}
    published = {
        int(port.rsplit(":", 1)[1])
        for port in rendered.services["edge"]["ports"]
        if not port.endswith(":80")  # Caddy's own, for the challenge
    }
    assert listeners == {"127.0.0.1:2020", *(f":{port}" for port in published)}
    assert published == ({4443} if api == "none" else {4443, 5443})
    assert all(server["protocols"] == ["h1", "h2"] for server in servers)


def names_of(apps: dict[str, Any]) -> set[str]:
    """The names that Caddy manages certificates for."""
    tls = apps["tls"]
    assert "on_demand" not in json.dumps(tls)  # a certificate for whatever a stranger asks for
    names = set(tls["certificates"]["automate"])
    for server in apps["http"]["servers"].values():
        for policy in server.get("tls_connection_policies", []):
            assert policy["default_sni"] in names
    return names


@pytest.mark.parametrize("address", stacks.ADDRESSES)
def test_internal_certificates_name_the_machine_and_the_domain(
    render: stacks.Render, tmp_path: Path, address: str
) -> None:
    case = stacks.case("internal", "image")
    apps = adapted(tmp_path, render(address=address, **case))["apps"]
    assert names_of(apps) == {address.lower()}
    case["edge"]["domain"] = "kb.example.com"
    apps = adapted(tmp_path, render(address=address, **case))["apps"]
    assert names_of(apps) == {address.lower(), "kb.example.com"}
    issuers = [i for policy in apps["tls"]["automation"]["policies"] for i in policy["issuers"]]
    assert {issuer["module"] for issuer in issuers} == {"internal"}


def test_acme_asks_one_issuer_on_port_80_only(render: stacks.Render, tmp_path: Path) -> None:
    apps = adapted(tmp_path, render(**stacks.case("acme", "image")))["apps"]
    assert names_of(apps) == {"kb.example.com"}
    (policy,) = apps["tls"]["automation"]["policies"]
    (issuer,) = policy["issuers"]
    assert issuer["module"] == "acme"
    assert issuer["email"] == "ops@example.com"
    # port 443 is shut to those who would check there
    assert issuer["challenges"]["tls-alpn"]["disabled"] is True
    assert issuer["challenges"]["http"].get("disabled", False) is False
    servers = apps["http"]["servers"].values()
    ports = {port for server in servers for port in server["listen"]}
    assert ports == {"127.0.0.1:2020", ":443", ":8443"}


@pytest.mark.parametrize("mode", TLS_MODES)
def test_nothing_configures_it_from_outside(
    render: stacks.Render, tmp_path: Path, mode: str
) -> None:
    configuration = adapted(tmp_path, render(**stacks.case(mode, "image")))
    assert configuration["admin"] == {"disabled": True}
    for server in configuration["apps"]["http"]["servers"].values():
        assert "trusted_proxies" not in server


BREAKING = ['"ops"@example.com', "{env.HOME}@example.com", "`ops@example.com", "#ops@example.com"]


@pytest.mark.parametrize("email", BREAKING)
def test_an_email_that_caddy_would_read_otherwise_is_refused(
    make_environment: stacks.MakeEnvironment, email: str
) -> None:
    case = stacks.case("acme", "none")
    case["edge"]["email"] = email
    with pytest.raises(SettingsError, match="email"):
        make_environment(**case)


@pytest.mark.parametrize("email", ["ops@example.com", "first.last+kb_1-2%x@mail.example.com"])
def test_a_usual_email_arrives(render: stacks.Render, tmp_path: Path, email: str) -> None:
    case = stacks.case("acme", "none")
    case["edge"]["email"] = email
    configuration = adapted(tmp_path, render(**case))
    assert f'"email":"{email}"' in json.dumps(configuration, separators=(",", ":"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("domain", "kb.example.com {"), ("domain", "*.example.com"), ("max_body", "64MB }")],
)
def test_a_value_that_would_end_a_block_is_refused(
    make_environment: stacks.MakeEnvironment, key: str, value: str
) -> None:
    case = stacks.case("acme", "none")
    case["edge"][key] = value
    with pytest.raises(SettingsError, match=key):
        make_environment(**case)
