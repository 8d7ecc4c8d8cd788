"""The fast tier does not import what only the slow tier runs: torch and transformers take seconds."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

pytest_plugins = ("tests.postgres", "tests.milvus", "tests.cluster")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    slow = re.search(r"^pytestmark = \[?\s*pytest\.mark\.slow\b", collection_path.read_text(), re.MULTILINE)
    return True if slow else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse a fast tier that has grown slow by an import at the head of one of its files."""
    heavy = sorted({"torch", "transformers", "peft", "sklearn"} & set(sys.modules))
    if session.config.option.markexpr == "not slow" and heavy:
        raise pytest.UsageError(f"The fast tier imports {', '.join(heavy)}: move what needs it into a slow file.")
