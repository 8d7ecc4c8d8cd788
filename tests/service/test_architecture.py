"""ARCHITECTURE.md lists the routes and the commands that there are, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.core import TyperGroup

import service
from service.cli import app as command_line

ROOT = Path(service.__file__).parents[1]


def listed() -> str:
    """Return the section of the document that has both lists."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    return text.partition("## Routes and commands")[2].partition("\n## ")[0]


def commands(group: TyperGroup, before: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        whole = f"{before} {name}".strip()
        if isinstance(command, TyperGroup):
            yield from commands(command, whole)
        elif not command.hidden:
            yield whole


def test_the_routes_are_those_of_openapi(empty_client):
    paths = empty_client.get("/openapi.json").json()["paths"]
    there = {f"{method.upper()} {path}" for path, operations in paths.items() for method in operations}
    named = re.findall(r"`([A-Z,]+) (/[^` ]+)`", listed())
    assert {f"{method} {path}" for methods, path in named for method in methods.split(",")} == there


def test_the_commands_are_those_of_the_command_line():
    group = typer.main.get_command(command_line)
    assert isinstance(group, TyperGroup)
    assert set(re.findall(r"`ragtune ([a-z ]+)`", listed())) == set(commands(group))
