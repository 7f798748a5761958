"""The R2R stack's files: whole, closed, each service with its own secrets and no other's."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import stacks
from dotenv import dotenv_values
from r2r_stacks import FULL, GIVEN, HOSTS, MODELS, Rendered
from settings_lab import R2R_PASSWORDS

from ops.errors import SettingsError
from ops.render.files import ROOT, read_compose
from ops.render.project import FolderBuild
from ops.settings.r2r_keys import KEYS, lint

ORCHESTRATIONS = ("simple", "hatchet")


HELPER = {"version": "1.0", "memory": "2G"}
EDGE = {"edge.yaml", "edge-after.yaml", "trial-edge.yaml"}
BESIDE = {"dashboards": True, "unstructured": HELPER, "graph_clustering": HELPER}


@pytest.fixture(
    scope="module",
    params=[(kind, more) for kind in ORCHESTRATIONS for more in (False, True)],
    ids=["simple", "simple-all", "hatchet", "hatchet-all"],
)
def each(request: pytest.FixtureRequest) -> Rendered:
    """A full configuration, with either orchestration, without and with all that is optional."""
    orchestration, more = request.param
    return Rendered(orchestration=orchestration, **FULL, **(BESIDE if more else {}))


def toml_of(rendered: Rendered) -> dict[str, Any]:
    return tomllib.loads(rendered.text("r2r/r2r.toml"))


def env_of(rendered: Rendered, service: str, file: str = "") -> dict[str, str | None]:
    text = rendered.text(f"{service}/{file or service}.env")
    return dotenv_values(stream=io.StringIO(text), interpolate=True)


# -- compose and what it asks for ------------------------------------------------------------


def test_every_variable_that_compose_asks_for_is_supplied_and_no_other(each: Rendered) -> None:
    asked = set().union(
        *(stacks.variables(stacks.load(each.text(name))) for name in each.compose_files)
    )
    assert asked == set(each.env) - stacks.FOR_OTHERS


def test_every_file_that_compose_reads_is_supplied_and_no_other(each: Rendered) -> None:
    wanted: set[str] = set()
    for service in each.project["services"].values():
        wanted |= set(service.get("env_file", []))
        wanted |= {m["source"] for m in service.get("volumes", []) if m["type"] == "bind"}
    mine = {name.removeprefix("./") for name in wanted if name.startswith("./")}
    assert mine == set(each.files) - {*each.compose_files, *each.trial_files, ".env"}


def test_all_of_the_folder_that_the_image_is_built_from_arrives(each: Rendered) -> None:
    folder = ROOT / "compose" / "r2r" / "r2r"
    # what the lock is made from builds nothing
    made_from = {path.name for path in folder.iterdir() if path.suffix != ".in"}
    build = each.stack.build
    assert isinstance(build, FolderBuild)
    assert dict(build.files) == {
        name: (folder / name).read_text(encoding="utf-8") for name in made_from
    }
    assert each.project["services"]["r2r"]["image"] == build.image
    assert build.image.startswith("stackroom/r2r:3.6.6-")


def test_secrets_beside_the_build_are_kept_out_of_it() -> None:
    ignored = read_compose("r2r/r2r/.dockerignore").splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {line.removeprefix("!") for line in rules[1:]}
    assert all(line.startswith("!") for line in rules[1:])
    assert not {name for name in let_in if name.endswith((".env", ".toml"))}


def test_volumes_are_those_of_compose_and_belong_to_who_writes_them(each: Rendered) -> None:
    named = {said["name"] for said in each.project["volumes"].values()}
    assert {volume.name for volume in each.stack.volumes} == named
    owners = {volume.name: volume.uid for volume in each.stack.volumes}
    databases = {"stackroom_postgres", "stackroom_hatchet_postgres", "stackroom_rabbitmq"}
    owned = {name: 999 if name in databases else 1000 for name in named}
    assert owners == owned | dict.fromkeys(("stackroom_edge_data", "stackroom_edge_config"), 0)


def test_every_compose_file_there_is_belongs_to_some_settings() -> None:
    everything = Rendered(orchestration="hatchet", **BESIDE)
    there = {path.name for path in (ROOT / "compose" / "r2r").glob("*.yaml")}
    assert {*everything.compose_files, *everything.trial_files} - EDGE == there
    simple = Rendered(orchestration="simple", edge={"mode": "tunnel"})
    assert (simple.compose_files, simple.trial_files) == (["compose.yaml"], ["trial.yaml"])


# -- modes and secrets -----------------------------------------------------------------------


def test_modes_and_owners(each: Rendered) -> None:
    for name, file in each.files.items():
        seen = (file.mode, file.uid, file.secret)
        if name == "r2r/r2r.toml":
            assert seen == (0o400, 1000, True)
        elif name == "litellm/config.yaml":
            assert seen == (0o400, 1000, False)
        elif name == "edge/Caddyfile":
            assert seen == (0o400, 0, False)
        elif name.endswith(".env"):
            assert seen == (0o600, 0, name != ".env"), name
        else:
            assert seen == (0o644, 0, False), name


def test_a_service_sees_its_own_secrets_and_no_others(each: Rendered) -> None:
    values = R2R_PASSWORDS | {k: v for k, v in GIVEN.items() if isinstance(v, str)}
    values |= GIVEN["provider_keys"]  # type: ignore[arg-type]
    allowed = {
        "postgres/postgres.env": {"postgres_password"},
        "litellm/litellm.env": {"litellm_master_key", "MISTRAL_API_KEY"},
        "r2r/r2r.toml": {"admin_password"},
        "r2r/r2r.env": {"postgres_password", "secret_key", "litellm_master_key"}
        | {"s3_access_key", "s3_secret_key", "smtp_password"},
        "hatchet-postgres/postgres.env": {"hatchet_postgres_password"},
        "rabbitmq/rabbitmq.env": {"rabbitmq_password"},
        "hatchet-migrate/migrate.env": {"hatchet_postgres_password"},
        "hatchet/hatchet.env": {"hatchet_postgres_password", "rabbitmq_password"},
        "hatchet-setup/admin.env": {"hatchet_admin_password"},
    }
    for name in each.files:
        seen = {secret for secret, value in values.items() if value in each.text(name)}
        assert seen == allowed.get(name, set()), name
        assert each.files[name].secret >= bool(seen), name
        assert "UNUSED_KEY" not in seen


def test_both_ends_of_a_password_agree(each: Rendered) -> None:
    postgres, r2r, litellm = (env_of(each, name) for name in ("postgres", "r2r", "litellm"))
    assert r2r["R2R_POSTGRES_PASSWORD"] == postgres["POSTGRES_PASSWORD"]
    assert r2r["R2R_POSTGRES_USER"] == postgres["POSTGRES_USER"]
    assert r2r["R2R_POSTGRES_DBNAME"] == postgres["POSTGRES_DB"]
    assert r2r["OPENAI_API_KEY"] == litellm["LITELLM_MASTER_KEY"]


def test_both_ends_of_hatchets_passwords_agree() -> None:
    queue = Rendered(orchestration="hatchet")
    hatchet, rabbitmq = env_of(queue, "hatchet"), env_of(queue, "rabbitmq")
    postgres = env_of(queue, "hatchet-postgres", "postgres")
    for key in ("SERVER_MSGQUEUE_RABBITMQ_URL", "SERVER_TASKQUEUE_RABBITMQ_URL"):
        url = urlsplit(hatchet[key] or "")
        assert (url.username, url.password) == (
            rabbitmq["RABBITMQ_DEFAULT_USER"],
            rabbitmq["RABBITMQ_DEFAULT_PASS"],
        )
        assert (url.hostname, url.port) == ("rabbitmq", 5672)
    url = urlsplit(hatchet["DATABASE_URL"] or "")
    assert (url.hostname, url.path) == ("hatchet-postgres", f"/{postgres['POSTGRES_DB']}")
    assert (url.username, url.password) == (
        postgres["POSTGRES_USER"],
        postgres["POSTGRES_PASSWORD"],
    )
    assert hatchet["DATABASE_POSTGRES_PASSWORD"] == postgres["POSTGRES_PASSWORD"]
    admin = env_of(queue, "hatchet-setup", "admin")
    assert admin["ADMIN_PASSWORD"] == R2R_PASSWORDS["hatchet_admin_password"]


def test_the_broker_holds_its_publishers_up_before_its_limit() -> None:
    queue = Rendered(orchestration="hatchet")
    (limit,) = re.findall(r"absolute = (\d+)MiB", queue.text("rabbitmq/rabbitmq.conf"))
    assert 0 < int(limit) < 0.7 * int(queue.env["RABBITMQ_MEMORY"].removesuffix("m"))


def test_a_password_of_any_letters_arrives_unchanged(each: Rendered) -> None:
    assert env_of(each, "r2r")["R2R_SMTP_PASSWORD"] == GIVEN["smtp_password"]
    assert env_of(each, "r2r")["AWS_SECRET_ACCESS_KEY"] == GIVEN["s3_secret_key"]


def test_what_is_not_used_is_not_handed_out() -> None:
    plain = env_of(Rendered(), "r2r")
    assert not {"R2R_SMTP_PASSWORD", "AWS_ACCESS_KEY_ID", "MISTRAL_API_KEY"} & set(plain)


# -- labels ----------------------------------------------------------------------------------


def changed(before: Rendered, after: Rendered) -> set[str]:
    assert before.digests.keys() == after.digests.keys()
    return {name for name, digest in before.digests.items() if after.digests[name] != digest}


def test_every_lasting_service_carries_its_digest(each: Rendered) -> None:
    for name, service in each.project["services"].items():
        if service.get("restart") != "no":
            assert service["labels"]["stackroom.config"] == each.digests[name], name


@pytest.mark.parametrize(
    ("change", "services"),
    [
        ({}, set()),
        ({"access_token_minutes": 30}, {"r2r"}),
        ({"project": "other"}, {"r2r"}),
        ({"litellm": {"retries": 5}}, {"r2r", "litellm"}),
        ({"litellm": {"version": "v1.106.1"}}, {"litellm"}),
        ({"secrets": {"postgres_password": "p" * 40}}, {"r2r", "postgres"}),
        ({"secrets": {"admin_password": "p" * 40}}, {"r2r"}),
        ({"secrets": {"litellm_master_key": "sk-" + "p" * 40}}, {"r2r", "litellm"}),
        ({"secrets": {"provider_keys": {"MISTRAL_API_KEY": "new"}}}, {"litellm"}),
        # another kernel reports a little less memory
        ({"memory_mib": 15590}, set()),
    ],
)
def test_a_service_starts_anew_exactly_when_something_of_its_own_changed(
    change: dict[str, Any], services: set[str]
) -> None:
    before = Rendered(orchestration="simple")
    assert changed(before, Rendered(**{"orchestration": "simple"} | change)) == services


# -- r2r.toml --------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", HOSTS)
@pytest.mark.parametrize("orchestration", ORCHESTRATIONS)
def test_r2r_knows_every_key_that_is_written(profile: str, orchestration: str) -> None:
    memory_mib, cpus = HOSTS[profile]
    document = toml_of(
        Rendered(memory_mib, cpus, profile=profile, orchestration=orchestration, **FULL)
    )
    assert lint(document) == []
    if orchestration == "simple":
        more = Rendered(31700, 8, orchestration="simple", unstructured=HELPER)
        assert lint(toml_of(more)) == []
        assert toml_of(more)["ingestion"]["provider"] == "unstructured_local"


def test_r2r_is_closed_from_its_first_start(each: Rendered) -> None:
    auth = toml_of(each)["auth"]
    assert auth["require_authentication"] is True
    assert auth["default_admin_password"] == R2R_PASSWORDS["admin_password"]
    assert len(env_of(each, "r2r")["R2R_SECRET_KEY"] or "") >= 32


def test_the_project_is_the_same_in_both_places(each: Rendered) -> None:
    environment = each.project["services"]["r2r"]["environment"]
    assert toml_of(each)["app"]["project_name"] == environment["R2R_PROJECT_NAME"] == "stackroom"


def test_both_base_urls_lead_to_litellm_and_one_configuration_is_named(each: Rendered) -> None:
    seen = {**each.project["services"]["r2r"]["environment"], **env_of(each, "r2r")}
    assert seen["OPENAI_API_BASE"] == seen["OPENAI_BASE_URL"] == "http://litellm:4000/v1"
    mount = next(m for m in each.project["services"]["r2r"]["volumes"] if m["type"] == "bind")
    assert seen["R2R_CONFIG_PATH"] == mount["target"]
    assert "R2R_CONFIG_NAME" not in seen  # with both R2R refuses to start


def test_every_model_that_r2r_names_is_one_of_litellms(each: Rendered) -> None:
    document = toml_of(each)
    names = {value for key, value in document["app"].items() if key.endswith(("_llm", "vlm", "lm"))}
    names |= {document[table]["base_model"] for table in ("embedding", "completion_embedding")}
    served = {f"openai/{one['model_name']}" for one in each.litellm["model_list"]}
    assert names <= served
    assert document["embedding"]["base_model"] == "openai/text-embedding-3-team"
    both = ("base_model", "base_dimension", "batch_size", "provider")
    assert all(document["embedding"][k] == document["completion_embedding"][k] for k in both)


def test_orchestration_is_repeated_for_a_configuration_by_path(each: Rendered) -> None:
    wanted = each.settings.r2r.orchestration
    assert toml_of(each)["orchestration"]["provider"] == wanted


def test_a_model_has_time_to_be_tried_again_before_r2r_gives_up() -> None:
    document = toml_of(Rendered(litellm={"request_timeout": 100, "retries": 3}))
    assert document["completion"]["request_timeout"] == 430


def test_a_persons_own_keys_lie_over_stackrooms() -> None:
    own = {
        "agent": {"max_iterations": 3},
        "ingestion": {"chunk_size": 512, "parser_overrides": {"pdf": "ocr"}},
        "database": {"route_limits": {"/v3/retrieval/rag": {"route_per_min": 5}}},
    }
    document = toml_of(Rendered(config=own))
    assert document["agent"]["max_iterations"] == 3
    assert document["ingestion"] == toml_of(Rendered())["ingestion"] | own["ingestion"]
    assert document["database"]["route_limits"] == own["database"]["route_limits"]
    assert document["database"]["limits"]["route_per_min"] == 300
    assert lint(document) == []


def test_a_key_that_r2r_does_not_know_stops_the_render(monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict(KEYS)
    del known["completion"]
    monkeypatch.setattr("ops.settings.r2r_keys.KEYS", known)
    with pytest.raises(SettingsError, match=r"r2r\.toml: completion is not a key of R2R"):
        Rendered()


# -- LiteLLM ---------------------------------------------------------------------------------


def test_litellm_has_its_models_a_master_key_and_no_database(each: Rendered) -> None:
    served = {one["model_name"]: one["litellm_params"] for one in each.litellm["model_list"]}
    assert served == {
        "chat": {
            "model": "mistral/mistral-large-latest",
            "api_key": "os.environ/MISTRAL_API_KEY",
        },
        "text-embedding-3-team": {
            "model": "openai/bge",
            "api_base": "http://203.0.113.40:8000/v1",
            "api_key": "none",
            "additional_drop_params": ["dimensions"],
        },
    }
    assert each.litellm["general_settings"] == {"master_key": "os.environ/LITELLM_MASTER_KEY"}
    assert "database_url" not in json.dumps(each.litellm)
    assert "DATABASE_URL" not in env_of(each, "litellm")


def test_fallbacks_and_mocks_reach_litellm() -> None:
    models = MODELS | {"other": {"model": "openai/x", "mock_response": 'said: "yes" # {{ no }}'}}
    given = Rendered(litellm={"models": models, "fallbacks": {"chat": ["other"]}}).litellm
    assert given["litellm_settings"]["fallbacks"] == [{"chat": ["other"]}]
    assert given["model_list"][2]["litellm_params"]["mock_response"] == 'said: "yes" # {{ no }}'


# -- the edge --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["internal", "acme"])
def test_the_edge_strips_the_header_that_chooses_a_schema(tmp_path: Path, mode: str) -> None:
    edge = {"mode": mode}
    if mode == "acme":
        edge |= {"domain": "kb.example.com", "email": "ops@example.com"}
    text = Rendered(edge=edge, max_upload_by_type={"pdf": "90MB"}).text("edge/Caddyfile")
    command = [stacks.tool("caddy"), "adapt", "--adapter", "caddyfile", "--config", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    handlers = _handlers(json.loads(done.stdout)["apps"]["http"]["servers"])
    deletes = [at for at, h in enumerate(handlers) if "X-Project-Name" in str(h.get("request"))]
    proxies = [at for at, h in enumerate(handlers) if h["handler"] == "reverse_proxy"]
    assert len(deletes) == 1
    assert handlers[deletes[0]]["request"] == {"delete": ["X-Project-Name"]}
    assert len(proxies) == 2
    assert deletes[0] < min(proxies)
    assert {handlers[at]["upstreams"][0]["dial"] for at in proxies} == {"r2r:7272"}
    assert [h["max_size"] for h in handlers if h["handler"] == "request_body"] == [
        91_000_000,
        64_000_000,
    ]
    formatted = subprocess.run(
        [stacks.tool("caddy"), "fmt", "-"], input=text, capture_output=True, text=True, check=True
    )
    assert formatted.stdout == text


def _handlers(value: Any) -> list[dict[str, Any]]:
    """Every handler in Caddy's configuration, in the order in which a request comes to them."""
    if isinstance(value, list):
        return [found for part in value for found in _handlers(part)]
    if not isinstance(value, dict):
        return []
    own = [value] if "handler" in value else []
    return own + [found for part in value.values() for found in _handlers(part)]
