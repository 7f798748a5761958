"""The R2R stack: what R2R or LiteLLM would take in silence is refused, with the reason."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from settings_lab import R2R_PASSWORDS, SECRETS, settings_with

from ops.errors import SettingsError
from ops.render.files import ROOT
from ops.settings import ensure_secrets, load_environment
from ops.settings.model import Settings
from ops.settings.r2r import R2R, R2RSecrets, size_in_bytes
from ops.settings.r2r_keys import lint

WriteEnvironment = Callable[..., Path]
MODELS = {
    "chat": {"model": "mistral/mistral-large-latest", "key": "MISTRAL_API_KEY"},
    "text-embedding-3-team": {"model": "openai/bge-small", "api_base": "http://203.0.113.40/v1"},
}
HERE = "{folder}/settings.toml: "


def r2r_settings(
    secrets: dict[str, Any] | None = None, litellm: dict[str, Any] | None = None, **r2r: Any
) -> Settings:
    own = R2R_PASSWORDS | {"provider_keys": {"MISTRAL_API_KEY": "canary-mistral"}} | (secrets or {})
    return settings_with(
        stack="r2r",
        r2r=r2r,
        litellm={"models": MODELS} | (litellm or {}),
        secrets=SECRETS | {"r2r": own},
    )


def refusal(**given: Any) -> str:
    with pytest.raises(ValueError, match="validation error") as caught:
        r2r_settings(**given)
    return str(caught.value)


def written(text: str = "", secrets: str = "", models: bool = True) -> tuple[str, str]:
    """settings.toml and secrets.toml of an environment with this stack."""
    tables = '[litellm.models.chat]\nmodel = "openai/a"\n[litellm.models.text-embedding-3-team]\n'
    tables += 'model = "openai/b"\n'
    keys = "".join(f'{name} = "{value}"\n' for name, value in R2R_PASSWORDS.items())
    general = "".join(f'{name} = "{value}"\n' for name, value in SECRETS.items())
    return (
        f'stack = "r2r"\n{text}\n{tables if models else ""}',
        f"[secrets]\n{general}[secrets.r2r]\n{keys}{secrets}",
    )


# -- the verbs -------------------------------------------------------------------------------


def test_the_stack_is_taken(write_environment: WriteEnvironment) -> None:
    settings, secrets = written()
    loaded = load_environment(write_environment(settings=settings, secrets=secrets))
    assert loaded.settings.stack == "r2r"


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("[collections.docs]\nvector = { size = 4 }", "collections"),
        ('[api]\nimage = "a:1"', "api"),
        ("[qdrant]\ndashboard = true", "qdrant"),
    ],
)
def test_what_is_of_the_other_stack_is_refused_and_not_passed_over(
    write_environment: WriteEnvironment, table: str, key: str
) -> None:
    settings, secrets = written(table)
    folder = write_environment(settings=settings, secrets=secrets)
    with pytest.raises(SettingsError, match=f'{key} is of stack = "qdrant" and means nothing'):
        load_environment(folder)


@pytest.mark.parametrize("port", [4000, 7272, 7273, 7274, 15672])
def test_the_edge_takes_no_port_of_the_stack(
    write_environment: WriteEnvironment, port: int
) -> None:
    settings, secrets = written(f"[edge]\nport = {port}")
    folder = write_environment(settings=settings, secrets=secrets)
    with pytest.raises(SettingsError, match=f"edge.port = {port} is taken by"):
        load_environment(folder)


MISTAKES = [
    ("[r2r]\nprofil = 'small'", "r2r.profil is not a key of Stackroom; did you mean r2r.profile?"),
    ("[r2r]\nprofile = 'tiny'", 'r2r.profile must be "small", "medium" or "high"'),
    ("[r2r]\norchestration = 'celery'", 'r2r.orchestration must be "hatchet" or "simple"'),
    *(
        (f"[r2r]\nproject = '{name}'", "r2r.project must be a name of a-z, 0-9 and _ that does not"
         " begin with pg_")
        for name in ("R2R", "r2r-team", "1r", "", "pg_r2r", "a" * 64)
    ),
    ("[r2r]\nproject = 'public'", "r2r.project must be a schema of R2R's own, not one of Postgres"),
    ("[r2r]\nadmin_email = ''", "r2r.admin_email must not be empty"),
    ("[r2r.embedding]\nmodel = 'bge-small'", "r2r.embedding.model must be an alias with "
     '"text-embedding-3" in it, such as text-embedding-3-team: under another name the dimensions '
     "are refused"),
    ("[r2r.embedding]\ndimension = 3072", "r2r.embedding.dimension must be 2000 or less"),
    ("[r2r.limits]\nroute_per_min = 0", "r2r.limits.route_per_min must be 1 or more"),
    ("[r2r]\nmax_upload = '50M'", 'r2r.max_upload must be a size such as "50MB", or "0" to refuse '
     "them all"),
    *(
        (f"[r2r.smtp]\nserver = 'mail.example.com'\nusername = 'a'\nsender = 'a@example.com'\n"
         f"port = {port}", "r2r.smtp.port must be a port that speaks TLS from the first byte, such "
         "as 465")
        for port in (25, 587)
    ),
    ("[r2r.smtp]\nserver = 'mail.example.com'\nusername = 'a'\nsender = 'a@example.com'",
     "r2r.smtp: needs smtp_password below [secrets.r2r] in secrets.toml"),
    ("[r2r.files]\nprovider = 's3'", 'r2r.files provider "s3" needs bucket and region'),
    ("[r2r.files]\nprovider = 's3'\nbucket = 'team'\nregion = 'eu'", 'r2r.files: provider "s3" '
     "needs s3_access_key and s3_secret_key below [secrets.r2r] in secrets.toml"),
    ("[r2r.files]\nbucket = 'team'", 'r2r.files bucket, region and endpoint are for provider "s3" '
     "only"),
    *(
        (f"[r2r.unstructured]\nversion = '{version}'", "r2r.unstructured.version must be a tag "
         "other than latest, best with @sha256: and its digest")
        for version in ("latest", "", "1.0@sha256:12", "a b")
    ),
    ("[r2r.models]\nfast = 'fast'", "r2r.models.fast: fast is not among litellm.models (declared: "
     "chat, text-embedding-3-team)"),
    ("[litellm]\nversion = 'v1.82.8'", "litellm.version must be v1.84.0 or newer (security fixes)"),
    ("[litellm]\nversion = 'v1.107.0'", "litellm.version must not be v1.107.0: its images were not "
     "signed by its makers"),
    ("[litellm]\nfallbacks = { chat = ['chat'] }", "litellm.fallbacks.chat: falls back to itself"),
    ("[litellm]\nfallbacks = { chat = ['other'] }", "litellm.fallbacks.chat: other is not among "
     "litellm.models"),
    ("[litellm]\nfallbacks = { text-embedding-3-team = ['chat'] }",
     "litellm.fallbacks.text-embedding-3-team: an embedding model has no substitute"),
    ("[litellm.models.other]\nmodel = 'openai/c'\nkey = 'OTHER_KEY'", "litellm.models.other.key: "
     "there is no OTHER_KEY in secrets.toml; add it to provider_keys below [secrets.r2r]"),
    ("[r2r.config.agent]\nmax_iteration = 3", "r2r.config agent.max_iteration is not a key of R2R "
     "3.6.6; did you mean agent.max_iterations?"),
    ("[r2r.config.auth]\nrequire_authentication = false", "r2r.config auth.require_authentication "
     "is set by Stackroom: without it every caller is the administrator"),
    ("[r2r.config.completion]\nrequest_timeout = '60'", "r2r.config completion.request_timeout "
     "must be a number"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_a_mistake_is_told_with_its_key(
    write_environment: WriteEnvironment, text: str, message: str
) -> None:
    settings, secrets = written(text)
    folder = write_environment(settings=settings, secrets=secrets)
    with pytest.raises(SettingsError) as caught:
        load_environment(folder)
    assert caught.value.message == f"{folder}/settings.toml: {message}"


def test_without_models_every_role_that_lacks_one_is_named(
    write_environment: WriteEnvironment,
) -> None:
    settings, secrets = written(models=False)
    folder = write_environment(settings=settings, secrets=secrets)
    with pytest.raises(SettingsError) as caught:
        load_environment(folder)
    assert caught.value.message.splitlines() == [
        f"{folder}/settings.toml: r2r.models.quality: chat is not among litellm.models (declared:"
        " none)",
        f"{folder}/settings.toml: r2r.embedding.model: text-embedding-3-team is not among"
        " litellm.models (declared: none)",
    ]


# -- secrets ---------------------------------------------------------------------------------


def test_passwords_are_generated_for_this_stack_only(tmp_path: Path) -> None:
    folder = tmp_path / "team"
    shutil.copytree(ROOT / "inventory" / "example", folder)
    assert [name for name in ensure_secrets(folder) if name.startswith("r2r.")] == []
    path = folder / "settings.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('stack = "qdrant"\n', 'stack = "r2r"\n'), encoding="utf-8")
    assert ensure_secrets(folder) == [f"r2r.{name}" for name in R2R_PASSWORDS]
    assert (folder / "secrets.toml").stat().st_mode & 0o777 == 0o600
    first = tomllib.loads((folder / "secrets.toml").read_text())["secrets"]["r2r"]
    assert len(set(first.values())) == len(R2R_PASSWORDS)
    R2RSecrets.model_validate(first)
    assert ensure_secrets(folder) == []
    assert tomllib.loads((folder / "secrets.toml").read_text())["secrets"]["r2r"] == first


def test_secrets_that_are_missing_name_the_way_to_them(write_environment: WriteEnvironment) -> None:
    settings, secrets = written()
    folder = write_environment(settings=settings, secrets=secrets.split("[secrets.r2r]")[0])
    with pytest.raises(SettingsError) as caught:
        load_environment(folder)
    assert caught.value.message == (
        f"{folder}/secrets.toml: secrets.r2r is missing; stackroom init generates it"
    )


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("postgres_password", "p@ss:word/0123456789abcdefghijklmnop", "it stands in addresses"),
        ("postgres_password", "a-few-words", "at least 32"),
        ("litellm_master_key", "canary-0123456789-0123456789-0123456789", "must begin with sk-"),
        ("admin_password", "a" * 73, "at most 72"),
        ("smtp_password", "it's", "without an apostrophe"),
        ("smtp_password", "two\nlines", "one line"),
    ],
)
def test_a_secret_that_would_not_arrive_is_refused_and_not_repeated(
    name: str, value: str, says: str
) -> None:
    told = refusal(secrets={name: value})
    assert says in told
    assert value not in told


# -- what the values mean --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("3KB", 3000), ("50MB", 50_000_000), ("2GB", 2_000_000_000)]
)
def test_sizes_count_as_r2r_counts(text: str, size: int) -> None:
    assert size_in_bytes(text) == size


def test_every_type_of_file_has_its_limit() -> None:
    """R2R takes its 200 GB for a type that the file does not name."""
    sizes = R2R(max_upload="7MB", max_upload_by_type={"pdf": "90MB", "mp3": "0"}).upload_bytes()
    assert sizes.pop("pdf") == 90_000_000
    assert sizes.pop("mp3") == 0
    assert len(sizes) > 25
    assert set(sizes.values()) == {7_000_000}


def test_the_roles_that_are_not_named_are_played_by_quality() -> None:
    roles = r2r_settings(models={"quality": "chat"}).r2r.models
    assert {roles.alias(name) for name in type(roles).model_fields} == {"chat"}


def test_dimensions_go_only_to_who_knows_them() -> None:
    models = r2r_settings(
        litellm={
            "models": MODELS
            | {
                "text-embedding-3-b": {"model": "openai/text-embedding-3-small"},
                "text-embedding-3-c": {"model": "gemini/embedding-001", "takes_dimensions": True},
            }
        }
    ).litellm.models
    assert {name: model.drops_dimensions() for name, model in models.items()} == {
        "chat": True,
        "text-embedding-3-team": True,
        "text-embedding-3-b": False,
        "text-embedding-3-c": False,
    }


# -- R2R's keys ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "mistake"),
    [
        ({"ap": {}}, "ap is not a key of R2R 3.6.6; did you mean app?"),
        ({"app": 1}, "app must be a table"),
        ({"logging": {}}, "logging is not a key of R2R 3.6.6"),
        # both stand in R2R's own files, and nothing of it reads them
        ({"agent": {"rag_agent_static_prompt": "a"}}, "agent.rag_agent_static_prompt is not a key"
         " of R2R 3.6.6; did you mean agent.rag_rag_agent_static_prompt?"),
        ({"orchestration": {"kg_concurrency_limit": 8}}, "orchestration.kg_concurrency_limit is not"
         " a key of R2R 3.6.6; did you mean orchestration.ingestion_concurrency_limit?"),
        ({"database": {"route_limits": {"/v3/a": {"per_min": 1}}}}, "database.route_limits./v3/a."
         "per_min is not a key of R2R 3.6.6"),
        ({"ingestion": {"chunk_size": True}}, "ingestion.chunk_size must be a whole number"),
        ({"ingestion": {"automatic_extraction": 0}}, "ingestion.automatic_extraction must be true"
         " or false"),
        ({"app": {"max_upload_size_by_type": {"pdf": "1MB"}}}, "app.max_upload_size_by_type.pdf"
         " must be a whole number"),
        ({"agent": {"rag_tools": "a"}}, "agent.rag_tools must be a list"),
    ],
)  # fmt: skip
def test_lint_tells_what_r2r_would_pass_over(document: dict[str, Any], mistake: str) -> None:
    (told,) = lint(document)
    assert told.startswith(mistake)


def test_lint_lets_a_persons_own_names_be() -> None:
    assert lint(
        {
            "ingestion": {"extra_parsers": {"pdf": ["ocr"]}, "parser_overrides": {"pdf": "ocr"}},
            "database": {"route_limits": {"/v3/retrieval/search": {"route_per_min": 5}}},
            "completion": {"generation_config": {"add_generation_kwargs": {"seed": 1}}},
        }
    ) == []  # fmt: skip
