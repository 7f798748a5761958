"""How a request is refused: with the real server's status codes and words."""

from __future__ import annotations


class ApiError(Exception):
    """An answer other than 200. `message` is what the caller reads."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class KeyRefused(ApiError):
    """The key or token itself was refused: plain text, before anything is looked at."""


class PlainError(ApiError):
    """A refusal that the real server writes as plain text, as around files that come or go."""


def wrong_input(message: str) -> ApiError:
    return ApiError(400, f"Wrong input: {message}")


def bad_body(message: str) -> ApiError:
    return ApiError(400, f"Format error in JSON body: {message}")


def not_found(message: str) -> ApiError:
    return ApiError(404, f"Not found: {message}")


def no_collection(name: str) -> ApiError:
    return not_found(f"Collection `{name}` doesn't exist!")


def lacking(what: str) -> ApiError:
    return ApiError(501, f"The stand-in for Qdrant has no {what}; run the real server for that")
