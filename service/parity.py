"""Measures whether a GGUF adapter, as the engine serves it, answers like the LoRA it was made from.

Knows nothing of jobs, HTTP or the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import data
from data.formats import read_questions
from data.protocols import Report
from service.workspace import ADAPTER_GGUF

if TYPE_CHECKING:
    from finetune.recipe import Attention
    from finetune.rows import Example
    from service.workspace import Workspace

_KEY = "parity-check"
PARITY_EXAMPLES = 8
"""Examples compared token by token, spread over all: enough to show a wrong scale or a wrong tensor,
and few, because the trained side runs in float32."""


def measure_parity(
    workspace: Workspace, folder: Path, examples: Sequence[Example], report: Report, attention: Attention
) -> dict[str, Any]:
    """Compare the adapter in ``folder`` with its ``adapter.gguf``; return what ``finetune.parity`` measured.

    ``attention`` is what it was trained with: passages are read that way on both sides.

    Raises:
        ParityFailed: they differ.
        AdapterInert: the GGUF changes nothing.
        InvalidModel: the model is a server's, and its weights are not here.
        EngineUnavailable: the generator is no engine that loads adapters.
    """
    from finetune.parity import parity

    with workspace.scoring_engine() as engine:
        engine.add_adapter(_KEY, str(folder / ADAPTER_GGUF), workspace.model.sha256, attention)
        try:
            chosen = examples[:: max(1, len(examples) // PARITY_EXAMPLES)][:PARITY_EXAMPLES]
            return parity(
                workspace.model,
                folder,
                chosen,
                lambda messages, completion: engine.score(messages, completion, _KEY),
                attention=attention,
                report=report,
            )
        finally:
            engine.remove_adapter(_KEY)


def probe_examples() -> list[Example]:
    """Return sample questions with their answers: for an adapter that came without its training rows."""
    from finetune.rows import answer_example

    questions = read_questions(Path(data.__file__).parent / "samples" / "questions.jsonl")
    return [answer_example(question.question, question.answers[0], (), None) for question in questions]
