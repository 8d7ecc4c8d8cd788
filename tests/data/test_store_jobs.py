import threading

import pytest

from data.errors import Conflict, InvalidRequest, JobCancelled, UnknownJob
from data.records import Progress


def statuses(store, job_id):
    return [event["status"] for _, event in store.jobs.events(job_id)]


def test_a_job_from_queue_to_end(store):
    job = store.jobs.create("ingest", {"paths": ["a", "b"]})
    assert (job.status, job.started_at, job.error) == ("queued", None, None)
    claimed = store.jobs.claim("w", 60)
    assert claimed is not None
    assert (claimed.id, claimed.status) == (job.id, "running")
    progress = Progress(1, 2, "documents", 3.5, "embedding", {"loss": 0.1})
    store.jobs.heartbeat(job.id, progress, "w")
    ended = store.jobs.finish(job.id, "succeeded", {"indexed": 2}, worker="w")
    assert ended == store.jobs.get(job.id)
    assert (ended.status, ended.progress, ended.outputs) == ("succeeded", progress, {"indexed": 2})
    assert ended.created_at <= ended.started_at <= ended.finished_at
    assert statuses(store, job.id) == ["queued", "running", "running", "succeeded"]


def test_jobs_are_claimed_in_order_and_once(store):
    created = [store.jobs.create("ingest", {"n": n}).id for n in range(3)]
    claimed = [store.jobs.claim("w", 60) for _ in range(4)]
    assert [job and job.id for job in claimed] == [*created, None]
    assert [job.id for job in store.jobs.list()] == created[::-1]
    assert [job.id for job in store.jobs.list("running", 2)] == created[:0:-1]
    assert store.jobs.list("queued") == []


def test_jobs_are_found_by_kind_and_collection_behind_any_number_of_others(store):
    wanted = store.jobs.create("evaluate", {"collection": "a"}).id
    store.jobs.create("evaluate", {"collection": "b"})
    for n in range(5):
        store.jobs.create("ingest", {"collection": "a", "n": n})
    found = store.jobs.list(limit=2, kinds=("evaluate", "loop"), collection="a")
    assert [job.id for job in found] == [wanted]


def test_threads_never_claim_the_same_job(store):
    for n in range(12):
        store.jobs.create("ingest", {"n": n})
    claimed = []

    def work():
        while job := store.jobs.claim(threading.current_thread().name, 60):
            claimed.append(job.id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == len(set(claimed)) == 12


def test_one_job_is_claimed_by_name_once(store):
    job = store.jobs.create("ingest", {})
    assert store.jobs.claim_one(job.id, "w", 60).status == "running"
    with pytest.raises(Conflict):
        store.jobs.claim_one(job.id, "v", 60)


def test_idempotency_key_gives_the_same_job(store):
    job = store.jobs.create("ingest", {"a": 1, "b": [2]}, "key")
    store.jobs.claim("w", 60)
    again = store.jobs.create("ingest", {"b": [2], "a": 1}, "key")
    assert (again.id, again.status) == (job.id, "running")
    for kind, inputs in (("ingest", {"a": 2}), ("train", {"a": 1, "b": [2]})):
        with pytest.raises(Conflict, match="key"):
            store.jobs.create(kind, inputs, "key")
    assert store.jobs.create("ingest", {"a": 1, "b": [2]}).id != job.id


def test_events_are_replayed_from_any_point(store):
    job = store.jobs.create("ingest", {})
    store.jobs.claim("w", 60)
    for done in (1, 2, 2):
        store.jobs.heartbeat(job.id, Progress(done, 2))
    store.jobs.heartbeat(job.id)
    store.jobs.finish(job.id, "failed", error={"type": "disk-full"})
    events = store.jobs.events(job.id)
    # A heartbeat that brings nothing new is no event.
    assert [number for number, _ in events] == [1, 2, 3, 4, 5]
    assert events[-1][1]["error"] == {"type": "disk-full"}
    assert store.jobs.events(job.id, after=3) == events[3:]
    assert store.jobs.events(job.id, after=5) == []


def test_cancelling_a_running_job_stops_it_at_its_next_heartbeat(store):
    job = store.jobs.create("train", {})
    store.jobs.claim("w", 60)
    assert store.jobs.request_cancel(job.id).status == "running"
    assert store.jobs.cancel_requested(job.id)
    with pytest.raises(JobCancelled):
        store.jobs.heartbeat(job.id, Progress(1, 2))
    assert store.jobs.finish(job.id, "cancelled").status == "cancelled"
    assert store.jobs.request_cancel(job.id).status == "cancelled"


def test_cancelling_a_queued_job_ends_it_at_once(store):
    job = store.jobs.create("train", {})
    assert store.jobs.request_cancel(job.id).status == "cancelled"
    assert store.jobs.claim("w", 60) is None
    with pytest.raises(Conflict):
        store.jobs.claim_one(job.id, "w", 60)


def test_job_of_a_dead_worker_is_taken_up_again_by_another(store):
    job = store.jobs.create("train", {})
    alive = store.jobs.create("train", {})
    store.jobs.claim_one(job.id, "dead", -1)
    store.jobs.claim_one(alive.id, "alive", 60)
    assert store.jobs.interrupt_expired() == [job.id]
    assert store.jobs.interrupt_expired() == []
    assert store.jobs.get(alive.id).status == "running"
    assert store.jobs.requeue(job.id).status == "queued"
    assert store.jobs.claim("second", 60).id == job.id
    assert store.jobs.attempts(job.id) == 2
    # The first worker was only slow: it must not report on what is another's now.
    with pytest.raises(JobCancelled):
        store.jobs.heartbeat(job.id, Progress(1, 2), "dead")
    with pytest.raises(Conflict):
        store.jobs.finish(job.id, "succeeded", worker="dead")
    assert store.jobs.finish(job.id, "succeeded", worker="second").status == "succeeded"


def test_heartbeat_keeps_the_lease(store):
    job = store.jobs.create("train", {})
    store.jobs.claim_one(job.id, "w", 0.0)
    assert store.jobs.interrupt_expired() == [job.id]
    store.jobs.claim_one(job.id, "w", 60)
    store.jobs.heartbeat(job.id)
    assert store.jobs.interrupt_expired() == []


def test_dead_job_that_was_asked_to_stop_is_cancelled(store):
    job = store.jobs.create("train", {})
    store.jobs.claim("w", -1)
    store.jobs.request_cancel(job.id)
    assert store.jobs.interrupt_expired() == []
    assert store.jobs.get(job.id).status == "cancelled"


def test_ended_job_stays_ended(store):
    job = store.jobs.create("train", {})
    store.jobs.claim("w", 60)
    with pytest.raises(InvalidRequest):
        store.jobs.finish(job.id, "running")
    store.jobs.finish(job.id, "succeeded")
    with pytest.raises(Conflict):
        store.jobs.finish(job.id, "failed")
    with pytest.raises(Conflict):
        store.jobs.requeue(job.id)
    with pytest.raises(JobCancelled):
        store.jobs.heartbeat(job.id)


def test_unknown_jobs_are_named(store):
    calls = (
        store.jobs.get,
        store.jobs.heartbeat,
        store.jobs.request_cancel,
        store.jobs.cancel_requested,
        store.jobs.requeue,
        store.jobs.events,
        store.jobs.attempts,
    )
    for call in calls:
        with pytest.raises(UnknownJob, match="nothing"):
            call("nothing")
    with pytest.raises(UnknownJob):
        store.jobs.claim_one("nothing", "w", 60)
    with pytest.raises(UnknownJob):
        store.jobs.finish("nothing", "failed")
