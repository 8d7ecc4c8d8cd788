"""What an evaluation costs: answers per second of a comparison, against asking each arm alone.

Both sides ask the same questions of the same arms, one answer at a time. Ours is the product's own comparison: one
search for all arms that search alike, and what was read before is not read again. The naive side searches for every
answer and reads every prompt from its first token (an unrelated prompt between two answers, outside the measurement,
takes the place of what was read; nothing is kept on the side). Both load everything before the clock starts.

``python -m bench.evaluation_cost --data FOLDER [--questions 8] [--set squad2]``: the packaged starter, four arms; with
``--searches`` two arms over three searches. The index is that of ``bench.reports``, under var/bench/reports.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.reports import ADAPTER, ARMS, collection_of, drawn
from bench.sides import STATE
from data.protocols import GenerationRequest
from data.records import METHODS, Message
from retrieval.ingest import ignore_progress
from service.compare.evaluation import EvaluationRequest, plan
from service.compare.run import compare, request_of
from service.compare.sharing import SharingAnswerer
from service.settings import Settings
from service.workspace import Workspace

_ALONE = {"sequences": 1, "kv_memory_mb": 0, "kv_disk_mb": 0}
_OTHER = (Message("user", ("Say one word about the weather.",)),)


def cost(settings: Settings, request: EvaluationRequest) -> dict[str, Any]:
    """Return both sides' answers per second, tokens read, and their ratio; {} for fewer than two questions.

    Args:
        settings: of a workspace that has the request's collection indexed; nobody else has it open.
        request: what to evaluate; its first question warms both sides up and is not counted.
    """
    if len(request.questions) < 2:
        return {}
    warm = replace(request, questions=request.questions[:1])
    timed = replace(request, questions=request.questions[1:])
    with Workspace(settings.model_copy(update={"kv_disk_mb": 0})) as workspace:
        shared = _shared(workspace, warm, timed)
    with Workspace(settings.model_copy(update=_ALONE)) as workspace:
        naive = _naive(workspace, warm, timed)
    ratio = float(f"{shared['answers_per_s'] / naive['answers_per_s']:.3g}")
    return {"shared": shared, "naive": naive, "shared / naive": ratio}


def _shared(workspace: Workspace, warm: EvaluationRequest, request: EvaluationRequest) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="cost-") as folder:
        for part, asked in (("warm", warm), ("timed", request)):
            answerer = SharingAnswerer(workspace)
            found = compare(answerer, asked.questions, plan(workspace, asked), Path(folder) / part, ignore_progress)
    outcomes = [row for rows in found.outcomes.values() for row in rows]
    read = [row.prompt_tokens - row.cached_tokens for row in outcomes]
    return _figures(len(outcomes), found.result["seconds"]["answers"], sum(read))


def _naive(workspace: Workspace, warm: EvaluationRequest, request: EvaluationRequest) -> dict[str, Any]:
    seconds, read, count = 0.0, 0, 0
    for asked in (warm, request):
        seconds, read, count = 0.0, 0, 0
        setup = plan(workspace, asked)
        for arm in setup.arms:
            for question in asked.questions:
                workspace.generator.generate(GenerationRequest(_OTHER, max_tokens=1))
                started = time.perf_counter()
                answer = workspace.answerer.answer(request_of(question, arm, setup))
                seconds += time.perf_counter() - started
                read += answer.usage.prompt_tokens - answer.usage.cached_tokens
                count += 1
    return _figures(count, seconds, read)


def _figures(answers: int, seconds: float, tokens: int) -> dict[str, Any]:
    return {
        "answers": answers,
        "seconds": round(seconds, 2),
        "answers_per_s": float(f"{answers / seconds:.3g}"),
        "prompt_tokens_read": tokens,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both evaluations of a set and print their figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.evaluation_cost", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", default="squad2", choices=("squad2", "xquad/en"))
    parser.add_argument("--questions", type=int, default=8, help="the first warms both sides up")
    parser.add_argument("--searches", action="store_true", help="two arms over three searches in place of four arms")
    options = parser.parse_args(arguments)
    settings = Settings.load(state_dir=STATE / "reports", model="starter", embedder="starter")
    collection = collection_of(options.set)
    with Workspace(settings) as workspace:
        workspace.ensure_starter_adapters()
        workspace.ingestor.ingest(collection, [options.data / options.set / "docs"])
    asked = drawn(options.data, options.set, options.questions, 0).measured
    request = EvaluationRequest(asked, ARMS, ADAPTER, collection)
    if options.searches:
        request = EvaluationRequest(asked, ("rag", "combined"), ADAPTER, collection, methods=METHODS)
    line = {"bench": "evaluation_cost", "set": options.set, "questions": len(asked) - 1, "searches": options.searches}
    print(json.dumps({**line, **cost(settings, request)}))


if __name__ == "__main__":
    main()
