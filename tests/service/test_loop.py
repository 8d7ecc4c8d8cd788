"""Rounds of the loop over small parts: what a step takes from the one before; resuming, failing, promoting or not."""

from __future__ import annotations

import json

import pytest

from data.errors import EngineUnavailable, InvalidRequest, JobCancelled
from data.records import QAPair, Question
from data.store import GOLD, ChunkLink, TrainedRow
from service import loop as module
from service.feedback import feedback_questions
from service.jobs import HEAVY, RESUMABLE, run_job, submit
from service.loop import LoopInputs, Round, RoundFailed, interval_s
from service.promotion import promote
from service.questions import leaked_questions, pair_questions, repeated_questions
from tests.service.conftest import open_client
from tests.service.parts import MODEL, adapter, wait_until

pytestmark = pytest.mark.slow

BUILT = "When was the lighthouse of Orrin built?"


def ignore(_progress):
    pass


def questions(n=24):
    """Answerable questions that differ enough not to be near-duplicates."""
    return tuple(Question(f"q{i}", f"In which year number {i} was thing {i * 7919} made?", ("1842",)) for i in range(n))


@pytest.fixture
def trained(monkeypatch):
    """Train without a base model: each call registers the next version, linked with the pairs; return the inputs."""
    calls = []

    def run(workspace, inputs, report):
        calls.append(inputs)
        store = workspace.store
        pairs = store.pairs.all(inputs["collection"], "accepted", stale=False)
        rows = [
            TrainedRow(pair.id, pair.id, tuple(ChunkLink(c, "d", "s", GOLD) for c in pair.chunk_ids)) for pair in pairs
        ]
        version = store.adapters.next_version(inputs["name"])
        store.adapters.add(adapter(inputs["name"], version, lineage={"collection": inputs["collection"]}), rows)
        return {"name": inputs["name"], "version": version, "rows_sha256": "1" * 64, "pairs": len(pairs)}

    monkeypatch.setattr(module.train, "run", run)
    return calls


def accept(workspace, question=BUILT, answer="1842", number=1, kind="span"):
    chunk = next(iter(workspace.store.chunks.iterate("default")))[1]
    pair = QAPair(f"p{number}" + "0" * 12, question, answer, (chunk.id,), kind, "test", "accepted")
    workspace.store.pairs.add("default", None, [pair])


def reply(request):
    """The adapters find the year, the bare model does not."""
    return "1842 [1]" if request.adapter else "I don't know."


def one_round(workspace, **changes):
    return Round(workspace, LoopInputs(**{"proposals": 0, "actor": "cli ann", **changes}), ignore).run()


def test_a_round_trains_compares_and_promotes(indexed, generator, trained):
    generator.reply = reply
    accept(indexed)
    record = one_round(indexed, questions=questions())
    assert record["status"] == "succeeded"
    assert record["live"] == "house@1"
    assert record["steps"]["evaluate"]["questions"]["n"] == 24
    assert record["lineage"]["evaluation"] == indexed.store.evaluations.latest()["id"]
    assert record["lineage"]["adapter"] == "house@1"
    row = indexed.store.stages.list(subject="house@1")[0]
    assert (row.event, row.actor) == ("promoted", "loop of cli ann")
    folder = indexed.state.reports / "loop" / "house" / "round-1"
    report = (folder / "report.md").read_text()
    assert "house@1 is live, in place of answers without an adapter." in report
    assert "better holds" in report
    assert json.loads((folder / "round.json").read_bytes())["status"] == "succeeded"


def test_what_is_no_better_is_not_promoted_and_nothing_is_trained_twice(indexed, generator, trained):
    generator.reply = reply
    accept(indexed)
    one_round(indexed, questions=questions())
    again = one_round(indexed, questions=questions())
    assert again["steps"]["train"]["skipped"] == "nothing changed since"
    assert again["steps"]["promote"]["reasons"] == ["there is no candidate"]
    accept(indexed, "What grows in the garden of Tolm?", "blue roses", 2)
    third = one_round(indexed, questions=questions())
    assert third["steps"]["train"]["adapter"] == "house@2"
    assert (
        "house@2 was not promoted; house@1 stays live"
        in (indexed.state.reports / "loop/house/round-3/report.md").read_text()
    )
    assert third["steps"]["promote"]["refused"]["type"] == "promotion-refused"
    assert [
        reason["rule"] for reason in third["steps"]["promote"]["decision"]["reasons"] if reason["passed"] is False
    ] == ["better"]
    assert indexed.store.adapters.live(MODEL.sha256).version == 1
    assert len(trained) == 2


