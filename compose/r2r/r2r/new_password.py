"""Gives an account of R2R another password, without the old one: new_password.py ADDRESS.

For who has lost the administrator's, or has got an older one back with a restored database. R2R's
own reset does it; the token that R2R would send by mail is read where R2R keeps it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from getpass import getpass

import asyncpg
from r2r import R2RClient, R2RException

URL = "http://127.0.0.1:7272"


async def reset_token(email: str) -> str | None:
    """None where R2R knows no such account: it does not say so itself."""
    connection = await asyncpg.connect(
        host=os.environ["R2R_POSTGRES_HOST"],
        port=int(os.environ["R2R_POSTGRES_PORT"]),
        database=os.environ["R2R_POSTGRES_DBNAME"],
        user=os.environ["R2R_POSTGRES_USER"],
        password=os.environ["R2R_POSTGRES_PASSWORD"],
    )
    try:
        schema = os.environ["R2R_PROJECT_NAME"].replace('"', '""')
        query = f'SELECT reset_token FROM "{schema}".users WHERE email = $1'  # noqa: S608
        token: str | None = await connection.fetchval(query, email)
        return token
    finally:
        await connection.close()


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("which account? new_password.py ADDRESS")
    email = sys.argv[1]
    password = getpass("new: ")
    if not password or getpass("again: ") != password:
        sys.exit("the two differ or are empty: nothing was changed")
    users = R2RClient(URL).users
    try:
        users.request_password_reset(email)
        token = asyncio.run(reset_token(email))
        if not token:
            sys.exit(f"R2R has no account {email}: nothing was changed")
        users.reset_password(token, password)
    except R2RException as error:
        sys.exit(f"R2R refused it: {error}")
    print(f"{email} has its new password")


if __name__ == "__main__":
    main()
