"""What scripts that look at a machine share: commands, rules, sections side by side, one JSON line.

Sent ahead of them, see ops/clients/script.py: standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any


def run(*command: str, seconds: float, codes: tuple[int, ...] = (0,), stdin: str = "") -> str:
    """What a command prints. Raises RuntimeError naming the command and its last words."""
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise RuntimeError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{command[0]}: no answer within {seconds:.0f} s") from None
    if done.returncode not in codes:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"{' '.join(command[:3])}: {last}")
    return done.stdout


def chains(listing: str) -> dict[str, Any]:
    """Policies and rules by chain, from what `iptables -S` prints."""
    policies: dict[str, str] = {}
    rules: dict[str, list[str]] = {}
    for line in listing.splitlines():
        kind, _, rest = line.partition(" ")
        chain = rest.split(" ")[0]
        if kind in ("-A", "-P", "-N"):
            rules.setdefault(chain, []).extend([line] if kind == "-A" else [])
        if kind == "-P":
            policies[chain] = rest.split(" ")[1]
    return {"policies": policies, "rules": rules}


def gather(sections: dict[str, Callable[[], Any]], seconds: float) -> dict[str, dict[str, Any]]:
    """All sections side by side. One that fails or hangs becomes a sentence under "errors"."""
    values: dict[str, Any] = {}
    errors: dict[str, str] = {}

    def look(name: str) -> None:
        try:
            values[name] = sections[name]()
        except Exception as error:
            errors[name] = str(error) or type(error).__name__

    threads = [threading.Thread(target=look, args=(name,), daemon=True) for name in sections]
    end = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    values, errors = dict(values), dict(errors)
    for name in sections:
        if name not in values and name not in errors:
            errors[name] = f"no answer within {seconds:.3g} s"
    return {"values": values, "errors": errors}


def answer(sections: dict[str, Callable[[], Any]], seconds: float) -> None:
    """Print what `gather` finds as one JSON line, and end the program."""
    os.environ["PATH"] = (
        os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"
    )
    print(json.dumps(gather(sections, seconds)), flush=True)
    os._exit(0)  # a thread that hangs must not keep the connection open