def test_without_questions_nothing_is_promoted(indexed, trained):
    accept(indexed)
    record = one_round(indexed)
    assert record["steps"]["evaluate"]["skipped"] == "there are no questions to evaluate on"
    assert record["live"] is None
    assert "no comparison with it" in record["steps"]["promote"]["refused"]["got"]


def test_the_folder_is_followed_and_only_what_has_no_pairs_is_asked_about(
    workspace, generator, trained, folder, monkeypatch
):
    asked = []

    def propose(_workspace, inputs, report):
        asked.append(inputs)
        return {"run_id": "r", "requested": inputs["limit"], "accepted": 0, "rejected": {}, "failed": 0, "pending": 0}

    monkeypatch.setattr(module.pairs, "run", propose)
    record = one_round(workspace, paths=(str(folder),), proposals=100)
    assert record["steps"]["ingest"]["indexed"] == 2
    assert (asked[0]["limit"], asked[0]["exclude_documents"]) == (12, [])
    accept(workspace)
    (folder / "new.md").write_text("# New\n\nThe harbour of Orrin was dug in 1901.\n", encoding="utf-8")
    (folder / "garden.md").unlink()
    record = one_round(workspace, paths=(str(folder),), proposals=100)
    assert (record["steps"]["ingest"]["indexed"], record["steps"]["ingest"]["deleted"]) == (1, 1)
    covered = workspace.store.pairs.accepted_by_document("default")
    assert asked[1]["exclude_documents"] == sorted(covered)
    left = {row.id for row in workspace.store.documents.by_source("default").values()} - set(covered)
    assert asked[1]["limit"] == 6 * len(left)


def test_a_round_that_was_stopped_goes_on(indexed, generator, trained):
    generator.reply = reply
    accept(indexed)

    def stop(progress):
        if progress.stage == "compare" and progress.done == 5:
            raise JobCancelled("stop")

    inputs = LoopInputs(proposals=0, questions=questions())
    with pytest.raises(JobCancelled):
        Round(indexed, inputs, stop).run()
    assert len(trained) == 1
    record = Round(indexed, inputs, ignore).run()
    assert record["live"] == "house@1"
    assert len(trained) == 1, "the adapter of the stopped round was used"
    assert len(generator.requests) == 48, "no question was asked twice"


def test_pairs_accepted_before_a_stop_do_not_shorten_the_round(indexed, trained, monkeypatch):
    asked = []

    def stopped_halfway(workspace, inputs, report):
        asked.append(inputs)
        if len(asked) == 1:
            accept(workspace)
            raise JobCancelled("stop")
        return {"run_id": "r", "requested": inputs["limit"], "accepted": 1, "rejected": {}, "failed": 0, "pending": 0}

    monkeypatch.setattr(module.pairs, "run", stopped_halfway)
    inputs = LoopInputs(proposals=100)
    with pytest.raises(JobCancelled):
        Round(indexed, inputs, ignore).run()
    Round(indexed, inputs, ignore).run()
    assert asked[1] == asked[0]


def test_a_round_that_an_older_version_began_goes_on(indexed, trained):
    inputs = LoopInputs(proposals=0)
    folder = indexed.state.reports / "loop" / inputs.name / "current"
    folder.mkdir(parents=True)
    begun = {"key": inputs.key, "status": "running", "started_at": 0.0, "actor": "", "collection": "default"}
    (folder / "round.json").write_text(json.dumps({**begun, "steps": {}}), encoding="utf-8")
    assert Round(indexed, inputs, ignore).run()["status"] == "succeeded"


