"""Work that failed and still has something to show: its outputs are kept with the failed job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data import errors
from data.errors import RagtuneError


class WorkFailed(Exception):
    """Ends a job as failed with ``error``, and keeps its ``outputs``."""

    def __init__(self, error: RagtuneError, outputs: Mapping[str, Any]) -> None:
        super().__init__(str(error))
        self.error = error
        self.outputs = outputs


def error_of_all_failed(outputs: Mapping[str, Any]) -> RagtuneError | None:
    """Return the first file's error if every file of an ingest failed, else None."""
    if not outputs["failed"] or outputs["indexed"] or outputs["unchanged"]:
        return None
    first = outputs["failed"][0]
    name = "".join(part.title() for part in str(first["type"]).split("-"))
    kind = getattr(errors, name, errors.UnreadableDocument)
    more = len(outputs["failed"]) - 1
    detail = f"{first['source']}: {first['detail']}" + (f" ({more} more files failed)" if more else "")
    got = first["got"] if first["got"] is not None else first["source"]
    error: RagtuneError = kind(detail, got=got, wanted=first["wanted"], hint=first["hint"])
    return error
