"""The one settings model: every key of settings.toml, developers.toml and secrets.toml.

`inventory/example/` shows each key with a comment; a test holds the two together.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ops.settings.addresses import is_wide
from ops.settings.backup import Backup, Escrow
from ops.settings.forms import (
    CollectionName,
    Domain,
    Email,
    EnvironmentName,
    Image,
    Model,
    Port,
    Size,
    matching,
)
from ops.settings.people import (
    ACCESS_COLLECTION,
    ACCOUNT_PREFIX,
    Developer,
    DeveloperName,
    Operator,
    UserName,
    mistakes,
)
from ops.settings.r2r import R2R, LiteLLM, R2RSecrets, r2r_mistakes


def _account(text: str) -> str:
    if text == "root":
        raise ValueError("must be an account of its own, not root")
    if text.startswith(ACCOUNT_PREFIX):
        raise ValueError(f"must not begin with {ACCOUNT_PREFIX}, as the developers' accounts do")
    return text


# what the services of a stack take on the host's loopback
LOOPBACK_PORTS = {
    "qdrant": {6333: "Qdrant's REST", 6334: "Qdrant's gRPC"},
    "r2r": {
        4000: "LiteLLM",
        7272: "R2R",
        7273: "R2R's dashboard",
        7274: "Hatchet's dashboard",
        15672: "RabbitMQ's management",
    },
}
HostPath = Annotated[str, matching(r"|(/[\w.@+-]+)+", "an absolute path of a file on the host")]
Word = Annotated[
    str, matching(r"[^\x00-\x1f\x7f]+", "one word of a command, without a line break in it")
]
# a TOML string becomes the enum's member, in spite of `strict`
FromText = Field(strict=False)


class Host(Model):
    """The machine below the stack."""

    operator_account: Annotated[UserName, AfterValidator(_account)] = "stackroom"
    journal_max: Size = "1G"
    reboot_at: Annotated[str, matching(r"([01]\d|2[0-3]):[0-5]\d", 'a time such as "04:30"')] = (
        "04:30"
    )


class Ssh(Model):
    open_to_world: bool = False
    root_login: Literal["keys", "no"] = "keys"


class Docker(Model):
    source: Literal["docker", "distro"] = "docker"
    log_max_size: Annotated[str, matching(r"[1-9][0-9]*[km]", 'a size such as "10m"')] = "10m"
    log_max_files: Annotated[int, Field(ge=1, le=20)] = 5


class Firewall(Model):
    rollback_seconds: Annotated[int, Field(ge=20, le=180)] = 120


class EdgeMode(StrEnum):
    TUNNEL = "tunnel"
    INTERNAL = "internal"
    ACME = "acme"
    EXTERNAL = "external"


def _holds_requests(version: str) -> str:
    # before, a POST that waited for a service came to it without its body (pull request 7547)
    if tuple(int(part) for part in version.split(".")) < (2, 11, 2):
        raise ValueError("must be 2.11.2 or newer (it holds requests while a service restarts)")
    return version


class Edge(Model):
    """How the team reaches the services: Caddy, or nothing but SSH tunnels."""

    mode: Annotated[EdgeMode, FromText] = EdgeMode.INTERNAL
    domain: Domain = ""
    email: Email = ""
    port: Port = 443
    api_port: Port = 8443
    certificate: HostPath = ""
    private_key: HostPath = ""
    max_body: Annotated[str, matching(r"[1-9][0-9]*(KB|MB|GB)", 'a size such as "64MB"')] = "64MB"
    version: Annotated[
        str,
        matching(r"\d+\.\d+\.\d+", 'a version such as "2.11.2"'),
        AfterValidator(_holds_requests),
    ] = "2.11.2"

    @model_validator(mode="after")
    def _mode_fits(self) -> Edge:
        if self.domain and "mode" not in self.model_fields_set:
            raise ValueError(
                'has a domain but no mode: add mode = "acme" (Let\'s Encrypt), '
                '"external" (your certificate files) or "internal" (own CA)'
            )
        if self.mode is EdgeMode.ACME and not (self.domain and self.email):
            raise ValueError('mode "acme" needs domain and email')
        if self.mode is EdgeMode.EXTERNAL and not (
            self.domain and self.certificate and self.private_key
        ):
            raise ValueError('mode "external" needs domain, certificate and private_key')
        if self.mode is not EdgeMode.EXTERNAL and (self.certificate or self.private_key):
            raise ValueError('certificate and private_key are for mode "external" only')
        return self


def _not_older_than_the_advisories(version: str) -> str:
    # 1.18.2 fixes an authentication bypass and a heap read (pull requests 9254, 9268)
    if tuple(int(part) for part in version[1:].split(".")) < (1, 18, 2):
        raise ValueError("must be v1.18.2 or newer (security fixes)")
    return version


class Qdrant(Model):
    version: Annotated[
        str,
        matching(r"v\d+\.\d+\.\d+", 'a version such as "v1.19.0"'),
        AfterValidator(_not_older_than_the_advisories),
    ] = "v1.19.0"
    memory: Annotated[
        str, matching(r"auto|[1-9][0-9]*[MG]", '"auto" or a size such as "512M" or "2G"')
    ] = "auto"
    open_files: Annotated[int, Field(ge=10_000, le=1_048_576)] = 65_536
    dashboard: bool = False


class Distance(StrEnum):
    COSINE = "cosine"
    DOT = "dot"
    EUCLID = "euclid"
    MANHATTAN = "manhattan"


class Vector(Model):
    """One vector field. `size` counts dimensions."""

    size: Annotated[int, Field(ge=1, le=65536)]
    distance: Annotated[Distance, FromText] = Distance.COSINE
    on_disk: bool = False


IndexType = Literal["keyword", "integer", "float", "geo", "text", "bool", "datetime", "uuid"]


class Collection(Model):
    """A Qdrant collection: `vector` for the unnamed one, or `vectors` by name."""

    vector: Vector | None = None
    vectors: dict[str, Vector] = {}
    quantization: Literal["none", "scalar", "binary"] = "none"
    payload_indexes: dict[str, IndexType] = {}
    aliases: list[CollectionName] = []

    @model_validator(mode="after")
    def _one_kind_of_vector(self) -> Collection:
        if (self.vector is None) == (not self.vectors):
            raise ValueError("needs either vector (unnamed) or vectors (by name)")
        return self


class GitSource(Model):
    repository: Annotated[
        str,
        matching(
            r"https://[^@\s/]+/\S+|(ssh://|git@)[^:\s]+\S*",
            "an address that starts with https://, ssh:// or git@, without a password in it",
        ),
    ]
    ref: Annotated[
        str, matching(r"[A-Za-z0-9][A-Za-z0-9._/-]*", "a tag, a branch or a commit of git")
    ]


class Api(Model):
    """The team's own service beside Qdrant: an image, or a repository built on the host."""

    image: Image = ""
    git: GitSource | None = None
    port: Port = 8000
    memory: Size = "1G"
    user: Annotated[int, Field(ge=1, le=65534)] = 1000
    index: list[Word] = []

    @model_validator(mode="after")
    def _one_source(self) -> Api:
        if bool(self.image) == (self.git is not None):
            raise ValueError("needs either image or git, not both and not none")
        return self


