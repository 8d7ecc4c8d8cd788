"""The API's own description, with how its errors read and an example of every route.

FastAPI describes a refusal in its own words, which ragtune does not use: every error is a problem object (RFC 9457).
The examples were recorded (``docs/examples.py``). Knows nothing of what the routes do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from data.errors import RagtuneError
from service.problems import MEDIA_TYPE, OTHER_TYPES

_TEXT = {"type": "string"}


def problem_types() -> dict[str, tuple[int, str]]:
    """Return every type of problem object with its status and what it means, by name."""
    found = {one("").type: (one.status, (one.__doc__ or "").partition("\n")[0]) for one in _errors(RagtuneError)}
    return dict(sorted({**found, **OTHER_TYPES}.items()))


def _errors(root: type[RagtuneError]) -> Iterator[type[RagtuneError]]:
    for one in root.__subclasses__():
        yield one
        yield from _errors(one)


PROBLEM: dict[str, Any] = {
    "title": "Problem",
    "description": "What went wrong (RFC 9457): `type` is stable, `hint` is the next step.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "got", "wanted", "hint", "message"],
    "properties": {
        "type": {
            **_TEXT,
            "description": "Stable. "
            + " ".join(f"`{name}` ({status}): {about}" for name, (status, about) in problem_types().items()),
        },
        **dict.fromkeys(("title", "detail", "wanted", "hint"), _TEXT),
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
        if "Problem" not in made.setdefault("components", {}).setdefault("schemas", {}):
            made["components"]["schemas"]["Problem"] = PROBLEM
            _add_examples(made)
        return made


def _add_examples(made: dict[str, Any]) -> None:
    """Put what was recorded of each route beside its schemas."""
    recorded = json.loads((Path(__file__).parent / "examples.json").read_text(encoding="utf-8"))
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            found = recorded.get(f"{method.upper()} {path}")
            if found is not None:
                _add_example(operation, found)


def _add_example(operation: dict[str, Any], found: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in found["parameters"]:
            parameter["example"] = found["parameters"][parameter["name"]]
    if "request" in found:
        operation["requestBody"]["content"][found["takes"]]["example"] = found["request"]
    contents = operation["responses"][str(found["status"])].setdefault("content", {})
    contents.setdefault(found["media"], {})["example"] = found["response"]
