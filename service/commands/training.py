"""What ``ragtune train`` shows before it trains: a row with its trained tokens marked, or time and memory needed."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from data.errors import InvalidRequest
from service.commands.progress import ProgressView, duration
from service.commands.session import print_json, print_line
from service.training_set import training_set

if TYPE_CHECKING:
    from finetune.estimate import Estimate
    from service.workspace import Workspace


def show_before(workspace: Workspace, inputs: dict[str, Any], number: int | None, as_json: bool) -> None:
    """Print the row of that number, or without one the estimate."""
    if number is None:
        show_estimate(workspace, inputs, as_json)
    else:
        show_row(workspace, inputs, number, as_json)


def show_recipes(as_json: bool) -> None:
    """Print the packaged recipes and what each is for."""
    from finetune.recipe import about_preset, preset_values, presets

    found = [{"name": name, "about": about_preset(name), "values": preset_values(name)} for name in presets()]
    if as_json:
        print_json(found)
        return
    for name in presets():
        values = ", ".join(f"{field} = {value!r}" for field, value in preset_values(name).items())
        print_line(f"{name}: {about_preset(name)}\n  {values}\n")


def show_row(workspace: Workspace, inputs: dict[str, Any], number: int, as_json: bool) -> None:
    """Print the row of that number, counted from 1, with what is trained in «guillemets».

    Raises:
        InvalidRequest: there is no such row.
    """
    from finetune.loss_mask import inspect_row, marked_text
    from finetune.weights import load_tokenizer

    with ProgressView("train") as report:
        prepared = training_set(workspace, inputs, report)
    rows = prepared.rows.rows
    if not 1 <= number <= len(rows):
        raise InvalidRequest(
            "There is no such row",
            got=number,
            wanted=f"1 to {len(rows)}" if rows else "rows",
            hint="" if rows else f"All were refused: {dict(prepared.rows.refused)}",
        )
    tokenizer = load_tokenizer(workspace.model.weights)
    tokens = inspect_row(rows[number - 1], tokenizer, prepared.recipe.attention)
    if as_json:
        shown = [asdict(token) for token in tokens]
        print_json({"row": number, "rows": len(rows), "sorts": prepared.sorts, "tokens": shown})
        return
    trained = sum(token.trained for token in tokens)
    print_line(f"Row {number} of {len(rows)}: {len(tokens)} tokens, {trained} trained («so»)")
    sorts = ", ".join(f"{sort} {count}" for sort, count in prepared.sorts.items())
    print_line(f"Examples: {sorts}")
    print_line(f"\n{marked_text(tokens, tokenizer)}")


def show_estimate(workspace: Workspace, inputs: dict[str, Any], as_json: bool) -> None:
    """Print how long the training will take and how much memory it needs, measured on a few of its rows.

    Raises:
        InsufficientMemory: not even the longest row fits.
    """
    from finetune.estimate import estimate

    with ProgressView("train") as report:
        prepared = training_set(workspace, inputs, report)
    found = estimate(prepared.recipe, prepared.rows, workspace.model, prepared.held_out)
    if as_json:
        print_json({**asdict(found), "fits": found.fits})
    else:
        print_line(estimate_text(found))


def estimate_text(found: Estimate) -> str:
    """Return an estimate in a few lines."""
    gib = 1024**3
    fits = "fits into" if found.fits else "does not fit into"
    return (
        f"About {duration(found.seconds)} for {found.steps} steps over {found.rows} rows ({found.tokens} tokens), "
        f"{duration(found.load_seconds)} of it to load the model; export and comparison come on top.\n"
        f"At most {found.peak_memory_bytes / gib:.1f} GiB on {found.device}, at the longest row ({found.longest_row} "
        f"tokens): {fits} the {found.available_bytes / gib:.1f} GiB that are free."
    )
