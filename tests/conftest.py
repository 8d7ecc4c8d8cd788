"""The fast tier does not import what only the slow tier runs: torch and transformers take seconds."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ("tests.postgres", "tests.milvus", "tests.cluster")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    slow = re.search(r"^pytestmark = \[?\s*pytest\.mark\.slow\b", collection_path.read_text(), re.MULTILINE)
    return True if slow else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Keep the garbage collector from what stays until the end: looking through it was a sixth of the tests' work.

    What the imports dropped without closing it is found first.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


def pytest_sessionfinish() -> None:
    """Let what was left open be found as ever."""
    gc.unfreeze()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse a fast tier that has grown slow by an import at the head of one of its files."""
    heavy = sorted({"torch", "transformers", "peft", "sklearn"} & set(sys.modules))
    if session.config.option.markexpr == "not slow" and heavy:
        raise pytest.UsageError(f"The fast tier imports {', '.join(heavy)}: move what needs it into a slow file.")
