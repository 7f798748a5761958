"""Starts R2R with its log on standard output alone, and no secret in it.

R2R writes its database password into its log at every start. Whatever this process knows as a
secret, by its environment or its configuration, is written as *** here.
"""

from __future__ import annotations

import functools
import io
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import tomllib
from pathlib import Path
from urllib.parse import quote

import uvicorn

SECRET_NAME = re.compile(r"password|secret|token|api_?key|_key$", re.IGNORECASE)
SHORTEST = 6  # a shorter value would blacken ordinary words
TOKEN_FILE = Path("/run/hatchet/token")  # laid by Hatchet's one-shot; without Hatchet there is none
PROBE = "?readiness"  # of ready.py: it would fill the log
# where no SMTP is set R2R logs each letter instead, and with it the token that resets a password
LETTER = "-------- Email Message --------"
WATCH_SECONDS = 2
LEAVE_SECONDS = 40  # for what is under way; more than uvicorn's own limit
QUEUED_FOR = "720h"  # as long as Hatchet keeps what is done; its client would say five minutes


def secrets() -> list[str]:
    """Every secret value, also as part of a URL, the longest first."""
    found = {value for name, value in os.environ.items() if SECRET_NAME.search(name)}
    path = os.environ.get("R2R_CONFIG_PATH")
    if path:
        found |= set(within(tomllib.loads(Path(path).read_text(encoding="utf-8"))))
    found |= {quote(value, safe="") for value in found}
    return sorted((value for value in found if len(value) >= SHORTEST), key=len, reverse=True)


def within(table: dict[str, object]) -> list[str]:
    """The secret values of a configuration, at any depth."""
    found: list[str] = []
    for name, value in table.items():
        if isinstance(value, dict):
            found += within(value)
        elif isinstance(value, str) and SECRET_NAME.search(name):
            found.append(value)
    return found


class Hiding(io.TextIOWrapper):
    """A standard stream that writes *** for a secret."""

    hidden: re.Pattern[str] | None = None

    def write(self, text: str) -> int:
        shown = self.hidden.sub("***", text) if self.hidden else text
        return super().write(shown)


def hide(values: list[str]) -> None:
    """Close both standard streams to the values. Before anything keeps a handle on them."""
    Hiding.hidden = re.compile("|".join(map(re.escape, values))) if values else None
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        closed = Hiding(stream.buffer, encoding="utf-8", errors="replace", line_buffering=True)
        setattr(sys, name, closed)


def log_to_console_only() -> None:
    """R2R would keep a second log in a file, past the limits of Docker's."""
    from core.utils.logging_config import log_config

    for logger in log_config["loggers"].values():
        logger["handlers"] = ["console"]
    del log_config["handlers"]["file"]


def is_worth_logging(record: logging.LogRecord) -> bool:
    """Everything but the health test's own requests."""
    return PROBE not in record.getMessage()


def is_no_letter(record: logging.LogRecord) -> bool:
    # its text as it was given: to fill in a wrong one would raise where R2R logs it
    return LETTER not in str(record.msg)


def let_the_queued_wait() -> None:
    """Hatchet drops what no worker has taken in five minutes: an upload would not survive a host
    that is down for longer."""
    from hatchet_sdk import Hatchet

    patient = functools.partial(Hatchet.workflow, schedule_timeout=QUEUED_FOR)
    Hatchet.workflow = staticmethod(patient)


def end_with_the_listener() -> None:
    """Hatchet's listener gives up when its engine is away for a minute, and R2R would stay, take
    uploads and never work on one: it ends, and Docker starts it anew."""
    while not multiprocessing.active_children():
        time.sleep(WATCH_SECONDS)
    while multiprocessing.active_children():
        time.sleep(WATCH_SECONDS)
    print("Hatchet's listener has ended, and so does R2R", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LEAVE_SECONDS)
    os._exit(1)


def end_children() -> None:
    """Hatchet's listener is a process that passes over SIGTERM, and Python waits for it at its end:
    R2R would stay until Docker kills it, and answer nobody."""
    for child in multiprocessing.active_children():
        child.kill()


def main() -> None:
    if not os.environ.get("HATCHET_CLIENT_TOKEN") and TOKEN_FILE.is_file():
        os.environ["HATCHET_CLIENT_TOKEN"] = TOKEN_FILE.read_text(encoding="ascii").strip()
    hide(secrets())
    log_to_console_only()
    if "HATCHET_CLIENT_TOKEN" in os.environ:
        let_the_queued_wait()
        threading.Thread(target=end_with_the_listener, daemon=True).start()
    logging.getLogger("uvicorn.access").addFilter(is_worth_logging)
    logging.getLogger().addFilter(is_no_letter)
    try:
        uvicorn.run(
            "core.main.app_entry:app",
            host="0.0.0.0",  # noqa: S104 - of the container; compose decides who reaches it
            port=7272,
            log_config=None,
            timeout_graceful_shutdown=30,
            timeout_keep_alive=15,  # longer than the edge keeps a connection
        )
    finally:
        end_children()


if __name__ == "__main__":
    main()
