"""What all scheduled work has in common: lock, record, deadline, signals, notices.

A job ends in order, or its record says that it died. Notices and metrics are told of a result that
is already written: they can neither change nor hang it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Literal, TypeVar

from ops.backup.lock import hold
from ops.backup.manifest import new_run
from ops.backup.metrics import write_metrics
from ops.backup.notices import finished, started
from ops.backup.records import Kind, Outcome, Record, last, read_records, write_record
from ops.backup.source import Event, Tell, silent
from ops.errors import BackupError, StackroomError, UnprovenError
from ops.settings.host import Credentials, HostConfig

Clock = Callable[[], datetime]
Trigger = Literal["hand", "timer"]
T = TypeVar("T")

TELLING_SECONDS = 40.0  # notices take 30 at most; they are left behind where they take longer
ENDING_SECONDS = 10.0  # a child that is told to end may take some
SKEW = timedelta(hours=1)  # a clock may be off by that much and is still believed
EXIT_CODES: dict[Outcome, int] = {"ok": 0, "warning": 1, "failed": 2, "unproven": 3, "died": 2}
DIED = "killed, or the machine went down: it did not come to its end"


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Job:
    """What the work is given. `record` is the running record; `deadline` is monotonic."""

    config: HostConfig
    credentials: Credentials
    record: Record
    tell: Tell
    now: Clock
    deadline: float

    @property
    def run(self) -> str:
        return self.record.run

    def remaining(self) -> float:
        """Seconds until the whole job has to be over; 1 at least, for a timeout cannot be 0."""
        return max(self.deadline - time.monotonic(), 1.0)

    def share(self, others: int) -> float:
        """Seconds for one of the repositories that are left, with `others` behind it: one that
        hangs must leave time for them, and for the record."""
        return max(0.9 * (self.remaining() - ENDING_SECONDS) / (others + 1), 1.0)


class Stopped(SystemExit):
    """A signal asked for the end. Not an error that a step could take for its own."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


class _Overdue(BaseException):
    """The job's time is up; neither may a step take this for its own."""


def carry_out(
    kind: Kind,
    config: HostConfig,
    credentials: Credentials,
    work: Callable[[Job], Record],
    *,
    trigger: Trigger = "hand",
    tell: Tell = silent,
    now: Clock = utc_now,
) -> Record:
    """Do `work` under the lock, and keep and tell its record.

    `work` returns `job.record` with at least its `outcome` set; `finished` and, where it is None,
    `exit_code` are filled in here. Raises LockedError (nothing is recorded), and whatever
    StackroomError `work` raised, once that is recorded; OSErrors of `work` come as BackupError.
    SIGTERM, SIGINT and SIGHUP end the process in order with 128 + their number.
    """
    timeout = config.timeout_hours * 3600
    with hold(config.base, kind), _ending_in_order() as ending:
        report_unheard(config, credentials, now())
        record = Record(kind=kind, run=new_run(now()), started=now(), trigger=trigger)
        job = Job(config, credentials, record, tell, now, time.monotonic() + timeout)
        greeting = _aside(lambda: started(credentials, record))
        record, error = _attempt(job, work, ending, timeout)
        record = _conclude(job, record, greeting)
    if error is not None:
        raise error
    return record


def report_unheard(config: HostConfig, credentials: Credentials, now: datetime) -> list[Record]:
    """Mark runs that died, and send what no notice went out for: the newest of each kind.

    Only for whoever holds the lock: a running record is nobody's then. Returns what was told. Of a
    clock that ran ahead nothing is told: it would hide what came after it.
    """
    records = read_records(config.base)
    dead = [
        record.model_copy(update={"outcome": "died", "exit_code": 2, "error": DIED})
        for record in records
        if record.outcome == "running"
    ]
    for record in dead:
        _write(config, record)
    told = []
    for kind in {record.kind for record in records}:
        seen = believable(read_records(config.base, kind), now)
        for record in [r for r in seen if r.outcome != "running"][-1:]:
            if record.outcome in ("died", "failed", "unproven") and not record.notified:
                told.append(_notify(config, credentials, record))
    return told


