"""The short form of the long runs, and the table against what was recorded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from tests.soak.__main__ import recorded
from tests.torture.kills import FAULTS
from tests.torture.loaders import ENDS
from tests.torture.matrix import FAILURES, PAGE, RESULTS, ROOT, ROWS, page
from tests.torture.together import Service, Write, judge

slow = pytest.mark.slow
compiled = pytest.mark.skipif(
    shutil.which("cc") is None, reason="records writes with a library of its own: no C compiler"
)


def tortured(name, trials):
    """Run a piece in a process of its own: it forks, and this one has threads by now."""
    command = [sys.executable, "-m", "tests.torture", f"--{name}", str(trials), "--unrecorded"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=True)
    return json.loads(done.stdout.splitlines()[-1])[name]


@slow
def test_kills_lose_nothing_that_was_acknowledged():
    found = tortured("kills", 15)
    assert found["trials"] > 5
    assert {kind: found[kind] for kind in FAULTS} == dict.fromkeys(FAULTS, 0)


@slow
def test_loaders_give_exact_chunks_or_typed_errors_whatever_bytes_coverage_leads_to():
    pytest.importorskip("atheris", reason="there is no wheel of atheris for this machine")
    found = tortured("loaders", 4000)
    assert found["trials"] >= 4000
    assert {kind: found[kind] for kind in FAILURES["loaders"]} == dict.fromkeys(FAILURES["loaders"], 0)


@slow
def test_a_loader_that_breaks_would_be_seen(tmp_path):
    pytest.importorskip("atheris", reason="there is no wheel of atheris for this machine")
    command = "from tests.torture import loader_fuzz as it; it.parse = lambda *_: 1 / 0; it.main()"
    ordered = [sys.executable, "-c", command, "csv", "-runs=10", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(ordered, cwd=ROOT, capture_output=True, timeout=500, check=False)
    assert ENDS[done.returncode] == "untyped"
    assert b"ZeroDivisionError" in done.stdout + done.stderr


@slow
@compiled
def test_a_power_cut_loses_nothing_that_was_acknowledged():
    found = tortured("powercut", 30)
    assert {kind: found[kind] for kind in FAILURES["powercut"]} == dict.fromkeys(FAILURES["powercut"], 0)
    assert found["synced"] == found["some"] == 15


@slow
@compiled
def test_a_power_cut_would_be_seen_where_nothing_is_synced(tmp_path):
    command = "import sys; from pathlib import Path; from tests.torture.powercut import run; "
    command += "print(run(20, 1, Path(sys.argv[1]), 'careless')['lost'])"
    done = subprocess.run(
        [sys.executable, "-c", command, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=True,
    )
    assert int(done.stdout.splitlines()[-1]) > 0


@slow
@compiled
def test_adapters_are_whole_whenever_the_process_or_the_power_ends():
    found = tortured("exports", 90)
    assert {kind: found[kind] for kind in FAILURES["exports"]} == dict.fromkeys(FAILURES["exports"], 0)
    assert found["killed"] == found["synced"] == 30


@slow
@compiled
def test_a_training_goes_on_from_its_newest_checkpoint_whenever_the_process_or_the_power_ends():
    found = tortured("trainings", 27)
    assert {kind: found[kind] for kind in FAILURES["trainings"]} == dict.fromkeys(FAILURES["trainings"], 0)
    assert found["sigkill"] == 9
    assert found["killed"] == found["synced"] == found["some"] == 6
    assert found["resumed"] > 5


@slow
@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode != 0,
    reason="no file system may be mounted here",
)
def test_a_full_file_system_is_said_and_outlived():
    found = tortured("full", 8)
    assert {kind: found[kind] for kind in FAILURES["full"]} == dict.fromkeys(FAILURES["full"], 0)
    assert found["refused"] > 0
    assert found["done"] > 8


@slow
def test_a_kill_at_any_point_leaves_the_old_index_or_the_new():
    found = tortured("points", 12)
    assert found["trials"] > 8
    assert {kind: found[kind] for kind in FAILURES["points"]} == dict.fromkeys(FAILURES["points"], 0)


@slow
@pytest.mark.parametrize("name", ["index", "database"])
def test_damage_is_never_an_answer(name):
    found = tortured(name, 30)
    assert (found["crash"], found["silent"]) == (0, 0)
    assert found["refused"] > 5


@slow
def test_a_second_process_is_refused():
    assert tortured("lock", 5) == {"trials": 5, "entered": 0}


@slow
def test_each_job_has_its_effect_once_however_often_it_is_killed():
    found = tortured("jobs", 10)
    assert found["kills"] > 0
    assert {kind: found[kind] for kind in FAILURES["jobs"]} == dict.fromkeys(FAILURES["jobs"], 0)


@slow
def test_nothing_crosses_collections():
    found = tortured("crossings", 250)
    assert {kind: found[kind] for kind in FAILURES["crossings"]} == {"crossed": 0, "blind": 0}


@slow
def test_broken_models_end_their_child_at_most():
    found = tortured("models", 60)
    assert {kind: found[kind] for kind in FAILURES["models"]} == {"untyped": 0, "hung": 0}
    assert found["refused"] + found["crashed"] > 2


@slow
def test_changed_adapters_are_refused_or_answer_as_before():
    found = tortured("adapters", 16)
    assert {kind: found[kind] for kind in FAILURES["adapters"]} == dict.fromkeys(FAILURES["adapters"], 0)
    assert found["refused"] > 3


@slow
def test_every_answer_is_that_of_its_adapter_and_its_collection():
    found = tortured("swaps", 60)
    assert {kind: found[kind] for kind in FAILURES["swaps"]} == dict.fromkeys(FAILURES["swaps"], 0)
    assert found["swaps"] > 10
    assert found["kept_states_used"] > 10


@slow
def test_each_of_many_callers_gets_its_own_answer():
    found = tortured("callers", 300)
    assert {kind: found[kind] for kind in FAILURES["callers"]} == dict.fromkeys(FAILURES["callers"], 0)
    assert found["same"] > 200
    assert found["left"] > 10


@slow
def test_too_many_clients_are_told_so_and_the_others_served():
    found = tortured("overload", 300)
    assert {kind: found[kind] for kind in FAILURES["overload"]} == dict.fromkeys(FAILURES["overload"], 0)
    assert found["served"] > 10
    assert found["refused"] > 10
    assert found["looks"] > 1
    assert found["different"] > 10


@slow
def test_slow_clients_are_cut_and_leave_nothing():
    found = tortured("clients", 15)
    assert {kind: found[kind] for kind in FAILURES["clients"]} == dict.fromkeys(FAILURES["clients"], 0)
    assert found["searches"] > 1


@slow
def test_questions_are_answered_while_documents_and_the_index_change():
    found = tortured("together", 40)
    assert {kind: found[kind] for kind in FAILURES["together"]} == dict.fromkeys(FAILURES["together"], 0)
    assert found["generations"] > 1
    assert found["citations"] > 10


@pytest.mark.parametrize(
    ("shown", "possible", "faults"),
    [
        ([(0, range(24))], ({0}, True), set()),
        ([(0, range(12))], ({0, 1}, False), set()),
        ([(0, range(12))], ({0}, True), {"lost"}),
        ([(0, range(24))], ({1}, True), {"stale", "lost"}),
        ([(0, range(24))], ({-1}, False), {"stale"}),
        ([(0, range(12)), (1, range(12, 24))], ({0, 1}, False), {"mixed"}),
    ],
    ids=["whole", "being changed", "half", "older", "deleted", "two versions"],
)
def test_a_wrong_response_would_be_seen(shown, possible, faults):
    service = Service(None, None)
    passages = [{"source": "d", "text": " ".join(f"mark0x{v}n{n}" for n in lines)} for v, lines in shown]
    judge(service, 0, {"passages": passages, "index_generation": 1}, possible)
    assert {kind for kind in FAILURES["together"] if service.counts[kind]} == faults
    judge(
        service, 1, {"passages": [], "index_generation": 1, "citations": [{"source": "d", "quote": "x"}]}, ({-1}, False)
    )
    assert service.counts["foreign"] == 1


def test_what_may_be_shown_follows_from_what_was_acknowledged():
    service = Service(None, None)
    service.writes[0] = [Write(0, 1, 2), Write(1, 3, 5)]
    service.writes[1] = [Write(0, 1, 2), Write(-1, 3, 4)]
    assert service.possible(0, 2.5, 2.9) == ({0}, True)
    assert service.possible(0, 2.5, 3.5) == service.possible(0, 4, 6) == ({0, 1}, False)
    assert service.possible(0, 5, 6) == ({1}, True)
    assert service.possible(1, 5, 6) == ({-1}, False)


@slow
def test_made_requests_meet_no_unexpected_error():
    found = tortured("fuzz", 900)
    assert {kind: found[kind] for kind in FAILURES["fuzz"]} == dict.fromkeys(FAILURES["fuzz"], 0)
    assert found["2xx"] > 100
    assert found["4xx"] > 300


def test_the_page_is_what_the_table_and_the_recorded_runs_give():
    assert PAGE.read_text(encoding="utf-8") == page(), "write it again: python -m tests.torture --page"


def test_the_table_has_every_row_and_names_tests_that_exist():
    assert [row.number for row in ROWS] == list(range(1, 45))
    named = [test for row in ROWS for test in (row.test, *(test for *_, test in row.also)) if test]
    assert [test for test in named if not (ROOT / test).exists()] == []
    assert [row.number for row in ROWS if not row.test and not row.gap] == []
    assert set(json.loads(RESULTS.read_text())) <= set(FAILURES)


def test_what_a_soak_keeps_counts_each_phase_and_each_condition():
    rows = {"ask": {"requests": 5, "failed": 2}, "search": {"requests": 4, "failed": 0}}
    phases = [{"phase": "steady", "failed": 2, "by": rows}, {"phase": "overload", "failed": 1, "by": rows}]
    held = {"no failed request": False, "memory is flat": False, "descriptors are flat": True}
    kept = recorded({"minutes": 2, "phases": phases, "held": held})
    assert kept == {"trials": 18, "failed": 3, "grew": 1, "minutes": 2.0}
    assert set(FAILURES["soak"]) < set(kept)
