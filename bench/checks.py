"""What each check of pairs is worth: how many wrong pairs it refuses, how many right ones it keeps.

``python -m bench.checks --data FOLDER`` with ``squad2`` and ``clapnq`` in the folder. Right pairs are people's
questions with their answers; wrong ones are made from them, as each check's fault asks for (``bench.faults``). As many
wrong as right. A check that needs the reader or the retriever sees a sample. Precision is the share of wrong pairs
among the refused, recall the share of wrong pairs that are refused; Wilson's 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from bench.faults import COLLECTION, Asked, Wrong, WrongClaims, long_answers, squad2
from bench.sides import STATE
from data.records import Passage
from retrieval import curate
from retrieval.candidates import Candidate, Context
from retrieval.curate import Check
from service.compare.statistics import wilson_interval
from service.settings import Settings
from service.workspace import Workspace

TOP_K = 4
SEED = 0
Make = Callable[[Asked], Candidate | None]


@dataclass(frozen=True, slots=True)
class Trial:
    """A check, the right pairs as it sees them, and how the wrong ones are made; ``most`` pairs of each sort."""

    check: Check
    fault: str
    right: Make
    wrong: Make
    most: int


def measure(trial: Trial, asked: Sequence[Asked], context: Context) -> dict[str, Any]:
    """Run a check over right and wrong pairs made of the same questions."""
    refused_right = refused_wrong = n = 0
    for one in asked:
        right, wrong = trial.right(one), trial.wrong(one)
        if n == trial.most or right is None or wrong is None:
            continue
        refused_right += not trial.check(right, context).passed
        refused_wrong += not trial.check(wrong, context).passed
        n += 1
    found = {
        "check": trial.check.__name__,
        "fault": trial.fault,
        "n": n,
        "precision": _rate(refused_wrong, refused_right + refused_wrong),
        "recall": _rate(refused_wrong, n),
        "right_kept": _rate(n - refused_right, n),
    }
    print(json.dumps(found), flush=True)
    return found


def _rate(count: int, n: int) -> list[float] | None:
    return [round(100 * share, 1) for share in (count / n, *wilson_interval(count, n))] if n else None


def span(one: Asked) -> Candidate:
    """Return a right pair as a proposal."""
    return one.candidate()


def wording_trials(wrong: Wrong, most: int) -> list[Trial]:
    """Return the trials of checks that look at words alone."""
    trials = [
        (curate.grounded, "answer of another document", wrong.foreign_answer),
        (curate.not_cut_off, "answer shifted", wrong.shifted),
        (curate.not_leaked, "answer put into the question", wrong.leaking),
        (curate.fits_question, "answer of another question of the passage", wrong.other_answer),
        (curate.spoken_of, "question of another document", wrong.foreign_question),
        (curate.spoken_of, "question of another passage of the document", wrong.neighbour_question),
        (curate.self_contained, "names made pronouns", wrong.pronoun),
        (curate.self_contained, "pointing at the text", wrong.pointing),
    ]
    return [Trial(check, fault, span, make, most) for check, fault, make in trials]


def round_trips(wrong: Wrong, most: int) -> list[Trial]:
    """Return the trials of checks that search or read."""
    trials = [
        (curate.retrieved_again, "question of another document", wrong.foreign_question),
        (curate.retrieved_again, "question of another passage of the document", wrong.neighbour_question),
        (curate.answered_alike, "answer of another question of the passage", wrong.other_answer),
        (curate.answered_alike, "answer shifted", wrong.shifted),
    ]
    return [Trial(check, fault, span, make, most) for check, fault, make in trials]


def repeat_trials(wrong: Wrong, known: Sequence[Asked], fresh: Sequence[Asked]) -> list[Trial]:
    """Return the trials on questions that were asked before: ``known`` were, ``fresh`` were not."""
    other = dict(zip((one.question for one in known), fresh, strict=False))

    def unasked(one: Asked) -> Candidate | None:
        return other[one.question].candidate() if one.question in other else None

    checks = (curate.not_duplicate, curate.uncontaminated, curate.not_same_meaning)
    return [Trial(check, "asked before, one word less", unasked, wrong.asked_already, len(known)) for check in checks]


def unanswerable_trials(answered: Sequence[Asked], slow: int, random: Random) -> list[Trial]:
    """Return the trials on questions without an answer; wrong ones have one."""
    answerable = {one.passage.chunk.id: one for one in answered}

    def unanswered(one: Asked) -> Candidate:
        return one.candidate("unanswerable")

    def answered_there(one: Asked) -> Candidate | None:
        other = answerable.get(one.passage.chunk.id)
        return one.candidate("unanswerable", question=other.question) if other else None

    def elsewhere(one: Asked) -> Candidate | None:
        other = random.choice(answered)
        same = other.passage.chunk.document_id == one.passage.chunk.document_id
        return None if same else one.candidate("unanswerable", question=other.question)

    return [
        Trial(curate.near_miss, "question of another document", unanswered, elsewhere, slow),
        Trial(curate.not_answered, "a question that the passage answers", unanswered, answered_there, slow),
    ]


def claim_trials(wrong: WrongClaims, most: int) -> list[Trial]:
    """Return the trials on long answers."""

    def free(one: Asked) -> Candidate:
        return one.candidate("free")

    grounded = curate.claims_grounded
    return [
        Trial(grounded, "answer of another passage", free, wrong.other_answer, most),
        Trial(grounded, "one sentence of another answer", free, wrong.foreign_sentence, most),
        Trial(grounded, "a number changed", free, wrong.other_number, most),
        Trial(grounded, "a name changed", free, wrong.other_name, most),
        Trial(curate.needs_each_passage, "a passage too many", wrong.both, wrong.spare, most),
    ]


def run(workspace: Workspace, data: Path, most: int, slow: int, only: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Measure every check, or those named; return a row for each check and fault."""
    random = Random(SEED)
    answered, unanswered = squad2(workspace, data / "squad2")
    random.shuffle(answered)
    random.shuffle(unanswered)
    read = cache(_reader(workspace))  # a right pair and a wrong one may ask the same

    @cache
    def search(question: str) -> Sequence[Passage]:
        return tuple(workspace.retriever.search(question, COLLECTION, TOP_K))

    def embed(texts: Sequence[str]) -> Any:
        return workspace.retriever.vectors(texts, COLLECTION)

    wrong = Wrong(answered, random)
    plain = Context(search, read=read)
    known, fresh = answered[:most], answered[most : 2 * most]
    before = [(one.question, one.answer) for one in known]
    asked = Context(search, accepted=before, evaluation=[question for question, _ in before], embed=embed)
    long = long_answers(data / "clapnq")
    sets: list[tuple[list[Trial], Sequence[Asked], Context]] = [
        (wording_trials(wrong, most), answered, plain),
        (claim_trials(WrongClaims(long, random), most), long, plain),
        (repeat_trials(wrong, known, fresh), known, asked),
        (round_trips(wrong, slow), answered, plain),
        (unanswerable_trials(answered, slow, random), unanswered, plain),
    ]
    return [
        measure(trial, people, context)
        for trials, people, context in sets
        for trial in trials
        if not only or trial.check.__name__ in only
    ]


