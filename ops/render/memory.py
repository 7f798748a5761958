"""How the host's memory is shared out, and what a request may be. Reads settings only."""

from __future__ import annotations

from ops.errors import SettingsError
from ops.settings import Settings
from ops.settings.model import EdgeMode

SYSTEM_MIB = 768  # kernel, systemd, sshd, Docker, an apt run
EDGE_MIB = 512  # Caddy needs 30-60; uploads are streamed
STEP_MIB = 128
SMALLEST_QDRANT_MIB = 512  # below this an empty server with one collection is near its limit


def size_mib(text: str) -> int:
    """`"512M"` or `"2G"` in MiB."""
    number = int(text[:-1])
    return number * 1024 if text.endswith("G") else number


def qdrant_memory_mib(settings: Settings, host_mib: int) -> int:
    """The limit of Qdrant's container: what is left, or the size that the settings name.

    Page cache of memory-mapped vectors counts into it but can be reclaimed, so a generous limit
    costs nothing. Raises SettingsError where the host is too small for all limits together.
    """
    api = size_mib(settings.api.memory) if settings.api else 0
    edge = 0 if settings.edge.mode is EdgeMode.TUNNEL else EDGE_MIB
    left = host_mib - SYSTEM_MIB - edge - api
    # in steps: another kernel reports a few MiB more or less, and that is no reason to restart
    automatic = left // STEP_MIB * STEP_MIB
    wanted = automatic if settings.qdrant.memory == "auto" else size_mib(settings.qdrant.memory)
    if wanted > left or wanted < SMALLEST_QDRANT_MIB:
        raise SettingsError(
            f"qdrant.memory: {max(wanted, 0)} MiB for Qdrant do not fit: of the host's {host_mib}"
            f" MiB, {SYSTEM_MIB} are the system's, {edge} the edge's and {api} the api's",
            "take a larger machine, or lower qdrant.memory or api.memory (Qdrant needs 512M)",
        )
    return wanted


def body_limit_mb(max_body: str) -> int:
    """`edge.max_body` in whole megabytes, at least 1: what the edge lets in, Qdrant must take."""
    number, unit = int(max_body[:-2]), max_body[-2:]
    if unit == "KB":
        return max(1, -(-number // 1000))
    return number * 1000 if unit == "GB" else number
