"""Commands about reviews of pairs: show, accept, reject, edit, undo, all that pass a filter, and what pairs cover.

They write single transactions, so they may run beside a server.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from data.errors import InvalidRequest
from data.store import PairFilter
from service.commands.session import Collection, Json, print_fields, print_json, print_line, print_rows, session
from service.review import decision, edit_pair, pair_details, reviewed_view

Ids = Annotated[list[str], typer.Argument(help="Ids of pairs, as `pairs list` shows them.")]
Status = Annotated[str | None, typer.Option(help="candidate, accepted or rejected.")]
Kind = Annotated[str | None, typer.Option(help="span, free, multi, unanswerable or style.")]
Source = Annotated[str | None, typer.Option(help="A document's source, or a pattern with * and ?.")]
Text = Annotated[str | None, typer.Option(help="Stands in the question or the answer.")]
FailedCheck = Annotated[str | None, typer.Option(help="A check that the pair failed.")]
GeneratedBy = Annotated[str | None, typer.Option(help="Who made it, as `pairs show` says.")]
Reason = Annotated[str, typer.Option(help="Why; it is counted in the ledger.")]


def add_to(pairs: typer.Typer) -> None:
    """Add the commands to the group of pairs."""
    for command in (show, accept, reject, edit, undo, review, coverage):
        pairs.command(command.__name__)(command)


def show(ctx: typer.Context, ids: Ids, as_json: Json = False) -> None:
    """Show pairs with their passages, the place of the answer in them, and their checks."""
    with session(ctx).workspace() as workspace:
        found = pair_details(workspace.store, [workspace.store.pairs.get(pair_id) for pair_id in ids])
    if as_json:
        print_json({"pairs": found})
        return
    for number, pair in enumerate(found):
        if number:
            print_line("")
        print_fields({name: pair[name] for name in ("id", "status", "reason", "kind", "stale", "generated_by")})
        print_fields({"question": pair["question"], "answer": pair["answer"]})
        for name, result in pair["checks"].items():
            print_line(f"  {name}: {_result(result)}")
        for passage in pair["passages"]:
            _print_passage(passage)


def _result(result: Any) -> str:
    if not isinstance(result, dict):
        return str(result)
    reason = f" ({result['reason']})" if result.get("reason") else ""
    return ("passed" if result.get("passed") else "failed") + reason


def _print_passage(passage: dict[str, Any]) -> None:
    span, text = passage["span"], passage["text"]
    place = f", answer at {passage['start'] + span['start']}:{passage['start'] + span['end']}" if span else ""
    print_line(f"  {passage['source']}, {passage['start']}:{passage['end']}{place}")
    marked = f"{text[: span['start']]}⟦{text[span['start'] : span['end']]}⟧{text[span['end'] :]}" if span else text
    for line in marked.splitlines():
        print_line(f"  │ {line}")


def _decide(ctx: typer.Context, ids: list[str], changes: dict[str, str], as_json: bool) -> None:
    with session(ctx).workspace() as workspace:
        done = reviewed_view(workspace.store.reviews.change(ids, changes))
    _print_reviewed(done, changes["status"], as_json)


def _print_reviewed(done: dict[str, Any], what: str, as_json: bool) -> None:
    if as_json:
        print_json(done)
        return
    print_line(f"{len(done['changed'])} {what}, {done['unchanged']} unchanged")
    if done["changed"]:
        print_line(f"To undo it: ragtune pairs undo --review {done['review_id']}")


def accept(ctx: typer.Context, ids: Ids, as_json: Json = False) -> None:
    """Accept pairs."""
    _decide(ctx, ids, decision("accepted"), as_json)


def reject(ctx: typer.Context, ids: Ids, reason: Reason = "", as_json: Json = False) -> None:
    """Reject pairs."""
    _decide(ctx, ids, decision("rejected", reason), as_json)


def edit(
    ctx: typer.Context,
    pair_id: Annotated[str, typer.Argument(help="Id of the pair.")],
    question: Annotated[str | None, typer.Option(help="The question instead.")] = None,
    answer: Annotated[str | None, typer.Option(help="The answer instead.")] = None,
    as_json: Json = False,
) -> None:
    """Correct a pair's question or answer; the checks of its wording are run again."""
    changes = {name: text for name, text in (("question", question), ("answer", answer)) if text is not None}
    if question is not None and not question.strip():
        raise InvalidRequest("The question is blank", got=repr(question))
    with session(ctx).workspace() as workspace:
        done = reviewed_view(edit_pair(workspace.store, pair_id, changes))
        checks = workspace.store.pairs.get(pair_id).checks
    if as_json:
        print_json(done | {"checks": dict(checks)})
        return
    _print_reviewed(done, "edited", as_json=False)
    for name, result in checks.items():
        print_line(f"  {name}: {_result(result)}")


