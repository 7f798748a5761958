"""How a host is shared out among the services of the R2R stack. Reads settings only.

A profile says how far each number may go and what a core or a GiB is good for; the host's own
memory and cores say how far it does go. docs/r2r.md tells what each profile suits.
"""

from __future__ import annotations

from dataclasses import dataclass

from ops.errors import SettingsError
from ops.render.memory import EDGE_MIB, STEP_MIB, SYSTEM_MIB, size_mib
from ops.settings import Settings
from ops.settings.model import EdgeMode
from ops.settings.r2r import size_in_bytes

# of R2R 485 are seen at rest; a document in flight is held with its text, chunks and vectors
R2R_LEAST_MIB, R2R_REST_MIB, DOCUMENT_MIB = 768, 512, 64
SCRATCH_LEAST_MIB = 256  # an export of 200,000 documents takes 89
UPLOAD_COPIES = 3  # R2R holds a file as bytes, once more as base64, and its text
POSTGRES_LEAST_MIB = 384  # 88 at rest; below, a pool of ten connections has no work_mem left
# of LiteLLM 334 are seen at rest, in its one process; a request is held with prompt and answer
LITELLM_REST_MIB, REQUEST_MIB = 512, 8
WORKER_MIB = 2048  # of Unstructured, for a document of some hundred pages
CONNECTION_MIB = 8  # a connection's process in Postgres, before it sorts anything
POOL_LEAST = 10  # asyncpg opens as many at once
# beside R2R's pool: three that Postgres keeps for its administrator, a dump, doctor and migrations
CONNECTIONS_BESIDE = 10
EFFECTIVE_POOL = 0.9  # R2R uses nine in ten of its pool
RABBITMQ_MIB = 384  # 88 at rest; the broker blocks its publishers at 60 % of it
HATCHET_POSTGRES_MIB = 384  # task queues: small rows, and few at a time
HATCHET_ENGINE_MIB = 384  # messages of up to 128 MB pass through it, one at a time
R2R_DASHBOARD_MIB, HATCHET_DASHBOARD_MIB = 512, 256  # Node.js; nginx and Hatchet's API


@dataclass(frozen=True)
class Profile:
    """The bounds of one profile."""

    least_mib: int  # a machine sold as 4, 16 or 32 GB reports a little less
    least_cpus: int
    # of what the fixed limits leave, Postgres gets this part and R2R the rest
    postgres_share: float
    pool: int
    # at once: what waits for a model costs no core, what is parsed takes one
    documents: int
    documents_per_cpu: int
    completions: int
    completions_per_cpu: int
    embeddings: int
    embeddings_per_cpu: int


PROFILES = {
    # one or two cores that parse: more documents at once would only slow down each search
    "small": Profile(3700, 2, 0.40, 40, 4, 2, 16, 8, 16, 8),
    # a team that uploads while it searches: three documents a core, as most of the time of each is
    # spent waiting for vectors
    "medium": Profile(15000, 4, 0.50, 100, 16, 3, 64, 16, 64, 16),
    # R2R's own numbers (128 completions, 16 documents a user): its process is one, so more
    # documents at once than 32 only wait for the same core
    "high": Profile(30000, 8, 0.60, 200, 32, 4, 128, 16, 256, 32),
}


@dataclass(frozen=True)
class Sizes:
    """What each service gets: MiB, or a number of things at once. 0 for a service that is not."""

    r2r: int
    postgres: int
    litellm: int
    rabbitmq: int
    hatchet_postgres: int
    hatchet_engine: int
    r2r_dashboard: int
    hatchet_dashboard: int
    unstructured: int
    graph_clustering: int
    unstructured_workers: int
    documents: int
    completions: int
    embeddings: int
    pool: int
    max_connections: int
    shared_buffers: int
    maintenance_work_mem: int
    postgres_shm: int
    scratch: int


