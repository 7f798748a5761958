"""What restic is given of its credentials, without restic."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.clients import restic_access
from ops.clients.restic_access import Access
from ops.settings.host import Credentials, Repository


def test_rclone_keeps_its_new_tokens_until_the_credential_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restic_access, "_need_program", lambda _: None)
    folder, cache = tmp_path / "secrets", tmp_path / "cache"
    folder.mkdir()
    (folder / "restic_password").write_text("password\n")
    given = folder / "rclone_config"
    given.write_text("[far]\ntoken = first\n")
    given.chmod(0o400)

    def asked() -> Path:
        repository = Repository(name="offsite", url="rclone:far:p")
        access = Access(repository, Credentials(folder), cache)
        return Path(access.environment()["RCLONE_CONFIG"])

    copy = asked()
    assert copy.parent == cache
    assert copy.read_text() == "[far]\ntoken = first\n"
    assert copy.stat().st_mode & 0o777 == 0o600
    copy.write_text("[far]\ntoken = rotated\n")
    assert asked().read_text() == "[far]\ntoken = rotated\n"
    given.unlink()
    given.write_text("[far]\ntoken = second\n")
    assert asked().read_text() == "[far]\ntoken = second\n"
    # a copy that was cut short is none
    (cache / "rclone.conf.sha256").unlink()
    copy.write_text("[fa")
    assert asked().read_text() == "[far]\ntoken = second\n"
