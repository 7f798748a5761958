"""Every file of a stack is what it claims to be, keeps its secrets, and changes only with cause."""

from __future__ import annotations

import io
import itertools
import re
from typing import Any

import pytest
import stacks
from dotenv import dotenv_values
from hypothesis import given, settings
from hypothesis import strategies as st
from stacks import MakeEnvironment, Render, Rendered, mib

from ops.errors import SettingsError
from ops.render import memory
from ops.render import project as project_module
from ops.render.files import read_compose
from ops.render.project import GitBuild
from ops.settings import Environment

PLAIN = "a" * 40
BASE = stacks.case("internal", "image")
TUNNEL = stacks.case("tunnel", "none")


# -- every file is what it claims to be ------------------------------------------------------


def test_each_kind_has_its_files_and_no_others(each_kind: Rendered, kind: tuple[str, str]) -> None:
    mode, api = kind
    expected = {"compose.yaml", "trial.yaml", ".env", "qdrant/local.yaml"}
    if mode != "tunnel":
        expected |= {"edge.yaml", "edge-after.yaml", "trial-edge.yaml", "edge/Caddyfile"}
    if mode in ("acme", "external"):
        expected.add(f"{mode}.yaml")
    if api != "none":
        expected |= {"api.yaml", "api/api.env"}
        expected |= set() if mode == "tunnel" else {"edge-api.yaml"}
    assert set(each_kind.files) == expected


def test_modes_and_owners(each_kind: Rendered) -> None:
    expected = {
        ".env": (0o600, 0, False),
        "qdrant/local.yaml": (0o400, 1000, True),
        "edge/Caddyfile": (0o400, 0, True),
        "api/api.env": (0o600, 0, True),
    }
    for name, file in each_kind.files.items():
        assert (file.mode, file.uid, file.secret) == expected.get(name, (0o644, 0, False)), name


@pytest.mark.parametrize("address", stacks.ADDRESSES)
def test_every_file_is_what_its_name_says(
    render: Render, kind: tuple[str, str], address: str
) -> None:
    for name, file in render(address=address, **stacks.case(*kind)).files.items():
        if name == ".env":
            values = stacks.dotenv(file.content)
            assert values["COMPOSE_PROJECT_NAME"] == "stackroom"
            assert values == dotenv_values(stream=io.StringIO(file.content), interpolate=True)
        elif name == "qdrant/local.yaml":
            assert isinstance(stacks.load(file.content)["service"], dict)
        elif name == "api/api.env":
            assert set(stacks.dotenv(file.content)) == {"QDRANT_API_KEY", "MISTRAL_API_KEY"}
        elif name != "edge/Caddyfile":  # that one is for test_edge_config
            known = {"name", "services", "networks", "volumes"}
            assert set(stacks.load(file.content)) <= known, name
            assert re.fullmatch(r"[a-z-]+\.yaml", name), name


def test_env_holds_exactly_the_variables_that_compose_asks_for(each_kind: Rendered) -> None:
    def asked(names: list[str]) -> set[str]:
        return stacks.variables([stacks.load(each_kind.text(name)) for name in names])

    read = each_kind.compose_files
    assert len(read) == len(set(read))
    trial = each_kind.trial_files
    loose = {name for name in each_kind.files if "/" not in name and name != ".env"}
    assert {*read, *trial} == loose, "a compose file that nothing reads"
    assert asked(read) == set(each_kind.env) - stacks.FOR_OTHERS
    assert asked(trial) <= asked(read)


def test_the_same_input_renders_the_same_bytes(
    each_kind: Rendered, kind: tuple[str, str], render: Render
) -> None:
    assert render(**stacks.case(*kind)).stack == each_kind.stack


@pytest.mark.parametrize("path", ["/a b", "/a:b", "/a$b", '/a"b', "/a#b", "/a\\b", "a", "/a{b"])
def test_a_path_that_compose_would_read_otherwise_is_refused(
    make_environment: MakeEnvironment, path: str
) -> None:
    case = stacks.case("external", "none")
    case["edge"] |= {"private_key": path}
    with pytest.raises(SettingsError, match="private_key"):
        make_environment(**case)