def test_a_round_that_fails_leaves_what_is_live_and_says_why(indexed, generator, trained, monkeypatch):
    indexed.store.adapters.add(adapter("other"))
    promote(indexed.store, indexed.model, "other")
    accept(indexed)

    def fail(*_):
        raise EngineUnavailable("The engine is down", hint="Wait.")

    monkeypatch.setattr(module.train, "run", fail)
    job = run_job(indexed, submit(indexed.store, "loop", {"proposals": 0}).id)
    assert (job.status, job.error["type"]) == ("failed", "engine-unavailable")
    assert (job.outputs["failed_step"], job.outputs["live"]) == ("train", "other@1")
    text = (indexed.state.reports / "loop/house/round-1/report.md").read_text()
    assert "failed at train: The engine is down. other@1 is live, as before." in text
    assert {"loop"} <= HEAVY & RESUMABLE
    with pytest.raises(RoundFailed):
        one_round(indexed)  # the next one begins anew


def test_a_round_that_fails_unexpectedly_says_nothing_of_the_error(indexed, trained, monkeypatch):
    accept(indexed)

    def fail(*_):
        raise RuntimeError("secret of /home/ada")

    monkeypatch.setattr(module.train, "run", fail)
    job = run_job(indexed, submit(indexed.store, "loop", {"proposals": 0}).id)
    assert (job.status, job.error["type"], job.error["request_id"]) == ("failed", "internal-error", job.id)
    folder = indexed.state.reports / "loop/house/round-1"
    for path in (folder / "report.md", folder / "round.json"):
        assert "secret" not in path.read_text()
    assert job.id in (folder / "round.json").read_text(), "where to look"


def test_a_round_whose_folder_is_gone_fails_and_keeps_the_documents(indexed, tmp_path):
    with pytest.raises(RoundFailed, match="gone"):
        one_round(indexed, paths=(str(tmp_path / "gone"),))
    assert indexed.store.documents.count("default") == 2


