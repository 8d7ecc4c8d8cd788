"""Score a completion with the model as it was trained: transformers and peft, in float32, on the CPU.

The tokens are those of the training rows. Knows nothing of what it is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.errors import InvalidRequest
from data.protocols import TokenScores
from data.records import Model
from finetune import lora
from finetune.collate import Collator
from finetune.masks import layer_masks
from finetune.parity import Trained
from finetune.recipe import Attention
from finetune.rows import Example, Row, build_rows
from finetune.weights import load_model, load_tokenizer


class TrainedSide:
    """The base model and its LoRA in transformers, on the CPU, in float32."""

    def __init__(self, model: Model, adapter_dir: Path | str, attention: Attention = "full") -> None:
        """Load ``model.weights`` and the peft adapter in ``adapter_dir``, which was trained with ``attention``.

        Raises:
            InvalidModel: one of them cannot be read.
            BaseModelMismatch: the adapter does not fit the model.
        """
        self._tokenizer = load_tokenizer(model.weights)
        base = load_model(model.weights, device=torch.device("cpu"), dtype=torch.float32)
        self._adapted = lora.load_adapter(base, adapter_dir)
        self._collator = Collator(attention, torch.float32)

    def score(self, example: Example) -> Trained:
        """Return the logits at the tokens that training trained, with the adapter and (when asked) without.

        Raises:
            InvalidRequest: the example has no completion.
        """
        rows = build_rows([example], self._tokenizer, self._tokenizer.template, max_length=2**31).rows
        if not rows:
            raise InvalidRequest("An example without a completion cannot be compared", got=example.messages[-1].content)
        row = rows[0]
        branch = row.branches[0]
        scores = TokenScores(row.context_ids + branch.tail_ids, branch.completion_ids, self._logits(row))
        return Trained(scores, lambda: self._base_logits(row))

    def linear_layers(self) -> Iterator[tuple[str, torch.nn.Linear]]:
        """Yield every linear layer of the base model with peft's name of it; not those of the LoRA."""
        for name, module in self._adapted.named_modules():
            if isinstance(module, torch.nn.Linear) and ".lora_" not in name:
                yield name, module

    def _base_logits(self, row: Row) -> NDArray[np.float32]:
        with self._adapted.disable_adapter():
            return self._logits(row)

    def _logits(self, row: Row) -> NDArray[np.float32]:
        batch = self._collator([row])
        inputs: dict[str, Any] = {name: batch[name] for name in ("input_ids", "position_ids")}
        inputs["attention_mask"] = layer_masks(self._adapted.config, batch["attention_mask"], batch["position_ids"])
        # The logits that predict a token stand one place before it.
        with torch.inference_mode():
            output = self._adapted(**inputs, logits_to_keep=len(batch["targets"]) + 1)
        return np.asarray(output.logits[0, :-1].float().numpy(), dtype=np.float32)
