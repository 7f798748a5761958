"""Sends REST requests to the host's own Qdrant; runs there, with Python's standard library alone.

The argument is JSON, [[method, path, body], ...]; answers are printed as {"method path": body}.
The API key is read on the host from the mounted configuration: it crosses no wire and no argument.
"""

import json
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

BASE = "http://127.0.0.1:6333"
CONFIG = "/etc/stackroom/stack/qdrant/local.yaml"
SECONDS = 120


def api_key() -> str:
    text = Path(CONFIG).read_text(encoding="utf-8")
    found = re.search(r"^\s*\"?api_key\"?:\s*(.+?),?\s*$", text, re.MULTILINE)
    return found.group(1).strip("\"'") if found else ""


def send(method: str, path: str, body: Any, key: str) -> tuple[int, Any]:
    request = urllib.request.Request(
        BASE + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "api-key": key},
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        try:
            return error.code, json.loads(text)
        except ValueError:
            return error.code, {"status": {"error": text}}


def main() -> None:
    key = api_key()
    answers = {}
    for method, path, body in json.loads(sys.argv[1]):
        status, answers[path] = send(method, path, body, key)
        reading = method == "GET" or path.endswith("/points/scroll")
        if status >= 400 and not (reading and status == 404):
            sys.exit(f"Qdrant answered {status} to {method} {path}: {answers[path].get('status')}")
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