def test_a_path_with_letters_of_any_language_arrives(render: Render) -> None:
    case = stacks.case("external", "none")
    case["edge"] |= {"certificate": "/etc/ssl/schlüssel_1+2@kb.pem"}
    mounts = render(**case).services["edge"]["volumes"]
    assert "/etc/ssl/schlüssel_1+2@kb.pem" in [m["source"] for m in mounts if m["type"] == "bind"]


# -- Qdrant's configuration ------------------------------------------------------------------


@pytest.mark.parametrize("dashboard", [True, False, None])
@pytest.mark.parametrize("mode", stacks.MODES)
def test_qdrant_is_closed_by_its_own_configuration(
    render: Render, canaries: dict[str, str], mode: str, dashboard: bool | None
) -> None:
    chosen = {} if dashboard is None else {"qdrant": {"dashboard": dashboard}}
    document = render(**chosen, **stacks.case(mode, "none")).qdrant_config
    service = document["service"]
    assert service["api_key"] == canaries["qdrant_api_key"]
    assert service["alt_api_key"] == canaries["qdrant_alt_api_key"]
    assert service["jwt_rbac"] is True
    assert service["enable_cors"] is False
    assert service["enable_static_content"] is bool(dashboard)
    assert service["hide_jwt_dashboard"] is True
    assert service["enable_snapshot_url_recovery"] is False
    assert document["telemetry_disabled"] is True
    assert document["audit"]["enabled"] is True
    # Qdrant refuses to start where it cannot write it; the storage is the only writable place
    assert document["audit"]["dir"].startswith(document["storage"]["storage_path"])
    assert document["audit"]["trust_forwarded_headers"] is (mode != "tunnel")


def test_without_a_second_key_there_is_no_empty_one(render: Render) -> None:
    rendered = render(secrets={"qdrant_alt_api_key": None})
    assert "alt_api_key" not in rendered.text("qdrant/local.yaml")


@pytest.mark.parametrize(
    ("max_body", "megabytes"), [("64MB", 64), ("2GB", 2000), ("500KB", 1), ("2500KB", 3)]
)
def test_qdrant_takes_what_the_edge_lets_in(render: Render, max_body: str, megabytes: int) -> None:
    rendered = render(edge={"mode": "internal", "max_body": max_body})
    assert rendered.qdrant_config["service"]["max_request_size_mb"] == megabytes
    assert memory.body_limit_mb(max_body) == megabytes


# -- secrets ---------------------------------------------------------------------------------


def test_secrets_stand_only_in_the_secret_files_of_those_who_read_them(
    each_kind: Rendered, kind: tuple[str, str], canaries: dict[str, str]
) -> None:
    mode, api_kind = kind
    holding = {
        secret: {name for name, file in each_kind.files.items() if value in file.content}
        for secret, value in canaries.items()
    }
    api = {"api/api.env"} if api_kind != "none" else set()
    assert holding == {
        "qdrant_api_key": {"qdrant/local.yaml"},
        # while the key is rotated, the api has the new one: it is not started anew for the end
        "qdrant_alt_api_key": {"qdrant/local.yaml"} | api,
        "api_token": {"edge/Caddyfile"} if api and mode != "tunnel" else set(),
        "mistral_api_key": api,
    }
    secret = {name for name, file in each_kind.files.items() if file.secret}
    assert set().union(*holding.values()) <= secret
    outside = repr((each_kind.stack.services, each_kind.stack.volumes, each_kind.stack.build))
    assert not [name for name, value in canaries.items() if value in outside]


SECRETS = ("qdrant_api_key", "qdrant_alt_api_key", "api_token", "mistral_api_key")
ODD = ['"', "'", "$HOME", "${X}", "{env.HOME}", "\\", "\\nX=1", "{", "}", "*", "`", "#", " ", "\n"]
ODD += ["\t", "é", ":", '" x', "$", "ä" * 40]