def undo(
    ctx: typer.Context,
    ids: Annotated[list[str] | None, typer.Argument(help="Pairs that get back the state before.")] = None,
    review: Annotated[str | None, typer.Option(help="Undo this whole review instead.")] = None,
    as_json: Json = False,
) -> None:
    """Give pairs back the state before their newest review, or undo a whole review."""
    if (review is None) == (not ids):
        raise typer.BadParameter("give either the ids of pairs or --review")
    with session(ctx).workspace() as workspace:
        if review is not None:
            done = reviewed_view(workspace.store.reviews.undo_review(review))
            undone, left = done["changed"], done["unchanged"]
        else:
            undone, left = list(dict.fromkeys(ids or ())), 0
            for pair_id in undone:
                workspace.store.reviews.undo(pair_id)
    if as_json:
        print_json({"undone": undone, "unchanged": left})
    else:
        print_line(f"{len(undone)} undone" + (f", {left} were reviewed again since" if left else ""))


def chosen_pairs(**values: Any) -> PairFilter:
    """Return the filter that options name.

    Raises:
        InvalidRequest: a status or kind that does not exist.
    """
    from pydantic import ValidationError

    from service.schemas import PairFilterBody

    try:
        return PairFilterBody(**values).record()
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(f"{first['loc'][0]}: {first['msg']}, not {first['input']!r}") from error


def review(
    ctx: typer.Context,
    *,
    to: Annotated[str, typer.Option(help="accepted, rejected or candidate: what the pairs become.")],
    reason: Reason = "",
    collection: Collection = "default",
    status: Status = None,
    kind: Kind = None,
    source: Source = None,
    text: Text = None,
    failed_check: FailedCheck = None,
    generated_by: GeneratedBy = None,
    every: Annotated[bool, typer.Option("--all", help="Wanted where no filter is given.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count them.")] = False,
    as_json: Json = False,
) -> None:
    """Accept or reject all pairs that pass a filter: pairs review --failed-check grounded --to rejected."""
    from service.answerer import check_collection

    if to not in {"accepted", "rejected", "candidate"}:
        raise typer.BadParameter(f"{to!r} is not one of accepted, rejected, candidate", param_hint="--to")
    chosen = chosen_pairs(
        status=status, kind=kind, source=source, text=text, failed_check=failed_check, generated_by=generated_by
    )
    if chosen == PairFilter() and not every:
        raise typer.BadParameter("give a filter, or --all for every pair of the collection")
    with session(ctx).workspace() as workspace:
        check_collection(workspace.store, collection)
        if dry_run:
            count = workspace.store.reviews.count(collection, chosen)
            if as_json:
                print_json({"dry_run": True, "pairs": count})
            else:
                print_line(f"{count} pairs")
            return
        done = reviewed_view(workspace.store.reviews.change_all(collection, chosen, decision(to, reason)))
    _print_reviewed(done, to, as_json)


def coverage(
    ctx: typer.Context,
    collection: Collection = "default",
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    cursor: Annotated[str | None, typer.Option(help="next_cursor of the page before.")] = None,
    as_json: Json = False,
) -> None:
    """Show what the pairs cover of each document."""
    from retrieval.coverage import coverage as covered
    from service.answerer import check_collection

    with session(ctx).workspace() as workspace:
        check_collection(workspace.store, collection)
        found, following = covered(workspace.store, collection, cursor, limit)
    if as_json:
        print_json({"documents": [asdict(document) for document in found], "next_cursor": following})
        return
    columns = ("source", "chunks", "with pairs", "pairs", "accepted", "information covered", "question words")
    rows = [
        (
            d.source,
            d.chunks,
            d.chunks_with_pairs,
            d.pairs,
            d.accepted,
            f"{d.information_share:.0%}",
            ", ".join(f"{one} {n}" for one, n in d.question_types.items()),
        )
        for d in found
    ]
    print_rows(columns, rows, "No documents yet: ragtune ingest PATH")
    if following:
        print_line(f"More: --cursor {following}")
