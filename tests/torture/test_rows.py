"""The short form of further long runs, and that each would see a broken promise."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import httpx
import pytest

from data.backup import restore_backup, write_backup
from retrieval.ingest import ignore_progress
from service.app import create_app
from tests.service.conftest import small_workspace
from tests.service.parts import ScriptedGenerator
from tests.torture import cancels, deaths, deletions, snapshots, terminations
from tests.torture.direct import Direct
from tests.torture.kills import text
from tests.torture.matrix import FAILURES
from tests.torture.test_torture import tortured
from tests.torture.together import NONE, Write

slow = pytest.mark.slow


def faultless(name, found):
    """Say whether a run found nothing."""
    return {kind: found[kind] for kind in FAILURES[name]} == dict.fromkeys(FAILURES[name], 0)


@slow
def test_backups_under_writes_are_of_one_moment():
    found = tortured("snapshots", 3)
    assert faultless("snapshots", found)
    assert found["certain"] > 5
    assert found["writes"] > 1


@pytest.mark.parametrize(
    ("version", "spans"),
    [(1, [(3.0, 3.4)]), (2, [(3.2, 3.8)]), (NONE, [(3.6, 4.0)]), (3, [])],
)
def test_when_a_document_may_have_been_in_a_version_follows_from_what_was_acknowledged(version, spans):
    writes = [Write(1, 1.0, 2.0), Write(2, 3.2, 3.4), Write(NONE, 3.6, 3.8)]
    assert snapshots.spans(writes, version, 3.0, 4.0) == spans
    assert snapshots.spans([], NONE, 3.0, 4.0) == [(3.0, 4.0)]
    assert snapshots.spans([Write(1, 3.5)], 1, 3.0, 4.0) == [(3.5, 4.0)]


def test_documents_that_never_were_together_so_are_seen():
    assert snapshots.one_moment([[(1, 3)], [(2, 4)], [(0, 1), (2.5, 5)]])
    assert not snapshots.one_moment([[(1, 3)], [(2, 4)], [(0, 1), (3.5, 5)]])


@slow
def test_a_backup_that_is_of_no_moment_or_damaged_would_be_seen(tmp_path):
    root = tmp_path / "restored"
    with small_workspace(tmp_path / "state", ScriptedGenerator()) as workspace:
        for number in (0, 1):
            content = text(number, 1).encode()
            kept = snapshots.keep_upload(workspace.state, snapshots.name(number), snapshots.BytesIO(content), 1000)
            workspace.ingestor.ingest("default", [kept])
        write_backup(workspace.state, workspace.store, tmp_path / "backup.tar", ignore_progress)
    restore_backup(tmp_path / "backup.tar", root, ignore_progress)

    def seen(*writes):
        service = snapshots.Service(None)
        snapshots.judge(service, root, [list(own) for own in writes], 3.0, 4.0)
        return {kind for kind in FAILURES["snapshots"] if service.counts[kind]}

    put, replaced = Write(1, 1.0, 2.0), Write(2, 2.5, 2.9)
    assert seen([put], [put]) == set()
    assert seen([put], [put], [put]) == {"lost"}
    assert seen([put], [put, replaced]) == {"phantom"}
    assert seen([put], [put, Write(NONE, 2.5, 2.9)]) == {"phantom"}
    assert seen([put]) == {"phantom"}
    assert seen([put, Write(2, 3.1, 3.2)], [Write(1, 3.5, 3.6)]) == {"mixed"}
    shutil.rmtree(root / "blobs")
    assert seen([put], [put]) == {"broken"}


@slow
def test_deleted_documents_are_found_nowhere():
    found = tortured("deletions", 4)
    assert faultless("deletions", found)
    assert found["trials"] == 4


@slow
def test_a_document_that_is_still_there_would_be_seen(tmp_path):
    echo = ScriptedGenerator(lambda request: "\n".join(message.content for message in request.messages))
    with (
        small_workspace(tmp_path / "state", echo) as workspace,
        Direct(create_app(workspace, run_jobs=False), "http://127.0.0.1") as client,
    ):
        service = deletions.Service(workspace, client)

        def seen(look, *arguments):
            service.counts.clear()
            look(service, *arguments)
            return {kind for kind in FAILURES["deletions"] if service.counts[kind]}

        assert seen(deletions.make, [1, 2]) == set()
        assert seen(deletions.look, 1) == {"found", "usable"}
        assert seen(deletions.left, [1]) == {"kept"}
        assert seen(deletions.look_again, [1], [2]) == {"found", "returned", "kept"}
        assert seen(deletions.look_again, [], [3]) == {"blind"}
        workspace.store.adapters.delete("house", 1)
        assert "unmarked" in seen(deletions.delete, 1)


@slow
def test_a_server_that_is_terminated_tells_its_clients_and_leaves_its_job_to_the_next():
    found = tortured("terminations", 1)
    assert faultless("terminations", found)
    assert found["finished"] + found["told"] == terminations.STREAMS
    assert 0 < found["slowest_exit_s"] < terminations.LONGEST_EXIT_S


def test_a_stream_that_was_cut_would_be_seen(tmp_path):
    service = terminations.Service(tmp_path)
    terminations.judge(service, [["passages", "token", "answer"], ["token", "error"], ["token", ""], ["token"], []])
    assert {kind: service.counts[kind] for kind in ("finished", "told", "cut")} == {"finished": 1, "told": 1, "cut": 3}


def test_a_server_that_does_not_end_in_order_would_be_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(terminations, "LONGEST_EXIT_S", 0.1)
    deaf = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    )
    service = terminations.Service(tmp_path)
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        terminations.terminate(service, process)
    assert {kind for kind in FAILURES["terminations"] if service.counts[kind]} == {"slow", "status"}


def test_a_job_that_a_terminated_server_lost_would_be_seen(tmp_path):
    with small_workspace(tmp_path / "state", ScriptedGenerator()) as workspace:
        jobs = [workspace.store.jobs.create("rebuild", {}).id for _ in range(3)]
        workspace.store.jobs.claim_one(jobs[1], "worker", 60)
        workspace.store.jobs.request_cancel(jobs[2])
    service = terminations.Service(tmp_path, jobs={job: [] for job in jobs})
    terminations.look(service)
    assert service.counts["lost"] == 2


@slow
def test_an_engine_that_dies_is_told_of_and_comes_back():
    found = tortured("deaths", 4)
    assert faultless("deaths", found)
    assert 0 < found["slowest_return_s"] < deaths.LATEST_RETURN_S
    assert min(found["told"], found["served"], found["looks"]) > 2


def event(name, data):
    """Return one event of a stream."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


