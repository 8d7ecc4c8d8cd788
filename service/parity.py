"""Measures whether a GGUF adapter, as the engine serves it, answers like the LoRA it was made from.

Knows nothing of jobs, HTTP or the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import data
from data.formats import read_questions
from data.protocols import Report
from data.records import Chunk, Passage, content_id
from service.adapter_files import ADAPTER_GGUF

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
    """Return sample questions over the passage that answers them and its neighbour, for an adapter without its rows.

    With passages, as adapters are served: without them one that was trained to read has nothing to say, and rounding
    alone decides which token is likeliest.
    """
    from finetune.rows import answer_example

    samples = Path(data.__file__).parent / "samples"
    found = []
    for question in read_questions(samples / "questions.jsonl"):
        passages = _paragraphs(samples / "corpus" / str(question.document))
        gold = next((place for place, p in enumerate(passages) if question.answers[0] in p.chunk.text), None)
        if gold is not None and len(passages) > 1:
            pair = [passages[gold], passages[gold - 1]]  # of the first paragraph, the last one
            found.append(answer_example(question.question, question.answers[0], pair, 1))
    return found


@cache
def _paragraphs(path: Path) -> tuple[Passage, ...]:
    whole = path.read_text(encoding="utf-8")
    heading, *paragraphs = whole.strip().split("\n\n")
    title, places = heading.lstrip("# "), [(text, whole.index(text)) for text in paragraphs]
    chunks = [Chunk(content_id(text), path.name, text, start, start + len(text), title) for text, start in places]
    return tuple(Passage(chunk, 1.0, 1, "sample", path.name, title) for chunk in chunks)
