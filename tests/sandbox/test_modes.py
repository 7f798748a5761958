"""The other ways to run the stack: with the team's own api, own certificates, or no edge at all."""

from __future__ import annotations

import json
import shlex
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hands import EDGE, HOST, QDRANT, changed_environment, deploy, holds, inspect, on_host
from library_hands import INDEX, bring_a_library

from ops.clients.edge import edge_ca
from ops.clients.ssh import Remote
from ops.sandbox import client
from ops.sandbox.visit import open_ports, visit
from ops.settings import Environment

pytestmark = [pytest.mark.sandbox, pytest.mark.usefixtures("unchanged")]

API = "stackroom-api-1"
DOMAIN = "knowledge.example.com"
MISTRAL_KEY = "canary-mistral-key-0123456789"
# a stand-in for the team's service: it answers with what it was given
API_CADDYFILE = """\
{
	admin off
	auto_https off
	persist_config off
}
:{$API_PORT} {
	respond /health 200
	respond /given "{$QDRANT_URL} {$QDRANT_PORT} {$QDRANT_API_KEY} {$MISTRAL_API_KEY}"
}
"""
# a copy of the program loses the file capability, which a container without any cannot carry
API_DOCKERFILE = """\
FROM caddy:{version}
RUN cp "$(command -v caddy)" /server
COPY Caddyfile /Caddyfile
ENTRYPOINT []
CMD ["/server", "run", "--config", "/Caddyfile", "--adapter", "caddyfile"]
"""


def both(families_of: set[int]) -> set[tuple[str, int]]:
    return {(family, port) for family in ("v4", "v6") for port in families_of}


def settings_plus(text: str) -> Callable[[str], str]:
    return lambda before: f"{before}\n{text}\n"


def edge_settings(text: str) -> Callable[[str], str]:
    return lambda before: before.replace('mode = "internal"', text)


def with_mistral_key(before: str) -> str:
    return f'{before}mistral_api_key = "{MISTRAL_KEY}"\n'


def write_api_source(folder: str, version: str) -> None:
    """The api's build folder, on the machine."""
    files = {"Caddyfile": API_CADDYFILE, "Dockerfile": API_DOCKERFILE.format(version=version)}
    on_host(f"mkdir -p {folder}")
    for name, text in files.items():
        on_host(f"printf %s {shlex.quote(text)} > {folder}/{name}")


def ask_api(environment: Environment, path: str, token: str) -> dict[str, object]:
    """One request of the allowed machine to the api's port at the edge."""
    with client("allowed") as allowed:
        answers = visit(
            allowed,
            {
                "do": "requests",
                "url": f"https://{HOST}:8443",
                "ca": edge_ca(Remote(environment)),
                "key": "",
                "requests": [
                    {"method": "GET", "path": path, "headers": {"Authorization": f"Bearer {token}"}}
                ],
            },
        )
        reached = open_ports(allowed)
    assert reached == both({22, 443, 8443})
    return dict(answers[0])


def assert_api_serves(environment: Environment) -> None:
    """Behind the edge with its token only, closed to strangers, given its keys, confined."""
    token = environment.settings.secrets.api_token.get_secret_value()
    key = environment.settings.secrets.qdrant_api_key.get_secret_value()
    assert ask_api(environment, "/given", "wrong-token")["status"] == 401
    answer = ask_api(environment, "/given", token)
    assert answer["status"] == 200
    assert answer["body"] == f"http://qdrant:6333 6333 {key} {MISTRAL_KEY}"
    with client("denied") as denied:
        assert open_ports(denied) == set()
    container = inspect(API)
    assert container["HostConfig"]["PortBindings"] == {
        "8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}]
    }
    assert container["HostConfig"]["ReadonlyRootfs"]
    mounts = {mount["Destination"] for mount in container["Mounts"] if mount["Type"] == "volume"}
    assert mounts == {"/data/library", "/data/sessions", "/data/configs"}


def test_an_api_from_an_image_is_served_behind_its_token(
    deployed: Environment, tmp_path: Path
) -> None:
    qdrant_before = inspect(QDRANT)["Id"]
    write_api_source("/root/api", deployed.settings.edge.version)
    on_host("docker build -q -t example/api:1.0 /root/api", timeout=300)
    settings = settings_plus(f'[api]\nimage = "example/api:1.0"\n{INDEX}')
    try:
        with changed_environment(settings=settings, secrets=with_mistral_key) as name:
            done = deploy(environment=name)
            assert done.returncode == 0, done.stdout + done.stderr
            assert_api_serves(deployed)
            bring_a_library(deployed, name, tmp_path)
            # a new neighbour is no reason to start Qdrant anew
            assert inspect(QDRANT)["Id"] == qdrant_before
            assert MISTRAL_KEY not in done.stdout + done.stderr
    finally:
        deploy()
    assert not holds(f"docker inspect {API}")
    with client("allowed") as allowed:
        assert open_ports(allowed) == both({22, 443})


