"""What every command shares: settings, the workspace, output, and errors turned into exit statuses.

Knows nothing of what any command does.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from data.errors import RagtuneError
from service.settings import Settings
from service.workspace import Workspace

FAILED = 1
_WIDEST = 10_000
"""Columns of a table that goes to no terminal."""
_FEWEST = 16
"""Characters of a column below which its words are cut to pieces."""
INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""

WorkspaceFactory = Callable[[Settings], Workspace]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
TopK = Annotated[int | None, typer.Option("--top-k", "-k", min=1, max=50, help="Passages; the collection's, else 4.")]
Collection = Annotated[str, typer.Option("--collection", "-C", help="The collection to work on.")]


@dataclass(slots=True)
class Session:
    """One run of the command line: how to make a workspace, and what overrides the settings."""

    factory: WorkspaceFactory = Workspace
    overrides: dict[str, Any] = field(default_factory=dict)

    def settings(self, **values: Any) -> Settings:
        """Return the settings; options that were given come first."""
        given = {name: value for name, value in values.items() if value is not None}
        return Settings.load(**{**self.overrides, **given})

    @contextmanager
    def workspace(self, *, mutates: bool = False, **values: Any) -> Iterator[Workspace]:
        """Open the workspace; ``mutates`` takes the lock on the state directory.

        Raises:
            StateLocked: ``mutates``, and a server or another command holds the lock.
        """
        with self.factory(self.settings(**values)) as workspace:
            if not mutates:
                yield workspace
                return
            with workspace.lock():
                yield workspace


def session(ctx: typer.Context) -> Session:
    """Return the session of this run."""
    found = ctx.find_object(Session)
    assert found is not None
    return found


def cli_actor() -> str:
    """Return who runs the command line, for the log."""
    try:
        return f"cli {getpass.getuser()}"
    except (OSError, KeyError):  # no name for this user id: before 3.13 a KeyError
        return f"cli uid {os.getuid()}"


class Commands(TyperGroup):
    """The root group: an error of ragtune's own becomes one message and exit status 1."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Remember the command line, to say how to resume it."""
        ctx.meta["ragtune.arguments"] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; map errors and Ctrl-C to exit statuses."""
        try:
            return super().invoke(ctx)
        except RagtuneError as error:
            complain(error)
            raise typer.Exit(FAILED) from error
        except KeyboardInterrupt as error:
            # Again with --fresh would throw away what was finished.
            command = shlex.join(["ragtune", *(word for word in ctx.meta["ragtune.arguments"] if word != "--fresh")])
            stderr().print(f"Stopped. What was finished is kept. To go on, run again: {command}", markup=False)
            raise typer.Exit(INTERRUPTED) from error


def complain(error: RagtuneError) -> None:
    """Print an error on standard error: what, the value, what would do, the next step."""
    console = stderr()
    console.print("error:", error.detail, style="bold red", markup=False)
    for label, value in (("got", error.got), ("wanted", error.wanted)):
        if value not in (None, ""):
            console.print(f"  {label}: {value}", markup=False)
    if error.hint:
        console.print(f"  {error.hint}", markup=False)


_SHOWN = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n\r"}
_SHOWN |= dict.fromkeys((0x7F, *range(0x80, 0xA0)), "\ufffd")
"""Control characters, and what stands for them: no document may move the cursor or name the window of a terminal."""


class _Terminal(Console):
    """A console for text that others wrote: what it says is printed, and never obeyed."""

    def __init__(self, file: IO[str]) -> None:
        super().__init__(file=file, highlight=False, emoji=False, markup=False, soft_wrap=True)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return ``text`` as rich renders it, with its control characters in view."""
        return super().render_str(text.translate(_SHOWN), **options)


def stdout() -> Console:
    """Return a console on standard output as it is now."""
    return _Terminal(sys.stdout)


def stderr() -> Console:
    """Return a console on standard error as it is now."""
    return _Terminal(sys.stderr)


def print_json(document: object, indent: int | None = 2) -> None:
    """Print one JSON document on standard output, on one line if ``indent`` is None."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=indent, default=str) + "\n")
    sys.stdout.flush()


def print_line(text: str) -> None:
    """Print one line on standard output, without markup."""
    stdout().print(text, markup=False)


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
    """Print a table on standard output, or ``empty`` where there are no rows.

    What is piped is as wide as it is. In a terminal the first column stays whole, because it is what one copies, and
    where too little room is left for the others each row becomes a paragraph.
    """
    if not rows:
        print_line(empty)
        return
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    console = stdout()
    if not console.is_terminal:
        console.width = _WIDEST
    if _least_width(columns, cells) > console.width:
        _print_paragraphs(columns, cells)
        return
    table = Table(pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in cells:
        table.add_row(*row)
    console.print(table, markup=False)


def _least_width(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> int:
    """Return how wide a table must be for its first column whole and ``_FEWEST`` characters of each other."""
    widths = [max(map(cell_len, column)) for column in zip(columns, *cells, strict=True)]
    return widths[0] + sum(min(width, _FEWEST) for width in widths[1:]) + 3 * len(columns)


def _print_paragraphs(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    width = max(map(len, columns[1:]))
    for row in cells:
        print_line(row[0])
        for column, cell in zip(columns[1:], row[1:], strict=True):
            if cell:
                print_line(f"  {column:<{width}}  {cell}")


def print_fields(fields: Mapping[str, object]) -> None:
    """Print names and values, one pair a line."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        shown = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list | tuple) else value
        print_line(f"{name:<{width}}  {shown}")


def set_up_logging(verbose: bool) -> None:
    """Send log records to standard error if ``verbose``, else keep them out of the output."""
    handler = logging.StreamHandler(sys.stderr) if verbose else logging.NullHandler()
    logging.basicConfig(
        level=logging.INFO, handlers=[handler], format="%(levelname)s %(name)s: %(message)s", force=True
    )
