"""Runs on the machine: asks each service whether a password is its own, prints one JSON line.

Sent over SSH, see ops/clients/script.py: standard library only, Python 3.9 or newer. It changes
nothing. The passwords come over standard input, and go on over standard input or a connection of
its own: no process list and no environment ever has one.
"""

from __future__ import annotations

import http.client
import json
import sys
import urllib.parse
from functools import partial
from typing import Any

from ops.clients.on_host import answer
from ops.clients.on_host import run as run_for

SECTION_SECONDS = 25.0
COMMAND_SECONDS = 20.0  # rabbitmqctl starts a virtual machine of its own each time

run = partial(run_for, seconds=COMMAND_SECONDS)


def takes(asked: dict[str, Any]) -> bool | None:
    """Whether the service takes the password; None where nobody can be asked."""
    state = run("docker", "inspect", "-f", "{{.State.Running}}", asked["container"], codes=(0, 1))
    return ASK[asked["kind"]](asked) if state.strip() == "true" else None


def postgres(asked: dict[str, Any]) -> bool:
    """By the container's own address: its socket and 127.0.0.1 ask for no password."""
    # without a terminal, psql reads the password that it asks for from standard input
    script = 'exec psql -XAtqW -h "$(hostname -i | cut -d " " -f 1)" -U "$1" -d "$1" -c "SELECT 1"'
    command = ("sh", "-c", script, "sh", asked["user"])
    return not refused(asked, command, "password authentication failed")


def rabbitmq(asked: dict[str, Any]) -> bool:
    # no option besides: rabbitmqctl reads a password only where it counts two words
    command = ("rabbitmqctl", "authenticate_user", asked["user"])
    return not refused(asked, command, "invalid credentials")


def refused(asked: dict[str, Any], command: tuple[str, ...], words: str) -> bool:
    """Whether a command in the container fails with these words; RuntimeError with any other."""
    try:
        run("docker", "exec", "-i", asked["container"], *command, stdin=f"{asked['password']}\n")
    except RuntimeError as error:
        if words in str(error):
            return True
        raise
    return False


def r2r(asked: dict[str, Any]) -> bool | None:
    """None where R2R knows no such user: it makes its administrator at its next start."""
    form = urllib.parse.urlencode({"username": asked["user"], "password": asked["password"]})
    connection = http.client.HTTPConnection("127.0.0.1", asked["port"], timeout=COMMAND_SECONDS)
    try:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/v3/users/login", form, headers)
        status = connection.getresponse().status
    finally:
        connection.close()
    if status not in (200, 401, 404):
        raise RuntimeError(f"R2R answered a login with {status}")
    return None if status == 404 else status == 200


ASK = {"postgres": postgres, "rabbitmq": rabbitmq, "r2r": r2r}


if __name__ == "__main__":
    wanted = json.load(sys.stdin)
    answer({name: partial(takes, asked) for name, asked in wanted.items()}, SECTION_SECONDS)
