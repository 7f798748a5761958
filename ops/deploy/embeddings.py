"""Another embedding model under documents that are in: a deploy asks first, and changes nothing.

R2R keeps no record of the model that made its vectors: with another one of the same dimension it
starts, is ready, and compares what does not compare. With another dimension it does not start.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

import yaml

from ops.clients.ssh import Remote
from ops.errors import DeployError
from ops.render.project import STACK_DIR
from ops.render.r2r_env import DATABASE, USER
from ops.settings import Environment

ASK_SECONDS = 60.0
NEXT = "== "  # begins each part of the answer


@dataclass(frozen=True)
class Stored:
    """What is on the machine: the dimension of R2R's table of chunks, whether one is in it, and the
    provider's name of the model that the deployed files give to R2R's alias, "" where unknown."""

    dimension: int
    filled: bool
    model: str


def refuse_other_vectors(environment: Environment, remote: Remote) -> None:
    """Raises DeployError where the settings' embedding does not fit what is stored there.

    Where Postgres does not run, or has no such table yet, nothing is said. Raises UnreachableError.
    """
    settings = environment.settings
    if settings.stack != "r2r":
        return
    stored = look(remote, settings.r2r.project)
    if stored is None:
        return
    wanted = settings.litellm.models[settings.r2r.embedding.model].model
    dimension = settings.r2r.embedding.dimension
    if stored.dimension != dimension:
        raise _refusal(
            f"r2r.embedding.dimension is {dimension}, and the vectors of project"
            f" {settings.r2r.project} have {stored.dimension}: R2R would not start"
        )
    if stored.filled and stored.model not in ("", wanted):
        raise _refusal(
            f"the vectors of project {settings.r2r.project} are of {stored.model}, and"
            f" {settings.r2r.embedding.model} is {wanted} now: a search would find noise"
        )


def _refusal(why: str) -> DeployError:
    return DeployError(
        f"nothing was changed: {why}",
        "put it back; or set another r2r.project, which begins empty beside this one, and ingest"
        " everything anew",
    )


def look(remote: Remote, project: str) -> Stored | None:
    """What is stored there; None where nobody can say."""
    # no secret is read: of r2r.toml, which has one, only this line
    table = f'"{project}".chunks'
    # the settings hold the name to a-z, 0-9 and _
    sql = (
        f"SELECT atttypmod, EXISTS (SELECT FROM {table}) FROM pg_attribute"  # noqa: S608
        f" WHERE attrelid = '{table}'::regclass AND attname = 'vec'"
    )
    psql = ("docker", "exec", "stackroom-postgres-1", "psql", "-U", USER, "-d", DATABASE, "-XAtc")
    command = (
        f"exec 2>/dev/null; cd {STACK_DIR} || exit 0; {shlex.join([*psql, sql])};"
        f" echo '{NEXT}'; grep -m 1 '^base_model = ' r2r/r2r.toml;"
        f" echo '{NEXT}'; cat litellm/config.yaml;"
        f" echo '{NEXT}'; grep '^R2R_PROJECT=' .env; true"
    )
    parts = remote.run(command, timeout=ASK_SECONDS).stdout.split(f"{NEXT}\n")
    dimension, _, filled = parts[0].strip().partition("|")
    if len(parts) != 4 or not dimension.isdecimal():
        return None
    alias = parts[1].strip().removeprefix('base_model = "openai/').removesuffix('"')
    # what is deployed made the vectors of its own project; of another one nobody knows who did
    own = parts[3].strip() == f"R2R_PROJECT={project}"
    return Stored(int(dimension), filled == "t", _model(parts[2], alias) if own else "")


def _model(config: str, alias: str) -> str:
    """The provider's name of the model behind an alias of LiteLLM's configuration."""
    try:
        models = yaml.safe_load(config)["model_list"]
        return str(next(m for m in models if m["model_name"] == alias)["litellm_params"]["model"])
    except (yaml.YAMLError, KeyError, TypeError, StopIteration):
        return ""
