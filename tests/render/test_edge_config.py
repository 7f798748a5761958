"""The Caddyfile of every kind of environment, judged by Caddy; values that would break it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import stacks

from ops.errors import SettingsError

pytest_plugins = ("environments",)

CADDY = str(Path(sys.executable).with_name("caddy"))
TLS_MODES = ("internal", "acme", "external")


def caddyfile(make: stacks.MakeEnvironment, address: str = "198.51.100.10", **case: Any) -> str:
    return stacks.by_name(stacks.rendered(make(address=address, **case)))["edge/Caddyfile"].content


def caddy(
    folder: Path, *arguments: str, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Caddy with its data in `folder`, where nothing of this machine's is read."""
    environment = os.environ | {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    return subprocess.run(
        [CADDY, *arguments], env=environment, input=stdin, capture_output=True, text=True
    )


def adapted(folder: Path, text: str) -> dict[str, Any]:
    """The configuration that Caddy makes of a Caddyfile."""
    path = folder / "Caddyfile"
    path.write_text(text, encoding="utf-8")
    done = caddy(folder, "adapt", "--config", str(path), "--adapter", "caddyfile")
    assert done.returncode == 0, done.stderr
    configuration: dict[str, Any] = json.loads(done.stdout)
    return configuration


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate and its key, named as in the container."""
    folder = tmp_path_factory.mktemp("certificate")
    names = ("-keyout", "private_key.pem", "-out", "certificate.pem")
    request = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    subprocess.run(
        ["openssl", *request, "-subj", "/CN=kb.example.com", *names],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


# the address stands in it only where the certificate is for the address
VALID = [
    (mode, api, address)
    for mode in TLS_MODES
    for api in ("none", "image")
    for address in (stacks.ADDRESSES if mode == "internal" else stacks.ADDRESSES[:1])
]


@pytest.mark.parametrize(("mode", "api", "address"), VALID)
def test_caddy_takes_it_and_would_not_write_it_otherwise(
    make_environment: stacks.MakeEnvironment,
    certificate: Path,
    tmp_path: Path,
    mode: str,
    api: str,
    address: str,
) -> None:
    text = caddyfile(make_environment, address, **stacks.case(mode, api))
    path = tmp_path / "Caddyfile"
    path.write_text(text.replace("/etc/caddy/", f"{certificate}/"), encoding="utf-8")
    done = caddy(tmp_path, "validate", "--config", str(path), "--adapter", "caddyfile")
    assert done.returncode == 0, done.stderr
    assert "Valid configuration" in done.stdout + done.stderr
    # unformatted text is a warning at every start
    assert caddy(tmp_path, "fmt", "-", stdin=text).stdout == text


@pytest.mark.parametrize("mode", TLS_MODES)
def test_only_the_address_of_the_machine_changes_with_the_machine(
    make_environment: stacks.MakeEnvironment, mode: str
) -> None:
    texts = {caddyfile(make_environment, a, **stacks.case(mode, "git")) for a in stacks.ADDRESSES}
    assert len(texts) == (len(stacks.ADDRESSES) if mode == "internal" else 1)


@pytest.mark.parametrize(("mode", "api"), [(m, a) for m in TLS_MODES for a in ("none", "image")])
def test_it_listens_where_compose_publishes_and_nowhere_else(
    make_environment: stacks.MakeEnvironment, tmp_path: Path, mode: str, api: str
) -> None:
    case = stacks.case(mode, api)
    case["edge"] |= {"port": 4443, "api_port": 5443}
    stack = stacks.rendered(make_environment(**case))
    servers = adapted(tmp_path, stacks.by_name(stack)["edge/Caddyfile"].content)["apps"]["http"][
        "servers"
    ].values()
    listeners = {listener for server in servers for listener in server["listen"]}
    published = {
        int(port.rsplit(":", 1)[1])
        for port in stacks.project(stack)["services"]["edge"]["ports"]
        if not port.endswith(":80")  # Caddy's own, for the challenge
    }
    assert listeners == {"127.0.0.1:2020", *(f":{port}" for port in published)}
    assert published == ({4443} if api == "none" else {4443, 5443})
    assert all(server["protocols"] == ["h1", "h2"] for server in servers)


def test_the_challenge_needs_nothing_but_port_80(
    make_environment: stacks.MakeEnvironment, tmp_path: Path
) -> None:
    configuration = adapted(tmp_path, caddyfile(make_environment, **stacks.case("acme", "image")))
    issuers = [
        issuer
        for policy in configuration["apps"]["tls"]["automation"]["policies"]
        for issuer in policy["issuers"]
    ]
    assert issuers
    for issuer in issuers:
        assert issuer["module"] == "acme"
        assert issuer["email"] == "ops@example.com"
        assert issuer["challenges"]["tls-alpn"]["disabled"] is True


@pytest.mark.parametrize("mode", TLS_MODES)
def test_nothing_configures_it_from_outside(
    make_environment: stacks.MakeEnvironment, tmp_path: Path, mode: str
) -> None:
    configuration = adapted(tmp_path, caddyfile(make_environment, **stacks.case(mode, "image")))
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
def test_a_usual_email_arrives(
    make_environment: stacks.MakeEnvironment, tmp_path: Path, email: str
) -> None:
    case = stacks.case("acme", "none")
    case["edge"]["email"] = email
    text = caddyfile(make_environment, **case)
    assert f'"email":"{email}"' in json.dumps(adapted(tmp_path, text), separators=(",", ":"))


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
