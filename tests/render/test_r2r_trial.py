"""The trial of a new R2R stack: all that has a configuration of ours, and nothing that runs."""

from __future__ import annotations

import re

import pytest
import stacks
from r2r_stacks import FULL, Rendered

from ops.render.host import stack_unit

BESIDE = {
    "dashboards": True,
    "unstructured": {"version": "2025-06"},
    "graph_clustering": {"version": "2025-06"},
}
CORE = {"postgres", "litellm", "r2r", "edge"}
QUEUE = {
    *("hatchet-postgres", "rabbitmq", "hatchet-migrate", "hatchet-setup", "hatchet-token"),
    "hatchet-engine",
}


@pytest.fixture(scope="module", params=["simple", "hatchet"])
def each(request: pytest.FixtureRequest) -> Rendered:
    return Rendered(orchestration=request.param, **FULL, **BESIDE)


def test_what_is_configured_by_us_is_tried_and_what_is_optional_and_large_is_not(
    each: Rendered,
) -> None:
    queue = QUEUE if each.settings.r2r.orchestration == "hatchet" else set()
    assert set(each.trial["services"]) == CORE | queue
    assert Rendered(edge={"mode": "tunnel"}).env["TRIAL_SERVICES"] == "r2r"


def test_a_trial_touches_nothing_that_runs(each: Rendered) -> None:
    stacks.assert_touches_nothing_that_runs(each.trial)


def test_a_trial_runs_what_will_run_within_a_bound_of_its_own(each: Rendered) -> None:
    for name, service in each.trial["services"].items():
        running = each.services[name]
        changed = {key for key in running if service.get(key) != running[key]}
        holds = {"volumes"} if name == "hatchet-postgres" else set()
        assert changed <= {"ports", "networks", "restart", "mem_limit", "depends_on"} | holds, name
        assert stacks.mib(service["mem_limit"]) <= 1024, name
        waits = service.get("depends_on", {})
        assert waits == {k: running["depends_on"][k] for k in waits}, name


def test_the_volumes_of_a_trial_belong_to_who_writes_them(each: Rendered) -> None:
    owners = {volume.name: volume.uid for volume in each.stack.volumes}
    for name, service in each.trial["services"].items():
        for mount in service.get("volumes", []):
            if mount["type"] == "volume" and name != "edge":
                options = each.trial["volumes"][mount["source"]]["driver_opts"]["o"]
                uid = re.search(r"uid=(\d+)", options)
                assert uid, mount["source"]
                assert int(uid[1]) == owners[each.project["volumes"][mount["source"]]["name"]]


def test_what_a_one_shot_writes_is_there_for_the_next(each: Rendered) -> None:
    """A tmpfs volume is unmounted with its last user: one that stays holds it from the start."""
    services = each.trial["services"]
    ending = [name for name in services if services[name]["image"].count("hatchet-admin")]
    for mount in (mount for name in ending for mount in services[name]["volumes"]):
        holders = [
            name
            for name, service in services.items()
            if service.get("healthcheck")
            and name != "r2r"
            and mount["source"] in [each["source"] for each in service.get("volumes", [])]
        ]
        assert "hatchet-postgres" in holders, mount["source"]
    assert bool(ending) == (each.settings.r2r.orchestration == "hatchet")


def test_the_order_of_a_restart_is_kept_by_a_unit() -> None:
    """Compose's order is for `up` alone: what Docker starts again by itself starts all at once."""
    assert Rendered().stack.ordered
    unit = stack_unit().content
    assert "ExecStart=/usr/local/sbin/stackroom-apply --boot " in unit
    assert "ExecStop=/usr/bin/docker compose stop\n" in unit
    assert "After=docker.service" in unit
    assert "Requires=docker.service" not in unit, "a restart of Docker would stop the stack"
