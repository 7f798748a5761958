"""R2R's token for Hatchet: made anew before it runs out. Its text never leaves the machine."""

from __future__ import annotations

import shlex

from pyinfra import host

from ops.host.facts import Lines

RENEWED_DAYS = 30  # before its end; the doctor warns later, so that a deploy is what mends it
# who makes it, and who reads it at its start; stackroom-apply takes the old one away first
RENEWED = ("hatchet-token", "r2r")
_PLACE = "$(docker volume inspect -f '{{.Mountpoint}}' stackroom_hatchet_token)/token"
# of a JWT the middle part says when it ends (RFC 7519, 4.1.4); what is no JWT is no token
_ENDS_SOON = """\
import base64, json, sys, time
try:
    part = open(sys.argv[1]).read().split(".")[1]
    ends = float(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))["exp"])
except FileNotFoundError:
    sys.exit(0)
except (IndexError, ValueError, KeyError, TypeError):
    ends = 0
print("soon" if ends < time.time() + float(sys.argv[2]) else "later")
"""


def ends_soon() -> bool:
    """Whether it ends within RENEWED_DAYS, or is no token. One that is not there is made anyway."""
    script = f'python3 -c {shlex.quote(_ENDS_SOON)} "{_PLACE}" {RENEWED_DAYS * 86400}'
    return "soon" in host.get_fact(Lines, script=f"{script} 2>/dev/null || true")
