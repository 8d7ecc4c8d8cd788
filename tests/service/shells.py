"""A shell for the tests of commands: the console script's own entry over small real parts."""

from __future__ import annotations

import json
from functools import cache

import pytest
import typer.main
import typer.testing
from typer.testing import CliRunner

from service.cli import app
from service.commands.session import Session
from service.settings import Settings
from service.workspace import Workspace
from tests.service.parts import DOCUMENTS, MODEL, HashEmbedder

command_line = cache(typer.main.get_command)
"""What the console script parses with: it takes no state of a command line, and 50 ms to be put together."""
assert callable(typer.testing._get_command), "typer's runner has another name for it: see that it is shared still"
typer.testing._get_command = command_line


class Shell:
    """Runs command lines against one state directory; ``serves_here`` says that the generator is the engine's own."""

    def __init__(self, state, generator):
        self.state = state
        self.generator = generator
        self.serves_here = False

    def __call__(self, *words, code=0):
        words = ("--state-dir", self.state, *words)
        found = CliRunner().invoke(app, list(map(str, words)), obj=Session(self._workspace))
        assert found.exit_code == code, f"{found.output}\n{found.exception!r}"
        return found

    def json(self, *words, code=0):
        return json.loads(self(*words, "--json", code=code).stdout)

    def open(self):
        return self._workspace(Settings.load(state_dir=self.state))

    def _workspace(self, settings):
        made = Workspace(settings, embedder=HashEmbedder(), generator=self.generator, model=MODEL)
        made.serves_here = self.serves_here
        return made


@pytest.fixture
def shell(tmp_path, generator):
    return Shell(tmp_path / "state", generator)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "documents"
    made.mkdir()
    for name, text in DOCUMENTS.items():
        (made / name).write_text(text, encoding="utf-8")
    return made


@pytest.fixture
def filled(shell, folder):
    shell("ingest", folder)
    return shell


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [
        {"id": "built", "question": "When was the lighthouse of Orrin built?", "answers": ["1842"]},
        {"id": "mayor", "question": "Who is the mayor of Orrin?", "answers": [], "answerable": False},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path
