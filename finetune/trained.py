"""Score a completion with the model as it was trained: transformers and peft, in float32, on the CPU.

The tokens are those of the training rows. Knows nothing of what it is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data.errors import InvalidRequest
from data.protocols import TokenScores
from data.records import Model
from finetune import lora
from finetune.parity import Trained
from finetune.rows import Example, build_rows
from finetune.weights import load_model, load_tokenizer


class TrainedSide:
    """The base model and its LoRA in transformers, on the CPU, in float32."""

    def __init__(self, model: Model, adapter_dir: Path | str) -> None:
        """Load ``model.weights`` and the peft adapter in ``adapter_dir``.

        Raises:
            InvalidModel: one of them cannot be read.
            BaseModelMismatch: the adapter does not fit the model.
        """
        self._tokenizer = load_tokenizer(model.weights)
        base = load_model(model.weights, device=torch.device("cpu"), dtype=torch.float32)
        self._adapted = lora.load_adapter(base, adapter_dir)

    def score(self, example: Example) -> Trained:
        """Return the logits at the tokens that training trained, with the adapter and (when asked) without.

        Raises:
            InvalidRequest: the example has no completion.
        """
        rows = build_rows([example], self._tokenizer, self._tokenizer.template, max_length=2**31).rows
        if not rows:
            raise InvalidRequest("An example without a completion cannot be compared", got=example.messages[-1].content)
        branch = rows[0].branches[0]
        prompt = rows[0].context_ids + branch.tail_ids
        completion = branch.completion_ids
        logits = self._logits(prompt, completion)
        return Trained(TokenScores(prompt, completion, logits), lambda: self._base_logits(prompt, completion))

    def _base_logits(self, prompt: Sequence[int], completion: Sequence[int]) -> NDArray[np.float32]:
        with self._adapted.disable_adapter():
            return self._logits(prompt, completion)

    def _logits(self, prompt: Sequence[int], completion: Sequence[int]) -> NDArray[np.float32]:
        # The logits that predict a token stand one place before it.
        with torch.inference_mode():
            output = self._adapted(torch.tensor([[*prompt, *completion]]), logits_to_keep=len(completion) + 1)
        return np.asarray(output.logits[0, :-1].float().numpy(), dtype=np.float32)
