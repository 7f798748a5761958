"""What a machine of the team does, with Python's standard library alone. Runs on that machine.

Reads one JSON task from standard input, so that no key is seen in a process list:
{"do": "requests", "url", "ca", "key", "requests": [{"method", "path", "body"}]} answers
[{"status", "body"}]; {"do": "ports", "targets": [[address, port]]} answers the open ones.
"""

import concurrent.futures
import json
import socket
import ssl
import sys
import urllib.error
import urllib.request
from typing import Any

CONNECT_SECONDS = 2


def requests(task: Any) -> list[Any]:
    context = ssl.create_default_context(cadata=task["ca"])
    return [_request(task, context, **request) for request in task["requests"]]


def _request(task: Any, context: ssl.SSLContext, method: str, path: str, body: Any = None) -> Any:
    request = urllib.request.Request(
        task["url"] + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "api-key": task["key"]},
    )
    try:
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            return {"status": answer.status, "body": json.loads(answer.read())}
    except urllib.error.HTTPError as error:
        return {"status": error.code, "body": error.read().decode(errors="replace")}


def ports(task: Any) -> list[Any]:
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        answers = pool.map(_is_open, task["targets"])
    return [target for target, is_open in zip(task["targets"], answers) if is_open]


def _is_open(target: Any) -> bool:
    try:
        with socket.create_connection(tuple(target), CONNECT_SECONDS):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    job = json.load(sys.stdin)
    json.dump({"requests": requests, "ports": ports}[job["do"]](job), sys.stdout)