@pytest.fixture
def own_key() -> Iterator[str]:
    """The machine may log in to itself, as to a server of git; the key's fingerprint."""
    on_host(
        "mkdir -m 700 -p /root/.ssh && cd /root/.ssh && cp authorized_keys before &&"
        " ssh-keygen -q -t ed25519 -N '' -f id_ed25519 && cat id_ed25519.pub >>authorized_keys &&"
        " printf 'Host 127.0.0.1\\n StrictHostKeyChecking no\\n' >config"
    )
    yield on_host("ssh-keygen -lf /root/.ssh/id_ed25519.pub").split()[1]
    on_host("cd /root/.ssh && cat before >authorized_keys && rm before id_ed25519* config")


def test_an_api_from_git_is_built_on_the_host(deployed: Environment, own_key: str) -> None:
    write_api_source("/root/api-source", deployed.settings.edge.version)
    on_host(
        "command -v git >/dev/null || apt-get install -y -qq --no-install-recommends git;"
        " cd /root/api-source && git init -q -b main . && git add . &&"
        " git -c user.name=t -c user.email=t@example.com commit -qm one && git tag v1",
        timeout=300,
    )
    repository = "ssh://root@127.0.0.1/root/api-source/.git"
    settings = settings_plus(f'[api]\ngit = {{ repository = "{repository}", ref = "v1" }}')
    try:
        with changed_environment(settings=settings, secrets=with_mistral_key) as name:
            done = deploy(environment=name)
            # all is well but for the key to itself, which opens root and is nobody's
            assert done.returncode == 2, done.stdout + done.stderr
            (ill,) = [line for line in done.stdout.splitlines() if line.startswith("CRITICAL  ")]
            assert "developers.access" in ill and own_key in ill
            assert_api_serves(deployed)
            assert inspect(API)["Config"]["Image"].startswith("stackroom-api:v1-")
            again = deploy(environment=name)
            assert "0 of" in again.stdout, again.stdout
    finally:
        deploy()


def test_own_certificates_are_served_for_the_domain(deployed: Environment) -> None:
    on_host(
        "mkdir -p /etc/stackroom/tls && cd /etc/stackroom/tls && openssl req -x509 -newkey"
        " ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -keyout key.pem -out cert.pem"
        f" -subj /CN={DOMAIN} -addext subjectAltName=DNS:{DOMAIN}"
    )
    certificate = on_host("cat /etc/stackroom/tls/cert.pem") + "\n"
    edge = edge_settings(
        f'mode = "external"\ndomain = "{DOMAIN}"\n'
        'certificate = "/etc/stackroom/tls/cert.pem"\nprivate_key = "/etc/stackroom/tls/key.pem"'
    )
    try:
        with changed_environment(settings=edge) as name:
            done = deploy(environment=name)
            assert "deployed:" in done.stdout, done.stdout + done.stderr
            # nobody but the test trusts this certificate, and the doctor says so
            assert done.returncode == 2
            assert "CRITICAL  edge." in done.stdout
            with client("allowed") as allowed:
                allowed.run(["sh", "-c", f"echo {HOST} {DOMAIN} >>/etc/hosts"])
                task = {
                    "do": "requests",
                    "url": f"https://{DOMAIN}",
                    "ca": certificate,
                    "key": deployed.settings.secrets.qdrant_api_key.get_secret_value(),
                    "requests": [{"method": "GET", "path": "/collections"}],
                }
                answers = visit(allowed, task)
            assert answers[0]["status"] == 200, answers
    finally:
        deploy()


def test_a_tunnel_needs_no_edge(deployed: Environment) -> None:
    key = deployed.settings.secrets.qdrant_api_key.get_secret_value()
    try:
        with changed_environment(settings=edge_settings('mode = "tunnel"')) as name:
            done = deploy(environment=name)
            assert done.returncode == 0, done.stdout + done.stderr
            assert not holds(f"docker inspect {EDGE}")
            with client("allowed") as allowed:
                assert open_ports(allowed) == both({22})
            with Remote(deployed).forward(6333) as port:
                url = f"http://127.0.0.1:{port}/collections"
                request = urllib.request.Request(url, headers={"api-key": key})
                with urllib.request.urlopen(request, timeout=10) as answer:
                    names = {c["name"] for c in json.load(answer)["result"]["collections"]}
                assert "knowledge_library" in names
                with pytest.raises(urllib.error.HTTPError, match="401"):
                    urllib.request.urlopen(url, timeout=10)
    finally:
        deploy()
