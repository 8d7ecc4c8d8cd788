"""One engine on every node of a cluster, as one ``Generator``.

A request is a function of what it says, so one whose node was lost is asked of another node, and the answer is the
one that it would have been. Knows nothing of what is asked, nor of how nodes are found.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import BaseModelMismatch, InvalidModel, UnknownAdapter
from data.protocols import Delta, GenerationRequest, GenerationResult
from data.records import content_id
from service.engine.nodes import AdapterFile, EngineRecipe, NodeEngine, add_adapter, generate, lacking, receive, start

if TYPE_CHECKING:
    from retrieval.ray import Do, RayActors
    from retrieval.ray.actors import Supply


class SpreadEngines:
    """Generates on whichever node has room; adapters go where they are needed. Thread-safe.

    Args:
        actors: hold what ``recipe`` makes.
        recipe: of the engine on each node.
    """

    def __init__(self, actors: RayActors[NodeEngine], recipe: EngineRecipe) -> None:
        self._actors, self._recipe = actors, recipe
        self._mutex = threading.Lock()
        self._adapters: dict[str, tuple[Path, str]] = {}

    @property
    def model(self) -> str:
        """Name of the base model."""
        return self._recipe.model.name

    def places(self) -> int:
        """Return how many requests the nodes are at together. Raises as ``RayActors.places``."""
        return self._actors.places()

    def generate(self, request: GenerationRequest) -> GenerationResult:
        """Generate to the end on some node.

        Raises:
            As ``Generator.generate`` and ``RayActors.call``; UnknownAdapter: it was not given.
        """
        near = content_id(repr((request.messages, request.adapters))).encode()
        return self._actors.call(generate, request, near=near, needs=self._needs(request))

    def stream(self, request: GenerationRequest) -> Iterator[Delta]:
        """Yield the whole text as one piece. Raises as ``generate``."""
        result = self.generate(request)
        yield Delta(result.text, result)

    def add_adapter(self, key: str, gguf_path: str | Path, base_sha256: str, attention: str = "full") -> float:
        """Make ``key`` usable in requests; return NaN, since no logits are seen.

        Raises:
            BaseModelMismatch: it was trained for another model.
        """
        if base_sha256 != self._recipe.model.sha256:
            raise BaseModelMismatch(
                f"The adapter {key} was trained for another base model",
                got=base_sha256,
                wanted=f"{self._recipe.model.sha256} ({self.model})",
            )
        with self._mutex:
            self._adapters[key] = (Path(gguf_path), attention)
        return math.nan

    def remove_adapter(self, key: str) -> None:
        """Forget ``key``."""
        with self._mutex:
            self._adapters.pop(key, None)

    def close(self) -> None:
        """Let go of the engines."""
        self._actors.close()

    def _needs(self, request: GenerationRequest) -> Mapping[str, Supply]:
        needs: dict[str, Supply] = {"model": self._give_model}
        for key, _ in request.adapters:
            with self._mutex:
                given = self._adapters.get(key)
            if given is None:
                raise UnknownAdapter("No such adapter was given to the engines", got=key)
            needs[f"adapter {key}"] = _supply_of(key, *given, self._recipe.model.sha256)
        return needs

    def _give_model(self, do: Do) -> None:
        for block in self._recipe.blocks(do(lacking, None)):
            do(receive, block)
        do(start, None)


def _supply_of(key: str, path: Path, attention: str, base_sha256: str) -> Supply:
    def give(do: Do) -> None:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InvalidModel(f"The adapter cannot be read: {error.strerror}", got=str(path)) from error
        do(add_adapter, AdapterFile(key, data, base_sha256, attention))

    return give
