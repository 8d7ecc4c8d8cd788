"""The fast tier does not import what only the slow tier runs: torch and transformers take seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ("tests.postgres", "tests.milvus", "tests.cluster")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    return True if "\npytestmark = pytest.mark.slow" in collection_path.read_text() else None
