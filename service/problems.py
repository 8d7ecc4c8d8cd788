"""The one mapping from errors to RFC 9457 problem objects, for HTTP, jobs and ``--json`` output.

Knows nothing of where a problem object goes.
"""

from __future__ import annotations

import math
from typing import Any

from data.errors import RagtuneError

MEDIA_TYPE = "application/problem+json"
_SHOWN_CHARS = 500
OTHER_TYPES: dict[str, tuple[int, str]] = {
    "http-error": (400, "The request is no HTTP that this server speaks."),
    "internal-error": (500, "An error that ragtune did not expect."),
    "job-crashed": (500, "The process of a job ended before the job did."),
    "method-not-allowed": (405, "The route does not take this method."),
    "no-such-route": (404, "There is no route at this path."),
    "wrong-host": (421, "The Host header names another server."),
    "wrong-origin": (403, "The request comes from another site's page."),
}
"""The types that are no error of ``data.errors``, with their status and what they mean."""


def problem(error: RagtuneError) -> dict[str, Any]:
    """Return the problem object of ``error``; of an error that is none of ours see ``internal_error``."""
    return {
        "type": error.type,
        "title": (type(error).__doc__ or "").strip().splitlines()[0],
        "status": error.status,
        "detail": error.detail,
        "got": _plain(error.got),
        "wanted": error.wanted,
        "hint": error.hint,
    }


def internal_error(request_id: str) -> dict[str, Any]:
    """Return the problem object of an error that nobody expected, without a word of what it says.

    ``request_id`` is of the request or of the job that it ended; the log names it beside what the error says.
    """
    return {
        "type": "internal-error",
        "title": "An error that ragtune did not expect.",
        "status": 500,
        "detail": "Something went wrong that ragtune did not expect",
        "got": None,
        "wanted": "",
        "hint": f"Look for {request_id} in the log, in the folder logs of the state directory; please report it.",
        "request_id": request_id,
    }


def invalid_request(errors: list[dict[str, Any]], status: int = 422) -> dict[str, Any]:
    """Return the problem object of a request that does not fit its schema.

    Args:
        errors: pydantic's list; the first is shown in ``got`` and ``wanted``, all in ``errors``.
        status: the HTTP status.
    """
    shown = [_shown(error) for error in errors]
    first = shown[0]
    return {
        "type": "invalid-request",
        "title": "A value that the caller can correct.",
        "status": status,
        "detail": f"{first['where']}: {first['message']}",
        "got": first["got"],
        "wanted": first["message"],
        "hint": "See /openapi.json for what this route accepts.",
        "errors": shown,
    }


def _shown(error: dict[str, Any]) -> dict[str, Any]:
    if error["type"] == "json_invalid":
        reason = error.get("ctx", {}).get("error", "")
        place = f", character {error['loc'][-1]}" if error["loc"] else ""
        return {"where": "body", "message": f"not valid JSON: {reason}{place}", "got": None}
    return {"where": _where(error), "message": str(error["msg"]), "got": _plain(error.get("input"))}


def _where(error: dict[str, Any]) -> str:
    parts = [str(part) for part in error.get("loc", ()) if part != "body"]
    return ".".join(parts) or "body"


def _plain(value: object) -> Any:
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    text = value if isinstance(value, str) else repr(value) if isinstance(value, bytes) else str(value)
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}… ({len(text)} characters)"