def sizes(settings: Settings, host_mib: int, cpus: int) -> Sizes:
    """The sizes for a host of `host_mib` MiB and `cpus` cores.

    Raises SettingsError where the host is too small for the profile or for all limits together.
    """
    profile = PROFILES[settings.r2r.profile]
    if host_mib < profile.least_mib or cpus < profile.least_cpus:
        raise SettingsError(
            f'r2r.profile: "{settings.r2r.profile}" needs {profile.least_mib} MiB of memory and'
            f" {profile.least_cpus} cores; the host has {host_mib} and {cpus}",
            'take a larger machine, or set r2r.profile = "small"',
        )
    completions = min(profile.completions, cpus * profile.completions_per_cpu)
    fixed = _fixed(settings, completions)
    taken = SYSTEM_MIB + sum(fixed.values())
    taken += 0 if settings.edge.mode is EdgeMode.TUNNEL else EDGE_MIB
    # in steps: another kernel reports a few MiB more or less, and that is no reason to restart
    left = (host_mib - taken) // STEP_MIB * STEP_MIB
    if left < R2R_LEAST_MIB + POSTGRES_LEAST_MIB:
        raise SettingsError(
            f"r2r.profile: {max(left, 0)} MiB are left for R2R and Postgres, which need"
            f" {R2R_LEAST_MIB + POSTGRES_LEAST_MIB}: of the host's {host_mib} MiB, {taken} are the"
            " system's and the other services'",
            _what_to_leave_out(settings),
        )
    postgres = int(left * profile.postgres_share) // STEP_MIB * STEP_MIB
    postgres = max(POSTGRES_LEAST_MIB, min(postgres, left - R2R_LEAST_MIB))
    r2r = left - postgres
    _check_uploads(settings, r2r)
    # half of Postgres is for what is cached, a quarter for processes, a quarter for sorts
    pool = max(POOL_LEAST, min(profile.pool, postgres // 4 // CONNECTION_MIB) // 10 * 10)
    maintenance = min(1024, postgres // 8)
    in_flight = min(profile.documents, cpus * profile.documents_per_cpu)
    return Sizes(
        r2r=r2r,
        postgres=postgres,
        unstructured_workers=min(cpus, max(1, fixed["unstructured"] // WORKER_MIB)),
        # each in flight needs room in memory, and never more than half of R2R's connections
        documents=max(1, min(in_flight, (r2r - R2R_REST_MIB) // DOCUMENT_MIB, pool // 2)),
        completions=completions,
        embeddings=min(profile.embeddings, cpus * profile.embeddings_per_cpu),
        pool=pool,
        max_connections=pool + CONNECTIONS_BESIDE,
        # a quarter, as Postgres' manual says; the page cache counts into the limit as well
        shared_buffers=postgres // 4,
        # an index of vectors is built in it; one that does not fit takes many times longer
        maintenance_work_mem=maintenance,
        # workers that build an index share it there; Docker's 64 MB would end the build
        postgres_shm=maintenance + 64,
        # uploads and exports lie there, and count into R2R's memory while they do
        scratch=max(SCRATCH_LEAST_MIB, r2r // 4),
        **fixed,
    )


def _check_uploads(settings: Settings, r2r_mib: int) -> None:
    allowed = (r2r_mib - R2R_REST_MIB) // UPLOAD_COPIES
    largest = max([size_in_bytes(settings.r2r.max_upload), *settings.r2r.upload_bytes().values()])
    if largest > allowed * 1024 * 1024:
        raise SettingsError(
            f"r2r.max_upload: a file of {largest // 1_000_000} MB does not fit into R2R's memory;"
            f" of its {r2r_mib} MiB, one upload may take {allowed}",
            "take a larger machine, or lower r2r.max_upload and r2r.max_upload_by_type",
        )


def _fixed(settings: Settings, completions: int) -> dict[str, int]:
    """The limits that follow from which services there are, in MiB."""
    r2r = settings.r2r
    hatchet = r2r.orchestration == "hatchet"
    return {
        "litellm": LITELLM_REST_MIB + REQUEST_MIB * completions,
        "rabbitmq": RABBITMQ_MIB if hatchet else 0,
        "hatchet_postgres": HATCHET_POSTGRES_MIB if hatchet else 0,
        "hatchet_engine": HATCHET_ENGINE_MIB if hatchet else 0,
        "r2r_dashboard": R2R_DASHBOARD_MIB if r2r.dashboards else 0,
        "hatchet_dashboard": HATCHET_DASHBOARD_MIB if r2r.dashboards and hatchet else 0,
        "unstructured": size_mib(r2r.unstructured.memory) if r2r.unstructured else 0,
        "graph_clustering": size_mib(r2r.graph_clustering.memory) if r2r.graph_clustering else 0,
    }


def _what_to_leave_out(settings: Settings) -> str:
    ways = ["take a larger machine"]
    if settings.r2r.orchestration == "hatchet":
        ways.append('set r2r.orchestration = "simple"')
    ways += [
        f"take [r2r.{name}] out"
        for name in ("unstructured", "graph_clustering")
        if getattr(settings.r2r, name)
    ]
    return ", or ".join(ways)
