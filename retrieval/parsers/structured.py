"""JSON, JSON Lines and Jupyter notebooks as readable text, with the standard library only."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from retrieval.parsers.parsed import Budget, Parsed, check_size, join_within
from retrieval.text import decode

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LONGEST_OUTPUT = 4000
_DEEPEST = 100
_TITLE_KEYS = ("title", "name")


def parse_json(raw: bytes, budget: Budget) -> Parsed:
    """Return JSON as ``key: value`` lines, a list's records apart; text that is no JSON comes back as it is."""
    text = decode(raw)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        check_size(len(text), budget)
        return Parsed(text, markdown=False, meta={"not_json": str(error)})
    title = next((value[key] for key in _TITLE_KEYS if isinstance(value.get(key), str)), "") if _is_map(value) else ""
    return Parsed(join_within(_records(value), budget), title, markdown=False)


def parse_json_lines(raw: bytes, budget: Budget) -> Parsed:
    """Return each line's record as a paragraph; a line that is no JSON stays as it is, and is counted."""
    damaged = 0

    def records() -> Iterator[str]:
        nonlocal damaged
        for line in decode(raw).split("\n"):
            if line.strip():
                try:
                    yield "\n".join(_lines(json.loads(line), 0))
                except (ValueError, RecursionError):
                    damaged += 1
                    yield line

    text = join_within(records(), budget)
    return Parsed(text, markdown=False, meta={"not_json_lines": damaged} if damaged else {})


def _is_map(value: Any) -> bool:
    return isinstance(value, dict)


def _records(value: Any) -> Iterator[str]:
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for item in value:
            yield "\n".join(_lines(item, 0))
    else:
        yield "\n".join(_lines(value, 0))


def _lines(value: Any, depth: int) -> Iterator[str]:
    indent = "  " * depth
    if depth > _DEEPEST:
        yield indent + json.dumps(value, ensure_ascii=False)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, dict | list) and inner and not _is_flat(inner):
                yield f"{indent}{key}:"
                yield from _lines(inner, depth + 1)
            else:
                yield f"{indent}{key}: {_scalar(inner)}"
    elif isinstance(value, list) and not _is_flat(value):
        for inner in value:
            first, *rest = list(_lines(inner, 0)) or [""]
            yield f"{indent}- {first}"
            yield from (f"{indent}  {line}" for line in rest)
    else:
        yield indent + _scalar(value)


def _is_flat(value: Any) -> bool:
    return isinstance(value, list) and not any(isinstance(item, dict | list) for item in value)


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        return ", ".join(_scalar(item) for item in value)
    return "" if value in ({}, []) else json.dumps(value, ensure_ascii=False)


def parse_notebook(raw: bytes, budget: Budget) -> Parsed:
    """Return a notebook's cells in order: prose as it is, code and its text outputs in fences."""
    text = decode(raw)
    try:
        notebook = json.loads(text)
        cells = notebook["cells"] if "cells" in notebook else notebook["worksheets"][0]["cells"]
        language = str(notebook.get("metadata", {}).get("kernelspec", {}).get("language") or "python")
        body = join_within((block for cell in cells for block in _cell(cell, language)), budget)
    except (ValueError, RecursionError, KeyError, TypeError, IndexError, AttributeError) as error:
        check_size(len(text), budget)
        return Parsed(text, markdown=False, meta={"not_a_notebook": f"{type(error).__name__}: {error}"})
    return Parsed(body, meta={"language": language})


def _cell(cell: Any, language: str) -> Iterator[str]:
    source = _text(cell.get("source", cell.get("input", ""))).strip()
    if cell.get("cell_type") != "code":
        yield from [source] if source else []
        return
    if source:
        yield f"```{language}\n{source}\n```"
    for output in cell.get("outputs") or ():
        told = _text(
            output.get("text") or (output.get("data") or {}).get("text/plain") or output.get("traceback") or ""
        )
        told = _ANSI.sub("", told).strip()[:_LONGEST_OUTPUT]
        if told and not told.startswith("<"):  # <Figure size 640x480> and its like say nothing
            yield f"```text\n{told}\n```"


def _text(value: Any) -> str:
    return "".join(map(str, value)) if isinstance(value, list) else str(value)
