"""A run on the host, from a verb: waits for its turn if a timer began it, shows its record.

The exit code is the record's: 0 ok, 1 warning, 2 failed, 3 unproven. What came to no record ends
with the error's own. A warning does not fail the unit of a timer: the run has told of it itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Literal, NoReturn

import typer

from ops.backup.lock import holder
from ops.backup.records import Kind, Record, read_records
from ops.backup.show import show_record
from ops.backup.source import Tell
from ops.cli.common import out, print_json, say_error
from ops.cli.place import Here
from ops.cli.progress import telling
from ops.errors import StackroomError
from ops.settings.host import HostConfig

Trigger = Literal["hand", "timer"]
# the units pass it; people need not
Timer = Annotated[bool, typer.Option("--timer", hidden=True)]
LOOK_SECONDS = 5.0
WARNING = 1


def carried_out(
    here: Here,
    kind: Kind,
    work: Callable[[Trigger, Tell], Record],
    *,
    timer: bool = False,
    json_output: bool = False,
) -> NoReturn:
    """Do `work`, show the record and exit with its code. Raises what left no record."""
    base = here.config.base
    if timer:
        wait_for_turn(here.config)
    before = {record.run for record in read_records(base, kind)}
    try:
        with telling(quiet=json_output) as tell:
            record = work("timer" if timer else "hand", tell)
    except StackroomError as error:
        written = [r for r in read_records(base, kind) if r.run not in before]
        if not written:
            raise
        record = written[-1]
        say_error(error)
    if json_output:
        print_json(record.model_dump(mode="json"))
    else:
        show_record(record, out)
    code = record.exit_code or 0
    raise typer.Exit(0 if timer and code == WARNING else code)


def wait_for_turn(config: HostConfig, seconds: float | None = None) -> None:
    """Wait until no run holds the lock, for as long as a run may take. Timers may coincide."""
    deadline = time.monotonic() + (config.timeout_hours * 3600 if seconds is None else seconds)
    while holder(config.base) is not None and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
