"""R2R's documents, from three kinds of source to their end: our client against the real one."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from r2r_place import Person, Place, same

from ops.clients.r2r import R2R
from ops.clients.r2r.documents import COLUMNS
from ops.clients.r2r.errors import (
    AbsentError,
    BadRequestError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    TooLargeError,
    UnsupportedError,
)
from ops.clients.r2r.models import Extraction, Ingestion

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
WAIT = 120  # seconds, on a busy machine
ROOT = Path(__file__).resolve().parents[2]


def words() -> str:
    return f"The keeper {secrets.token_hex(6)} closes the stack room at night."


def ingested(who: Person, document: UUID) -> None:
    assert who.r2r.documents.wait_ingested(document, timeout=WAIT).ingestion_status == "success"


def test_a_text_its_document_and_its_chunks(r2r_place: Place, anna: Person) -> None:
    text = words()
    made = anna.r2r.documents.create_text(
        text, title="Keepers ü", metadata={"year": 2026}, collections=[anna.team.id]
    )
    ingested(anna, made.document_id)
    found = anna.r2r.documents.get(made.document_id)
    token = r2r_place.token(anna.login)
    same(found, r2r_place.results("GET", f"/v3/documents/{found.id}", token))
    assert found.owner_id == anna.id and found.collection_ids == [anna.team.id]
    assert (found.title, found.document_type) == ("Keepers ü", "txt")
    assert found.metadata["year"] == 2026 and found.failure == ""
    assert found.extraction_status is Extraction.PENDING
    (chunk,) = anna.r2r.documents.chunks(found.id)
    raw = r2r_place.results("GET", f"/v3/documents/{found.id}/chunks", token)
    same(chunk, raw[0])
    assert chunk.text.strip() == text and chunk.document_id == found.id


def test_chunks_stay_as_they_were_cut(anna: Person) -> None:
    parts = [words(), words(), words()]
    made = anna.r2r.documents.create_chunks(parts, collections=[anna.team.id])
    ingested(anna, made.document_id)
    assert {each.text for each in anna.r2r.documents.chunks(made.document_id)} == set(parts)


def test_a_file_under_an_id_of_ones_own(anna: Person, tmp_path: Path) -> None:
    file = tmp_path / "ключ guide.md"
    file.write_text(f"# Keys\n\n{words()}\n", encoding="utf-8")
    wanted = uuid4()
    made = anna.r2r.documents.create_file(file, document=wanted, collections=[anna.team.id])
    assert made.document_id == wanted
    ingested(anna, wanted)
    found = anna.r2r.documents.get(wanted)
    assert (found.document_type, found.title) == ("md", file.name)
    assert found.size_in_bytes == file.stat().st_size


def test_what_is_there_already_is_a_conflict_until_it_is_deleted(anna: Person) -> None:
    text = words()
    made = anna.r2r.documents.create_text(text)
    ingested(anna, made.document_id)
    with pytest.raises(ConflictError, match="already exists"):
        anna.r2r.documents.create_text(text)
    anna.r2r.documents.delete(made.document_id)
    with pytest.raises(AbsentError):
        anna.r2r.documents.get(made.document_id)
    with pytest.raises(AbsentError):
        anna.r2r.documents.delete(made.document_id)
    again = anna.r2r.documents.create_text(text)
    assert again.document_id == made.document_id
    ingested(anna, again.document_id)


def test_what_r2r_cannot_read_is_unsupported(anna: Person, tmp_path: Path) -> None:
    file = tmp_path / "program.exe"
    file.write_bytes(b"MZ")
    with pytest.raises(UnsupportedError, match="exe"):
        anna.r2r.documents.create_file(file)
    good = tmp_path / "guide.txt"
    good.write_text(words(), encoding="utf-8")
    with pytest.raises(UnsupportedError):  # the title is what it goes by
        anna.r2r.documents.create_file(good, title="A guide")


def test_what_is_too_large_is_told_so(anna: Person, tmp_path: Path) -> None:
    file = tmp_path / "large.txt"
    file.write_bytes(b"word " * (64 * MIB // 5))
    with pytest.raises(TooLargeError, match="txt"):
        anna.r2r.documents.create_file(file)


def test_nothing_to_ingest_is_invalid(anna: Person) -> None:
    with pytest.raises(InvalidError, match="must be provided"):
        anna.r2r.documents.create_text("")
    with pytest.raises(InvalidError):
        anna.r2r.documents.create_text(words(), mode="slow")


def test_a_long_text_is_refused_as_a_field(anna: Person) -> None:
    with pytest.raises(BadRequestError, match="1024KB"):
        anna.r2r.documents.create_text("word " * (2 * MIB // 5))


def test_one_users_documents_are_not_anothers(anna: Person, bob: Person) -> None:
    made = anna.r2r.documents.create_text(words(), collections=[anna.team.id])
    ingested(anna, made.document_id)
    assert made.document_id in {each.id for each in anna.r2r.documents.every()}
    assert made.document_id not in {each.id for each in bob.r2r.documents.every()}
    with pytest.raises(AbsentError):
        bob.r2r.documents.get(made.document_id)
    with pytest.raises(AbsentError):
        bob.r2r.documents.delete(made.document_id)
    with pytest.raises(AbsentError):
        bob.r2r.documents.extract(made.document_id)
    assert anna.r2r.documents.get(made.document_id).id == made.document_id


def test_a_collection_takes_and_gives_back_a_document(anna: Person, bob: Person) -> None:
    shared = anna.r2r.collections.create(f"contract-{secrets.token_hex(6)}")
    made = anna.r2r.documents.create_text(words())
    ingested(anna, made.document_id)
    anna.r2r.collections.add_document(shared.id, made.document_id)
    with pytest.raises(ConflictError):
        anna.r2r.collections.add_document(shared.id, made.document_id)
    assert [each.id for each in anna.r2r.collections.documents(shared.id)] == [made.document_id]
    with pytest.raises(ForbiddenError):
        bob.r2r.collections.add_document(shared.id, made.document_id)
    anna.r2r.collections.add_member(shared.id, bob.id)
    assert bob.r2r.documents.get(made.document_id).owner_id == anna.id
    assert made.document_id not in {each.id for each in bob.r2r.documents.every(own=True)}
    anna.r2r.collections.remove_document(shared.id, made.document_id)
    with pytest.raises(AbsentError):
        bob.r2r.documents.get(made.document_id)
    anna.r2r.collections.delete(shared.id)


def test_an_extraction_has_a_status_of_its_own(anna: Person) -> None:
    made = anna.r2r.documents.create_text(words())
    ingested(anna, made.document_id)
    assert anna.r2r.documents.extract(made.document_id).message
    found = anna.r2r.documents.wait_extracted(made.document_id, timeout=WAIT)
    assert found.extraction_status.final and found.ingestion_status is Ingestion.SUCCESS


def test_an_export_is_for_superusers_and_narrowed(admin: R2R, anna: Person, tmp_path: Path) -> None:
    made = anna.r2r.documents.create_text(words(), title='a "quoted",\ntitle')
    ingested(anna, made.document_id)
    with pytest.raises(ForbiddenError), anna.r2r.documents.export():
        pass
    with admin.documents.rows() as rows:
        everything = {row["id"]: row for row in rows}
    mine = everything[str(made.document_id)]
    assert tuple(mine) == COLUMNS and mine["ingestion_status"] == "success"
    assert mine["title"] == 'a "quoted",\ntitle' and mine["owner_id"] == str(anna.id)
    with admin.documents.rows(["id", "title"], {"ingestion_status": {"$eq": "failed"}}) as rows:
        assert str(made.document_id) not in {row["id"] for row in rows}
    with admin.documents.rows(["id"], {"title": 'a "quoted",\ntitle'}) as rows:
        assert [row["id"] for row in rows] == [str(made.document_id)]
    target = tmp_path / "export.csv"
    assert admin.documents.export_to(target, ["id"]) == target.stat().st_size
    assert str(made.document_id) in target.read_text(encoding="utf-8")
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_large_export_costs_little_memory(r2r_place: Place, anna: Person, tmp_path: Path) -> None:
    """About 15 MB, in a process of its own that tells how much its memory grew."""
    heavy = {"ballast": "x" * 900_000}
    for number in range(16):
        made = anna.r2r.documents.create_chunks([f"{number} {words()}"], metadata=heavy)
        ingested(anna, made.document_id)
    program = """
import json, re, sys
from pathlib import Path
from pydantic import SecretStr
from ops.clients.r2r import R2R, Login
url, email, password, target = json.load(sys.stdin)
# not getrusage's: that begins with the peak of whoever started this process
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
with R2R(url, Login(email, SecretStr(password))) as r2r:
    r2r.documents.export_to(Path(target).with_suffix(".small"), ["id"])
    before = peak()
    size = r2r.documents.export_to(Path(target))
    print(json.dumps([size, peak() - before]))
"""
    login = r2r_place.admin
    given = [r2r_place.url, login.email, login.password.get_secret_value(), str(tmp_path / "e.csv")]
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(given),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    size, grown = json.loads(done.stdout)
    assert size > 16 * 900_000 and grown < 5 * MIB
