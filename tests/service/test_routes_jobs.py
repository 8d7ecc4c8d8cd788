from __future__ import annotations

import json
import threading
import time

import psutil
import pytest

from data.errors import Conflict, JobCancelled
from data.records import Progress
from service.jobs import job_log, run_job, submit
from tests.service.conftest import open_client
from tests.service.parts import DOCUMENTS, wait_until


def events(text: str) -> list[tuple[int, str, dict]]:
    """Return (id, event, data) of each event of a stream."""
    found = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((int(lines["id"]), lines["event"], json.loads(lines["data"])))
    return found


def wait(client, job_id: str, timeout_s: float = 60) -> dict:
    """Follow a job's own event stream to its end; return the job."""
    with client.stream("GET", f"/v1/jobs/{job_id}/events", timeout=timeout_s) as response:
        for _ in response.iter_lines():
            pass
    return client.get(f"/v1/jobs/{job_id}").json()


@pytest.fixture
def paths(tmp_path):
    folder = tmp_path / "more"
    folder.mkdir()
    for name, text in DOCUMENTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [str(folder)]


def test_a_job_is_listed_and_shown(client, indexed):
    job = submit(indexed.store, "rebuild", {"collection": "default"})
    (listed,) = client.get("/v1/jobs", params={"status": "queued"}).json()["jobs"]
    assert listed == client.get(f"/v1/jobs/{job.id}").json()
    assert (listed["job_id"], listed["kind"], listed["status"]) == (job.id, "rebuild", "queued")
    assert client.get("/v1/jobs?status=lost").status_code == 422


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/events"), ("POST", "/cancel")])
def test_unknown_jobs(client, method, path):
    response = client.request(method, f"/v1/jobs/none{path}")
    assert (response.status_code, response.json()["type"]) == (404, "unknown-job")


def test_events_are_replayed_after_the_last_one_seen(client, indexed):
    job = submit(indexed.store, "rebuild", {"collection": "default"})
    run_job(indexed, job.id)
    response = client.get(f"/v1/jobs/{job.id}/events")
    assert response.headers["content-type"].startswith("text/event-stream")
    everything = events(response.text)
    assert everything[-1][1] == "end"
    assert everything[-1][2]["status"] == "succeeded"
    seen = everything[1][0]
    later = events(client.get(f"/v1/jobs/{job.id}/events", headers={"Last-Event-ID": str(seen)}).text)
    assert later == everything[2:]
    assert client.get(f"/v1/jobs/{job.id}/events", headers={"Last-Event-ID": "x"}).status_code == 422


def test_a_queued_job_is_cancelled_at_once(client, indexed):
    job = submit(indexed.store, "rebuild", {"collection": "default"})
    assert client.post(f"/v1/jobs/{job.id}/cancel").json()["status"] == "cancelled"
    with pytest.raises(Conflict):
        run_job(indexed, job.id)


def test_a_running_job_stops_at_its_next_report(indexed, paths):
    job = submit(indexed.store, "ingest", {"paths": paths, "collection": "other"})
    seen: list[Progress] = []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        indexed.store.jobs.request_cancel(job.id)

    assert run_job(indexed, job.id, watch=watch).status == "cancelled"
    assert len(seen) == 1


def test_progress_carries_the_time_to_go(indexed, paths):
    job = submit(indexed.store, "ingest", {"paths": paths, "collection": "other"})
    run_job(indexed, job.id)
    shown = [event["progress"] for _, event in indexed.store.jobs.events(job.id)]
    assert any(progress["total"] == 2 and progress["eta_s"] is not None for progress in shown)


def test_a_failure_is_recorded_with_its_reason(indexed, tmp_path):
    job = submit(indexed.store, "ingest", {"paths": [str(tmp_path / "nowhere")]})
    done = run_job(indexed, job.id)
    assert done.status == "failed"
    assert done.error["type"] == "invalid-request"
    assert "nowhere" in json.dumps(done.error)


def test_an_unexpected_error_says_nothing_of_itself_but_where_to_look(client, indexed, paths, monkeypatch, caplog):
    """The text of an exception may hold paths, SQL or a document: it is in the job's log, under the job's id."""
    error = RuntimeError("secret of /home/ada")

    def fail(*_):
        raise error

    monkeypatch.setattr("service.work.ingest.run", fail)
    job = run_job(indexed, submit(indexed.store, "ingest", {"paths": paths}).id)
    assert (job.status, job.error["type"], job.error["request_id"]) == ("failed", "internal-error", job.id)
    assert job.id in job.error["hint"]
    told = client.get(f"/v1/jobs/{job.id}").text + client.get(f"/v1/jobs/{job.id}/events").text
    assert "internal-error" in told
    assert "secret" not in told
    (record,) = [each for each in caplog.records if each.levelname == "ERROR" and job.id in each.getMessage()]
    assert record.exc_info[1] is error
    log = job_log(indexed.state, job.id)
    assert "RuntimeError: secret of /home/ada" in log.read_text(), "what a command logs goes nowhere else"
    assert log.stat().st_mode & 0o077 == 0