PingedJob = Literal["backup", "check", "prune", "drill"]


class Secrets(Model):
    """Generated by `stackroom init` where absent; never overwritten, never printed."""

    qdrant_api_key: SecretStr = Field(min_length=32)
    qdrant_alt_api_key: SecretStr | None = Field(default=None, min_length=32)
    api_token: SecretStr = Field(min_length=32)
    mistral_api_key: SecretStr | None = None
    restic_password: SecretStr = Field(min_length=32)
    # for the off-site repository: environment of restic (AWS_ACCESS_KEY_ID, ...), a private SSH
    # key, a configuration file of rclone
    offsite_env: dict[EnvironmentName, SecretStr] = {}
    offsite_ssh_key: SecretStr | None = None
    rclone_config: SecretStr | None = None
    # where notices go (Apprise URLs), and what is pinged: the dead man's switch of each timer
    notice_urls: list[SecretStr] = []
    ping_urls: dict[PingedJob, SecretStr] = {}
    # of the stack of that name, and generated for it only
    r2r: R2RSecrets | None = None

    def newest_qdrant_key(self) -> SecretStr:
        """What signs tokens and what our own services use: while the key is rotated, the new one,
        so that nothing of theirs changes when the old one is dropped."""
        return self.qdrant_alt_api_key or self.qdrant_api_key