def test_only_the_shadow_missing_puts_the_adapter_into_the_shadow(make_workspace, generator, trained, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text("[shadow]\nmin_answers = 10\n")
    workspace = make_workspace("indexed", promotion_policy=policy)
    generator.reply = reply
    accept(workspace)
    record = one_round(workspace, questions=questions())
    assert (record["live"], record["steps"]["promote"]["shadow"]) == (None, "house@1")
    assert workspace.store.adapters.shadowing(MODEL.sha256).version == 1
    again = one_round(workspace, questions=questions())
    assert again["steps"]["promote"]["refused"]["got"].startswith("shadow: 0 answers")


def test_leaked_questions_are_named_and_left_out(indexed, generator, trained):
    generator.reply = reply
    accept(indexed)
    leak = Question("leak", "When was the lighthouse of Orrin built ?", ("1842",))
    record = one_round(indexed, questions=(*questions(), leak))
    assert record["steps"]["evaluate"]["questions"]["n"] == 24
    assert record["steps"]["evaluate"]["leaked"] == [{"id": "leak", "adapter": "house@1", "like": BUILT}]
    assert "leak (house@1" in (indexed.state.reports / "loop/house/round-1/report.md").read_text()


def test_corrections_are_questions_and_good_answers_are_pairs(client, indexed, generator):
    generator.reply = "1841 [1]"
    ask = {"question": BUILT}
    first, second = (client.post("/v1/answers", json=ask).json() for _ in range(2))
    client.post("/v1/feedback", json={"answer_id": first["id"], "correction": "1840"})
    client.post("/v1/feedback", json={"answer_id": second["id"], "correction": "1842 [1]"})
    other = client.post("/v1/answers", json={"question": "Who is the mayor of Orrin?"}).json()
    given = client.post("/v1/feedback", json={"answer_id": other["id"], "correction": "I don't know."}).json()
    assert indexed.store.pairs.get(given["pair_id"]).kind == "unanswerable"
    found = {q.question: q for q in feedback_questions(indexed.store, "default")}
    assert found[BUILT].answers == ("1842",), "the newest correction counts"
    assert {q.origin for q in found.values()} == {"feedback"}
    assert not found["Who is the mayor of Orrin?"].answerable
    rated = client.post("/v1/feedback", json={"answer_id": first["id"], "rating": 1}).json()
    assert indexed.store.pairs.get(rated["pair_id"]).status == "candidate"
    assert client.post("/v1/feedback", json={"answer_id": first["id"], "rating": -1}).json()["pair_id"] is None


def test_pairs_that_were_trained_on_are_no_questions(indexed):
    accept(indexed)
    accept(indexed, "What grows in the garden of Tolm?", "blue roses [1]", 2)
    accept(indexed, "Who planted it?", "**Ask**", 3, kind="style")
    accept(indexed, "Who is the mayor?", "", 4, kind="unanswerable")
    trained_on = [TrainedRow("r", "p1" + "0" * 12, ())]
    indexed.store.adapters.add(adapter(lineage={"collection": "default"}), trained_on)
    house = indexed.store.adapters.get("house", 1)
    found = pair_questions(indexed.store, "default", [house])
    assert [(q.question, q.answers, q.answerable, q.origin) for q in found] == [
        ("What grows in the garden of Tolm?", ("blue roses",), True, "pairs"),
        ("Who is the mayor?", (), False, "pairs"),
    ]
    asked = (Question("a", BUILT, ("1842",)), Question("b", "Who else?", ("x",)), Question("c", "who else", ("x",)))
    chunk = next(iter(indexed.store.chunks.iterate("default")))[1]
    source = indexed.store.documents.get(chunk.document_id).source
    assert {q.document for q in found} == {source}, "so that a report and a calibration keep documents apart"
    assert leaked_questions(indexed.store, asked, [house]) == [{"id": "a", "adapter": "house@1", "like": BUILT}]
    assert repeated_questions(asked) == [{"id": "c", "of": "b"}]


def test_http_starts_a_round_as_a_job(make_workspace, generator, trained, folder):
    workspace = make_workspace("indexed", loop_folders=str(folder))
    accept(workspace)
    generator.reply = reply
    sent = [{"id": q.id, "question": q.question, "answers": list(q.answers)} for q in questions()]
    with open_client(workspace) as client:
        response = client.post("/v1/loop", json={"questions": sent, "proposals": 0})
        assert response.status_code == 202
        job = run_job(workspace, response.json()["job_id"])
        assert job.status == "succeeded", job.error
        (found,) = client.get("/v1/loop").json()["rounds"]
        assert found["outputs"]["live"] == "house@1"
        assert found["inputs"]["paths"] == [str(folder)]
        assert client.get(f"/v1/loop/{job.id}").json()["outputs"]["steps"]["ingest"]["unchanged"] == 2
        assert client.post("/v1/loop", json={"paths": ["/etc"]}).status_code == 422
        assert client.post("/v1/loop", json={"recipe": {"nonsense": 1}}).json()["type"] == "recipe-invalid"
        assert client.get("/v1/loop/none").status_code == 404


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("6h", 21600), ("1d", 86400)])
def test_intervals(text, seconds):
    assert interval_s(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "0d", "1w", "-1d", "1.5h", "1 d"])
def test_what_is_no_interval(text):
    with pytest.raises(InvalidRequest):
        interval_s(text)


def test_the_command_begins_rounds_until_it_is_stopped(tmp_path, generator, folder, monkeypatch):
    from service.commands import loop as command
    from tests.service.shells import Shell

    shell = Shell(tmp_path / "state", generator)
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", sleep)
    stopped = shell("loop", folder, "--every", "1h", "--proposals", "0", code=130)
    assert stopped.stdout.count("Nothing to promote; no adapter stays live.") == 2
    assert all(3500 < seconds <= 3600 for seconds in slept)
    assert "exclude each other" in shell("loop", "--once", "--every", "1h", code=2).stderr
    assert shell.json("loop", folder, "--proposals", "0")["number"] == 3


def test_a_server_that_holds_the_state_runs_the_round(tmp_path, generator, folder, monkeypatch):
    import threading

    from tests.service.shells import Shell

    shell = Shell(tmp_path / "state", generator)
    shell("ingest", folder)
    with shell.open() as workspace, workspace.lock("http://127.0.0.1:1"):

        def serve():
            wait_until(lambda: workspace.store.jobs.list("queued"))
            run_job(workspace, workspace.store.jobs.list("queued")[0].id)

        server = threading.Thread(target=serve)
        server.start()
        assert shell.json("loop", folder, "--proposals", "0")["status"] == "succeeded"
        server.join()