def test_ctrl_c_interrupts_and_the_job_goes_on_later(indexed, paths):
    job = submit(indexed.store, "ingest", {"paths": paths, "collection": "other"})

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(indexed, job.id, watch=interrupt)
    assert indexed.store.jobs.get(job.id).status == "interrupted"
    assert run_job(indexed, job.id).status == "succeeded"


@pytest.mark.slow
def test_a_cancelled_job_that_does_not_react_is_given_up(indexed, monkeypatch):
    """The pulse notices by itself: the work never reports."""
    import service.work.rebuild as rebuild
    from service.jobs import end_job

    job = submit(indexed.store, "rebuild", {})
    ended = threading.Event()

    def stuck() -> None:
        end_job(indexed.store, job.id, "cancelled")
        ended.set()

    def work(workspace, inputs, report):
        workspace.store.jobs.request_cancel(job.id)
        assert ended.wait(2.0), "given up within 2 seconds"
        return {}

    monkeypatch.setattr(rebuild, "run", work)
    assert run_job(indexed, job.id, on_stuck=stuck).status == "cancelled"


def test_reports_raise_once_cancelled(indexed):
    from service.jobs import Pulse

    job = submit(indexed.store, "rebuild", {})
    indexed.store.jobs.claim_one(job.id, "w", 15)
    pulse = Pulse(indexed.store, job.id, "w")
    indexed.store.jobs.request_cancel(job.id)
    with pytest.raises(JobCancelled):
        pulse.report(Progress(1, 2, "x", stage="s"))


@pytest.mark.slow
def test_the_server_runs_jobs_in_children(workspace):
    """A real child process: it ends, its job has failed (no such folder), and the server goes on."""
    with workspace.lock("http://127.0.0.1"), open_client(workspace, run_jobs=True) as client:
        job = submit(workspace.store, "ingest", {"paths": ["/does/not/exist"]})
        done = wait(client, job.id)
        assert (done["status"], done["error"]["type"]) == ("failed", "invalid-request")
        assert client.get("/healthz").json() == {"status": "ok"}


def child_of(job_id: str) -> psutil.Process:
    """The process that works on the job; processes that have ended and are not yet waited for have no command line."""
    living = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    (child,) = [child for child in living if job_id in child.cmdline()]
    return child


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_a_running_child_is_cancelled_within_two_seconds(workspace, paths, frozen):
    """While it loads the embedder it reports nothing; frozen, it cannot even notice."""
    with workspace.lock(), open_client(workspace, run_jobs=True) as client:
        job = submit(workspace.store, "ingest", {"paths": paths})
        wait_until(lambda: client.get(f"/v1/jobs/{job.id}").json()["status"] != "queued")
        child = child_of(job.id)
        if frozen:
            child.suspend()
        asked = time.monotonic()
        client.post(f"/v1/jobs/{job.id}/cancel")
        assert wait(client, job.id)["status"] == "cancelled"
        # Two seconds, the poll of the event stream, and what two busy cores add.
        assert time.monotonic() - asked < 3.5
        child.wait(5)


@pytest.mark.slow
def test_a_child_that_dies_fails_its_job_alone(workspace):
    """Without the lock the child refuses to start work: its process ends before its job does."""
    with open_client(workspace, run_jobs=True) as client:
        job = submit(workspace.store, "rebuild", {})
        done = wait(client, job.id)
        assert (done["status"], done["error"]["type"]) == ("failed", "job-crashed")
        assert client.get("/healthz").status_code == 200


@pytest.mark.slow
def test_jobs_of_a_former_server_are_taken_up(workspace, paths):
    """Its lease ran out: interrupted, queued again, and done (a real child, without the starter)."""
    job = submit(workspace.store, "ingest", {"paths": ["/does/not/exist"]})
    workspace.store.jobs.claim_one(job.id, "gone", 0.01)
    with workspace.lock(), open_client(workspace, run_jobs=True) as client:
        assert wait(client, job.id)["status"] == "failed"
    assert workspace.store.jobs.attempts(job.id) == 2