class Settings(BaseSettings):
    """One environment. Sources: the three TOML files of its folder, nothing else."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, strict=True, hide_input_in_errors=True
    )

    stack: Literal["qdrant", "r2r"] = "qdrant"
    host: Host = Host()
    ssh: Ssh = Ssh()
    docker: Docker = Docker()
    firewall: Firewall = Firewall()
    edge: Edge = Edge()
    qdrant: Qdrant = Qdrant()
    r2r: R2R = R2R()
    litellm: LiteLLM = LiteLLM()
    api: Api | None = None
    collections: dict[CollectionName, Collection] = {}
    backup: Backup = Backup()
    escrow: Escrow = Escrow()
    operators: dict[UserName, Operator] = Field(min_length=1)
    developers: dict[DeveloperName, Developer] = {}
    secrets: Secrets

    @model_validator(mode="after")
    def _ports_differ(self) -> Settings:
        taken = dict(LOOPBACK_PORTS[self.stack])
        taken |= dict.fromkeys(self.world_ports(), "the ACME challenge")
        wanted = {"edge.port": self.edge.port} if self.edge_ports() else {}
        if self.api:
            wanted |= {"edge.api_port": self.edge.api_port} if self.edge_ports() else {}
            wanted["api.port"] = self.api.port
        for key, port in wanted.items():
            if port in taken:
                raise ValueError(f"{key} = {port} is taken by {taken[port]}")
            taken[port] = key
        return self

    @model_validator(mode="after")
    def _collections_are_ours_to_make(self) -> Settings:
        seen = set(self.collections)
        for name, collection in self.collections.items():
            if ACCESS_COLLECTION in (name, *collection.aliases):
                raise ValueError(
                    f"collections.{name}: the name {ACCESS_COLLECTION} is kept for Stackroom's own"
                    " list of tokens"
                )
            for alias in collection.aliases:
                if alias in seen:
                    raise ValueError(f"collections.{name}: the alias {alias} is taken")
                seen.add(alias)
        return self

    @model_validator(mode="after")
    def _r2r_is_whole(self) -> Settings:
        if self.stack == "r2r":
            wrong = [
                f'{key} is of stack = "qdrant" and means nothing with stack = "r2r": remove it'
                for key, empty in (("qdrant", Qdrant()), ("api", None), ("collections", {}))
                if getattr(self, key) != empty
            ]
            wrong += r2r_mistakes(self.r2r, self.litellm, self.secrets.r2r)
            if wrong:
                raise ValueError("\n".join(wrong))
        return self

    @model_validator(mode="after")
    def _people_are_apart(self) -> Settings:
        aliases = (alias for one in self.collections.values() for alias in one.aliases)
        # those of R2R are in R2R
        declared = None if self.stack == "r2r" else [*self.collections, *aliases]
        wrong = list(mistakes(self.operators, self.developers, declared))
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def current_developers(self, now: datetime | None = None) -> dict[str, Developer]:
        """The developers whose last day has not passed: who has any access at all."""
        at = now or datetime.now(UTC)
        return {name: one for name, one in self.developers.items() if not one.is_expired(at)}

    def addresses(self) -> list[str]:
        """Every listed range, each once, in a stable order: who may reach the edge."""
        people = [*self.operators.values(), *self.current_developers().values()]
        return sorted({address for person in people for address in person.addresses})

    def ssh_addresses(self) -> list[str]:
        """The ranges of `addresses` that may reach SSH: `anywhere` opens the edge only."""
        return [address for address in self.addresses() if not is_wide(address)]

    def edge_ports(self) -> list[int]:
        """TCP ports the edge publishes to the listed ranges."""
        if self.edge.mode is EdgeMode.TUNNEL:
            return []
        return [self.edge.port, *([self.edge.api_port] if self.api else [])]

    def world_ports(self) -> list[int]:
        """TCP ports of the edge that the whole internet may reach: the ACME challenge."""
        return [80] if self.edge.mode is EdgeMode.ACME else []
