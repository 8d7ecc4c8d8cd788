"""Measure which columns of which weights matter: an importance matrix, computed from examples.

It is what llama.cpp's ``imatrix`` collects: for each matrix, the mean of the squared inputs of each
column, over all tokens. Quantizing weighs its errors by it. Knows nothing of quantization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from data.errors import InvalidRequest
from data.protocols import Report
from data.records import Model, Progress
from data.state import map_os_error
from finetune.gguf_tensors import tensor_name
from finetune.rows import Example

if TYPE_CHECKING:
    from finetune.trained import TrainedSide

_PREFIX, _SUFFIX = "base_model.model.", ".base_layer"
"""What peft puts around the name of a module, and behind that of one that has a LoRA."""

Importance = dict[str, NDArray[np.float32]]
"""GGUF tensor -> mean squared input, shape (columns,)."""


class _Sums:
    """Sums of squared inputs, by GGUF tensor."""

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._counts: dict[str, int] = {}

    def hook(self, tensor: str) -> Callable[[Any, tuple[Any, ...]], None]:
        def before(_module: Any, inputs: tuple[Any, ...]) -> None:
            rows = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).double()
            added = (rows * rows).sum(dim=0).cpu().numpy()
            self._sums[tensor] = self._sums.get(tensor, 0.0) + added
            self._counts[tensor] = self._counts.get(tensor, 0) + len(rows)

        return before

    def means(self) -> Importance:
        return {name: np.asarray(total / self._counts[name], dtype=np.float32) for name, total in self._sums.items()}


def importance(
    model: Model, adapter_dir: Path | str, examples: Sequence[Example], *, report: Report | None = None
) -> Importance:
    """Run ``examples`` through the base model with its adapter; return the mean squared input of every column.

    The prompt's tokens count as the completion's do: served, the model reads both.

    Args:
        model: the base model; ``model.weights`` is loaded in float32 on the CPU.
        adapter_dir: the peft adapter's folder.
        examples: conversations as they are served.
        report: told after each example.

    Raises:
        InvalidRequest: there are no examples.
        InvalidModel, BaseModelMismatch: the model or the adapter cannot be loaded.
        JobCancelled: ``report`` asked to stop.
    """
    from finetune.trained import TrainedSide

    if not examples:
        raise InvalidRequest("An importance matrix needs examples", wanted="at least one example")
    trained, sums = TrainedSide(model, adapter_dir), _Sums()
    with _hooked(trained, sums):
        for done, example in enumerate(examples, 1):
            trained.score(example)
            if report is not None:
                report(Progress(done, len(examples), "examples", stage="importance"))
    return sums.means()


@contextmanager
def _hooked(trained: TrainedSide, sums: _Sums) -> Iterator[None]:
    handles = []
    for name, layer in trained.linear_layers():
        tensor = tensor_name(name.removeprefix(_PREFIX).removesuffix(_SUFFIX))
        if tensor is not None:
            handles.append(layer.register_forward_pre_hook(sums.hook(f"{tensor}.weight")))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def save_importance(found: Importance, path: Path) -> Path:
    """Write an importance matrix as safetensors, for ``service.engine.quantize``.

    Raises:
        InsufficientStorage: the disk is full.
    """
    try:
        save_file(found, path)
    except OSError as error:
        raise map_os_error(error, path) from error
    return path
