"""The errors of the Kubernetes API as it words them; says nothing of when they are raised."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """An answer that is not a success: a `Status` object with its HTTP code."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details or {}
        self.headers = headers or {}

    def status(self) -> dict[str, Any]:
        """The body of the answer."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }


REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


def failure(code: int, message: str, **details: Any) -> ApiError:
    """An error whose reason follows from its code."""
    return ApiError(code, REASONS.get(code, "Unknown"), message, details)


class Unserved(ApiError):
    """404 for a path below which nothing is served; only the core group answers with a Status."""

    def __init__(self) -> None:
        super().__init__(404, "NotFound", "the server could not find the requested resource")


def not_found(qualified: str, name: str) -> ApiError:
    """No object of that name; `qualified` is the plural, with the group behind a dot."""
    return _about(404, "NotFound", qualified, name, "not found")


def already_exists(qualified: str, name: str) -> ApiError:
    """A create of a name that is taken."""
    return _about(409, "AlreadyExists", qualified, name, "already exists")


def conflict(qualified: str, name: str, why: str = "") -> ApiError:
    """A write from an old version of the object, or on a broken precondition."""
    why = why or (
        "the object has been modified; please apply your changes to the latest version "
        "and try again"
    )
    plural, _, group = qualified.partition(".")
    details = {"name": name, "group": group, "kind": plural}
    message = f'Operation cannot be fulfilled on {qualified} "{name}": {why}'
    return ApiError(409, "Conflict", message, details)


def forbidden(qualified: str, name: str, why: str) -> ApiError:
    """What admission or authorization refuses."""
    return _about(403, "Forbidden", qualified, name, f"is forbidden: {why}", link=" ")


def expired(message: str = "The resourceVersion for the provided watch is too old.") -> ApiError:
    """410: what was asked for has been compacted."""
    return ApiError(410, "Expired", message)


def invalid(kind: str, group: str, name: str, causes: list[dict[str, str]]) -> ApiError:
    """422 with one cause per mistake, as `apierrors.NewInvalid` makes it."""
    lines = [f"{cause['field']}: {cause['message']}" for cause in causes]
    text = lines[0] if len(lines) == 1 else "[" + ", ".join(lines) + "]"
    qualified = f"{kind}.{group}" if group else kind
    details = {"name": name, "group": group, "kind": kind, "causes": causes}
    return ApiError(422, "Invalid", f'{qualified} "{name}" is invalid: {text}', details)


def cause(reason: str, field: str, message: str) -> dict[str, str]:
    """One mistake of an invalid object."""
    return {"reason": reason, "field": field, "message": message}


def _about(
    code: int, reason: str, qualified: str, name: str, what: str, link: str = " "
) -> ApiError:
    plural, _, group = qualified.partition(".")
    details = {"name": name, "group": group, "kind": plural}
    return ApiError(code, reason, f'{qualified} "{name}"{link}{what}', details)
