"""The API's own description, with how its errors read.

FastAPI describes a refusal in its own words, which ragtune does not use: every error is a problem object (RFC 9457).
Knows nothing of what the routes do.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from service.problems import MEDIA_TYPE

_TEXT = {"type": "string"}
PROBLEM: dict[str, Any] = {
    "title": "Problem",
    "description": "What went wrong (RFC 9457): `type` is stable, `hint` is the next step.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "got", "wanted", "hint", "message"],
    "properties": {
        **dict.fromkeys(("type", "title", "detail", "wanted", "hint"), _TEXT),
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "got": {"description": "The offending value, if one can be named."},
        "message": {**_TEXT, "description": "`detail`, `got` and `hint` in one text, where OpenAI's clients look."},
        "request_id": {**_TEXT, "description": "Of an `internal-error`: what to look for in the server's log."},
        "errors": {"type": "array", "items": {"type": "object"}, "description": "Every value that does not fit."},
    },
}
ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "An error.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}
"""What every route may answer beside its success."""


class DescribedApp(FastAPI):
    """An application whose description has the problem object that ``ERRORS`` refer to."""

    def openapi(self) -> dict[str, Any]:
        """Return the description; made once."""
        made = super().openapi()
        made.setdefault("components", {}).setdefault("schemas", {})["Problem"] = PROBLEM
        return made
