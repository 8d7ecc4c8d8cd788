"""The short form of the long runs, and the table against what was recorded."""

from __future__ import annotations

import json

import pytest

from tests.torture.damage import damage, second_process
from tests.torture.kills import FAULTS, run
from tests.torture.matrix import FAILURES, PAGE, RESULTS, ROOT, ROWS, page

slow = pytest.mark.slow


@slow
def test_kills_lose_nothing_that_was_acknowledged(tmp_path):
    found = run(15, 0, tmp_path)
    assert found["trials"] > 5
    assert {kind: found[kind] for kind in FAULTS} == dict.fromkeys(FAULTS, 0)


@slow
@pytest.mark.parametrize("database", [False, True])
def test_damage_is_never_an_answer(tmp_path, database):
    found = damage(30, 0, tmp_path, database=database)
    assert (found["crash"], found["silent"]) == (0, 0)
    assert found["refused"] > 5


@slow
def test_a_second_process_is_refused(tmp_path):
    assert second_process(5, 0, tmp_path) == {"trials": 5, "entered": 0}


def test_the_page_is_what_the_table_and_the_recorded_runs_give():
    assert PAGE.read_text(encoding="utf-8") == page(), "write it again: python -m tests.torture --page"


def test_the_table_has_every_row_and_names_tests_that_exist():
    assert [row.number for row in ROWS] == list(range(1, 45))
    assert [row.test for row in ROWS if row.test and not (ROOT / row.test).exists()] == []
    assert [row.number for row in ROWS if not row.test and not row.gap] == []
    assert set(json.loads(RESULTS.read_text())) <= set(FAILURES)
