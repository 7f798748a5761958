"""A program of its own, given one message on standard input: it pings, sends notices, and ends.

It is started by file name and imports nothing of ours, so that whatever a service's library does
(hang, print, keep threads) stays in here. It never prints an address: those are credentials.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

TRIES = 3
PAUSES = (1.0, 3.0)  # seconds before the second and the third try
ANSWER_SECONDS = 10.0  # for each try


def ping(url: str) -> bool:
    """One GET; only a 2xx is a yes. A redirect is a no: it could lead to where anyone listens."""
    import httpx

    return httpx.get(url, timeout=ANSWER_SECONDS, follow_redirects=False).is_success


def notify(url: str, title: str, body: str, mood: str) -> bool:
    import apprise

    asset = apprise.AppriseAsset(app_id="Stackroom", async_mode=False)
    if hasattr(asset, "http_redirects"):
        asset.http_redirects = False
    post = apprise.Apprise(asset=asset)
    if not post.add(url):
        raise ValueError("no service of apprise has such an address")
    return bool(
        post.notify(
            body=body, title=title, notify_type=apprise.NotifyType(mood), body_format="text"
        )
    )


def insist(attempt: Callable[[], bool]) -> bool:
    """Up to three tries. What can never work is not tried again."""
    for number in range(TRIES):
        if number:
            time.sleep(PAUSES[number - 1])
        try:
            if attempt():
                return True
        except (ValueError, ImportError):
            return False
        except Exception:  # noqa: S112 - a service's library may raise anything
            continue
    return False


def deliver(message: dict[str, object], seconds: float) -> dict[str, list[bool]]:
    """Everything at once, each in its thread; what has no answer in time counts as no."""
    pings, notices = message["pings"], message["notices"]
    assert isinstance(pings, list) and isinstance(notices, list)  # noqa: S101 - a contract
    title, body, mood = (str(message[name]) for name in ("title", "body", "mood"))
    answers = {"pings": [False] * len(pings), "notices": [False] * len(notices)}
    threads = []

    def attend(kind: str, index: int, attempt: Callable[[], bool]) -> None:
        def work() -> None:
            answers[kind][index] = insist(attempt)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        threads.append(thread)

    for index, url in enumerate(pings):
        attend("pings", index, partial(ping, str(url)))
    for index, url in enumerate(notices):
        attend("notices", index, partial(notify, str(url), title, body, mood))
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    return answers


def main() -> None:
    message = json.load(sys.stdin)
    # what a library prints would mix with the answer, and may hold an address
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    with contextlib.suppress(OSError):  # whoever asked may be gone
        json.dump(deliver(message, float(message["seconds"])), answer)
        answer.flush()
    # threads that still wait for an answer do not keep the program
    os._exit(0)


if __name__ == "__main__":
    main()
