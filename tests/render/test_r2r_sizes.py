"""The host is shared out: nothing beyond it, nothing below what a service needs, in every size."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from r2r_stacks import HOSTS, MODELS
from settings_lab import R2R_PASSWORDS, SECRETS, settings_with

from ops.errors import SettingsError
from ops.render import r2r_sizes
from ops.render.files import ROOT
from ops.render.memory import EDGE_MIB, SYSTEM_MIB
from ops.render.r2r_sizes import PROFILES, Sizes
from ops.settings import Settings

MEMORY = (
    *("r2r", "postgres", "litellm", "rabbitmq", "hatchet_postgres", "hatchet_engine"),
    *("r2r_dashboard", "hatchet_dashboard", "unstructured", "graph_clustering"),
)
HELPER = {"version": "1.0", "memory": "4G"}


def chosen(**r2r: Any) -> Settings:
    models = MODELS | {"chat": {"model": "openai/a"}}
    own = {"litellm": {"models": models}, "secrets": SECRETS | {"r2r": R2R_PASSWORDS}}
    return settings_with(stack="r2r", r2r=r2r, **own)


def sizes(host_mib: int, cpus: int, **r2r: Any) -> Sizes:
    return r2r_sizes.sizes(chosen(**r2r), host_mib, cpus)


@pytest.mark.parametrize(
    ("profile", "orchestration", "expected"),
    [
        ("small", "simple", (3456, 2304, 640, 4, 16, 16, 40, 576)),
        ("small", "hatchet", (2816, 1792, 640, 4, 16, 16, 40, 448)),
        ("medium", "simple", (6656, 6528, 1024, 12, 64, 64, 100, 1632)),
        ("medium", "hatchet", (6016, 6016, 1024, 12, 64, 64, 100, 1504)),
        ("high", "simple", (11520, 17280, 1536, 32, 128, 256, 200, 4320)),
        ("high", "hatchet", (11136, 16512, 1536, 32, 128, 256, 200, 4128)),
    ],
)
def test_what_each_profile_gives_on_its_host(
    profile: str, orchestration: str, expected: tuple[int, ...]
) -> None:
    table = (ROOT / "docs" / "r2r.md").read_text(encoding="utf-8")
    assert f"| {' | '.join(map(str, (profile, orchestration, *expected)))} |" in table
    seen = sizes(*HOSTS[profile], profile=profile, orchestration=orchestration)
    assert expected == (
        *(seen.r2r, seen.postgres, seen.litellm),
        *(seen.documents, seen.completions, seen.embeddings, seen.pool, seen.shared_buffers),
    )


@settings(max_examples=200, deadline=None)
@given(
    host=st.integers(1000, 200_000),
    cpus=st.integers(1, 64),
    profile=st.sampled_from(sorted(PROFILES)),
    orchestration=st.sampled_from(["simple", "hatchet"]),
    dashboards=st.booleans(),
    unstructured=st.booleans(),
)
def test_all_limits_together_fit_the_host(
    host: int, cpus: int, profile: str, orchestration: str, dashboards: bool, unstructured: bool
) -> None:
    r2r: dict[str, Any] = {"profile": profile, "orchestration": orchestration}
    r2r |= {"dashboards": dashboards} | ({"unstructured": HELPER} if unstructured else {})
    try:
        seen = sizes(host, cpus, **r2r)
    except SettingsError as error:
        refused = error
    else:
        refused = None
    if refused:
        assert refused.message.startswith("r2r.")
        assert str(host) in refused.message or "upload" in refused.message
        assert "larger machine" in refused.hint
        return
    assert sum(getattr(seen, name) for name in MEMORY) + SYSTEM_MIB + EDGE_MIB <= host
    assert seen.r2r >= r2r_sizes.R2R_LEAST_MIB
    assert seen.postgres >= r2r_sizes.POSTGRES_LEAST_MIB
    # Postgres holds its cache, a process for each connection and the build of one index
    processes = seen.max_connections * r2r_sizes.CONNECTION_MIB
    assert seen.shared_buffers + seen.maintenance_work_mem + processes <= seen.postgres
    assert seen.max_connections > seen.pool >= r2r_sizes.POOL_LEAST
    assert seen.postgres_shm > seen.maintenance_work_mem
    assert seen.documents * 2 <= seen.pool
    assert seen.scratch < seen.r2r
    assert min(seen.documents, seen.completions, seen.embeddings, seen.unstructured_workers) >= 1
    assert (seen.rabbitmq == seen.hatchet_engine == 0) == (orchestration == "simple")
    assert bool(seen.unstructured) == unstructured
    bounds = PROFILES[profile]
    assert seen.documents <= bounds.documents
    assert seen.completions <= bounds.completions


@pytest.mark.parametrize("profile", PROFILES)
def test_the_least_host_is_told_and_holds(profile: str) -> None:
    least = PROFILES[profile]
    table = (ROOT / "docs" / "r2r.md").read_text(encoding="utf-8")
    assert f"| {least.least_mib} MiB, {least.least_cpus} cores |" in table
    assert sizes(least.least_mib, least.least_cpus, profile=profile, orchestration="simple").r2r


def test_a_host_below_the_profile_is_refused_with_what_it_has() -> None:
    with pytest.raises(SettingsError) as refused:
        sizes(7800, 4, profile="medium")
    assert refused.value.message == (
        'r2r.profile: "medium" needs 15000 MiB of memory and 4 cores; the host has 7800 and 4'
    )
    assert refused.value.hint == 'take a larger machine, or set r2r.profile = "small"'


def test_what_can_be_left_out_is_named_where_it_does_not_fit() -> None:
    with pytest.raises(SettingsError, match="are left for R2R and Postgres") as refused:
        sizes(7800, 2, unstructured=HELPER)
    assert refused.value.hint == (
        'take a larger machine, or set r2r.orchestration = "simple", or take [r2r.unstructured] out'
    )


def test_a_file_that_would_end_r2r_is_refused() -> None:
    assert sizes(7800, 2, max_upload="700MB").r2r
    with pytest.raises(SettingsError, match=r"r2r\.max_upload: a file of 2000 MB does not fit"):
        sizes(7800, 2, max_upload_by_type={"pdf": "2GB"})
