"""The command that compares two arms blindly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.evaluation import listed, read_question_file
from service.commands.session import Collection, Json, TopK, print_json, print_line, session, stderr

if TYPE_CHECKING:
    from data.store import Trial
    from service.workspace import Workspace

_CHOICES = {"a": "A", "b": "B", "t": "tie"}
_ASK = "Which is better? [a]  [b]  [t]ie  [s]kip  [q]uit"


def blind(
    ctx: typer.Context,
    *,
    question: Annotated[list[str] | None, typer.Argument(metavar="[QUESTION]...", help="Asked one by one.")] = None,
    questions: Annotated[
        Path | None,
        typer.Option(help="Instead: JSONL of questions; their answers are not looked at.", exists=True, dir_okay=False),
    ] = None,
    arms: Annotated[
        str | None, typer.Option(help="Two modes or adapters, comma-separated; else combined,rag or rag,base.")
    ] = None,
    collection: Collection = "default",
    top_k: TopK = None,
    as_json: Json = False,
) -> None:
    """Vote between two arms without knowing which is which; without questions, show what the votes say."""
    asked = [*(question or ()), *((each.question for each in read_question_file(questions)) if questions else ())]
    with session(ctx).workspace(mutates=bool(asked)) as workspace:
        for number, each in enumerate(asked, 1):
            if not _one(workspace, each, f"{number} of {len(asked)}", listed(arms), collection=collection, top_k=top_k):
                break
        _print_standings(workspace, collection, as_json)


def _one(
    workspace: Workspace, question: str, place: str, arms: list[str], *, collection: str, top_k: int | None
) -> bool:
    """Ask one question and take the vote; False to stop."""
    from service.answerer import AskRequest, check_collection
    from service.compare.blind import side_name, start_trial
    from service.houses import with_defaults

    check_collection(workspace.store, collection)
    given: dict[str, Any] = {} if top_k is None else {"top_k": top_k}
    ask = with_defaults(workspace.store, AskRequest(question, collection=collection, **given), given)
    trial = start_trial(workspace, ask, arms)
    _show(trial, place)
    choice = _choice()
    if choice in _CHOICES:
        voted = workspace.store.blind.vote(trial.id, _CHOICES[choice])
        told = (f"{letter} was {side_name(arm)}" for letter, arm in voted.arms.items())
        stderr().print(", ".join(told) + ".", markup=False)
    return choice != "q"


def _show(trial: Trial, place: str) -> None:
    """Show a trial on standard error, which leaves standard output to what the votes say."""
    out = stderr()
    out.print(f"\n{place}: {trial.question}", markup=False)
    for letter in ("A", "B"):
        out.print(f"\n{letter}: {trial.answers[letter]['text']}", markup=False)
    if trial.answers["sources"]:
        names = dict.fromkeys(str(each["source"]) for each in trial.answers["sources"])
        out.print(f"\nThe documents searched: {', '.join(names)}", markup=False)


def _choice() -> str:
    """Return the vote, s or q; the end of the input is q."""
    while True:
        try:
            given = str(typer.prompt(_ASK, err=True)).strip().lower()[:1]
        except typer.Abort:
            return "q"
        if given in {*_CHOICES, "s", "q"}:
            return given


def _print_standings(workspace: Workspace, collection: str, as_json: bool) -> None:
    from service.compare.blind import side_name, standings
    from service.compare.preferences import preference_line

    found: dict[str, Any] = standings(workspace, collection)
    if as_json:
        print_json(found)
        return
    if not found["pairs"]:
        print_line("No votes yet: ragtune blind QUESTION, or --questions FILE")
    for pair in found["pairs"]:
        print_line(preference_line(side_name(pair["a"]), side_name(pair["b"]), pair))
