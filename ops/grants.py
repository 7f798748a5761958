"""The tokens in force, as points of a collection that Qdrant looks into on every request.

Pure: it neither sends nor reads. A token whose id and rights are not there is refused, and where
the collection itself is missing, every token is: what goes wrong shuts out and never lets in.
"""

from __future__ import annotations

import uuid
from collections.abc import Container, Mapping
from typing import Any

from ops.collections import Request
from ops.errors import ServiceError
from ops.settings import ACCESS_COLLECTION, Settings
from ops.settings.rights import id_of, values_in_force

Json = dict[str, Any]
KEY = "token"  # of a point's payload: what a token's `value_exists` is matched against

_COLLECTION = f"/collections/{ACCESS_COLLECTION}"
_SCROLL = f"{_COLLECTION}/points/scroll"
_MOST = 10_000  # points in one answer; two a developer


def reads() -> list[Request]:
    """The requests whose answers `plan` and `tokens` judge. They change nothing."""
    body = {"limit": _MOST, "with_payload": True, "with_vector": False}
    return [
        Request("GET", _COLLECTION, None, "look at the list of tokens"),
        Request("POST", _SCROLL, body, "read the list of tokens"),
    ]


def tokens(answers: Mapping[str, Any]) -> dict[str, str]:
    """What Qdrant finds tokens by, each with its developer ("" where none is named).

    `answers` are JSON bodies by path, a 404 body where the collection is missing. Raises
    ServiceError when an answer is none.
    """
    return {
        payload[KEY]: str(payload.get("developer", ""))
        for payload in _points(answers).values()
        if isinstance(payload.get(KEY), str)
    }


def plan(settings: Settings, answers: Mapping[str, Any]) -> list[Request]:
    """The requests that leave exactly the wanted tokens in force, in the order to send them.

    Empty `answers` stand for a host without a Qdrant yet. Raises ServiceError when an answer is
    none.
    """
    points: dict[str, Json] = {
        token: {KEY: value, "developer": name}
        for token, (value, name) in values_in_force(settings).items()
    }
    found = _points(answers) if answers else {}
    info = _result(answers, _COLLECTION) if answers else None
    requests = revocations(settings, answers)
    if info is None and points:
        requests.append(Request("PUT", _COLLECTION, {"vectors": {}}, f"create {ACCESS_COLLECTION}"))
    # without it every request of every developer would read the whole list
    if points and (info is None or KEY not in info.get("payload_schema", {})):
        body = {"field_name": KEY, "field_schema": "keyword"}
        path = f"{_COLLECTION}/index?wait=true"
        requests.append(Request("PUT", path, body, f"index {KEY} of {ACCESS_COLLECTION}"))
    if missing := {token: body for token, body in points.items() if found.get(token) != body}:
        requests.append(_upsert(missing))
    return requests


def revocations(settings: Settings, answers: Mapping[str, Any]) -> list[Request]:
    """Those of the plan that only take away; they wait for nothing else."""
    found = _points(answers) if answers else {}
    surplus = [token for token in found if token not in values_in_force(settings)]
    return [_delete(surplus, found)] if surplus else []


def revoked_for_good(settings: Settings, answers: Mapping[str, Any]) -> list[str]:
    """Ids of tokens that the plan ends and the file does not have: they are never to come back.

    The file still has one whose last day has passed; a later day makes it another token.
    """
    people = settings.developers.values()
    listed = {token for person in people for token in (person.token, person.retiring)}
    found = _points(answers) if answers else {}
    ids = {
        str(token)
        for point, payload in found.items()
        # a point may be written by hand under one id and let in the token of another
        for token in (point, id_of(str(payload.get(KEY, ""))))
    }
    return sorted(token for token in ids - listed if _is_id(token))


def readmitted(settings: Settings, revoked: Container[str]) -> list[str]:
    """Developers whose token in the file has been revoked before."""
    in_force = values_in_force(settings).items()
    return sorted({name for token, (_, name) in in_force if token in revoked})


def _is_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _delete(ids: list[str], found: Mapping[str, Json]) -> Request:
    names = sorted({str(found[token].get("developer") or "nobody") for token in ids})
    return Request(
        "POST",
        f"{_COLLECTION}/points/delete?wait=true",
        {"points": ids},
        f"revoke {len(ids)} tokens of {', '.join(names)}",
    )


def _upsert(points: Mapping[str, Json]) -> Request:
    names = sorted({str(payload["developer"]) for payload in points.values()})
    rows = [{"id": token, "vector": {}, "payload": body} for token, body in points.items()]
    return Request(
        "PUT",
        f"{_COLLECTION}/points?wait=true",
        {"points": rows},
        f"admit {len(points)} tokens of {', '.join(names)}",
    )


def _points(answers: Mapping[str, Any]) -> dict[Any, Json]:
    """Each point's payload by its id, which is a number where somebody else has put it there."""
    result = _result(answers, _SCROLL)
    if result is None:
        return {}
    if result.get("next_page_offset") is not None:
        raise ServiceError(
            f"{ACCESS_COLLECTION} holds more than {_MOST} points, which are not tokens of ours",
            f"delete the collection {ACCESS_COLLECTION} and deploy: it is made anew",
        )
    return {point["id"]: point.get("payload") or {} for point in result["points"]}


def _result(answers: Mapping[str, Any], path: str) -> Any:
    """The result of an answer; None where the collection is missing."""
    answer = answers.get(path)
    if isinstance(answer, dict) and "result" in answer and answer["result"] is not None:
        return answer["result"]
    status = answer.get("status") if isinstance(answer, dict) else answer
    reason = str(status.get("error") if isinstance(status, dict) else status or "no answer")
    if "doesn't exist" in reason or "not found" in reason.lower():
        return None
    raise ServiceError(f"Qdrant did not answer {path}: {reason}")
