"""The official Qdrant client, opened right. The official client alone would take port 6333
unasked, and https wherever a key is given without a scheme.

Never imported by what runs on the host: qdrant_client is not installed there (see rest.py).
"""

from __future__ import annotations

import warnings
from pathlib import Path

from pydantic import SecretStr
from qdrant_client import QdrantClient

from ops.clients.rest import checked_url, verification

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def connect(
    url: str, api_key: SecretStr | None, *, ca_file: Path | None = None, timeout: int = 30
) -> QdrantClient:
    """The official client for `url`, with certificates checked against `ca_file` where given.

    `timeout` in seconds. Nothing is sent yet. Raises SettingsError for a URL without a scheme or
    a host, and for a CA file that is none.
    """
    base = checked_url(url)
    with warnings.catch_warnings():
        if base.host in LOOPBACK:  # a tunnel, or the host itself: nobody between
            warnings.filterwarnings("ignore", message="Api key is used with an insecure")
        return QdrantClient(
            url=url,
            port=None,  # the URL's own, or that of its scheme; never 6333 unasked
            api_key=api_key.get_secret_value() if api_key else None,
            timeout=timeout,
            check_compatibility=False,  # it would ask from a thread and print its own warnings
            verify=verification(ca_file),
        )
