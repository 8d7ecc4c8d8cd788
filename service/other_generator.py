"""A workspace whose questions go to another generator than the one that serves: a quantization's, or a cluster's.

Knows nothing of what is asked.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from data.records import Adapter
from service.arms import adapter_label

if TYPE_CHECKING:
    from service.workspace import Workspace


class OtherGenerator:
    """All of a workspace but its generator, with the adapters that this one has been given."""

    def __init__(self, workspace: Workspace, generator: Any) -> None:
        self._workspace = workspace
        self._loaded: set[str] = set()
        self._mutex = threading.Lock()
        self.generator = generator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._workspace, name)

    def adapter_key(self, adapter: Adapter) -> str:
        """Return the generator's key of an adapter, giving it to the generator on first use."""
        key = adapter_label(adapter)
        with self._mutex:
            if key not in self._loaded:
                gguf = str(self._workspace.adapter_gguf(adapter))
                self.generator.add_adapter(key, gguf, adapter.base_sha256, adapter.attention)
                self._loaded.add(key)
        return key


@contextmanager
def spread(workspace: Workspace, together: int) -> Iterator[tuple[Workspace, int]]:
    """Give the workspace to generate with, and how many requests to have under way: here 0 stands for "as always".

    With a Ray cluster (``RAGTUNE_RAY_ADDRESS``) every node has an engine, unless another server generates.

    Args:
        workspace: the job's.
        together: how many requests each engine is at, at the same time.

    Raises:
        ClusterUnavailable: the cluster cannot be used.
        As ``Workspace.model``.
    """
    if not workspace.settings.ray_address or not workspace.serves_here:
        yield workspace, 0
        return
    from service.places import open_engines

    engines = open_engines(workspace, together)
    try:
        yield cast("Workspace", OtherGenerator(workspace, engines)), engines.places()
    finally:
        engines.close()
