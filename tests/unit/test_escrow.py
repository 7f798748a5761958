"""The recovery file: each of its people opens it alone, nobody else does, and it ages visibly."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path

import pyrage
import pytest

from ops.errors import SettingsError
from ops.escrow import FILE_NAME, create, inspect, open_file, recipients
from ops.settings import Environment, load_environment

CONTENTS = ["hosts.py", "settings.toml", "developers.toml", "secrets.toml"]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Private key file and public line by name: two of OpenSSH's kinds and one of age's."""
    made = {}
    tmp_path = tmp_path_factory.mktemp("keys")
    for name, kind in (("anna", ("ed25519",)), ("bert", ("rsa", "-b", "3072"))):
        path = tmp_path / name
        command = ["ssh-keygen", "-q", "-t", *kind, "-N", "", "-C", f"{name}@desk", "-f", str(path)]
        subprocess.run(command, check=True)
        made[name] = (path, path.with_suffix(".pub").read_text().strip())
    identity = pyrage.x25519.Identity.generate()
    path = tmp_path / "carl"
    path.write_text(f"# made for a test\n{identity}\n")
    made["carl"] = (path, str(identity.to_public()))
    return made


@pytest.fixture
def environment(write_environment, keys) -> Environment:
    lines = ", ".join(json.dumps(public) for _, public in keys.values())
    return load_environment(write_environment(settings=f"[escrow]\nrecipients = [{lines}]\n"))


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in CONTENTS}


@pytest.mark.parametrize("who", ["anna", "bert", "carl"])
def test_each_recipient_opens_it_alone(environment, keys, tmp_path: Path, who: str) -> None:
    state = create(environment)
    assert state.is_current and state.keys == 3
    written = open_file(environment.folder / FILE_NAME, keys[who][0], tmp_path / "new")
    assert written == CONTENTS
    assert files(tmp_path / "new") == files(environment.folder)
    assert (tmp_path / "new" / "secrets.toml").stat().st_mode & 0o777 == 0o600


def test_nobody_else_opens_it_and_nothing_is_written(environment, tmp_path: Path) -> None:
    create(environment)
    stranger = tmp_path / "stranger"
    stranger.write_text(str(pyrage.x25519.Identity.generate()))
    with pytest.raises(SettingsError, match=r"does not open with .*stranger"):
        open_file(environment.folder / FILE_NAME, stranger, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_no_secret_stands_in_clear_beside_the_inventory(environment, canaries) -> None:
    create(environment)
    for name in (FILE_NAME, "recovery.json"):
        content = (environment.folder / name).read_bytes()
        assert not [key for key, value in canaries.items() if value.encode() in content]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "not age"])
def test_a_damaged_file_is_refused_and_seen(environment, keys, tmp_path: Path, damage: str) -> None:
    create(environment)
    path = environment.folder / FILE_NAME
    whole = path.read_bytes()
    flipped = whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:]
    broken = {"truncated": whole[:-100], "flipped": flipped, "empty": b"", "not age": b"x" * 500}
    path.write_bytes(broken[damage])
    assert inspect(environment).damaged
    with pytest.raises(SettingsError, match=FILE_NAME):
        open_file(path, keys["anna"][0], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_is_there_stays_and_only_what_lacks_is_written(environment, keys) -> None:
    create(environment)
    sealed, key = environment.folder / FILE_NAME, keys["anna"][0]
    wanted = files(environment.folder)
    (environment.folder / "secrets.toml").unlink()  # as in a fresh clone: it is not in git
    assert open_file(sealed, key, environment.folder) == ["secrets.toml"]
    assert files(environment.folder) == wanted
    assert (environment.folder / "secrets.toml").stat().st_mode & 0o777 == 0o600

    (environment.folder / "secrets.toml").unlink()
    (environment.folder / "settings.toml").write_text("# newer\n")
    with pytest.raises(SettingsError, match="another content and is not overwritten"):
        open_file(sealed, key, environment.folder)
    assert (environment.folder / "settings.toml").read_text() == "# newer\n"
    assert not (environment.folder / "secrets.toml").exists()


def test_a_changed_secret_or_person_makes_it_stale(environment, write_environment, keys) -> None:
    assert inspect(environment).made is None
    create(environment)
    secrets = environment.folder / "secrets.toml"
    secrets.write_text(secrets.read_text() + "# turned\n")
    assert inspect(environment).stale == ("secrets.toml",)
    pair = [keys[name][1] for name in ("anna", "carl")]
    text = f"[escrow]\nrecipients = {json.dumps(pair)}\n"
    fewer = load_environment(write_environment(settings=text))
    assert inspect(fewer).strangers == ("bert@desk",)
    assert create(fewer).is_current


def test_without_a_list_it_is_for_the_operators_and_one_is_too_few(write_environment, keys) -> None:
    alone = load_environment(write_environment())
    assert len(recipients(alone)) == 1
    with pytest.raises(SettingsError, match="two people, and 1 is known"):
        create(alone)
    assert not (alone.folder / FILE_NAME).exists()
    people = "".join(
        f'[operators.{name}]\naddresses = ["198.51.100.20"]\nkeys = ["{keys[name][1]}"]\n'
        for name in ("anna", "bert")
    )
    both = load_environment(write_environment(developers=people))
    assert recipients(both) == [keys["anna"][1], keys["bert"][1]]


def test_a_key_behind_a_passphrase_is_named_with_the_way_out(environment, tmp_path: Path) -> None:
    create(environment)
    locked = tmp_path / "locked"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "let me in", "-f", str(locked)]
    subprocess.run(command, check=True)
    with pytest.raises(SettingsError) as caught:
        open_file(environment.folder / FILE_NAME, locked, tmp_path / "new")
    assert "age -d -i" in caught.value.hint or "another recipient" in caught.value.hint


def test_another_tar_for_the_same_key_is_no_recovery_file(keys, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../../evil"))
    recipient = pyrage.ssh.Recipient.from_str(keys["anna"][1])
    path = tmp_path / "other.age"
    path.write_bytes(pyrage.encrypt(packed.getvalue(), [recipient]))
    with pytest.raises(SettingsError, match=r"lacks hosts\.py"):
        open_file(path, keys["anna"][0], tmp_path / "new")