@pytest.mark.parametrize(("name", "odd"), [*itertools.product(SECRETS, ODD)])
def test_a_secret_that_a_file_would_read_otherwise_is_refused(
    render: Render, name: str, odd: str
) -> None:
    for value in (f"{odd}{PLAIN}", f"{PLAIN}{odd}{PLAIN}", f"{PLAIN}{odd}"):
        with pytest.raises(SettingsError, match=rf"secrets\.{name} must be of") as refused:
            render(secrets={name: value}, **BASE)
        assert PLAIN not in f"{refused.value} {refused.value.message} {refused.value.hint}"


@pytest.mark.parametrize(
    "value",
    [
        "aZ09._~+/-0123456789012345678901234==",
        # what YAML would take for something else: a number, a date
        *("1" * 40, "2026-01-01-" + "0" * 30, "0x" + "1" * 40, "1e" + "9" * 40),
    ],
)
def test_every_letter_a_token_may_have_arrives(render: Render, value: str) -> None:
    rendered = render(secrets=dict.fromkeys(SECRETS, value), **BASE)
    service = rendered.qdrant_config["service"]
    assert service["api_key"] == service["alt_api_key"] == value
    lines = rendered.text("api/api.env").splitlines()
    assert lines == [f"QDRANT_API_KEY={value}", f"MISTRAL_API_KEY={value}"]
    assert f'"Bearer {value}"' in rendered.text("edge/Caddyfile")


# -- the api ---------------------------------------------------------------------------------


def test_the_api_gets_what_it_is_promised(render: Render, canaries: dict[str, str]) -> None:
    rendered = render(**BASE)
    lines = dict(line.split("=", 1) for line in rendered.text("api/api.env").splitlines())
    assert lines == {
        "QDRANT_API_KEY": canaries["qdrant_alt_api_key"],
        "MISTRAL_API_KEY": canaries["mistral_api_key"],
    }
    alone = {"qdrant_api_key": PLAIN, "qdrant_alt_api_key": None, "mistral_api_key": None}
    without = render(secrets=alone, **BASE)
    assert without.text("api/api.env") == f"QDRANT_API_KEY={PLAIN}\n"
    api = rendered.services["api"]
    assert api["environment"]["QDRANT_URL"] == "http://qdrant:6333"
    assert api["environment"]["QDRANT_PORT"] == "6333"
    mounts = {mount["target"] for mount in api["volumes"]}
    assert mounts == {"/data/library", "/data/sessions", "/data/configs"}


def test_an_api_from_git_is_built_under_a_tag_of_its_own(render: Render) -> None:
    def build(ref: str, repository: str = "https://example.com/api") -> GitBuild:
        rendered = render(api={"git": {"repository": repository, "ref": ref}})
        found = rendered.stack.build
        assert found is not None
        assert (found.repository, found.ref) == (repository, ref)
        assert rendered.env["API_IMAGE"] == found.image
        return found

    refs = ["feature/x", "feature-x", "v1.4.0", "a" * 200, "a" * 201]
    images = [build(ref).image for ref in refs] + [build("v1.4.0", "https://example.com/b").image]
    assert len(set(images)) == len(images)
    for image in images:
        assert re.fullmatch(r"stackroom-api:[\w][\w.-]{0,127}", image)
    assert render(**BASE).stack.build is None


# -- what a change restarts ------------------------------------------------------------------


def changed(before: Rendered, after: Rendered) -> set[str]:
    return {name for name, value in before.digests.items() if after.digests.get(name) != value}


