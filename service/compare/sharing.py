"""Answers for a comparison: arms that search alike for the same question share one search.

What the search took is added to the time of every arm that used it, so that latencies are as if each had searched.
Knows nothing of arms and scores.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from data.records import Answer
from service.answerer import Answerer, AskRequest, Parts

if TYPE_CHECKING:
    from retrieval.retriever import Retriever
    from service.workspace import Workspace


class SharedSearch(threading.local):
    """A retriever that remembers what it found for the question that a thread asked last."""

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever
        self._question = ""
        self._found: dict[str, tuple[Any, float]] = {}
        self.saved_ms = 0.0
        """Milliseconds that the search took which the last call was spared; 0 if it searched itself."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._retriever, name)

    def retrieve(self, question: str, *about: Any, reranker: object | None = None, **named: Any) -> Any:
        """Return what the retriever finds, found before where everything asked for is the same."""
        if question != self._question:
            self._question, self._found = question, {}
        key = repr((about, sorted(named.items()), type(reranker).__name__))
        if key in self._found:
            found, self.saved_ms = self._found[key]
            return found
        started = time.perf_counter()
        found = self._retriever.retrieve(question, *about, reranker=reranker, **named)  # type: ignore[arg-type]
        self._found[key], self.saved_ms = (found, (time.perf_counter() - started) * 1000), 0.0
        return found


class _Parts:
    """A workspace whose retriever shares."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.retriever = SharedSearch(workspace.retriever)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._workspace, name)


class SharingAnswerer:
    """Answers like the workspace's answerer. Thread-safe; what is shared is a thread's own."""

    def __init__(self, workspace: Workspace) -> None:
        self._parts = _Parts(workspace)
        self._answerer = Answerer(cast(Parts, self._parts))

    def answer(self, ask: AskRequest) -> Answer:
        """Answer to the end.

        Raises:
            As ``Answerer.answer``.
        """
        self._parts.retriever.saved_ms = 0.0
        answer = self._answerer.answer(ask)
        saved = self._parts.retriever.saved_ms
        spent = {name: answer.timings.get(name, 0.0) + saved for name in ("retrieve", "total")}
        return replace(answer, timings={**answer.timings, **spent}) if saved else answer
