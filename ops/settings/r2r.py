"""The settings of the R2R stack: R2R itself, LiteLLM before the models, and their secrets.

What R2R would take in silence and do wrong is refused here, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, SecretStr, model_validator

from ops.settings.forms import Email, EnvironmentName, Model, Port, Size, matching
from ops.settings.r2r_keys import lint

# what stands in URLs, which R2R puts together without quoting
_PLAIN = r"[A-Za-z0-9._~-]+"
# one line that an environment file can hold in single quotes
_LINE = r"[\x20-\x26\x28-\x7e]+"

# fmt: off
UploadType = Literal[
    "bmp", "css", "csv", "doc", "docx", "eml", "epub", "gif", "heic", "htm", "html", "jpeg", "jpg",
    "js", "json", "md", "mp3", "msg", "odt", "org", "p7s", "pdf", "png", "ppt", "pptx", "py", "rst",
    "rtf", "svg", "tiff", "ts", "tsv", "txt", "xls", "xlsx",
]
# fmt: on
Alias = Annotated[
    str, matching(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", "a name of letters, digits, _, . and -")
]
Role = Annotated[str, matching(r"|[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", "one of litellm.models")]
KeyName = Annotated[str, matching(r"|[A-Z][A-Z0-9_]*", "the name of an environment variable")]
UploadSize = Annotated[
    str, matching(r"0|[1-9][0-9]*(KB|MB|GB)", 'a size such as "50MB", or "0" to refuse them all')
]
Url = Annotated[str, matching(r"|https?://[^@\s/]+[^@\s]*", "an address without a password in it")]
Count = Annotated[int, Field(ge=1)]


def _given(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


def _project(text: str) -> str:
    # R2R puts the name into SQL without quotes, where capitals would fold and a hyphen is an error
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", text) or text.startswith("pg_"):
        raise ValueError("must be a name of a-z, 0-9 and _ that does not begin with pg_")
    if text in ("public", "information_schema"):
        raise ValueError("must be a schema of R2R's own, not one of Postgres")
    return text


def _implicit_tls(port: int) -> int:
    # smtplib.SMTP_SSL: these ports begin in the clear, and the connection would hang
    if port in (25, 587):
        raise ValueError("must be a port that speaks TLS from the first byte, such as 465")
    return port


def _fixed_by_others(config: dict[str, Any]) -> dict[str, Any]:
    wrong = lint(config)
    wrong += [
        f"{key} is set by Stackroom: {reason}"
        for key, reason in _OURS.items()
        if _holds(config, key.split("."))
    ]
    if wrong:
        raise ValueError("; ".join(wrong))
    return config


_OURS = {
    "app.project_name": "use r2r.project",
    "app.max_upload_size_by_type": "use r2r.max_upload_by_type",
    "app.user_tools_path": "code of others has no place in the container",
    "auth.provider": "tokens are R2R's own",
    "auth.secret_key": "it is a secret (secrets.toml)",
    "auth.require_authentication": "without it every caller is the administrator",
    "auth.default_admin_email": "use r2r.admin_email",
    "auth.default_admin_password": "it is a secret (secrets.toml)",
    "crypto.provider": "its key is a secret of this stack",
    "database.user": "the database is the stack's own",
    "database.password": "it is a secret (secrets.toml)",
    "database.host": "the database is the stack's own",
    "database.port": "the database is the stack's own",
    "database.db_name": "the database is the stack's own",
    "database.project_name": "use r2r.project",
    "database.postgres_configuration_settings": "use r2r.profile",
    "email.smtp_password": "it is a secret (secrets.toml)",
    "email.sendgrid_api_key": "keys belong into secrets.toml",
    "email.mailersend_api_key": "keys belong into secrets.toml",
    "embedding": "use r2r.embedding",
    "completion_embedding": "use r2r.embedding: both must agree",
    "file": "use r2r.files",
    "orchestration.provider": "use r2r.orchestration",
}


def _holds(table: Any, path: list[str]) -> bool:
    for key in path:
        if not isinstance(table, Mapping) or key not in table:
            return False
        table = table[key]
    return True


class Roles(Model):
    """Which of LiteLLM's models does what in R2R; an empty one is `quality`'s."""

    quality: Alias = "chat"
    fast: Role = ""
    vision: Role = ""
    audio: Role = ""
    reasoning: Role = ""
    planning: Role = ""

    def alias(self, role: str) -> str:
        """The model that plays a role."""
        return str(getattr(self, role)) or self.quality


def _openai_name(alias: str) -> str:
    # R2R always names the dimensions, and its LLM library refuses that for any other name
    if "text-embedding-3" not in alias:
        raise ValueError(
            'must be an alias with "text-embedding-3" in it, such as text-embedding-3-team:'
            " under another name the dimensions are refused"
        )
    return alias


class Embedding(Model):
    """Fixed for the life of the data: another dimension means to ingest everything anew."""

    model: Annotated[Alias, AfterValidator(_openai_name)] = "text-embedding-3-team"
    # pgvector indexes 2000 dimensions at most
    dimension: Annotated[int, Field(ge=1, le=2000)] = 512
    batch_size: Annotated[int, Field(ge=1, le=2048)] = 128


class Limits(Model):
    """Requests of one user; R2R takes 0 for its default and not for no limit, so 1 is the least."""

    global_per_min: Count = 600
    route_per_min: Count = 300
    monthly_limit: Count = 1_000_000


class Files(Model):
    """Where R2R keeps the files themselves."""

    provider: Literal["postgres", "s3"] = "postgres"
    bucket: Annotated[str, matching(r"|[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "a bucket's name")] = ""
    region: Annotated[str, matching(r"|[a-z0-9-]+", 'a region such as "eu-central-1"')] = ""
    endpoint: Url = ""

    @model_validator(mode="after")
    def _whole(self) -> Files:
        if self.provider == "s3" and not (self.bucket and self.region):
            raise ValueError('provider "s3" needs bucket and region')
        if self.provider == "postgres" and (self.bucket or self.region or self.endpoint):
            raise ValueError('bucket, region and endpoint are for provider "s3" only')
        return self


class Smtp(Model):
    """Where R2R sends mail. Its password belongs into secrets.toml."""

    server: Annotated[str, matching(r"[A-Za-z0-9][A-Za-z0-9.-]*", "the name of a mail server")]
    port: Annotated[Port, AfterValidator(_implicit_tls)] = 465
    username: Annotated[str, matching(_LINE, "one line without an apostrophe")]
    sender: Annotated[Email, AfterValidator(_given)]
    verify_addresses: bool = False


class Helper(Model):
    """A service beside R2R. Its makers publish no tag that a default could pin."""

    version: Annotated[
        str,
        matching(
            r"(?!latest)[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}(@sha256:[0-9a-f]{64})?",
            "a tag other than latest, best with @sha256: and its digest",
        ),
    ]
    memory: Size = "4G"


class R2R(Model):
    profile: Literal["small", "medium", "high"] = "small"
    orchestration: Literal["hatchet", "simple"] = "hatchet"
    project: Annotated[str, AfterValidator(_project)] = "stackroom"
    admin_email: Annotated[Email, AfterValidator(_given)] = "admin@example.com"
    access_token_minutes: Annotated[int, Field(ge=5, le=1440)] = 60
    refresh_token_days: Annotated[int, Field(ge=1, le=90)] = 7
    automatic_extraction: bool = False
    max_documents_per_user: Count = 1_000_000
    max_chunks_per_user: Count = 100_000_000
    max_collections_per_user: Count = 100_000
    max_upload: UploadSize = "50MB"
    max_upload_by_type: dict[UploadType, UploadSize] = {}
    dashboards: bool = False
    models: Roles = Roles()
    embedding: Embedding = Embedding()
    limits: Limits = Limits()
    files: Files = Files()
    smtp: Smtp | None = None
    unstructured: Helper | None = None
    graph_clustering: Helper | None = None
    config: Annotated[dict[str, Any], AfterValidator(_fixed_by_others)] = {}

    def upload_bytes(self) -> dict[str, int]:
        """The largest file of each type that R2R knows, in bytes; 0 refuses the type."""
        sizes: dict[str, str] = dict.fromkeys(_UPLOAD_TYPES, self.max_upload)
        sizes |= {str(name): size for name, size in self.max_upload_by_type.items()}
        return {name: size_in_bytes(sizes[name]) for name in sorted(sizes)}


_UPLOAD_TYPES: tuple[str, ...] = get_args(UploadType)


def size_in_bytes(text: str) -> int:
    """`"50MB"` in bytes, decimal as R2R counts; `"0"` is 0."""
    if text == "0":
        return 0
    number, unit = int(text[:-2]), text[-2:]
    return number * int({"KB": 1e3, "MB": 1e6, "GB": 1e9}[unit])


def _trusted(version: str) -> str:
    numbers = tuple(int(part) for part in version[1:].split("."))
    # before, a header passed for a key (CVE-2026-49468); 1.82.7 and 1.82.8 stole credentials
    if numbers < (1, 84, 0):
        raise ValueError("must be v1.84.0 or newer (security fixes)")
    if numbers == (1, 107, 0):
        raise ValueError("must not be v1.107.0: its images were not signed by its makers")
    return version


class LanguageModel(Model):
    """One model behind LiteLLM: what its provider calls it, and whose key opens it."""

    model: Annotated[
        str,
        matching(r"[a-z0-9_]+/[\w./:@-]+", 'a provider and a name such as "mistral/mistral-small"'),
    ]
    api_base: Url = ""
    key: KeyName = ""
    takes_dimensions: bool = False
    mock_response: str = ""

    def drops_dimensions(self) -> bool:
        """Whether the provider must not be told a number of dimensions: it would refuse it."""
        return not (self.takes_dimensions or "text-embedding-3" in self.model)


class LiteLLM(Model):
    version: Annotated[
        str, matching(r"v\d+\.\d+\.\d+", 'a version such as "v1.106.2"'), AfterValidator(_trusted)
    ] = "v1.106.2"
    request_timeout: Annotated[int, Field(ge=10, le=3600)] = 300
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    fallbacks: dict[Alias, list[Alias]] = {}
    models: dict[Alias, LanguageModel] = {}


def _plain(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(_PLAIN, secret.get_secret_value()):
        raise ValueError("must be of A-Z, a-z, 0-9 and . _ ~ - only: it stands in addresses")
    return secret


def _line(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(_LINE, secret.get_secret_value()):
        raise ValueError("must be one line of printable ASCII without an apostrophe")
    return secret


def _master_key(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value().startswith("sk-"):
        raise ValueError("must begin with sk-, or LiteLLM does not take it")
    return secret


Password = Annotated[SecretStr, Field(min_length=32), AfterValidator(_plain)]
GivenSecret = Annotated[SecretStr, Field(min_length=1), AfterValidator(_line)]


class R2RSecrets(Model):
    """Generated for this stack only, but for what others gave out: keys of providers, S3, mail."""

    secret_key: Password
    # bcrypt reads 72 bytes
    admin_password: Annotated[Password, Field(max_length=72)]
    postgres_password: Password
    hatchet_postgres_password: Password
    hatchet_admin_password: Password
    rabbitmq_password: Password
    litellm_master_key: Annotated[Password, AfterValidator(_master_key)]
    provider_keys: dict[EnvironmentName, GivenSecret] = {}
    s3_access_key: GivenSecret | None = None
    s3_secret_key: GivenSecret | None = None
    smtp_password: GivenSecret | None = None


def r2r_mistakes(r2r: R2R, litellm: LiteLLM, secrets: R2RSecrets | None) -> Iterator[str]:
    """What is wrong between the tables of this stack; sentences that begin with a key."""
    if secrets is None:
        yield "secrets.r2r is missing; stackroom init generates it"
        return
    yield from _unknown_models(r2r, litellm)
    for alias, model in litellm.models.items():
        if model.key and model.key not in secrets.provider_keys:
            yield (
                f"litellm.models.{alias}.key: there is no {model.key} in secrets.toml; add it to"
                " provider_keys below [secrets.r2r]"
            )
    yield from _unknown_fallbacks(litellm)
    if r2r.files.provider == "s3" and not (secrets.s3_access_key and secrets.s3_secret_key):
        yield (
            'r2r.files: provider "s3" needs s3_access_key and s3_secret_key below [secrets.r2r]'
            " in secrets.toml"
        )
    if r2r.smtp and not secrets.smtp_password:
        yield "r2r.smtp: needs smtp_password below [secrets.r2r] in secrets.toml"


def _unknown_models(r2r: R2R, litellm: LiteLLM) -> Iterator[str]:
    declared = ", ".join(sorted(litellm.models)) or "none"
    wanted = {f"r2r.models.{role}": r2r.models.alias(role) for role in Roles.model_fields}
    named = {"quality", *(role for role in Roles.model_fields if getattr(r2r.models, role))}
    wanted = {key: alias for key, alias in wanted.items() if key.rpartition(".")[2] in named}
    for key, alias in (wanted | {"r2r.embedding.model": r2r.embedding.model}).items():
        if alias not in litellm.models:
            yield f"{key}: {alias} is not among litellm.models (declared: {declared})"


def _unknown_fallbacks(litellm: LiteLLM) -> Iterator[str]:
    for alias, others in litellm.fallbacks.items():
        for name in (alias, *others):
            if name not in litellm.models:
                yield f"litellm.fallbacks.{alias}: {name} is not among litellm.models"
        if alias in others:
            yield f"litellm.fallbacks.{alias}: falls back to itself"
        if any("text-embedding-3" in name for name in (alias, *others)):
            # vectors of two models do not compare: a search would find noise, in silence
            yield f"litellm.fallbacks.{alias}: an embedding model has no substitute"
