"""What a machine of the team does, with Python's standard library alone. Runs on that machine.

Reads one JSON task from standard input, so that no key is seen in a process list:
{"do": "requests", "url", "ca", "key", "requests": [{"method", "path"}]} answers
[{"status", "body"}] (a request may have a "body" and "headers");
{"do": "ports", "targets": [[address, port]]} answers the open ones;
{"do": "watch", "targets", "workers", "period", "seconds"} tries each again and again until standard
input ends, and answers {"attempts": number, "opened": [[time, address, port]]}.
"""

import concurrent.futures
import json
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any

CONNECT_SECONDS = 2
WATCH_CONNECT_SECONDS = 0.4


def requests(task: Any) -> list[Any]:
    context = ssl.create_default_context(cadata=task["ca"])
    return [_request(task, context, **request) for request in task["requests"]]


def _request(
    task: Any,
    context: ssl.SSLContext,
    method: str,
    path: str,
    body: Any = None,
    headers: Any = None,
) -> Any:
    request = urllib.request.Request(
        task["url"] + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "api-key": task["key"], **(headers or {})},
    )
    try:
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            return {"status": answer.status, "body": _read(answer)}
    except urllib.error.HTTPError as error:
        return {"status": error.code, "body": error.read().decode(errors="replace")}


def _read(answer: Any) -> Any:
    text = answer.read().decode(errors="replace")
    try:
        return json.loads(text)
    except ValueError:
        return text


def ports(task: Any) -> list[Any]:
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        answers = pool.map(_is_open, task["targets"])
    return [target for target, is_open in zip(task["targets"], answers) if is_open]


def watch(task: Any) -> Any:
    ended = threading.Event()
    workers = [each for each in task["targets"] for _ in range(task["workers"])]
    with concurrent.futures.ThreadPoolExecutor(len(workers)) as pool:
        watches = [pool.submit(_watch, target, task["period"], ended) for target in workers]
        timer = threading.Timer(task["seconds"], ended.set)
        timer.start()
        threading.Thread(target=_end_with_input, args=(ended,), daemon=True).start()
        ended.wait()
        timer.cancel()
    found = [each.result() for each in watches]
    opened = sorted(one for _, opens in found for one in opens)
    return {"attempts": sum(attempts for attempts, _ in found), "opened": opened}


def _watch(target: Any, period: float, ended: threading.Event) -> Any:
    attempts, opened = 0, []
    while not ended.is_set():
        started = time.time()
        attempts += 1
        if _is_open(target, WATCH_CONNECT_SECONDS):
            opened.append([started, *target])
        ended.wait(max(0.0, started + period - time.time()))
    return attempts, opened


def _end_with_input(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def _is_open(target: Any, seconds: float = CONNECT_SECONDS) -> bool:
    try:
        with socket.create_connection(tuple(target), seconds):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    job = json.loads(sys.stdin.readline())
    json.dump({"requests": requests, "ports": ports, "watch": watch}[job["do"]](job), sys.stdout)
