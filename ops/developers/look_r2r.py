"""R2R's users, as its database has them: who may log in, and whose collections they share.

Runs on the machine, see ops/developers/look.py: standard library only, Python 3.10 or newer. It
reads no hash of a password.
"""

from __future__ import annotations

import json
from typing import Any

from ops.developers.look_common import QUESTION, run

ROWS = """\
SET statement_timeout = '8s';
WITH last AS (SELECT user_id, max(time) AS at FROM {schema}.request_log GROUP BY user_id)
SELECT coalesce(json_agg(json_build_object(
    'id', u.id, 'email', u.email, 'superuser', coalesce(u.is_superuser, false),
    'keys', (SELECT count(*) FROM {schema}.users_api_keys k WHERE k.user_id = u.id),
    'seen', extract(epoch FROM last.at),
    'collections', (SELECT coalesce(json_agg(json_build_array(c.name, o.email)), '[]')
                    FROM {schema}.collections c LEFT JOIN {schema}.users o ON o.id = c.owner_id
                    WHERE c.id = ANY (u.collection_ids))
)), '[]') FROM {schema}.users u LEFT JOIN last ON last.user_id = u.id;
"""


def users() -> list[dict[str, Any]]:
    """Each with the collections it is a member of, as [name, address of its owner].

    `seen`: seconds since 1970 of the last request that R2R has counted. Raises RuntimeError.
    """
    schema = '"' + QUESTION["schema"].replace('"', "") + '"'
    told = run(
        *("docker", "exec", "-i", QUESTION["postgres"]),
        *("psql", "-X", "-U", "r2r", "-d", "r2r", "-v", "ON_ERROR_STOP=1", "-Atq"),
        stdin=ROWS.format(schema=schema),
    )
    found: list[dict[str, Any]] = json.loads(told.strip().splitlines()[-1])
    return found
