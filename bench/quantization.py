"""What quantizing a merged adapter costs: tokens, KL and F1 of each type against the trained adapter, on real rows.

The packaged reader is merged into the starter model and quantized by ragtune's own functions, the importance matrix
from rows that the reader was trained on. Rows are questions of SQuAD 2.0, half of them unanswerable, each over its
paragraph and another one of the article, full attention. The reference is transformers in float32 on the same tokens.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.sides import prepare, read_prepared
from bench.training import examples
from data.prompt import abstains, strip_citations
from data.protocols import GenerationRequest, TokenScores
from data.records import Chunk, Model, Passage
from data.scoring import exact_match, token_f1
from service.compare.statistics import compare_arms
from service.engine import Engine, EngineOptions

if TYPE_CHECKING:
    from finetune.parity import Trained
    from finetune.rows import Example

KINDS = ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m")
ANSWERED = ("f16", "q4_k_m")
WEIGHED = ("q6_k", "q5_k_m", "q4_k_m")
ROWS, QUESTIONS, MAX_TOKENS = 16, 120, 24
"""Paragraphs whose questions (about 70) give the importance matrix; questions; most tokens of an answer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as it is asked, and the accepted answers, none where it is unanswerable."""

    example: Example
    answers: tuple[str, ...]


def asked(folder: Path, count: int) -> list[Asked]:
    """Return questions spread over all articles, half of them unanswerable."""
    lines = (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    found: list[dict[str, Any]] = []
    for answerable in (True, False):
        some = [row for row in map(json.loads, lines) if row["answerable"] is answerable]
        found += some[:: len(some) // (count // 2)][: count // 2]
    return [_asked(folder, row) for row in found]


def _asked(folder: Path, row: dict[str, Any]) -> Asked:
    from finetune.rows import answer_example

    heading, *texts = (folder / "docs" / row["document"]).read_text(encoding="utf-8").strip().split("\n\n")
    title, own = heading.lstrip("# "), row["paragraph"]
    chunks = [Chunk(f"{title}{i}", title, texts[i], 0, len(texts[i]), title) for i in (own, own - 1)]
    passages = [Passage(chunk, 1.0, i, "given") for i, chunk in enumerate(chunks, 1)]
    answers = tuple(row["answers"]) if row["answerable"] else ()
    return Asked(answer_example(row["question"], (*answers, "")[0], passages, 1 if answers else None), answers)


def stored_types(path: Path) -> dict[str, int]:
    """Return how many matrices the file holds in each type."""
    import gguf

    return dict(Counter(t.tensor_type.name for t in gguf.GGUFReader(path).tensors if len(t.shape) > 1))


def make(model: Model, adapter_gguf: Path, kinds: Sequence[str], folder: Path) -> Iterator[tuple[str, Path, float]]:
    """Merge the adapter; yield each type's name and file, and how much of the adapter is left in it."""
    from finetune.importance import importance, save_importance
    from finetune.merge import kept_share, merge_to_gguf
    from service.engine.quantize import quantize

    whole = merge_to_gguf(adapter_gguf, model.weights, folder / "whole.gguf")
    matrix = save_importance(importance(model, adapter_gguf.parent, examples(ROWS)), folder / "importance.safetensors")
    for kind in kinds:
        if kind == "f16":
            yield kind, whole, 1.0
        else:
            file = quantize(whole, folder / f"{kind}.gguf", kind, importance=matrix if kind in WEIGHED else None)
            yield kind, file, round(kept_share(adapter_gguf.parent, model.weights, whole, file), 3)


def measure(
    model: Model, file: Path, rows: Sequence[Asked], trained: Sequence[Trained], answer: bool
) -> dict[str, Any]:
    """Compare a served file with the trained adapter token by token; let it answer too where ``answer``."""
    from finetune.parity import Limits, compare

    served = replace(model, gguf=str(file), weights=str(file), sha256=file.stem)
    found: dict[str, Any] = {"bytes": file.stat().st_size, "stored": stored_types(file)}
    texts: list[str] = []
    with Engine(served, EngineOptions(n_ctx=2048, sequences=1, n_batch=512)) as engine:

        def sides() -> Iterator[tuple[Trained, TokenScores]]:
            for side, row in zip(trained, rows, strict=True):
                yield side, engine.score(row.example.messages, row.example.completion)
                if answer:  # its prompt is still there
                    request = GenerationRequest(row.example.messages, max_tokens=MAX_TOKENS)
                    texts.append(engine.generate(request).text)

        compared = compare(sides(), Limits(1.0, float("inf")))
    found |= {name: compared[name] for name in ("greedy_agreement", "kl", "tokens")}
    if answer:
        found["answers"] = ["" if abstains(text) else strip_citations(text) for text in texts]
    return found


def difference(found: dict[str, dict[str, Any]], rows: Sequence[Asked]) -> dict[str, Any]:
    """Return both files' F1 and the paired difference, 4 bits less 16, in points."""
    texts = {kind: found[kind].pop("answers") for kind in ANSWERED}
    golds = [row.answers for row in rows]
    f1 = {k: [100 * token_f1(text, gold) for text, gold in zip(texts[k], golds, strict=True)] for k in texts}
    right = {k: [exact_match(text, gold) == 1 for text, gold in zip(texts[k], golds, strict=True)] for k in texts}
    base, small = ANSWERED
    paired = compare_arms(small, base, f1, right)
    return {
        "f1": {kind: round(sum(scores) / len(scores), 2) for kind, scores in f1.items()},
        "difference": round(paired.f1, 2),
        "ci": [round(bound, 2) for bound in paired.ci],
        "same_texts": sum(a == b for a, b in zip(*texts.values(), strict=True)),
        "questions": len(rows),
    }


def report(found: dict[str, dict[str, Any]], paired: dict[str, Any]) -> None:
    """Print one JSON line and a readable one for each type."""
    print(json.dumps({"bench": "quantization", "kinds": found, "f1": paired}))
    for kind, one in found.items():
        print(
            f"{kind}: greedy agreement {one['greedy_agreement']:.4f}, KL {one['kl']:.5f} over {one['tokens']} tokens, "
            f"{one['bytes'] / 1e6:.0f} MB, {one['adapter_kept']:.0%} of the adapter left, stored as {one['stored']}"
        )
    print(f"F1 {paired}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make every type, compare it and report."""
    parser = argparse.ArgumentParser(prog="python -m bench.quantization", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with questions.jsonl and docs/")
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    options = parser.parse_args(arguments)
    model, adapters = read_prepared(json.dumps(prepare()))
    rows, adapter = asked(options.data, options.questions), Path(adapters["reader"])
    from finetune.trained import TrainedSide

    side = TrainedSide(model, adapter.parent)
    trained = [side.score(row.example) for row in rows]
    found = {}
    with tempfile.TemporaryDirectory(prefix="quantization-") as scratch:
        for kind, file, kept in make(model, adapter, KINDS, Path(scratch)):
            found[kind] = {**measure(model, file, rows, trained, kind in ANSWERED), "adapter_kept": kept}
    report(found, difference(found, rows))


if __name__ == "__main__":
    main()