def _attempt(
    job: Job, work: Callable[[Job], Record], ending: _Ending, timeout: float
) -> tuple[Record, BaseException | None]:
    """The record of the work, and what to raise at the end."""
    error: BaseException | None = None
    try:
        record, error = _work(job, work, ending, timeout)
    except Stopped as stopped:
        record, error = _failed(job.record, f"stopped by {stopped.name}"), stopped
        record = record.model_copy(update={"exit_code": stopped.code})
    except _Overdue:
        error = BackupError(
            f"the {job.record.kind} was ended after {timeout / 3600:g} h: timeout_hours",
            "stackroom doctor; or a longer backup.timeout_hours",
        )
        record = _failed(job.record, error.message)
    except BaseException as ended:  # whoever asked for it: no record may say "running" for ever
        record, error = _failed(job.record, f"unexpected {type(ended).__name__}: {ended}"), ended
    return record, error


def _work(
    job: Job, work: Callable[[Job], Record], ending: _Ending, timeout: float
) -> tuple[Record, BaseException | None]:
    try:
        ending.arm(timeout)
        write_record(job.config.base, job.record)
        job.tell(Event("start"))
        record = work(job)
        job.tell(Event("record"))
        ending.disarm()
        return record, None
    except UnprovenError as error:
        return _failed(job.record, error.message, "unproven", error.hint), error
    except StackroomError as error:
        return _failed(job.record, error.message, hint=error.hint), error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        failure = BackupError(f"{where}{error.strerror or error}", "df -h; journalctl -b -p err")
        return _failed(job.record, failure.message, hint=failure.hint), failure
    except Exception as error:
        return _failed(job.record, f"unexpected {type(error).__name__}: {error}"), error


def _failed(record: Record, error: str, outcome: Outcome = "failed", hint: str = "") -> Record:
    return record.model_copy(update={"outcome": outcome, "error": error, "hint": hint})


def _conclude(job: Job, record: Record, greeting: threading.Thread) -> Record:
    code = EXIT_CODES[record.outcome] if record.exit_code is None else record.exit_code
    record = record.model_copy(update={"finished": job.now(), "exit_code": code})
    _write(job.config, record)
    greeting.join(TELLING_SECONDS)
    record = _notify(job.config, job.credentials, record)
    records = read_records(job.config.base)
    _aside(lambda: write_metrics(job.config, records)).join(TELLING_SECONDS)
    with contextlib.suppress(OSError):  # nobody may be looking any more
        job.tell(Event("done"))
    return record


def _notify(config: HostConfig, credentials: Credentials, record: Record) -> Record:
    answers: list[bool] = []
    _aside(lambda: answers.append(finished(config, credentials, record))).join(TELLING_SECONDS)
    if answers == [True]:
        record = record.model_copy(update={"notified": True})
        _write(config, record)
    return record


def _write(config: HostConfig, record: Record) -> None:
    # on a full disk the running record stays; the next start takes the run for dead and says so
    with contextlib.suppress(OSError):
        write_record(config.base, record)


def _aside(telling: Callable[[], object]) -> threading.Thread:
    """Do it in a thread that nobody has to wait for, and that can raise nothing here."""

    def quietly() -> None:
        with contextlib.suppress(Exception):
            telling()

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    return thread


def believable(records: list[Record], now: datetime) -> list[Record]:
    """The records that do not come from a clock that ran ahead."""
    return [record for record in records if record.started <= now + SKEW]


def last_good(records: list[Record], repository: str, now: datetime) -> Record | None:
    """The newest backup that reached this repository, of those that a clock can have made."""
    stored = [r for r in records if r.kind == "backup" and r.stored_in(repository)]
    return last(believable(stored, now), "ok", "warning")


class _Ending:
    """Turns signals and the deadline into exceptions of the main thread, while it is armed."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self) -> None:
        self._armed = False
        self._early = 0

    def arm(self, seconds: float) -> None:
        """From here on; also for a signal that came before."""
        if self._early:
            raise Stopped(self._early)
        self._armed = True
        if _in_main_thread():
            signal.setitimer(signal.ITIMER_REAL, seconds)

    def disarm(self) -> None:
        self._armed = False
        if _in_main_thread():
            signal.setitimer(signal.ITIMER_REAL, 0)

    def handle(self, number: int, _: FrameType | None) -> None:
        # once: what ends is not ended again while it clears up, and a result is not taken back
        if not self._armed:
            self._early = number
            return
        self.disarm()
        if number == signal.SIGALRM:
            raise _Overdue
        raise Stopped(number)


@contextlib.contextmanager
def _ending_in_order() -> Iterator[_Ending]:
    ending = _Ending()
    if not _in_main_thread():
        yield ending
        return
    numbers = (*_Ending.SIGNALS, signal.SIGALRM)
    before = {number: signal.signal(number, ending.handle) for number in numbers}
    try:
        yield ending
    finally:
        ending.disarm()
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
