"""When an ingest as a whole has failed: every file did, and why the first one did.

Knows nothing of jobs.
"""

from __future__ import annotations

from typing import Any

from data import errors


def raise_if_all_failed(outputs: dict[str, Any]) -> None:
    """Raise the first file's error again if no file was indexed or left unchanged.

    Raises:
        UnreadableDocument: of the kind the first file failed with.
    """
    if not outputs["failed"] or outputs["indexed"] or outputs["unchanged"] or outputs.get("deleted"):
        return
    first = outputs["failed"][0]
    name = "".join(part.title() for part in str(first["type"]).split("-"))
    kind = getattr(errors, name, errors.UnreadableDocument)
    more = len(outputs["failed"]) - 1
    detail = f"{first['source']}: {first['detail']}" + (f" ({more} more files failed)" if more else "")
    raise kind(detail, got=first["source"], hint=first["hint"])
