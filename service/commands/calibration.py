"""The command that calibrates abstention."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from service.calibration.views import summary_lines, threshold_rows
from service.commands.evaluation import read_question_file
from service.commands.foreground import run_here
from service.commands.session import Collection, Json, TopK, print_json, print_line, print_rows, session

_COLUMNS = ("wanted", "confidence over", "false answers", "answered", "wrong")


def calibrate(
    ctx: typer.Context,
    *,
    questions: Annotated[
        Path,
        typer.Option(
            help="JSONL of id, question, answers, answerable. Without unanswerable ones some are made.",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ],
    mode: Annotated[str, typer.Option("--mode", "-m", help="base, rag, tuned, combined, auto.")] = "auto",
    adapter: Annotated[
        str | None, typer.Option(help="Of tuned and combined: NAME (newest) or NAME@VERSION; else the live one.")
    ] = None,
    collection: Collection = "default",
    top_k: TopK = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ask again what an earlier run has answered.")] = False,
    as_json: Json = False,
) -> None:
    """Learn what confidence means here, and below which one to give no answer. Resumes."""
    inputs = {
        "questions": [asdict(question) for question in read_question_file(questions)],
        "mode": mode,
        "adapter": adapter,
        "collection": collection,
        "top_k": top_k,
        "fresh": fresh,
    }
    with session(ctx).workspace(mutates=True) as workspace:
        figures = run_here(workspace, "calibrate", inputs)
    if as_json:
        print_json(figures)
        return
    for line in summary_lines(figures):
        print_line(line)
    print_line("Shares of false answers, and what keeping to them did to questions it had not seen:")
    print_rows(_COLUMNS, threshold_rows(figures), "")
    print_line("To keep to one of them: ragtune ask QUESTION --max-false-answer-rate 0.1")
