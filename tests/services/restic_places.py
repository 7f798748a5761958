"""A repository under test, with data to store in it and an oracle that is restic itself."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servers import PASSWORD, credentials

from ops.clients.restic import Restic, Stored
from ops.settings.host import Repository

RUN = "20261121T0230{:02d}Z-abcdef"
SECONDS = 120.0  # no test waits that long; what hangs has failed


@dataclass
class Place:
    """One repository, local where `url` is a path. `secrets` are credentials by name."""

    folder: Path
    url: str
    restic: Path
    secrets: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)  # for the oracle
    options: tuple[str, ...] = ()  # for the oracle
    runs: int = 0

    def client(self, *, timeout: float = 60, **repository: Any) -> Restic:
        """A new client, as each run makes one."""
        name = "local" if self.url.startswith("/") else "offsite"
        given = {"name": name, "url": self.url} | repository
        return Restic(
            Repository.model_validate(given),
            credentials(self.folder / "credentials", **self.secrets),
            host="team",
            cache=self.folder / "cache",
            timeout=timeout,
        )

    def data(self, *sizes: int, seed: int = 0) -> Path:
        """A folder like a staged backup: files of these sizes that nothing can compress."""
        folder = self.folder / "current"
        source = random.Random(seed)  # noqa: S311
        for number, size in enumerate(sizes or (300_000, 1_000, 0)):
            path = folder / f"qdrant/collection [{number}]*.snapshot"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.randbytes(size))
        (folder / "manifest.json").write_text(f'{{"seed": {seed}}}')
        return folder

    def back_up(self, *sizes: int, seed: int = 0, **repository: Any) -> Stored:
        """Open, and store new data under a run of its own."""
        self.runs += 1
        client = self.client(**repository)
        client.open()
        run = RUN.format(self.runs)
        return client.backup(self.data(*sizes, seed=seed), run, timeout=SECONDS)

    def raw(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """restic itself; it takes no lock and no cache."""
        command = [str(self.restic), "--repo", self.url, "--no-cache", "--no-lock", "--json"]
        return subprocess.run(
            [*command, *self.options, *arguments],
            env={"PATH": os.environ["PATH"], "RESTIC_PASSWORD": PASSWORD} | self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=check,
        )

    def ids(self) -> list[str]:
        return [found["id"] for found in json.loads(self.raw("snapshots").stdout) or []]

    def restored(self, stored: Stored, name: str = "restored") -> dict[str, str]:
        """What comes back through the client: SHA-256 by path."""
        target = self.folder / name
        client = self.client()
        client.open(create=False)
        client.restore(stored.snapshot, target, timeout=SECONDS)
        return tree(target)


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of each file by its path below the folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
