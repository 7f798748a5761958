"""The environment files of the R2R stack: one a service, with its own secrets and no other's."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import SecretStr

from ops.errors import SettingsError
from ops.settings import Settings
from ops.settings.r2r import R2RSecrets

DATABASE = USER = "r2r"
QUEUE = "hatchet"  # Hatchet's database and its user, there and at the broker
_NEEDS_NO_QUOTES = re.compile(r"[A-Za-z0-9_.:/@%+,~=-]*")


def secrets_of(settings: Settings) -> R2RSecrets:
    """The secrets of this stack. Raises SettingsError where they are not there."""
    if settings.secrets.r2r is None:
        raise SettingsError("secrets.r2r is missing", "stackroom init <environment> generates it")
    return settings.secrets.r2r


def env_files(settings: Settings) -> dict[str, str]:
    """Path -> an environment file: what its service needs, and no other service's secret."""
    secrets = secrets_of(settings)
    database = secrets.postgres_password
    files: dict[str, dict[str, str | SecretStr]] = {
        "postgres/postgres": {
            "POSTGRES_DB": DATABASE,
            "POSTGRES_USER": USER,
            "POSTGRES_PASSWORD": database,
        },
        "r2r/r2r": {
            "R2R_POSTGRES_DBNAME": DATABASE,
            "R2R_POSTGRES_USER": USER,
            "R2R_POSTGRES_PASSWORD": database,
            "R2R_SECRET_KEY": secrets.secret_key,
            # what LiteLLM asks for
            "OPENAI_API_KEY": secrets.litellm_master_key,
            **_optional_of_r2r(settings, secrets),
        },
        "litellm/litellm": {
            "LITELLM_MASTER_KEY": secrets.litellm_master_key,
            **{
                model.key: secrets.provider_keys[model.key]
                for model in settings.litellm.models.values()
                if model.key
            },
        },
    }
    if settings.r2r.orchestration == "hatchet":
        files |= _env_files_of_hatchet(settings, secrets)
    return {name: _env_file(lines) for name, lines in files.items()}


def _env_files_of_hatchet(
    settings: Settings, secrets: R2RSecrets
) -> dict[str, dict[str, str | SecretStr]]:
    database, broker = secrets.hatchet_postgres_password, secrets.rabbitmq_password
    # both are of letters that stand in an address as they are: the settings hold them to it
    place = f"hatchet-postgres:5432/{QUEUE}?sslmode=disable"
    url = f"{QUEUE}:{database.get_secret_value()}@{place}"
    amqp = f"amqp://{QUEUE}:{broker.get_secret_value()}@rabbitmq:5672/"
    return {
        "hatchet-postgres/postgres": {
            "POSTGRES_DB": QUEUE,
            "POSTGRES_USER": QUEUE,
            "POSTGRES_PASSWORD": database,
        },
        "rabbitmq/rabbitmq": {
            "RABBITMQ_DEFAULT_USER": QUEUE,
            "RABBITMQ_DEFAULT_PASS": broker,
        },
        # it prints this address at every start: the password stands beside it
        "hatchet-migrate/migrate": {
            "DATABASE_URL": f"postgresql://{QUEUE}@{place}",
            "PGPASSWORD": database,
        },
        "hatchet/hatchet": {
            "DATABASE_URL": f"postgresql://{url}",
            "DATABASE_POSTGRES_USERNAME": QUEUE,
            "DATABASE_POSTGRES_PASSWORD": database,
            # the newer name and the older one, that R2R's own files use with this version
            "SERVER_MSGQUEUE_RABBITMQ_URL": amqp,
            "SERVER_TASKQUEUE_RABBITMQ_URL": amqp,
        },
        # read at the first start alone; without it the password is the one that is printed
        "hatchet-setup/admin": {
            "ADMIN_EMAIL": settings.r2r.admin_email,
            "ADMIN_NAME": "Stackroom",
            "ADMIN_PASSWORD": secrets.hatchet_admin_password,
        },
    }


def _optional_of_r2r(settings: Settings, secrets: R2RSecrets) -> dict[str, str | SecretStr]:
    lines: dict[str, str | SecretStr] = {}
    if settings.secrets.mistral_api_key:  # R2R's reader of scanned pages asks Mistral itself
        lines["MISTRAL_API_KEY"] = settings.secrets.mistral_api_key
    if settings.r2r.files.provider == "s3" and secrets.s3_access_key and secrets.s3_secret_key:
        lines["AWS_ACCESS_KEY_ID"] = secrets.s3_access_key
        lines["AWS_SECRET_ACCESS_KEY"] = secrets.s3_secret_key
    if settings.r2r.smtp and secrets.smtp_password:
        lines["R2R_SMTP_PASSWORD"] = secrets.smtp_password
    return lines


def _env_file(lines: Mapping[str, str | SecretStr]) -> str:
    """In single quotes where needed: Compose takes what stands between them as it is.

    Raises SettingsError for a value that cannot stand there; it is not repeated.
    """
    plain = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in lines.items()
    }
    for name, value in plain.items():
        if not re.fullmatch(r"[\x20-\x26\x28-\x7e]*", value):
            raise SettingsError(f"{name} must be one line of ASCII without an apostrophe")
    return "".join(
        f"{name}={value}\n" if _NEEDS_NO_QUOTES.fullmatch(value) else f"{name}='{value}'\n"
        for name, value in sorted(plain.items())
    )
