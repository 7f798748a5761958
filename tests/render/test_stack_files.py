"""Every file of a stack is what it claims to be, keeps its secrets, and changes only with cause."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import stacks
from hypothesis import given, settings
from hypothesis import strategies as st

import ops.render.stack as stack_module
from ops.errors import SettingsError
from ops.render.files import read_compose
from ops.render.memory import EDGE_MIB, SMALLEST_QDRANT_MIB, SYSTEM_MIB, qdrant_memory_mib
from ops.render.stack import render_stack
from ops.settings import Environment

pytest_plugins = ("environments",)

KINDS = list(itertools.product(stacks.MODES, stacks.APIS))
CASES = list(itertools.product(stacks.MODES, stacks.APIS, stacks.ADDRESSES))


@pytest.mark.parametrize(("mode", "api", "address"), CASES)
def test_every_file_is_what_its_name_says(
    make_environment: stacks.MakeEnvironment, mode: str, api: str, address: str
) -> None:
    files = stacks.by_name(
        stacks.rendered(make_environment(address=address, **stacks.case(mode, api)))
    )
    for name, file in files.items():
        if name == ".env":
            assert stacks.dotenv(file.content)["COMPOSE_PROJECT_NAME"] == "stackroom"
        elif name == "qdrant/local.yaml":
            assert isinstance(stacks.load(file.content)["service"], dict)
        elif name == "api/api.env":
            assert set(stacks.dotenv(file.content)) == {"QDRANT_API_KEY", "MISTRAL_API_KEY"}
        elif name == "edge/Caddyfile":
            assert mode != "tunnel"  # its text is for test_edge_config
        else:
            known = {"name", "services", "networks", "volumes"}
            assert set(stacks.load(file.content)) <= known, name
            assert re.fullmatch(r"[a-z-]+\.yaml", name), name


@pytest.mark.parametrize(("mode", "api"), KINDS)
def test_env_holds_exactly_the_variables_that_compose_asks_for(
    make_environment: stacks.MakeEnvironment, mode: str, api: str
) -> None:
    files = stacks.by_name(stacks.rendered(make_environment(**stacks.case(mode, api))))
    values = stacks.dotenv(files[".env"].content)
    read = values["COMPOSE_FILE"].split(":")
    assert len(read) == len(set(read))
    loose = {name for name in files if "/" not in name and name != ".env"}
    assert set(read) | set(stacks.TRIAL) >= loose, "a compose file that nothing reads"
    trial = [name for name in stacks.TRIAL if name in files]
    assert "trial.yaml" in trial
    assert ("trial-edge.yaml" in trial) == (mode != "tunnel")
    asked = set().union(*(stacks.variables(stacks.load(files[name].content)) for name in read))
    asked_in_trial = set().union(
        *(stacks.variables(stacks.load(files[name].content)) for name in trial)
    )
    assert asked == set(values) - {"COMPOSE_FILE", "COMPOSE_PROJECT_NAME"}
    assert asked_in_trial <= asked


@pytest.mark.parametrize(("mode", "api"), KINDS)
def test_what_is_mounted_is_there(
    make_environment: stacks.MakeEnvironment, mode: str, api: str
) -> None:
    stack = stacks.rendered(make_environment(**stacks.case(mode, api)))
    files, project = stacks.by_name(stack), stacks.project(stack)
    assert set(project["services"]) == {service.name for service in stack.services}
    for name, service in project["services"].items():
        sources = [
            mount["source"] if isinstance(mount, dict) else mount.split(":")[0]
            for mount in service["volumes"]
            if not isinstance(mount, dict) or mount["type"] == "bind"
        ] + service.get("env_file", [])
        for source in sources:
            if source.startswith("./"):
                assert source[2:] in files, f"{name} mounts {source}"
                assert source.startswith(f"./{name}/"), "not in the digest of this service"
    named = {volume["name"] for volume in project["volumes"].values()}
    assert named == {volume.name for volume in stack.volumes}
    by_service = {service.name: service for service in stack.services}
    for name, service in project["services"].items():
        assert service["image"] == by_service[name].image
        assert service["labels"]["stackroom.config"] == by_service[name].config_sha256


@pytest.mark.parametrize("dashboard", [True, False])
@pytest.mark.parametrize("mode", stacks.MODES)
def test_qdrant_is_closed_by_its_own_configuration(
    make_environment: stacks.MakeEnvironment, canaries: dict[str, str], mode: str, dashboard: bool
) -> None:
    environment = make_environment(qdrant={"dashboard": dashboard}, **stacks.case(mode, "none"))
    document = stacks.load(
        stacks.by_name(stacks.rendered(environment))["qdrant/local.yaml"].content
    )
    service = document["service"]
    assert service["api_key"] == canaries["qdrant_api_key"]
    assert service["alt_api_key"] == canaries["qdrant_alt_api_key"]
    assert service["jwt_rbac"] is True
    assert service["enable_cors"] is False
    assert service["enable_static_content"] is dashboard
    assert service["hide_jwt_dashboard"] is True
    assert service["enable_snapshot_url_recovery"] is False
    assert document["telemetry_disabled"] is True
    assert document["audit"]["enabled"] is True
    # Qdrant refuses to start where it cannot write it; the storage is the only writable place
    assert document["audit"]["dir"].startswith(document["storage"]["storage_path"])
    assert document["audit"]["trust_forwarded_headers"] is (mode != "tunnel")


def test_without_a_second_key_there_is_no_empty_one(
    make_environment: stacks.MakeEnvironment,
) -> None:
    environment = make_environment(secrets={"qdrant_alt_api_key": None})
    files = stacks.by_name(stacks.rendered(environment))
    assert "alt_api_key" not in files["qdrant/local.yaml"].content


# -- secrets ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "api"), KINDS)
def test_secrets_are_in_secret_files_only(
    make_environment: stacks.MakeEnvironment, canaries: dict[str, str], mode: str, api: str
) -> None:
    stack = stacks.rendered(make_environment(**stacks.case(mode, api)))
    holding = set()
    for name, file in stacks.by_name(stack).items():
        if file.secret:
            holding.add(name)
            assert file.mode in (0o400, 0o600), name
        else:
            assert not [s for s, value in canaries.items() if value in file.content], name
    expected = {"qdrant/local.yaml"}
    expected |= {"edge/Caddyfile"} if mode != "tunnel" else set()
    expected |= {"api/api.env"} if api != "none" else set()
    assert holding == expected
    outside = repr((stack.services, stack.volumes, stack.build))
    assert not [name for name, value in canaries.items() if value in outside]


ODD = ['"', "'", "$HOME", "${X}", "\\", "{", "}", "*", "`", "#", " ", "\n", "\t", "é", ":"]


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        *(("api_token", odd) for odd in ODD),
        *((name, "$") for name in ("qdrant_api_key", "qdrant_alt_api_key", "mistral_api_key")),
    ],
)
def test_a_secret_that_a_file_would_read_otherwise_is_refused(
    make_environment: stacks.MakeEnvironment, name: str, odd: str
) -> None:
    value = f"front-0123456789abcdef{odd}back-0123456789abcdef"
    with pytest.raises(SettingsError, match=name) as refused:
        stacks.rendered(make_environment(secrets={name: value}, **stacks.case("internal", "image")))
    assert "0123456789abcdef" not in f"{refused.value.message} {refused.value.hint}"


def test_every_letter_a_token_may_have_arrives(make_environment: stacks.MakeEnvironment) -> None:
    value = "aZ09._~+/-0123456789012345678901234=="
    names = ("qdrant_api_key", "qdrant_alt_api_key", "api_token", "mistral_api_key")
    environment = make_environment(
        secrets=dict.fromkeys(names, value), **stacks.case("internal", "image")
    )
    files = stacks.by_name(stacks.rendered(environment))
    service = stacks.load(files["qdrant/local.yaml"].content)["service"]
    assert service["api_key"] == service["alt_api_key"] == value
    lines = files["api/api.env"].content.splitlines()
    assert lines == [f"QDRANT_API_KEY={value}", f"MISTRAL_API_KEY={value}"]
    assert f'"Bearer {value}"' in files["edge/Caddyfile"].content


@pytest.mark.parametrize("path", ["/a b", "/a:b", "/a$b", '/a"b', "/a#b", "/a\\b", "a", "/a{b"])
def test_a_path_that_compose_would_read_otherwise_is_refused(
    make_environment: stacks.MakeEnvironment, path: str
) -> None:
    case = stacks.case("external", "none")
    case["edge"]["private_key"] = path
    with pytest.raises(SettingsError, match="private_key"):
        make_environment(**case)


def test_a_path_with_letters_of_any_language_arrives(
    make_environment: stacks.MakeEnvironment,
) -> None:
    case = stacks.case("external", "none")
    case["edge"]["certificate"] = "/etc/ssl/schlüssel_1+2@kb.pem"
    project = stacks.project(stacks.rendered(make_environment(**case)))
    mounts = [mount for mount in project["services"]["edge"]["volumes"] if mount["type"] == "bind"]
    assert case["edge"]["certificate"] in [mount["source"] for mount in mounts]


# -- what a change restarts ------------------------------------------------------------------


def digests(environment: Environment, memory: int = 8192, cpus: int = 4) -> dict[str, str]:
    stack = render_stack(environment, memory, cpus)
    return {service.name: service.config_sha256 for service in stack.services}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if after.get(name, before[name]) != before[name]}


BASE: dict[str, Any] = {
    "edge": {"mode": "internal"},
    "api": {"image": "ghcr.io/example/api:1.4.0"},
}
# settings -> the services that must start anew, and no other
EFFECTS: list[tuple[str, dict[str, Any], set[str]]] = [
    ("the same again", {}, set()),
    ("port of the edge", {"edge": {"port": 4443}}, {"edge"}),
    # Qdrant takes what the edge lets in
    ("body limit", {"edge": {"max_body": "10MB"}}, {"edge", "qdrant"}),
    ("log rotation", {"docker": {"log_max_files": 3}}, {"edge", "qdrant", "api"}),
    ("version of Caddy", {"edge": {"version": "2.11.3"}}, {"edge"}),
    ("port of the api at the edge", {"edge": {"api_port": 9443}}, {"edge"}),
    ("version of Qdrant", {"qdrant": {"version": "v1.19.1"}}, {"qdrant"}),
    ("dashboard", {"qdrant": {"dashboard": True}}, {"qdrant"}),
    ("memory of Qdrant", {"qdrant": {"memory": "2G"}}, {"qdrant"}),
    ("open files of Qdrant", {"qdrant": {"open_files": 70000}}, {"qdrant"}),
    ("image of the api", {"api": {"image": "ghcr.io/example/api:1.5.0"}}, {"api"}),
    ("user of the api", {"api": {"user": 1001}}, {"api"}),
    ("port of the api", {"api": {"port": 8001}}, {"api", "edge"}),
    # what is left for Qdrant changes with it
    ("memory of the api", {"api": {"memory": "2G"}}, {"api", "qdrant"}),
    ("key of Qdrant", {"secrets": {"qdrant_api_key": "n" * 40}}, {"qdrant", "api"}),
    ("second key", {"secrets": {"qdrant_alt_api_key": "n" * 40}}, {"qdrant"}),
    ("token of the api", {"secrets": {"api_token": "n" * 40}}, {"edge"}),
    ("key of Mistral", {"secrets": {"mistral_api_key": "n" * 40}}, {"api"}),
    ("a collection", {"collections": {"new": {"vector": {"size": 8}}}}, set()),
    ("the firewall", {"firewall": {"rollback_seconds": 60}}, set()),
    ("the journal", {"host": {"journal_max": "2G"}}, set()),
    ("another machine", {"address": "198.51.100.11"}, {"edge"}),
]


@pytest.mark.parametrize(
    ("change", "effect"), [e[1:] for e in EFFECTS], ids=[e[0] for e in EFFECTS]
)
def test_a_change_restarts_what_it_must_and_nothing_else(
    make_environment: stacks.MakeEnvironment, change: dict[str, Any], effect: set[str]
) -> None:
    combined = BASE | {
        key: BASE.get(key, {}) | value if isinstance(value, dict) else value
        for key, value in change.items()
    }
    before = digests(make_environment(**BASE))
    assert changed(before, digests(make_environment(**combined))) == effect


def test_the_same_input_renders_the_same_bytes(make_environment: stacks.MakeEnvironment) -> None:
    first, second = (stacks.rendered(make_environment(**BASE)) for _ in range(2))
    assert first == second


def test_a_new_api_leaves_qdrant_running(make_environment: stacks.MakeEnvironment) -> None:
    before = digests(make_environment(edge={"mode": "internal"}, qdrant={"memory": "2G"}))
    after = digests(make_environment(qdrant={"memory": "2G"}, **BASE))
    assert changed(before, after) == {"edge"}


@pytest.mark.parametrize("mode", ["acme", "external"])
def test_another_kind_of_certificate_restarts_only_the_edge(
    make_environment: stacks.MakeEnvironment, mode: str
) -> None:
    before = digests(make_environment(**stacks.case("internal", "image")))
    after = digests(make_environment(**stacks.case(mode, "image")))
    assert changed(before, after) == {"edge"}


def test_more_processors_restart_what_is_capped_by_them(
    make_environment: stacks.MakeEnvironment,
) -> None:
    environment = make_environment(qdrant={"memory": "2G"}, **BASE)
    assert changed(digests(environment), digests(environment, cpus=8)) == {"qdrant", "api"}
    assert changed(digests(environment), digests(environment, memory=16384)) == set()


# text of a compose file -> what stands there instead -> the services that must start anew
EDITS = [
    ("qdrant/compose.yaml", "pids_limit: 2048", "pids_limit: 4096", {"qdrant"}),
    ("qdrant/compose.yaml", "172.30.240.0/24", "172.30.241.0/24", {"qdrant", "edge", "api"}),
    ("qdrant/compose.yaml", "stackroom_qdrant_storage", "stackroom_other_storage", {"qdrant"}),
    ("edge/compose.yaml", "pids_limit: 256", "pids_limit: 512", {"edge"}),
    ("edge/api.yaml", '"[::]:', '"[::1]:', {"edge"}),
    ("qdrant/api.yaml", "pids_limit: 512", "pids_limit: 256", {"api"}),
    ("qdrant/trial.yaml", "512m", "256m", set()),
    ("qdrant/compose.yaml", "# Qdrant:", "# The server:", set()),
]


@pytest.mark.parametrize(("name", "old", "new", "effect"), EDITS)
def test_an_edited_compose_file_restarts_the_services_it_shapes(
    make_environment: stacks.MakeEnvironment,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    old: str,
    new: str,
    effect: set[str],
) -> None:
    environment = make_environment(**BASE)
    before = digests(environment)

    def edited(asked: str) -> str:
        text = read_compose(asked)
        if asked != name:
            return text
        assert old in text
        return text.replace(old, new)

    monkeypatch.setattr(stack_module, "read_compose", edited)
    assert changed(before, digests(environment)) == effect


# -- memory ----------------------------------------------------------------------------------

SIZES = st.one_of(
    st.integers(1, 65536).map(lambda n: f"{n}M"), st.integers(1, 64).map(lambda n: f"{n}G")
)


@settings(max_examples=300, deadline=None)
@given(
    host=st.integers(0, 262_144),
    memory=st.one_of(st.just("auto"), SIZES),
    api=st.one_of(st.none(), SIZES),
)
def test_limits_never_exceed_the_host(
    any_environment: Environment, host: int, memory: str, api: str | None
) -> None:
    chosen = any_environment.settings
    assert chosen.api
    wanted = chosen.model_copy(
        update={
            "qdrant": chosen.qdrant.model_copy(update={"memory": memory}),
            "api": chosen.api.model_copy(update={"memory": api}) if api else None,
        }
    )
    others = SYSTEM_MIB + EDGE_MIB + (mib(api) if api else 0)
    asked = host - others if memory == "auto" else mib(memory)
    fits = asked >= SMALLEST_QDRANT_MIB and others + asked <= host
    if fits:
        assert qdrant_memory_mib(wanted, host) == asked
        return
    with pytest.raises(SettingsError, match=r"qdrant\.memory") as refused:
        qdrant_memory_mib(wanted, host)
    assert str(host) in refused.value.message
    assert "machine" in refused.value.hint


def mib(size: str) -> int:
    return int(size[:-1]) * {"M": 1, "G": 1024}[size[-1]]


@pytest.mark.parametrize(
    ("host", "limit"), [(2048, None), (2816, "512m"), (4096, "1792m"), (8192, "5888m")]
)
def test_auto_is_what_the_others_leave(
    make_environment: stacks.MakeEnvironment, host: int, limit: str | None
) -> None:
    environment = make_environment(**stacks.case("internal", "image"))
    if limit is None:
        with pytest.raises(SettingsError, match="do not fit"):
            render_stack(environment, host, 2)
        return
    env = stacks.by_name(render_stack(environment, host, 2))[".env"]
    assert stacks.dotenv(env.content)["QDRANT_MEMORY"] == limit


def test_the_limits_in_the_compose_files_are_those_the_memory_is_shared_by(
    make_environment: stacks.MakeEnvironment,
) -> None:
    project = stacks.project(stacks.rendered(make_environment(**stacks.case("internal", "image"))))
    services = project["services"].values()
    total = sum(mib(service["mem_limit"].upper()) for service in services)
    assert total + SYSTEM_MIB == stacks.MEMORY_MIB
