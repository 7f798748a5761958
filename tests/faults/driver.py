"""The run under test, as a process: `driver.py <config> <credentials> [options]`, or a fork of it.

It calls what the verb calls, and nothing in the code under test knows that it may be killed: the
`tell` that is given counts the boundaries and kills this process at the one that was asked for.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ops.backup import post, sources, store, upkeep
from ops.backup.qdrant import QdrantCollector
from ops.backup.run import back_up
from ops.backup.source import Event
from ops.clients import restic_words
from ops.errors import StackroomError
from ops.settings.host import Credentials, load_host_config


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("credentials", type=Path)
    parser.add_argument("--verb", default="backup", choices=["backup", "check", "prune"])
    parser.add_argument("--steps", type=Path, help="where the boundaries are listed, line by line")
    parser.add_argument("--kill-at", default="", help="the boundary at which to be killed")
    parser.add_argument("--signal", type=int, default=int(signal.SIGKILL))
    parser.add_argument("--wait-at", default="", help="the boundary at which to wait for a file")
    parser.add_argument("--until", type=Path, help="the file that ends the waiting")
    parser.add_argument("--answer-seconds", type=float, default=60.0)
    parser.add_argument("--full", action="store_true", help="of a check")
    parser.add_argument("--dry-run", action="store_true", help="of a prune")
    parser.add_argument("--silence", type=float, default=60.0, help="until Qdrant counts as gone")
    parser.add_argument("--messenger", type=Path, default=post.MESSENGER)
    parser.add_argument("--patience", type=float, default=post.PATIENCE_SECONDS, help="its own")
    parser.add_argument("--restic-patience", type=float, default=restic_words.PATIENCE_SECONDS)
    parser.add_argument("--restic-failed", type=float, default=restic_words.FAILED_SECONDS)
    parser.add_argument("--days-ahead", type=float, default=0.0, help="of the clock")
    return parser.parse_args()


def main() -> int:
    given = parsed()
    store.ANSWER_SECONDS = given.answer_seconds
    restic_words.PATIENCE_SECONDS = given.restic_patience
    restic_words.FAILED_SECONDS = given.restic_failed
    post.MESSENGER, post.PATIENCE_SECONDS = given.messenger, given.patience
    sources.QdrantCollector = functools.partial(QdrantCollector, silence=given.silence)
    seen: set[str] = set()

    def tell(event: Event) -> None:
        # each step and each item of it once; how often bytes are told is a matter of luck
        boundary = event.step + (f"/{event.item}" if event.item else "")
        if boundary in seen:
            return
        seen.add(boundary)
        if given.steps:
            with given.steps.open("a") as file:
                file.write(f"{boundary}\n")
        if boundary == given.kill_at:
            os.kill(os.getpid(), given.signal)
        if boundary == given.wait_at:
            while not given.until.exists():
                time.sleep(0.02)

    def now() -> datetime:
        return datetime.now(UTC) + timedelta(days=given.days_ahead)

    work = {
        "backup": back_up,
        "check": functools.partial(upkeep.check, full=given.full),
        "prune": functools.partial(upkeep.prune, dry_run=given.dry_run),
    }[given.verb]
    try:
        record = work(
            load_host_config(given.config), Credentials(given.credentials), tell=tell, now=now
        )
    except StackroomError as error:
        print(f"{type(error).__name__}: {error.message}", file=sys.stderr)
        print(f"next: {error.hint}", file=sys.stderr)
        return error.exit_code
    print(record.outcome, record.error, file=sys.stderr)
    return record.exit_code or 0


if __name__ == "__main__":
    raise SystemExit(main())