DIED = {"type": "engine-unavailable"}
PROBLEM = {"content-type": "application/problem+json"}
STREAM = {"content-type": "text/event-stream; charset=utf-8"}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(200, json={"answer": "so"}), "served"),
        (httpx.Response(200, json={"answer": "other"}), "mismatched"),
        (httpx.Response(503, json=DIED, headers={**PROBLEM, "retry-after": "5"}), "told"),
        (httpx.Response(503, json=DIED, headers=PROBLEM), "untyped"),
        (httpx.Response(503, json={"type": "engine-error"}, headers={**PROBLEM, "retry-after": "5"}), "untyped"),
        (httpx.Response(500, text="Internal Server Error"), "untyped"),
        (httpx.Response(200, text=event("token", {}) + event("answer", {"answer": "so"}), headers=STREAM), "served"),
        (httpx.Response(200, text=event("answer", {"answer": "other"}), headers=STREAM), "mismatched"),
        (httpx.Response(200, text=event("token", {}) + event("error", DIED), headers=STREAM), "told"),
        (httpx.Response(200, text=event("error", {"type": "internal-error"}), headers=STREAM), "untyped"),
        (httpx.Response(200, text=event("token", {}), headers=STREAM), "untyped"),
        (httpx.Response(200, text="", headers=STREAM), "untyped"),
    ],
)
def test_what_a_client_of_an_engine_that_dies_gets_is_judged(answer, kind):
    assert deaths.judge(answer, "so") == kind


def test_an_engine_that_is_not_there_to_be_killed_would_be_seen():
    service = deaths.Service(None)
    assert deaths.kill(service, SimpleNamespace(pid=None), signal.SIGKILL) == 0
    assert service.counts["missed"] == 1


@slow
def test_jobs_that_are_cancelled_leave_nothing_half_done():
    found = tortured("cancels", 2)
    assert faultless("cancels", found)
    assert found["cancelled"] + found["succeeded"] == 4
    assert found["cancelled"]
    assert found["memory_growth"] < cancels.MOST_GROWTH


@pytest.mark.parametrize(
    ("stored", "possible", "faults"),
    [
        (cancels.text(0, 3), {3}, set()),
        (cancels.text(0, 3), {2, 3}, set()),
        (cancels.text(0, 3), {2}, {"lost"}),
        (cancels.text(0, 3)[:300], {3}, {"half"}),
        (None, {cancels.NONE}, set()),
        (None, {3}, {"lost"}),
    ],
    ids=["whole", "one of two", "another", "half", "none", "gone"],
)
def test_what_a_cancelled_job_left_would_be_seen(tmp_path, stored, possible, faults):
    def reply(request):
        if request.url.path.endswith("/text"):
            return httpx.Response(200, json={"text": stored})
        if request.url.path.endswith("/chunks"):
            return httpx.Response(200, json={"chunks": [{"text": stored[20:60]}]})
        there = [] if stored is None else [{"id": "d", "source": cancels.name(0)}]
        return httpx.Response(200, json={"documents": there})

    for folder in ("tmp", "uploads"):
        (tmp_path / "state" / folder).mkdir(parents=True)
    client = httpx.Client(base_url="http://127.0.0.1", transport=httpx.MockTransport(reply))
    process = SimpleNamespace(children=lambda recursive: [])
    service = cancels.Service(tmp_path, client, process, possible={0: set(possible)})
    cancels.look(service)
    assert {kind for kind in FAILURES["cancels"] if service.counts[kind]} == faults
    (tmp_path / "state" / "uploads" / "forgotten").touch()
    service.counts.clear()
    cancels.look(service)
    assert service.counts["left"] == 1


def test_memory_that_grows_and_jobs_that_are_not_cancelled_would_be_seen(tmp_path):
    service = cancels.Service(tmp_path, None, None)
    assert cancels.grown(service, 1000, 1040) == 0.04
    assert service.counts["grew"] == 0
    assert cancels.grown(service, 1000, 1060) == 0.06
    cancels.settle(service, "running", [], 1)
    assert (service.counts["grew"], service.counts["status"]) == (1, 1)
