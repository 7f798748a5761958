"""Who could log in to the machine: accounts and what they may, and every key sshd would take.

Runs on the machine, see ops/developers/look.py: standard library only, Python 3.10 or newer.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ops.developers.look_common import QUESTION, at, run

FILE_BYTES = 1024 * 1024  # of one file of keys
AT_ONCE = 8
SSHD = (
    *("authorizedkeysfile", "authorizedkeyscommand", "trustedusercakeys", "permitrootlogin"),
    *("passwordauthentication", "kbdinteractiveauthentication", "pubkeyauthentication"),
    *("allowtcpforwarding", "permitopen", "permitlisten", "permittty", "forcecommand"),
    *("allowstreamlocalforwarding", "usepam", "port"),
)
ROOT_EQUAL = ("docker", "lxd", "disk")  # who is in one of them is root, if they want to
NO_SHELL = ("nologin", "false", "sync", "shutdown", "halt")


def passwd() -> list[dict[str, Any]]:
    accounts = []
    for line in at("/etc/passwd").read_text().splitlines():
        fields = line.split(":")
        if len(fields) == 7:
            name, _, uid, gid, _, home, shell = fields
            accounts.append(
                {"name": name, "uid": int(uid), "gid": int(gid), "home": home, "shell": shell}
            )
    return accounts


def members(accounts: list[dict[str, Any]]) -> dict[str, set[str]]:
    """The accounts of each group, those who have it for their own included."""
    groups = {}
    for line in at("/etc/group").read_text().splitlines():
        name, _, gid, listed = line.split(":")
        own = {each["name"] for each in accounts if each["gid"] == int(gid)}
        groups[name] = own | set(filter(None, listed.split(",")))
    return groups


def may_log_in(account: dict[str, Any]) -> bool:
    return Path(account["shell"] or "/bin/sh").name not in NO_SHELL


def of_interest(account: dict[str, Any], groups: dict[str, set[str]]) -> bool:
    return (
        may_log_in(account)
        or account["uid"] == 0
        or account["name"].startswith("dev-")
        or any(account["name"] in groups.get(name, ()) for name in (QUESTION["group"], *ROOT_EQUAL))
    )


def accounts() -> dict[str, Any]:
    """Who could log in or is root in all but name, and every developer's account; and how many SSH
    sessions run by the name of an account, which may be gone."""
    everybody = passwd()
    groups = members(everybody)
    shadow = {
        line.split(":")[0]: line.split(":") for line in at("/etc/shadow").read_text().splitlines()
    }
    by_uid, titles = processes()
    told = [each for each in everybody if of_interest(each, groups)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        sudo = list(pool.map(may_sudo, [each["name"] for each in told]))
    listed = [
        {
            "name": each["name"],
            "uid": each["uid"],
            "shell": may_log_in(each),
            "sudo": may,
            "root_equal": sorted(g for g in ROOT_EQUAL if each["name"] in groups.get(g, ())),
            "developer": each["name"] in groups.get(QUESTION["group"], ()),
            **state(shadow.get(each["name"], [])),
            "processes": by_uid[each["uid"]],
        }
        for each, may in zip(told, sudo, strict=True)
    ]
    return {"accounts": listed, "sessions": titles}


def state(shadow: list[str]) -> dict[str, Any]:
    """Of a line of /etc/shadow no more than: a password? a lock? a last day (since 1970)?"""
    word = shadow[1] if len(shadow) > 1 else ""
    ends = shadow[7] if len(shadow) > 7 else ""
    return {
        "password": not word.startswith(("!", "*")) if shadow else False,
        "locked": word.startswith("!"),
        "ends_on_day": int(ends) if ends else None,
    }


def may_sudo(name: str) -> bool:
    try:
        said = run("sudo", "-n", "-l", "-U", name, codes=(0, 1))
    except RuntimeError as error:
        if str(error) == "sudo is not installed":
            return False
        raise
    return "may run the following" in said


def processes() -> tuple[Counter[int], Counter[str]]:
    """Processes by user id, and SSH sessions by account; of containers, none."""
    by_uid: Counter[int] = Counter()
    titles: Counter[str] = Counter()
    ours = Path("/proc/self/ns/pid").readlink()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may end while it is looked at
            if (process / "ns/pid").readlink() != ours:
                continue
            by_uid[process.stat().st_uid] += 1
            title = (process / "cmdline").read_bytes().decode(errors="replace")
            session = re.match(r"sshd(?:-session)?: ([a-z_][\w-]*)(?:@| |\[|\0|$)", title)
            if session:
                titles[session[1]] += 1
    return by_uid, titles


def keys() -> dict[str, Any]:
    """Every key that sshd would take, by account, and what sshd says of those accounts."""
    everybody = passwd()
    groups = members(everybody)
    names = [each["name"] for each in everybody]
    with ThreadPoolExecutor(AT_ONCE) as pool:  # a Match block may say otherwise for anybody
        told = dict(zip(names, pool.map(sshd_says, names), strict=True))
    found: list[dict[str, Any]] = []
    read = set()
    for each in everybody:
        for path in key_files(told[each["name"]]["authorizedkeysfile"], each):
            if at(path).is_file():
                read.add(path)
                found += keys_in(path, each["name"])
    folder = at(QUESTION["keys_folder"])
    for left in sorted(folder.iterdir()) if folder.is_dir() else []:
        path = f"{QUESTION['keys_folder']}/{left.name}"
        if path not in read:
            found += keys_in(path, "")
    of_use = {each["account"] for each in found}
    of_use |= {each["name"] for each in everybody if of_interest(each, groups)}
    return {"keys": found, "sshd": {name: told[name] for name in names if name in of_use}}


def sshd_says(account: str) -> dict[str, str]:
    """The effective configuration for a login as `account`."""
    test = f"user={account},host=localhost,addr=127.0.0.1"
    pairs = (line.partition(" ") for line in run("sshd", "-T", "-C", test).splitlines())
    told = {key: value for key, _, value in pairs if key in SSHD}
    if "authorizedkeysfile" not in told:
        raise RuntimeError("sshd -T does not say where keys are")
    return told


def key_files(patterns: str, account: dict[str, Any]) -> Iterator[str]:
    values = {"%%": "%", "%h": account["home"], "%u": account["name"], "%U": str(account["uid"])}
    for pattern in patterns.split():
        if pattern != "none":
            path = re.sub("%[%huU]", lambda found: values[found[0]], pattern)
            yield path if path.startswith("/") else f"{account['home'].rstrip('/')}/{path}"


def keys_in(path: str, account: str) -> Iterator[dict[str, Any]]:
    with at(path).open(encoding="utf-8", errors="replace") as file:
        for line in file.read(FILE_BYTES).splitlines():
            key = key_of(line)
            if key:
                yield {"account": account, "path": path, **key}


def key_of(line: str) -> dict[str, Any] | None:
    """One line of an authorized_keys file: options, type, fingerprint and comment."""
    words = re.findall(r'(?:"(?:\\"|[^"])*"|[^\s"])+', line.strip())
    if not words or words[0].startswith("#"):
        return None
    for index in (0, 1):
        blob = blob_in(words[index + 1]) if len(words) > index + 1 else b""
        if blob and blob[4 : 4 + len(words[index])] == words[index].encode():
            digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
            return {
                "options": options_of(words[0]) if index else [],
                "type": words[index],
                "fingerprint": f"SHA256:{digest}",
                "comment": " ".join(words[index + 2 :]),
            }
    return None


def blob_in(word: str) -> bytes:
    try:
        return base64.b64decode(word, validate=True)
    except ValueError:
        return b""


def options_of(word: str) -> list[str]:
    return re.findall(r'(?:"(?:\\"|[^"])*"|[^,"])+', word)
