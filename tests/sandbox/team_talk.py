"""What a developer's program does all day, with Python's standard library alone. Runs on a client.

Reads one JSON task from standard input: {"do": "once", "loop" or "hold", "name" and "to" (the name
of the edge and the address it is reached at), "ca", "token", "method", "path", "body"}. "once"
answers the status. The others go on until standard input ends: "loop" asks without a pause, each
time on a new connection, and answers {"sent": number, "failed": [what went wrong]}; "hold" keeps
one connection and answers {"sent": number, "broke": seconds since the epoch or null}.
"""

import contextlib
import http.client
import json
import socket
import ssl
import sys
import threading
import time
from typing import Any

WORKERS = 4
SECONDS = 90  # of a request: the edge holds it for a minute at most


def connection(task: Any) -> http.client.HTTPSConnection:
    """One that is open, and never opens another in its place. The certificate is for the name."""
    context = ssl.create_default_context(cadata=task["ca"])
    plain = socket.create_connection((task["to"], 443), SECONDS)
    to = http.client.HTTPSConnection(task["name"], timeout=SECONDS)
    to.auto_open = 0
    to.sock = context.wrap_socket(plain, server_hostname=task["name"])
    return to


def ask(task: Any, to: http.client.HTTPSConnection) -> int:
    headers = {"api-key": task["token"], "Content-Type": "application/json"}
    to.request(task["method"], task["path"], json.dumps(task["body"]), headers)
    answer = to.getresponse()
    answer.read()
    return answer.status


def once(task: Any, ended: threading.Event) -> Any:
    with contextlib.closing(connection(task)) as to:
        return ask(task, to)


def loop(task: Any, ended: threading.Event) -> Any:
    sent: list[int] = []
    failed: list[str] = []

    def work() -> None:
        while not ended.is_set():
            sent.append(1)
            try:
                with contextlib.closing(connection(task)) as to:
                    status = ask(task, to)
                if status != 200:
                    failed.append(f"{time.time():.1f}: answered {status}")
            except (OSError, http.client.HTTPException) as error:
                failed.append(f"{time.time():.1f}: {type(error).__name__}: {error}")

    workers = [threading.Thread(target=work) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {"sent": len(sent), "failed": failed[:20]}


def hold(task: Any, ended: threading.Event) -> Any:
    to, sent = connection(task), 0
    while not ended.wait(0.2):
        try:
            ask(task, to)
        except (OSError, http.client.HTTPException):
            return {"sent": sent, "broke": time.time()}
        sent += 1
    return {"sent": sent, "broke": None}


def main() -> None:
    task = json.loads(sys.stdin.readline())
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    do = {"once": once, "loop": loop, "hold": hold}[task["do"]]
    json.dump(do(task, ended), sys.stdout)


if __name__ == "__main__":
    main()