# settings -> the services that must start anew, and no other
EFFECTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "the same again": ({}, set()),
    "port of the edge": ({"edge": {"port": 4443}}, {"edge"}),
    # Qdrant takes what the edge lets in
    "body limit": ({"edge": {"max_body": "10MB"}}, {"edge", "qdrant"}),
    "body limit in other words": ({"edge": {"max_body": "64000KB"}}, {"edge"}),
    "log rotation": ({"docker": {"log_max_files": 3}}, {"edge", "qdrant", "api"}),
    "version of Caddy": ({"edge": {"version": "2.11.3"}}, {"edge"}),
    "port of the api at the edge": ({"edge": {"api_port": 9443}}, {"edge"}),
    "version of Qdrant": ({"qdrant": {"version": "v1.19.1"}}, {"qdrant"}),
    "dashboard": ({"qdrant": {"dashboard": True}}, {"qdrant"}),
    "memory of Qdrant": ({"qdrant": {"memory": "2G"}}, {"qdrant"}),
    "open files of Qdrant": ({"qdrant": {"open_files": 70000}}, {"qdrant"}),
    "image of the api": ({"api": {"image": "ghcr.io/example/api:1.5.0"}}, {"api"}),
    "user of the api": ({"api": {"user": 1001}}, {"api"}),
    "port of the api": ({"api": {"port": 8001}}, {"api", "edge"}),
    # what is left for Qdrant changes with it
    "memory of the api": ({"api": {"memory": "2G"}}, {"api", "qdrant"}),
    "old key of Qdrant": ({"secrets": {"qdrant_api_key": "n" * 40}}, {"qdrant"}),
    "new key of Qdrant": ({"secrets": {"qdrant_alt_api_key": "n" * 40}}, {"qdrant", "api"}),
    "token of the api": ({"secrets": {"api_token": "n" * 40}}, {"edge"}),
    "key of Mistral": ({"secrets": {"mistral_api_key": "n" * 40}}, {"api"}),
    "a collection": ({"collections": {"new": {"vector": {"size": 8}}}}, set()),
    "the firewall": ({"firewall": {"rollback_seconds": 60}}, set()),
    "the journal": ({"host": {"journal_max": "2G"}}, set()),
    "certificates of Let's Encrypt": ({"edge": stacks.case("acme", "none")["edge"]}, {"edge"}),
    "certificates of the team": ({"edge": stacks.case("external", "none")["edge"]}, {"edge"}),
    "another machine": ({"address": "198.51.100.11"}, {"edge"}),
}


@pytest.mark.parametrize("name", EFFECTS)
def test_a_change_restarts_what_it_must_and_nothing_else(render: Render, name: str) -> None:
    change, effect = EFFECTS[name]
    combined = BASE | {
        key: BASE.get(key, {}) | value if isinstance(value, dict) else value
        for key, value in change.items()
    }
    assert changed(render(**BASE), render(**combined)) == effect


def test_the_end_of_a_rotation_restarts_nothing_but_qdrant(
    render: Render, canaries: dict[str, str]
) -> None:
    newer = {"qdrant_api_key": canaries["qdrant_alt_api_key"], "qdrant_alt_api_key": None}
    assert changed(render(**BASE), render(secrets=newer, **BASE)) == {"qdrant"}


def test_a_new_api_leaves_qdrant_running(render: Render) -> None:
    fixed = {"qdrant": {"memory": "2G"}}  # "auto" shares the memory out anew
    assert changed(render(edge=BASE["edge"], **fixed), render(**BASE, **fixed)) == {"edge"}


def test_more_processors_restart_what_is_capped_by_them(make_environment: MakeEnvironment) -> None:
    environment = make_environment(qdrant={"memory": "2G"}, **BASE)
    before = stacks.rendered(environment)
    assert changed(before, stacks.rendered(environment, cpus=8)) == {"qdrant", "api"}
    assert changed(before, stacks.rendered(environment, memory_mib=16384)) == set()


