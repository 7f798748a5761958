"""`make bench`: what a deploy costs, beside the same tasks as an Ansible playbook.

One host, one run, taking turns: what else this machine does burdens both. Seconds are printed and
never asserted; what is asserted is that both sides did the same work, and nothing needless.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_side import Ansible
from bench_table import Figures, table
from rich.console import Console
from stackroom_side import AFTER, Deploy, count_round_trips, timed_deploy, timed_plan

from ops import sandbox as room
from ops.clients.ssh import Remote
from ops.deploy import make_plan
from ops.render.stack import render_stack
from ops.settings import Environment, load_environment

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

TURNS = 5
# one file, one rule of each of the two firewalls, one collection, one container
DRIFT = r"""
set -e
echo '# edited by hand' >>/etc/systemd/journald.conf.d/10-stackroom.conf
ufw delete allow from {address} to any port 22 proto tcp
iptables -D STACKROOM-IN 1
sed -n 's/^  api_key: "\(.*\)"/header = "api-key: \1"/p' /etc/stackroom/stack/qdrant/local.yaml |
curl -fsS -o /dev/null -K - -X DELETE http://127.0.0.1:6333/collections/{collection}
docker stop stackroom-edge-1
"""


@pytest.fixture(scope="module")
def environment() -> Iterator[Environment]:
    """The environment of a sandbox that is bare at the start and gone at the end."""
    room.down()
    yield load_environment(room.up(print).environment)
    room.down()


@pytest.fixture(scope="module")
def deployed(environment: Environment) -> Deploy:
    """The first deploy: a bare machine becomes a running one."""
    # the images do not depend on the size of the machine
    services = render_stack(environment, 8192, 2).services
    archive = room.image_archive([service.image for service in services], print)
    return timed_deploy(environment, archive)


@pytest.fixture(scope="module")
def ansible(environment: Environment, deployed: Deploy) -> Iterator[Ansible]:
    """The playbook's side, once Stackroom has deployed."""
    with tempfile.TemporaryDirectory(prefix="stackroom-bench-") as folder:
        side = Ansible(environment, Path(folder))
        yield side
        side.disconnect()


def test_a_second_deploy_costs_what_the_table_says(
    environment: Environment, deployed: Deploy, ansible: Ansible
) -> None:
    # a turn that is not counted; from here on Ansible's connection is open
    assert ansible.run().changed == 0, "the playbook wants another host than deploy.py"
    timed_deploy(environment)
    deploys, plans, playbooks = [], [], []
    for turn in range(1, TURNS + 1):
        print(f"turn {turn} of {TURNS}", flush=True)
        deploys.append(timed_deploy(environment))
        playbooks.append(ansible.run())
        plans.append(timed_plan(environment))
    figures = Figures(deployed, deploys, plans, playbooks, count_round_trips(environment))

    assert deployed.changes, "the first deploy found nothing to do: the machine was not bare"
    assert [run.changes for run in deploys] == [[]] * TURNS
    assert [run.changed for run in playbooks] == [0] * TURNS
    assert list(figures.round_trips) == [step for step in deploys[0].steps if step != AFTER]
    assert all(figures.round_trips.values()), "a step that asked the machine nothing"
    console = Console(record=True, highlight=False)
    console.print(table(figures))
    printed = console.export_text()
    for figure in ("first deploy", "no-op deploy", "stackroom plan", "no-op playbook", "goal"):
        assert re.search(rf"{figure}.* \d+\.\d", printed), f"{figure!r} was not printed"


def test_both_sides_see_and_mend_the_same_drift(environment: Environment, ansible: Ansible) -> None:
    """Else the comparison would be between two different amounts of looking."""
    address = environment.settings.developers["dora"].addresses[0].removesuffix("/32")
    collection = next(iter(environment.settings.collections))
    drift = DRIFT.format(address=address, collection=collection)
    drifted = Remote(environment).run(drift, timeout=60)
    assert drifted.returncode == 0, drifted.stderr

    assert make_plan(environment).changes == (
        "Base | files",
        "Base | journal",
        "Access | firewall and SSH",
        "Stack | services",
        "Collections | create",
    )
    mended = set(re.findall(r"TASK \[(.+?)\] \*+\n(?:.+\n)*?changed:", ansible.run().output))
    assert mended == {
        *("files", "UFW rules", "rules for containers in force", "services"),
        *("missing collections", "missing payload indexes"),
    }
    assert make_plan(environment).is_clean
    assert ansible.run().changed == 0
