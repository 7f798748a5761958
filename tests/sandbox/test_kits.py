"""Each kit is handed to a clean machine and pasted there, line by line as its page prints it.

What could not be had: the embedding model as mcp-server-qdrant downloads it. The machines have the
same model from packages, its weights rounded to 8 bits (ops/sandbox/images/workstation/model.txt).
And Claude Code itself: its command line is recorded, and what it would start is spoken to.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hands import (
    HOST,
    HOST_IPV6,
    INVENTORY,
    Done,
    changed_environment,
    deploy,
    plan,
    qdrant,
    stackroom,
)

from ops.clients.ssh import Completed
from ops.sandbox.client import Client
from ops.sandbox.layout import ipv4, ipv6
from ops.sandbox.workstation import HOME, lay_files, workstation
from ops.settings import Environment

pytestmark = pytest.mark.sandbox

FOLDER = "my kits/stackroom"  # below the home; a path with a space
TALK = (Path(__file__).parent / "mcp_talk.py").read_text(encoding="utf-8")
# writes down how it was called, one word a line
CLAUDE = f'#!/bin/sh\nprintf "%s\\n" "$@" > {HOME}/claude.words\n'
NOTE = "The firewall opens two ports to each developer."
QUESTION = "which ports may a developer reach?"


@dataclass
class Way:
    """How the machine is reached: an environment of its own, by one family, in one mode."""

    environment: str
    family: str
    mode: str


@dataclass
class Member:
    """Somebody with a machine: what they may do, and what their page looked like when pasted."""

    name: str
    machine: Client
    access: str
    collections: str
    pasted: list[str] = field(default_factory=list)

    def sh(self, script: str, *arguments: str, timeout: float = 120, stdin: str = "") -> Completed:
        """A line in a shell of theirs, opened in the folder of the kit."""
        # a line of its own: with && an & in the script would take the folder along
        opened = f'cd "{HOME}/{FOLDER}" || exit\n{script}'
        path = f"PATH={HOME}/bin:/usr/local/bin:/usr/bin:/bin"
        return self.machine.run(
            ["env", path, "sh", "-c", opened, "-", *arguments], timeout, stdin=stdin
        )


@pytest.fixture(
    scope="module",
    params=[("v4", "internal"), ("v6", "internal"), ("v4", "tunnel")],
    ids=["IPv4", "IPv6", "tunnel"],
)
def way(deployed: Environment, request: pytest.FixtureRequest) -> Iterator[Way]:
    """The machine deployed for it; afterwards it is as all tests share it."""
    family, mode = request.param
    edits = {}
    if mode == "tunnel":
        edits["settings"] = lambda text: text.replace('mode = "internal"', f'mode = "{mode}"')
    try:
        with changed_environment(**edits) as name:
            if family == "v6":
                hosts = INVENTORY / name / "hosts.py"
                hosts.write_text(hosts.read_text().replace(HOST, HOST_IPV6))
            done = deploy(environment=name)
            assert done.returncode == 0, done.stdout + done.stderr
            yield Way(name, family, mode)
    finally:
        again = deploy()
        left = qdrant(deployed, "POST", "/collections/team_memory/points/scroll", {"limit": 100})
        ids = [point["id"] for point in left["result"]["points"]]
        path = "/collections/team_memory/points/delete?wait=true"
        if ids:
            qdrant(deployed, "POST", path, {"points": ids})
    assert again.returncode == 0, again.stdout + again.stderr
    assert plan() == set()


def add(way: Way, member: Member, folder: Path) -> Done:
    """The verb that lets them in, with the key that they made on their own machine."""
    address = member.machine.ipv6 if way.family == "v6" else member.machine.ipv4
    made = member.machine.run(
        ["sh", "-c", "ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519 && cat ~/.ssh/*.pub"]
    )
    assert made.returncode == 0, made.stderr
    words = ["--ip", address, "--key", made.stdout.strip(), "--access", member.access]
    named = ["--collections", member.collections, "--expires", "90d", "--to", str(folder)]
    return stackroom("developer", "add", member.name, *words, *named, "--yes",
                     environment=way.environment)  # fmt: skip


@pytest.fixture(scope="module")
def team(way: Way, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Member]]:
    """wim writes notes, rita reads them, lars reads the library alone; each unpacked their kit."""
    rights = {
        "wim": ("write", "team_memory,knowledge_library"),
        "rita": ("read", "team_memory"),
        "lars": ("read", "knowledge_library"),
    }
    machines = [
        workstation(name, ipv4(number), ipv6(number))
        for number, name in enumerate(rights, start=31)
    ]
    with machines[0] as first, machines[1] as second, machines[2] as third:
        members = {
            name: Member(name, machine, *rights[name])
            for name, machine in zip(rights, (first, second, third), strict=True)
        }
        for member in members.values():
            kit = tmp_path_factory.mktemp("kits") / member.name
            done = add(way, member, kit)
            assert done.returncode == 0, done.stdout + done.stderr
            lay_files(
                member.machine, FOLDER, {file.name: file.read_text() for file in kit.iterdir()}
            )
            lay_files(member.machine, "bin", {"claude": CLAUDE, "talk.py": TALK})
            assert member.machine.run(["chmod", "+x", f"{HOME}/bin/claude"]).returncode == 0
            paste(member)
        yield members


def paste(member: Member) -> None:
    """Every block of the page, in its order; the tunnel goes on beside what comes after it."""
    page = member.sh("cat README.md").stdout
    for block in re.findall(r"```sh\n(.*?)\n```", page, re.DOTALL):
        member.pasted.append(block)
        if block.startswith("ssh -N "):
            # sh -c, as pasted; nothing of it holds on to this call
            member.sh('(nohup sh -c "$1" >../tunnel.log 2>&1 </dev/null &)', block)
            waited = (
                "for i in $(seq 50); do curl -s http://127.0.0.1:6333/ && exit; sleep 0.2; done"
            )
            done = member.sh(f"{waited}; cat ../tunnel.log; exit 1")
        else:
            done = member.sh('sh -c "$1"', block)
        assert done.returncode == 0, f"{member.name}: {block}\n{done.stdout}{done.stderr}"


def talk(member: Member, *calls: tuple[str, dict[str, str]]) -> dict[str, Any]:
    """With the server that Claude Code was told to start."""
    words = member.sh(f"cat {HOME}/claude.words").stdout.splitlines()
    command = words[words.index("--") + 1 :]
    done = member.machine.run(
        # Claude Code starts it somewhere else
        ["sh", "-c", 'cd /tmp && exec python3 "$@"', "-", f"{HOME}/bin/talk.py", *command],
        120,
        stdin=json.dumps(calls),
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_every_line_of_every_page_works(way: Way, team: dict[str, Member]) -> None:
    """They were pasted, each with exit code 0; here, that none was left out."""
    for name, member in team.items():
        verbs = [block.split()[0] for block in member.pasted]
        claude = [] if name == "lars" else ["sh", "claude"]
        assert verbs == ["ssh", "sh", "printf", "uv", *claude], name
        assert way.mode != "tunnel" or "http://127.0.0.1:6333" in member.pasted[2]


def test_the_check_names_what_each_may_read(team: dict[str, Member]) -> None:
    for member in team.values():
        done = member.sh("sh check.sh")
        checked = re.findall(r"^ok +(\w+):", done.stdout, re.MULTILINE)
        assert (done.returncode, checked) == (0, member.collections.split(",")), member.name


def test_what_one_claude_stores_another_finds(team: dict[str, Member]) -> None:
    stored = talk(team["wim"], ("qdrant-store", {"information": NOTE}))
    found = talk(team["rita"], ("qdrant-find", {"query": QUESTION}))

    assert stored["server"] == "mcp-server-qdrant"
    assert sorted(stored["tools"]) == ["qdrant-find", "qdrant-store"]
    assert found["tools"] == ["qdrant-find"]
    assert NOTE in json.dumps(found["answers"])


def test_who_has_no_collection_for_claude_is_told_what_is_missing(team: dict[str, Member]) -> None:
    page = team["lars"].sh("cat README.md").stdout

    assert "claude mcp add" not in page
    assert "fast-all-minilm-l6-v2" in page


def test_the_tunnel_reaches_the_same_server(way: Way, team: dict[str, Member]) -> None:
    """And nothing else: a port of the host that is not Qdrant's stays shut."""
    ask = "printf 'api-key: %s\\n' \"$(cat token)\" | curl -sS -H @- http://127.0.0.1:6333/collections"
    for member in team.values():
        listed = json.loads(member.sh(ask).stdout)["result"]["collections"]
        assert {each["name"] for each in listed} == set(member.collections.split(","))
    line = next(block for block in team["wim"].pasted if block.startswith("ssh -N "))
    other = re.sub(r"-L \S+", "-L 127.0.0.1:7022:127.0.0.1:22", line, count=1)
    other = re.sub(r" -L 127.0.0.1:6334\S+", "", other)
    sign = "(sleep 20 | curl -s -m 3 telnet://127.0.0.1:7022; true)"
    done = team["wim"].sh(f"({other} & pid=$!; sleep 2; {sign}; kill $pid) 2>&1")
    assert "administratively prohibited" in done.stdout, done.stdout
    assert "SSH-2.0" not in done.stdout, done.stdout


def test_the_kit_is_closed_to_others(team: dict[str, Member]) -> None:
    for member in team.values():
        modes = member.sh("stat -c %a . *").stdout.split()
        assert modes[0] == "700"
        assert set(modes[1:]) <= {"600", "644"}, "644 is what was made anew: public certificates"
        assert member.sh("stat -c %a token").stdout.split() == ["600"]


def test_another_servers_key_stops_the_tunnel(team: dict[str, Member]) -> None:
    """Whoever sits between is not asked about: known_hosts of the kit alone decides."""
    member = team["rita"]
    forged = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
    host = shlex.quote(member.sh("cut -d' ' -f1 known_hosts | head -n 1").stdout.strip())
    member.sh(f"mkdir -p ../other && cp * ../other && echo {host} {forged} > ../other/known_hosts")

    done = member.sh("cd ../other && timeout 20 sh tunnel.sh")

    assert done.returncode == 255
    assert "host key" in done.stderr.lower()