# text of a compose file -> what stands there instead -> the services that must start anew
EDITS = [
    ("qdrant/compose.yaml", "pids_limit: 2048", "pids_limit: 4096", {"qdrant"}),
    ("qdrant/compose.yaml", "172.30.240.0/24", "172.30.241.0/24", {"qdrant", "edge", "api"}),
    ("qdrant/compose.yaml", "stackroom_qdrant_storage", "stackroom_other_storage", {"qdrant"}),
    ("edge/compose.yaml", "pids_limit: 256", "pids_limit: 512", {"edge"}),
    ("edge/api.yaml", '"[::]:', '"[::1]:', {"edge"}),
    ("qdrant/api.yaml", "pids_limit: 512", "pids_limit: 256", {"api"}),
    ("qdrant/trial.yaml", "512m", "256m", set()),
    ("*", "services:", "# a remark\nservices:", set()),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: f"{edit[0]}: {edit[1]}")
def test_an_edited_compose_file_restarts_the_services_it_shapes(
    render: Render, monkeypatch: pytest.MonkeyPatch, edit: tuple[str, str, str, set[str]]
) -> None:
    name, old, new, effect = edit
    before = render(**BASE)

    def edited(asked: str) -> str:
        text = read_compose(asked)
        return text.replace(old, new) if name in (asked, "*") else text

    monkeypatch.setattr(project_module, "read_compose", edited)
    after = render(**BASE)
    assert after.stack.files != before.stack.files, "nothing read the edited file"
    assert changed(before, after) == effect


# -- memory ----------------------------------------------------------------------------------

SIZES = st.one_of(
    st.integers(1, 65536).map(lambda n: f"{n}M"), st.integers(1, 64).map(lambda n: f"{n}G")
)


@pytest.fixture(scope="session")
def any_environment(make_environment: MakeEnvironment) -> Environment:
    """One with an edge and an api."""
    return make_environment(**BASE)


@settings(max_examples=300, deadline=None)
@given(
    host=st.integers(0, 262_144),
    size=st.one_of(st.just("auto"), SIZES),
    api=st.one_of(st.none(), SIZES),
)
def test_limits_never_exceed_the_host(
    any_environment: Environment, host: int, size: str, api: str | None
) -> None:
    chosen = any_environment.settings
    assert chosen.api
    wanted = chosen.model_copy(
        update={
            "qdrant": chosen.qdrant.model_copy(update={"memory": size}),
            "api": chosen.api.model_copy(update={"memory": api}) if api else None,
        }
    )
    others = memory.SYSTEM_MIB + memory.EDGE_MIB + (mib(api) if api else 0)
    asked = (host - others) // 128 * 128 if size == "auto" else mib(size)
    if asked >= memory.SMALLEST_QDRANT_MIB and others + asked <= host:
        assert memory.qdrant_memory_mib(wanted, host) == asked
        return
    with pytest.raises(SettingsError, match=r"qdrant\.memory") as refused:
        memory.qdrant_memory_mib(wanted, host)
    assert str(host) in refused.value.message
    assert "machine" in refused.value.hint


@pytest.mark.parametrize(
    ("chosen", "host", "limit"),
    [
        (BASE, 2000, None),  # a 2 GB machine has no room for an api of 1G
        (BASE, 2048, None),
        (BASE, 2816, "512m"),
        (BASE, 4096, "1792m"),
        (BASE, 8192, "5888m"),
        (TUNNEL, 1200, None),
        (TUNNEL, 7800, "6912m"),
        # another kernel reports a little less, and nothing restarts
        (BASE, 4100, "1792m"),
        (BASE, 4221, "1792m"),
        ({"qdrant": {"memory": "100M"}}, 7800, None),
        ({"qdrant": {"memory": "3G"}}, 7800, "3072m"),
        ({"qdrant": {"memory": "8G"}}, 7800, None),
    ],
)
def test_qdrant_gets_what_is_left_or_asked_for_and_a_small_host_is_refused(
    render: Render, chosen: dict[str, Any], host: int, limit: str | None
) -> None:
    if limit:
        assert render(memory_mib=host, **chosen).env["QDRANT_MEMORY"] == limit
        return
    with pytest.raises(SettingsError, match="do not fit") as refused:
        render(memory_mib=host, **chosen)
    assert "qdrant.memory" in refused.value.hint
