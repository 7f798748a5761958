"""The messenger where hundreds of runs have something to tell: the same contract, no library.

apprise costs more than the run that it tells of. Takes addresses of this machine's receivers only,
json://<host>:<port>/; the real messenger carries the notices of all other tests.
"""

from __future__ import annotations

import json
import socket
import sys


def post(address: str, message: dict[str, str]) -> bool:
    host, port = address.removeprefix("json://").rstrip("/").split(":")
    body = json.dumps(message).encode()
    head = f"POST / HTTP/1.0\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(head.encode() + body)
        return connection.recv(100).startswith(b"HTTP/1.0 200")


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    assert not asked["pings"]
    told = {"title": asked["title"], "message": asked["body"], "type": asked["mood"]}
    json.dump({"pings": [], "notices": [post(each, told) for each in asked["notices"]]}, sys.stdout)
