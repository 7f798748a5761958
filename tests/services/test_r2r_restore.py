"""Two documents are lost from a real R2R, and are there again after a restore."""

from __future__ import annotations

from pathlib import Path

import httpx
from cheap_repository import lay_repository
from r2r_live import PROJECT, R2rStack
from servers import PASSWORD, credentials

from ops.backup.run import back_up
from ops.restore.whole import confirm, restore_stack
from ops.settings.host import HostConfig, PostgresSource, Repository

TEXTS = {
    "badger.txt": "The badger airs its bedding at the door of the sett on a dry morning.",
    "kingfisher.txt": "The kingfisher beats its catch on a branch before it swallows it whole.",
}


def host_config(stack: R2rStack, folder: Path) -> HostConfig:
    """What a deploy would have told the host of this stack."""
    return HostConfig(
        environment=stack.name,
        stack="r2r",
        stackroom="test",
        base=folder / "base",
        repositories=[Repository(name="local", url=str(folder / "local"))],
        sources=[
            PostgresSource(
                name="postgres",
                container=stack.container("postgres"),
                user="r2r",
                volume=stack.volume("postgres"),
                containers=[stack.container("r2r")],
                data=[f"{PROJECT}.{name}" for name in ("documents", "chunks", "files")],
                shown=[f"{PROJECT}.{name}" for name in ("users", "collections")],
            )
        ],
        start_order=[stack.container("postgres"), stack.container("r2r")],
        drill_image_pull=False,
        offsite_expected=False,
    )


def found(client: httpx.Client, query: str) -> list[str]:
    answer = client.post("/v3/retrieval/search", json={"query": query})
    answer.raise_for_status()
    return [chunk["text"] for chunk in answer.json()["results"]["chunk_search_results"]]


def test_documents_that_were_lost_are_found_again(
    r2r: R2rStack, restic: Path, tmp_path: Path
) -> None:
    lay_repository(restic, tmp_path / "local", PASSWORD)
    config, secrets = host_config(r2r, tmp_path), credentials(tmp_path / "credentials")
    ids = {}
    with r2r.client() as client:
        for name, text in TEXTS.items():
            made = client.post("/v3/documents", files={"file": (name, text, "text/plain")})
            assert made.status_code == 202, made.text
            ids[name] = made.json()["results"]["document_id"]
        for text in TEXTS.values():
            assert text in found(client, text)
        backup = back_up(config, secrets)
        assert backup.outcome == "ok", backup.error
        for document in ids.values():
            client.delete(f"/v3/documents/{document}").raise_for_status()
        for text in TEXTS.values():
            assert text not in found(client, text)

    record = restore_stack(config, secrets, run=backup.run, replace=True)

    assert record.outcome == "ok" and record.details["switched"] == ["postgres"]
    told = {each["subject"]: each for each in record.details["comparisons"]}
    assert all(each["ok"] for each in told.values())
    for subject in (
        *(f"rows of {PROJECT}.{table}" for table in ("documents", "chunks", "users")),
        f"sampled vectors of {PROJECT}.chunks.vec",
        f"nearest by {PROJECT}.chunks.vec, ",
        "sampled large objects",
    ):
        assert any(each.startswith(f"postgres/r2r: {subject}") for each in told), subject
    with r2r.client() as client:  # its administrator comes in as before
        for name, text in TEXTS.items():
            assert found(client, text)[0] == text
            file = client.get(f"/v3/documents/{ids[name]}/download")
            assert file.status_code == 200 and file.text == text
    confirm(config)
