"""The stand-in behind its two protocols: judge the key, judge the access, note both, run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import qdrant_edge as edge
from qdrant_client import models as m

from . import translate
from .audit import Audit
from .auth import Identity, Keys
from .config import Config
from .errors import ApiError
from .operations import (
    ABOUT_SNAPSHOTS,
    LOGGED_AS,
    LOGGED_WITHOUT_COLLECTION,
    NOT_LOGGED,
    OPERATIONS,
    Call,
    Json,
)
from .snapshots import Snapshots
from .store import Store


class Service:
    """Raises ApiError for whatever is refused; nothing runs that was not admitted."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.store = Store(config.storage)
        self.snapshots = Snapshots(self.store, config.snapshots)
        self._keys = Keys(config, self._has_point)
        self._audit = Audit(config.audit)

    def identify(self, headers: Mapping[str, str], api: str, remote: str) -> Identity:
        """Judge the key. Raises KeyRefused, and notes that it did."""
        try:
            return self._keys.identify(headers)
        except ApiError as refusal:
            reason = ("Unauthorized: " if refusal.status == 401 else "Forbidden: ") + str(refusal)
            nobody = Identity("None")
            self._audit.note(nobody, api=api, remote=remote, result="denied", error=reason)
            raise

    def perform(self, method: str, call: Call, api: str, remote: str) -> Json:
        """Judge the access, note it, run it. Raises ApiError."""
        self.admit(method, call, api, remote)
        return self.run(method, call)

    def admit(self, method: str, call: Call, api: str, remote: str) -> None:
        """Judge the access and note it. Raises ApiError."""
        operation = OPERATIONS[method]
        try:
            operation.guard(call.identity, call.collection)
        except ApiError as refusal:
            self._note(method, call, api, remote, result="denied", error=str(refusal))
            raise
        self._note(method, call, api, remote, result="ok")

    def run(self, method: str, call: Call) -> Json:
        """What was admitted. Raises ApiError."""
        on = self.snapshots if method in ABOUT_SNAPSHOTS else self.store
        return OPERATIONS[method].run(on, call)

    def _note(self, method: str, call: Call, api: str, remote: str, **outcome: str) -> None:
        if method in NOT_LOGGED:
            return
        entry = {"method": LOGGED_AS.get(method, method), "api": api, "remote": remote}
        if method not in LOGGED_WITHOUT_COLLECTION:
            entry["collection"] = call.collection
        self._audit.note(call.identity, **entry, **outcome)

    def _has_point(self, collection: str, matches: Mapping[str, Any]) -> bool:
        conditions = [
            m.FieldCondition(key=key, match=m.MatchValue(value=value))
            for key, value in matches.items()
        ]
        request = edge.CountRequest(filter=translate.filter_(m.Filter(must=conditions)))
        return bool(self.store.get(collection).call("count", request))
