"""Tables of the commands: piped they are whole, in a terminal they fit it."""

from __future__ import annotations

import pytest

from service.commands.session import print_rows

ID = "66cdb382c082e36b836ea80d5316d557"
QUESTION = "Who were the main enemies of the Normans, and " + "who " * 40 + "were their friends?"
COLUMNS = ("id", "status", "question")


def printed(capsys: pytest.CaptureFixture[str], columns: tuple[str, ...], *row: str) -> list[str]:
    print_rows(columns, [row], "none")
    return capsys.readouterr().out.splitlines()


def in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eighty columns wide, without colours."""
    for name, value in {"TTY_COMPATIBLE": "1", "TERM": "dumb", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)


def test_what_is_piped_is_as_wide_as_it_is(capsys) -> None:
    lines = printed(capsys, COLUMNS, ID, "accepted", QUESTION)
    assert sum(QUESTION in line and ID in line for line in lines) == 1


def test_in_a_terminal_long_cells_fold_and_the_first_stays_whole(capsys, monkeypatch) -> None:
    in_a_terminal(monkeypatch)
    lines = printed(capsys, COLUMNS, ID, "accepted", QUESTION)
    assert max(map(len, lines)) <= 80
    assert sum(ID in line for line in lines) == 1
    assert sum("accepted" in line for line in lines) == 1


def test_without_room_each_row_is_a_paragraph(capsys, monkeypatch) -> None:
    in_a_terminal(monkeypatch)
    columns = ("id", "status", "question", "answer", "reason")
    lines = printed(capsys, columns, ID, "rejected", QUESTION[:30], "", "retrieved_again")
    wanted = [ID, "  status    rejected", f"  question  {QUESTION[:30]}", "  reason    retrieved_again"]
    assert lines == wanted


def test_a_chinese_letter_takes_two_columns(capsys, monkeypatch) -> None:
    in_a_terminal(monkeypatch)
    row = ("接口文档" * 8, "accepted", QUESTION[:16])  # 64 columns, in 32 letters
    assert printed(capsys, COLUMNS, *row) == [row[0], "  status    accepted", f"  question  {QUESTION[:16]}".rstrip()]
