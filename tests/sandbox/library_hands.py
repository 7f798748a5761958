"""A library that comes to the machine from a laptop's folder, and is indexed by the team's api."""

from __future__ import annotations

import json
from pathlib import Path

from hands import on_host, qdrant, stackroom

from ops.settings import Environment

COLLECTION = "reindexed"
INDEX = 'index = ["bash", "/data/library/index.sh"]'
# what any program does: it reads the files, asks Qdrant with the key it was given, and says so
SCRIPT = f"""\
body='{{"vectors": {{"size": 2, "distance": "Dot"}}}}'
exec 3<>/dev/tcp/qdrant/6333
printf 'PUT /collections/{COLLECTION} HTTP/1.0\\r\\nHost: qdrant\\r\\nContent-Type: application/json\\r\\n' >&3
printf 'api-key: %s\\r\\nContent-Length: %s\\r\\n\\r\\n%s' "$QDRANT_API_KEY" "${{#body}}" "$body" >&3
read -r _ status _ <&3
echo "read $(cat /data/library/books/*.txt | wc -c) letters, Qdrant says $status"
[ "$status" = 200 ]
"""  # noqa: E501


def bring_a_library(environment: Environment, name: str, folder: Path) -> None:
    """`name` is the deployed environment with the api, `environment` the machine's own."""
    books = folder / "kb" / "library" / "books"
    books.mkdir(parents=True)
    (books / "one.txt").write_text("the first book\n")
    (books.parent / "index.sh").write_text(SCRIPT)
    state = ("--state", str(folder / "state"))
    ends = ("--from", str(folder / "kb"), "--to", name, "--mode", "reindex")
    try:
        run = stackroom("migrate", "run", *ends, "--yes", *state)
        assert run.returncode == 0, run.stdout + run.stderr
        assert "index read 15 letters, Qdrant says 200" in run.stderr
        volume = on_host("docker volume inspect -f '{{.Mountpoint}}' stackroom_api_library")
        assert on_host(f"cat {volume}/books/one.txt; stat -c %u {volume}/books") == (
            "the first book\n1000"
        )
        assert qdrant(environment, "GET", f"/collections/{COLLECTION}")["status"] == "ok"
        verified = stackroom("migrate", "verify", *state, "--json")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert json.loads(verified.stdout)["files"] == 2
        key = environment.settings.secrets.qdrant_api_key.get_secret_value()
        assert key not in run.stdout + run.stderr + verified.stdout
    finally:
        qdrant(environment, "DELETE", f"/collections/{COLLECTION}")
        on_host("rm -rf $(docker volume inspect -f '{{.Mountpoint}}' stackroom_api_library)/*")
