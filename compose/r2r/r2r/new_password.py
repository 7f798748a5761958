"""Gives an account of R2R another password, without the old one: new_password.py ADDRESS.

For who has lost the administrator's, or has got an older one back with a restored database. R2R's
own reset does it; its token, which R2R would send by mail, is laid into R2R's database.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from getpass import getpass

import asyncpg
from r2r import R2RClient, R2RException

URL = "http://127.0.0.1:7272"


async def let_reset(email: str, token: str) -> bool:
    """Whether R2R's database has such an account: it takes the token, for five minutes."""
    connection = await asyncpg.connect(
        host=os.environ["R2R_POSTGRES_HOST"],
        port=int(os.environ["R2R_POSTGRES_PORT"]),
        database=os.environ["R2R_POSTGRES_DBNAME"],
        user=os.environ["R2R_POSTGRES_USER"],
        password=os.environ["R2R_POSTGRES_PASSWORD"],
    )
    try:
        schema = os.environ["R2R_PROJECT_NAME"].replace('"', '""')
        query = (
            f'UPDATE "{schema}".users SET reset_token = $1,'  # noqa: S608
            " reset_token_expiry = now() + interval '5 minutes' WHERE email = $2 RETURNING id"
        )
        return await connection.fetchval(query, token, email.lower()) is not None
    finally:
        await connection.close()


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("which account? new_password.py ADDRESS")
    email = sys.argv[1]
    password = getpass("new: ")
    if not password or getpass("again: ") != password:
        sys.exit("the two differ or are empty: nothing was changed")
    token = secrets.token_urlsafe(32)
    try:
        if not asyncio.run(let_reset(email, token)):
            sys.exit(f"R2R has no account {email}: nothing was changed")
    except (asyncpg.PostgresError, OSError) as error:
        sys.exit(f"R2R's database does not answer as it should, nothing was changed: {error}")
    try:
        R2RClient(URL).users.reset_password(token, password)
    except R2RException as error:
        sys.exit(f"R2R did not say that it is done; log in to see whether it is: {error}")
    print(f"{email} has its new password")


if __name__ == "__main__":
    main()
