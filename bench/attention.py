"""What reading passages apart from each other costs in answers: one adapter both ways, or two adapters.

``python -m bench.attention --data FOLDER`` (FOLDER holds ``squad2`` and ``xquad``). The same questions over the same
passages of the production retriever, in the same engine: once under full attention, once with each passage read
apart and its keys and values kept. Intervals are paired, over questions. Times are for ``bench.serving``.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.sides import STATE
from data.formats import read_questions
from data.prompt import abstains, answer_messages, strip_citations
from data.protocols import GenerationRequest, GenerationResult
from data.records import Question
from data.scoring import exact_match, token_f1
from service.compare.statistics import bootstrap_interval, compare_arms
from service.engine import Engine
from service.workspace import Workspace

WAYS = ("full", "blockwise")
SETS = {"squad2": "squad2", "xquad": "xquad/en"}
"""The packaged reader knows English alone."""
MAX_TOKENS, TOP_K = 48, 3


def sample(questions: Sequence[Question], count: int) -> list[Question]:
    """Return ``count`` questions, always the same ones, or all."""
    return random.Random(0).sample(list(questions), min(count, len(questions)))


def requests(workspace: Workspace, questions: Sequence[Question], collection: str) -> list[GenerationRequest]:
    """Return each question over the passages that production would give it."""
    found = [workspace.retriever.search(question.question, collection, TOP_K) for question in questions]
    return [
        GenerationRequest(answer_messages(question.question, passages), max_tokens=MAX_TOKENS)
        for question, passages in zip(questions, found, strict=True)
    ]


def score(results: Sequence[GenerationResult], questions: Sequence[Question]) -> dict[str, Any]:
    """Return F1 (0-100), exact matches and the share of tokens that were not read anew, one per question."""
    texts = ["" if abstains(result.text) else strip_citations(result.text) for result in results]
    golds = [question.answers if question.answerable else () for question in questions]
    pairs = list(zip(texts, golds, strict=True))
    return {
        "f1": [100 * token_f1(text, gold) for text, gold in pairs],
        "right": [exact_match(text, gold) == 1 for text, gold in pairs],
        "cached": [result.usage.cached_tokens / result.usage.prompt_tokens for result in results],
    }


def adapter_files(workspace: Workspace, adapter: str, full: Path | None) -> dict[str, str]:
    """Return the GGUF that each way reads with: the same one, or for full attention that of the folder ``full``."""
    from finetune.export import lora_to_gguf
    from service.arms import find_adapter

    own = str(workspace.adapter_gguf(find_adapter(workspace.store, adapter)))
    if full is None:
        return dict.fromkeys(WAYS, own)
    return {"full": str(lora_to_gguf(full, workspace.model.gguf, STATE / "full.gguf")), "blockwise": own}


def measure(workspace: Workspace, folder: Path, name: str, count: int, files: dict[str, str]) -> dict[str, Any]:
    """Measure one set of questions."""
    workspace.ingestor.ingest(f"attention-{name}", [next(p for p in (folder / "docs", folder) if p.is_dir())])
    # squad2 has ids that stand twice: the second question is left out.
    questions = sample(read_questions(folder / "questions.jsonl", on_error=lambda _error: None), count)
    asked = requests(workspace, questions, f"attention-{name}")
    scored: dict[str, dict[str, Any]] = {}
    with Engine(workspace.model, workspace.engine_options(workspace.model), n_ctx=2048, kv_folder=None) as engine:
        for way in WAYS:
            engine.add_adapter(way, files[way], workspace.model.sha256, way)
            scored[way] = score([engine.generate(replace(request, adapter=way)) for request in asked], questions)
    parts = {"all": range(len(questions))}
    parts["answerable"] = [i for i, question in enumerate(questions) if question.answerable]
    if len(parts["answerable"]) < len(questions):
        parts["unanswerable"] = [i for i, question in enumerate(questions) if not question.answerable]
    return {part: summary(scored, list(places)) for part, places in parts.items()}


def summary(scored: dict[str, dict[str, Any]], places: Sequence[int]) -> dict[str, Any]:
    """Return means, intervals and the paired difference over some of the questions."""
    f1 = {way: [scored[way]["f1"][i] for i in places] for way in WAYS}
    right = {way: [scored[way]["right"][i] for i in places] for way in WAYS}
    found: dict[str, Any] = {"n": len(places)}
    for way in WAYS:
        found[way] = {
            "f1": round(sum(f1[way]) / len(places), 1),
            "f1_ci": [round(value, 1) for value in bootstrap_interval(f1[way])],
            "em": round(100 * sum(right[way]) / len(places), 1),
            "cached_share": round(sum(scored[way]["cached"][i] for i in places) / len(places), 3),
        }
    difference = compare_arms("blockwise", "full", f1, right)
    found["blockwise-full"] = {"f1": round(difference.f1, 2), "ci": [round(value, 2) for value in difference.ci]}
    return found


def main() -> None:
    """Measure both sets and print one JSON line each."""
    from service.settings import Settings

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with squad2 and xquad")
    parser.add_argument("--questions", type=int, default=300, help="of each set")
    parser.add_argument("--adapter", default="reader")
    parser.add_argument("--full-adapter", type=Path, help="folder of another adapter, to read with full attention")
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=tuple(SETS))
    options = parser.parse_args()
    with Workspace(Settings.load(state_dir=STATE, model="starter", embedder="starter")) as workspace:
        workspace.ensure_starter_adapters()
        files = adapter_files(workspace, options.adapter, options.full_adapter)
        for name in options.sets:
            found = measure(workspace, options.data / SETS[name], name, options.questions, files)
            print(json.dumps({"set": name, **found}), flush=True)


if __name__ == "__main__":
    main()