def _reader(workspace: Workspace) -> Callable[[str, Sequence[Passage]], str]:
    """Return the packaged reader, as pair generation asks it."""
    from retrieval.asking import Wishes
    from retrieval.proposing import Proposer
    from service.arms import find_adapter
    from service.starter import READER

    workspace.ensure_starter_adapters()
    key = workspace.adapter_key(find_adapter(workspace.store, READER))
    return Proposer(workspace.generator, None, workspace.generator, key, SEED, Wishes()).read


def main() -> None:
    """Measure; print a JSON line for each row as it comes, and a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.checks", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with squad2 and clapnq")
    parser.add_argument("--most", type=int, default=1000, help="pairs of each sort")
    parser.add_argument("--slow", type=int, default=150, help="likewise where the index or the reader is asked")
    parser.add_argument("--only", nargs="*", default=[], metavar="CHECK", help="measure these checks alone")
    options = parser.parse_args()
    with Workspace(Settings.load(state_dir=STATE.parent / "bench-checks", model="starter")) as workspace:
        rows = run(workspace, options.data, options.most, options.slow, options.only)
    print("| check | fault | n | precision | recall | right kept |\n|---|---|--:|--:|--:|--:|")
    for row in rows:
        shown = [_shown(row[name]) for name in ("precision", "recall", "right_kept")]
        print(f"| `{row['check']}` | {row['fault']} | {row['n']} | {' | '.join(shown)} |")


def _shown(rate: list[float] | None) -> str:
    return f"{rate[0]:.1f} ({rate[1]:.1f}–{rate[2]:.1f})" if rate else "–"


if __name__ == "__main__":
    main()
