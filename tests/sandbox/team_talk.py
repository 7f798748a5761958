"""What a developer's program does all day, with Python's standard library alone. Runs on a client.

Reads one JSON task from standard input and goes on until standard input ends: {"do": "loop" or
"hold", "url", "ca", "token", "path", "body"}. "loop" posts without a pause, each time on a new
connection, and answers {"sent": number, "failed": [what went wrong]}; "hold" keeps one connection
and answers {"sent": number, "broke": seconds since the epoch or null}.
"""

import http.client
import json
import ssl
import sys
import threading
import time
from typing import Any
from urllib.parse import urlsplit

WORKERS = 4
SECONDS = 90  # of a request: the edge holds it for a minute at most


def connection(task: Any) -> http.client.HTTPSConnection:
    url = urlsplit(task["url"])
    context = ssl.create_default_context(cadata=task["ca"])
    return http.client.HTTPSConnection(url.hostname or "", url.port, SECONDS, context=context)


def post(task: Any, to: http.client.HTTPSConnection) -> int:
    headers = {"api-key": task["token"], "Content-Type": "application/json"}
    to.request("POST", task["path"], json.dumps(task["body"]), headers)
    answer = to.getresponse()
    answer.read()
    return answer.status


def loop(task: Any, ended: threading.Event) -> Any:
    sent: list[int] = []
    failed: list[str] = []

    def work() -> None:
        while not ended.is_set():
            sent.append(1)
            to = connection(task)
            try:
                status = post(task, to)
                if status != 200:
                    failed.append(f"{time.time():.1f}: answered {status}")
            except (OSError, http.client.HTTPException) as error:
                failed.append(f"{time.time():.1f}: {type(error).__name__}: {error}")
            finally:
                to.close()

    workers = [threading.Thread(target=work) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {"sent": len(sent), "failed": failed[:20]}


def hold(task: Any, ended: threading.Event) -> Any:
    to, sent = connection(task), 0
    to.connect()
    to.auto_open = 0  # never another connection in its place
    while not ended.wait(0.2):
        try:
            post(task, to)
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
    json.dump({"loop": loop, "hold": hold}[task["do"]](task, ended), sys.stdout)


if __name__ == "__main__":
    main()
