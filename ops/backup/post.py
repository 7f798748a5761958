"""How a message leaves the machine: by a child process that cannot hang whoever sends it.

The addresses are secrets: they go to the child's standard input, and never into an argument list,
an environment, a log or an error.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, SecretStr, ValidationError

from ops.errors import SettingsError, StackroomError
from ops.settings.host import NOTICES, Credentials

PATIENCE_SECONDS = 24.0  # the messenger gives up by itself
BOUND_SECONDS = 28.0  # and is killed then; what is left of 30 s is for its start and its end
MESSENGER = Path(__file__).with_name("messenger.py")
log = logging.getLogger(__name__)

Scheduled = Literal["backup", "check", "prune", "drill"]


def _ping(address: SecretStr) -> SecretStr:
    parts = urlsplit(address.get_secret_value())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must begin with https:// or http:// and name a host")
    return address


class Notices(BaseModel):
    """The credential `notices`. Every address in it is a secret: it lets anyone write there."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    urls: list[SecretStr] = []  # as apprise takes them: mailtos://..., ntfys://..., slack://...
    pings: dict[Scheduled, Annotated[SecretStr, AfterValidator(_ping)]] = {}


def load_notices(credentials: Credentials) -> Notices:
    """Whom to tell; nobody where the credential is absent. Raises SettingsError, which quotes
    nothing of it."""
    secret = credentials.get(NOTICES)
    if secret is None:
        return Notices()
    try:
        return Notices.model_validate_json(secret.get_secret_value())
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False)[0]
        # a name that was mistyped may be an address: only known ones are repeated
        where = first["loc"][0] if first["loc"] and first["loc"][0] in ("urls", "pings") else ""
        raise SettingsError(
            f"the credential {NOTICES} is not as it should be: {where} {first['msg']}",
            'it is JSON: {"urls": ["mailtos://..."], "pings": {"backup": "https://..."}}',
        ) from None


def ping_id(run: str) -> str:
    """The id that pairs the start of a run with its end: the same for the same run."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"stackroom:{run}"))


def ping_url(address: SecretStr, end: str, run: str) -> str:
    parts = urlsplit(address.get_secret_value())
    query = "&".join(filter(None, [parts.query, f"rid={ping_id(run)}"]))
    path = f"{parts.path.rstrip('/')}/{end}"
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """A fault in telling is one line in the journal. Only our own errors are quoted there: they
    are the only ones that are known to hold no address."""
    try:
        yield
    except StackroomError as error:
        log.warning("no notice: %s", error.message)
    except Exception as error:
        log.warning("no notice: unexpected %s", type(error).__name__)


def deliver(
    pings: list[str],
    urls: list[SecretStr] | None = None,
    title: str = "",
    body: str = "",
    mood: str = "info",
) -> bool:
    """Send all of it at once, 30 s at most; returns whether one of the notices was taken.

    `mood` is apprise's: info, success, warning, failure. Raises OSError where no process can be
    started. What was not taken is a line in the journal, with the number of the address.
    """
    if not pings and not urls:
        return False
    notices = [url.get_secret_value() for url in urls or []]
    message = {
        "pings": pings,
        "notices": notices,
        "title": title,
        "body": body,
        "mood": mood,
        "seconds": PATIENCE_SECONDS,
    }
    answers = _send(json.dumps(message))
    for number, (url, taken) in enumerate(zip(notices, answers["notices"], strict=True), 1):
        if not taken:
            scheme = url.split("://", 1)[0] if re.match(r"[a-z0-9]{1,20}://", url) else "?"
            log.warning("notice address %d (%s) did not take the notice", number, scheme)
    if not all(answers["pings"]):
        log.warning("the dead man's switch did not take the ping")
    return any(answers["notices"])


def _send(message: str) -> dict[str, list[bool]]:
    """What the messenger answers; no to everything where it had to be killed."""
    asked = json.loads(message)
    nothing = {kind: [False] * len(asked[kind]) for kind in ("pings", "notices")}
    # -I: it finds its libraries by its interpreter alone. A group of its own: it can be killed
    # with all it may have started
    process = subprocess.Popen(
        [sys.executable, "-I", str(MESSENGER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    try:
        answer, _ = process.communicate(message, timeout=BOUND_SECONDS)
        found = json.loads(answer)
    except (subprocess.TimeoutExpired, ValueError):
        return nothing
    finally:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
    return {kind: [answer is True for answer in found[kind]] for kind in nothing}
