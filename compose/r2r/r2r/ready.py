"""Whether R2R is ready, and closed: the health test of its container. Standard library only.

R2R's own /v3/health answers 200 with its database gone. Even a 401 for a wrong token proves
nothing: a failure while a JWT is checked counts as a wrong one. But what could be a key is looked
up in the database after that, and where the look-up fails the answer is 500. Without any token, an
R2R that asks for none would answer 200.
"""

from __future__ import annotations

import http.client
import sys

PATH = "/v3/users/me?readiness"  # start.py keeps it from the log
SECONDS = 8


def status(headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", 7272, timeout=SECONDS)
    try:
        connection.request("GET", PATH, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def main() -> None:
    try:
        looked_up = status({"Authorization": "Bearer no.key"})
        open_to_all = status({})
    except OSError as error:
        sys.exit(f"R2R does not answer: {error}")
    if looked_up != 401:
        sys.exit(f"R2R cannot ask its database: {looked_up} for a key that is none")
    if open_to_all not in (401, 403):
        sys.exit(f"R2R is open to everybody: {open_to_all} without a token")


if __name__ == "__main__":
    main()
