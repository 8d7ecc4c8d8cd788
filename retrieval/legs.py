"""Where the dense legs of index generations are kept: in their folders (FAISS), or on a server (Milvus).

A generation's folder holds what is needed to open its leg either way. Knows nothing of what is indexed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from data.protocols import Index
from retrieval.index import FaissIndex
from retrieval.segments import Policy

DENSE = "dense"
"""The folder of the dense leg inside a generation's."""


class DenseLegs(Protocol):
    """Opens dense legs, and keeps what they are made of outside of their folders in step with the generations."""

    def prepare(self, folder: Path, base: Path) -> None:
        """Make the leg in ``folder`` hold exactly what that of ``base`` holds; ``folder`` is a copy of it."""

    def open(self, folder: Path, dimension: int, policy: Policy | None = None) -> Index:
        """Open the leg of the generation in ``folder``, empty if there is none yet."""

    def publish(self, folder: Path) -> None:
        """Tell others that this generation is the current one now."""

    def collect(self, root: Path, kept: Sequence[int]) -> None:
        """Give up what none of the ``kept`` generations under ``root`` needs."""


class FaissLegs:
    """Dense legs as files, which come and go with their folders."""

    def prepare(self, folder: Path, base: Path) -> None:
        """Do nothing: the copied files are the leg."""

    def open(self, folder: Path, dimension: int, policy: Policy | None = None) -> Index:
        """Open the files; raises as ``FaissIndex``."""
        return FaissIndex(folder / DENSE, dimension, policy)

    def publish(self, folder: Path) -> None:
        """Do nothing: the store says which generation is current."""

    def collect(self, root: Path, kept: Sequence[int]) -> None:
        """Do nothing: files go with their folders."""
