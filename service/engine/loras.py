"""The adapters of a loaded model: known by key, loaded when a request names them, the least recently used unloaded.

Lives in the child process. Knows nothing of requests or streams.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data.errors import AdapterInert, InvalidModel, InvalidRequest, UnknownAdapter
from data.state import sha256_file
from service.engine.llama import LlamaAdapter, LlamaModel
from service.engine.streams import AdapterSet

Attention = Literal["full", "blockwise"]
Logits = Callable[[Sequence[tuple[LlamaAdapter, float]]], NDArray[np.float32]]
"""Returns the logits after a short prompt under these adapters."""

# Q8_0 weights leave a rounding noise of about 1e-3 in logits of magnitude 10; a trained LoRA moves them by 0.1 to 10.
_CANARY_THRESHOLD = 1e-3


@dataclass(slots=True)
class _Known:
    path: Path
    attention: Attention
    sha256: str


class AdapterTable:
    """Adapters by key.

    Args:
        model: that they are for.
        limit: how many stay loaded.
        logits: measures whether an adapter does anything.
    """

    def __init__(self, model: LlamaModel, limit: int, logits: Logits) -> None:
        self._model = model
        self._limit = limit
        self._logits = logits
        self._known: dict[str, _Known] = {}
        self._loaded: OrderedDict[str, LlamaAdapter] = OrderedDict()

    def add(self, key: str, path: Path, attention: Attention) -> float:
        """Load a LoRA under ``key`` and prove that it does something; return the largest change of a logit.

        Raises:
            InvalidModel: the file is no LoRA of this model.
            AdapterInert: the logits after a short prompt stay the same.
        """
        adapter = LlamaAdapter(self._model, path)
        change = float(np.abs(self._logits([(adapter, 1.0)]) - self._logits([])).max())
        if not change > _CANARY_THRESHOLD:
            adapter.free()
            raise AdapterInert(
                f"The adapter {key} does not change what the model predicts",
                got=f"largest change of a logit {change:.2g}",
                wanted=f"more than {_CANARY_THRESHOLD}",
                hint="Train it longer, or export it again.",
            )
        self._known[key] = _Known(path, attention, sha256_file(path))
        if len(self._loaded) < self._limit:
            self._loaded[key] = adapter
        else:  # which of the others is in use is the caller's to know: this one waits for its first request
            adapter.free()
        return change

    def remove(self, key: str) -> None:
        """Forget ``key``; the caller has seen to it that no context uses it. An unknown key is ignored."""
        self._known.pop(key, None)
        if adapter := self._loaded.pop(key, None):
            adapter.free()

    def handles(self, adapters: AdapterSet) -> list[tuple[LlamaAdapter, float]]:
        """Return the loaded adapters of a set, loading those that are not.

        Raises:
            UnknownAdapter: one was not added.
            InvalidModel: its file has changed for the worse.
        """
        self.check(adapters)
        for key, _ in adapters:
            if key not in self._loaded:
                self._loaded[key] = self._load(self._known[key])
            self._loaded.move_to_end(key)
        return [(self._loaded[key], scale) for key, scale in adapters]

    def _load(self, known: _Known) -> LlamaAdapter:
        if not known.path.is_file() or sha256_file(known.path) != known.sha256:
            raise InvalidModel(
                "The adapter's file has changed since it was added", got=known.path.name, hint="Add the adapter again."
            )
        return LlamaAdapter(self._model, known.path)

    def shrink(self, used: Iterable[str]) -> None:
        """Unload the least recently used adapters above the limit, except those in use."""
        keep = set(used)
        for key in [key for key in self._loaded if key not in keep]:
            if len(self._loaded) <= self._limit:
                return
            self._loaded.pop(key).free()

    def check(self, adapters: AdapterSet) -> None:
        """Raise unless all of these are known and read passages the same way.

        Raises:
            UnknownAdapter: one was not added.
            InvalidRequest: some read passages apart from each other and some do not.
        """
        for key, _ in adapters:
            if key not in self._known:
                raise UnknownAdapter("The engine has no such adapter", got=key, wanted=", ".join(self._known))
        if len({self._known[key].attention for key, _ in adapters}) > 1:
            raise InvalidRequest(
                "These adapters cannot be summed: some were trained with blockwise attention and some with full",
                got=", ".join(f"{key} ({self._known[key].attention})" for key, _ in adapters),
                wanted="adapters of one kind of attention",
            )

    def blockwise(self, adapters: AdapterSet) -> bool:
        """Tell whether passages are to be read apart from each other."""
        return bool(adapters) and self._known[adapters[0][0]].attention == "blockwise"

    def fingerprint(self, adapters: AdapterSet) -> str:
        """Return what names the contents of a set: its files' hashes and scales."""
        return " ".join(f"{self._known[key].sha256}*{scale!r}" for key, scale in adapters)

    @property
    def loaded(self) -> int:
        """How many are loaded."""
        return len(self._loaded)
