"""How the packaged adapters are trained: the questions that are used, and the stages."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from service.starter import READER, starter_folder
from service.starter_training import PARAGRAPHS, read_paragraphs, stages, typer


def test_the_reader_learns_both_ways_and_settles_blockwise() -> None:
    first, settle = stages("blockwise", None)
    assert (first.attention, settle.attention) == ("blockwise", "blockwise")
    assert first.full_share > 0 == settle.full_share
    assert settle.learning_rate < first.learning_rate
    (alone,) = stages("blockwise", Path("/adapter"))
    assert alone.init_adapter == "/adapter"
    assert [recipe.attention for recipe in stages("full", None)] == ["full"]


def test_the_committed_questions_are_read_and_none_is_a_sample() -> None:
    paragraphs = read_paragraphs(starter_folder() / "squad.jsonl")
    assert len(paragraphs) == 1505
    further = read_paragraphs(starter_folder() / "squad-reader.jsonl")
    assert len(further) == 1857
    assert not {one.text for one in paragraphs} & {one.text for one in further}
    paragraphs += further
    assert all(answer in paragraph.text for paragraph in paragraphs for _, answer in paragraph.questions)
    assert PARAGRAPHS[READER] == 0


def test_an_unknown_name_is_refused() -> None:
    from service.starter_training import main

    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, ["nobody"])
    assert result.exit_code == 2
    assert "pair-writer, reader, all" in result.output
