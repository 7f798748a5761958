"""Take of qdrant_client its models and its gRPC, and leave its clients: half the time of a start.

With the clients would come httpx and an early look at each of some hundred models; a model that
is not looked at by then is completed when it is first used.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from types import ModuleType


def leave_the_clients() -> None:
    """Before anything of qdrant_client is imported, and only in a process without its clients."""
    found = PathFinder.find_spec("qdrant_client")
    assert found and found.submodule_search_locations  # noqa: S101 - installed in the image
    (folder,) = found.submodule_search_locations
    package, http = ModuleType("qdrant_client"), ModuleType("qdrant_client.http")
    package.__path__, http.__path__ = [folder], [f"{folder}/http"]
    sys.modules |= {"qdrant_client": package, "qdrant_client.http": http}
    from qdrant_client.http import models

    package.http, package.models = http, models  # type: ignore[attr-defined]
