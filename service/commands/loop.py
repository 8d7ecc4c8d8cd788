"""The command that closes the loop: rounds of ingest, pairs, training, evaluation and promotion, unattended."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from data.errors import RagtuneError, StateLocked
from data.records import Job
from data.store.jobs import FINAL
from service.commands.adapters import recipe_option
from service.commands.evaluation import read_question_file, style_examples
from service.commands.foreground import outputs_of, run_here
from service.commands.session import Collection, Json, cli_actor, complain, print_json, print_line, session, stderr
from service.jobs import submit
from service.loop import PROPOSALS, interval_s
from service.loop_report import outcome

_POLL_S = 1.0


def loop(
    ctx: typer.Context,
    *,
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="What the collection is kept equal to; RAGTUNE_LOOP_FOLDERS by default."),
    ] = None,
    every: Annotated[str | None, typer.Option(help="Begin a round so often: 6h, 1d; until Ctrl-C.")] = None,
    once: Annotated[bool, typer.Option("--once", help="One round; so it is without --every.")] = False,
    name: Annotated[str, typer.Option("--name", "-n", help="What the adapter is called.")] = "house",
    collection: Collection = "default",
    questions: Annotated[
        Path | None,
        typer.Option(help="JSONL to evaluate on, beside corrections and pairs not trained on.", exists=True),
    ] = None,
    style: Annotated[Path | None, typer.Option(help="JSONL in the house style: measures it too.", exists=True)] = None,
    recipe: Annotated[str | None, typer.Option(help="A TOML file, or style.")] = None,
    proposals: Annotated[int, typer.Option(min=0, help="Pairs proposed in a round at most.")] = PROPOSALS,
    policy: Annotated[Path | None, typer.Option(help="The promotion policy, a TOML file.")] = None,
    as_json: Json = False,
) -> None:
    """Ingest, regenerate what is stale, train, evaluate, promote or not by the policy; a report each round.

    While ragtune serve runs on the same state directory, it runs the rounds; else this command does.
    """
    if once and every is not None:
        raise typer.BadParameter("--once and --every exclude each other")
    pause = interval_s(every) if every is not None else None
    inputs = {
        "collection": collection,
        "name": name,
        "paths": [str(path.resolve()) for path in folders or session(ctx).settings().loop_folders],
        "questions": [asdict(each) for each in read_question_file(questions)] if questions else [],
        "style": style_examples(style),
        "recipe": recipe_option(recipe),
        "proposals": proposals,
        "actor": cli_actor(),
    }
    _rounds(ctx, inputs, policy, pause, as_json=as_json)


def _rounds(
    ctx: typer.Context, inputs: dict[str, Any], policy: Path | None, pause: float | None, *, as_json: bool
) -> None:
    """Run one round, or with ``pause`` seconds from the beginning of one to that of the next, rounds until Ctrl-C."""
    while True:
        began = time.monotonic()
        try:
            _tell(_round(ctx, inputs, policy), as_json)
        except RagtuneError as error:
            if pause is None:
                raise
            complain(error)  # the next round may find it put right
        if pause is None:
            return
        time.sleep(max(0.0, began + pause - time.monotonic()))


def _round(ctx: typer.Context, inputs: dict[str, Any], policy: Path | None) -> dict[str, Any]:
    """Run a round here, or have the server run it that holds the state directory."""
    try:
        with session(ctx).workspace(mutates=True, promotion_policy=policy) as workspace:
            return run_here(workspace, "loop", inputs, title="loop")
    except StateLocked as error:
        if policy is not None:
            raise
        locked = error
    with session(ctx).workspace() as workspace:
        holder = workspace.state.holder()
        if holder is None or not holder.get("url"):
            raise locked
        job = submit(workspace.store, "loop", inputs)
        stderr().print(f"The server at {holder['url']} runs the round as job {job.id}.", markup=False)
        return outputs_of(_wait(workspace, job.id))


def _wait(workspace: Any, job_id: str) -> Job:
    while True:
        job: Job = workspace.store.jobs.get(job_id)
        if job.status in FINAL:
            return job
        time.sleep(_POLL_S)


def _tell(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(record)
    else:
        print_line(f"{outcome(record)} Report: {Path(record['folder']) / 'report.md'}")
