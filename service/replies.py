"""Problem objects as HTTP responses: the same shape whether a route or a guard in front of it refuses.

Knows nothing of what went wrong; that is in ``problems``.
"""

from __future__ import annotations

import math
from typing import Any

from fastapi.responses import JSONResponse

from data.errors import (
    DatabaseUnavailable,
    EngineBusy,
    EngineError,
    EngineUnavailable,
    RagtuneError,
    RateLimited,
    Unauthorized,
)
from service.problems import MEDIA_TYPE, problem

_RETRY_AFTER_S: dict[type[RagtuneError], int] = {
    EngineBusy: 2,
    EngineUnavailable: 5,
    DatabaseUnavailable: 5,
}
"""When to come back: a place in the queue is free soon, an engine or a database that died takes a moment to start."""


def problem_response(body: dict[str, Any], headers: dict[str, str] | None = None) -> JSONResponse:
    """Return a problem object as a response of its own status."""
    # OpenAI's clients show the member called message, and no other.
    got = "" if body["got"] is None else f"Got: {body['got']}."
    message = " ".join(filter(None, (body["detail"], got, body["hint"])))
    return JSONResponse(
        {**body, "message": message}, status_code=body["status"], headers=headers, media_type=MEDIA_TYPE
    )


def error_response(error: RagtuneError) -> JSONResponse:
    """Return one of ragtune's own errors as a response."""
    headers = {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, RateLimited):
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if type(error) in _RETRY_AFTER_S:
        said = error.retry_after_s if isinstance(error, EngineError) else None
        headers["Retry-After"] = str(math.ceil(said or _RETRY_AFTER_S[type(error)]))
    return problem_response(problem(error), headers)
