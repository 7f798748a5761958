"""A circuit breaker: whoever did not answer several times is left alone for a while, and then
asked once. It knows nothing of HTTP.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ops.errors import UnreachableError


class OpenError(UnreachableError):
    """Not asked: it did not answer the last times."""


class Breaker:
    """Opens after `failures` in a row, for `pause` seconds. Safe to share between threads."""

    def __init__(
        self,
        failures: int = 5,
        pause: float = 15.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most, self._pause, self._clock = failures, pause, clock
        self._lock = threading.Lock()
        self._failed = 0
        self._opened = 0.0
        self._trying = False  # one request is out to see whether it answers again

    def enter(self, name: str) -> None:
        """Before a request to `name`; `answered`, `failed` or `leave` must follow.

        Raises OpenError while it is left alone.
        """
        with self._lock:
            if self._failed < self._most:
                return
            left = self._opened + self._pause - self._clock()
            if left > 0 or self._trying:
                raise OpenError(
                    f"{name} did not answer {self._failed} times in a row: it is not asked again"
                    f" for {max(left, 1):.0f} s"
                )
            self._trying = True

    def answered(self) -> None:
        """It answered, if only to refuse."""
        with self._lock:
            self._failed, self._trying = 0, False

    def failed(self) -> None:
        with self._lock:
            self._failed += 1
            self._opened, self._trying = self._clock(), False

    def leave(self) -> None:
        """The request was given up on this side: nothing is known."""
        with self._lock:
            self._trying = False
