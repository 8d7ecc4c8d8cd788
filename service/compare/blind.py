"""Blind comparisons: two arms answer one question as A and B, and which is which is told once the vote is in.

What could give an arm away stays here: citation marks, timings, tokens, confidence, and which answer had which
passages. The passages that either answer read are shown beside both. Which arm is A is drawn for each question.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from data.errors import InvalidRequest
from data.prompt import strip_citations
from data.records import Answer
from data.store import Trial
from service.answerer import AskRequest, check_collection, check_question
from service.arms import Arm, find_adapter, resolve_arm
from service.compare.preferences import preference
from service.compare.result import arm_pairs
from service.hangup import Hangup
from service.views import passage_view

if TYPE_CHECKING:
    from service.workspace import Workspace

LETTERS = ("A", "B")


def blind_arms(workspace: Workspace, names: Sequence[str], collection: str) -> dict[str, Arm]:
    """Return the two arms to compare, by the name they go by: those named, else combined and rag, else rag and base.

    Raises:
        InvalidRequest: not two different ones are named.
        UnknownMode, NoLiveAdapter: as ``resolve_arm`` raises.
    """
    store, model = workspace.store, workspace.model
    live = store.adapters.live(model.sha256, collection) is not None
    wanted = list(names) or (["combined", "rag"] if live else ["rag", "base"])
    found = {name: resolve_arm(name, store, model, collection, named=find_adapter) for name in wanted}
    if len(wanted) != len(LETTERS) or len({(arm.passages, arm.adapter) for arm in found.values()}) < len(LETTERS):
        raise InvalidRequest(
            "A blind comparison is of two different arms", got=", ".join(wanted), wanted="two modes or adapters"
        )
    return found


def start_trial(
    workspace: Workspace, ask: AskRequest, names: Sequence[str] = (), hangup: Hangup | None = None
) -> Trial:
    """Let two arms answer a question and keep their answers under letters drawn at random.

    Args:
        workspace: whose answerer answers.
        ask: the question and how it is asked; its arm and mode do not count.
        names: of the two arms; as ``blind_arms`` takes them.
        hangup: told that nobody waits any more.

    Raises:
        UnknownCollection, QuestionInvalid: what is asked cannot be.
        As ``blind_arms`` and ``Answerer.answer``; nothing is kept then.
    """
    check_question(ask.question, workspace.settings.max_question_chars)
    check_collection(workspace.store, ask.collection)
    arms = list(blind_arms(workspace, names, ask.collection).items())
    secrets.SystemRandom().shuffle(arms)
    given = [workspace.answerer.answer(replace(ask, arm=arm, keep=False), hangup) for _, arm in arms]
    behind = {
        letter: {"arm": name, "adapter": arm.adapter, "model": workspace.model.name}
        for letter, (name, arm) in zip(LETTERS, arms, strict=True)
    }
    shown = {letter: _shown(answer) for letter, answer in zip(LETTERS, given, strict=True)}
    return workspace.store.blind.add(ask.collection, ask.question, behind, {**shown, "sources": _sources(given)})


def _shown(answer: Answer) -> dict[str, Any]:
    return {"text": strip_citations(answer.text), "abstained": answer.abstained}


def _sources(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Return the passages that any of the answers read, in an order that says nothing of who read them."""
    read = {passage.chunk.id: passage for answer in answers for passage in answer.passages}
    ordered = sorted(read.values(), key=lambda passage: (passage.source, passage.chunk.start))
    return [passage_view(replace(passage, rank=place)) for place, passage in enumerate(ordered, 1)]


def trial_view(trial: Trial) -> dict[str, Any]:
    """Return a trial as it may be told: ``arms`` is None until the vote is in."""
    return {
        "id": trial.id,
        "question": trial.question,
        "collection": trial.collection,
        "answers": {letter: trial.answers[letter] for letter in LETTERS},
        "sources": trial.answers["sources"],
        "vote": trial.vote,
        "arms": None if trial.vote is None else trial.arms,
        "created_at": trial.created_at,
    }


def standings(workspace: Workspace, collection: str) -> dict[str, Any]:
    """Return what the votes of a collection say of every two arms that were compared.

    Returns:
        ``{"collection", "open", "votes", "pairs": [{"a", "b", "wins", "losses", "ties", "win_rate", ...}]}``: ``open``
        trials wait for their vote; the rest as ``preference`` has it, of ``a`` against ``b``.

    Raises:
        UnknownCollection: there is none.
    """
    check_collection(workspace.store, collection)
    counts: dict[tuple[tuple[str, ...], tuple[str, ...]], Counter[str]] = {}
    for arms, vote in workspace.store.blind.votes(collection):
        first, second = (_key(arms[letter]) for letter in LETTERS)
        swapped = _behind(first, second)
        pair = (second, first) if swapped else (first, second)
        won = {"A": "losses" if swapped else "wins", "B": "wins" if swapped else "losses", "tie": "ties"}[vote]
        counts.setdefault(pair, Counter())[won] += 1
    pairs = [
        {"a": _side(a), "b": _side(b), **preference(found["wins"], found["losses"], found["ties"])}
        for (a, b), found in counts.items()
    ]
    votes = sum(pair["n"] for pair in pairs)
    return {"collection": collection, "open": workspace.store.blind.open(collection), "votes": votes, "pairs": pairs}


def _key(arm: Mapping[str, Any]) -> tuple[str, ...]:
    return str(arm["arm"]), str(arm["adapter"] or ""), str(arm["model"])


def _side(key: tuple[str, ...]) -> dict[str, Any]:
    name, adapter, model = key
    return {"arm": name, "adapter": adapter or None, "model": model}


def _behind(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    """Tell whether the second side is named first: the arm that is preferred, of equal ones the first by name."""
    if first[0] == second[0]:
        return second < first
    return arm_pairs(sorted((first[0], second[0])))[0][0] == second[0]


def side_name(side: Mapping[str, Any]) -> str:
    """Return what a side is called for people."""
    adapter = side["adapter"]
    return f"{side['arm']} ({adapter})" if adapter and adapter != side["arm"] else str(side["arm"])
