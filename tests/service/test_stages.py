"""Stages over the command line and HTTP: gate, log, rollback, shadow, retirement; index and retrievers in the log."""

from __future__ import annotations

import sqlite3
import threading

import pytest

from data.errors import ForgettingExceeded, IllegalTransition, NoLiveAdapter, PromotionRefused
from data.records import StageNote
from service.promotion import Gate, promote, retire, rollback, shadow
from tests.service.conftest import open_client
from tests.service.parts import MODEL, adapter


def evaluation(candidate="house@2", incumbent="house@1", *, n=200, low=1.0, arm="combined", **changes):
    """A stored result in which the candidate's containment differs from the incumbent's by ``low`` + 4."""
    figures = {"n": n, "latency_ms_p50": 100.0, "latency_ms_p95": 200.0}
    return {
        "id": "e1", "questions": {"n": n},
        "arms": {arm: {**figures, "adapter": candidate}, incumbent: {**figures, "adapter": incumbent}},
        "difference": {
            f"{arm}-{incumbent}": {
                "f1": low + 4, "ci": [low, low + 8], "containment": low + 4, "containment_ci": [low, low + 8]
            }
        },
        **changes,
    }  # fmt: skip


@pytest.fixture
def two(workspace):
    """house@1 live, house@2 a candidate."""
    workspace.store.adapters.add(adapter())
    promote(workspace.store, workspace.model, "house")
    workspace.store.adapters.add(adapter(version=2))
    return workspace


def lines(workspace, **which):
    return [(row.subject, row.event, row.before, row.after, row.actor) for row in workspace.store.stages.list(**which)]


def test_a_promotion_is_logged_with_who_and_why(two):
    promote(two.store, two.model, "house@2", gate=Gate(actor="key ann"))
    newest = two.store.stages.list(subject="house@2")[0]
    assert (newest.event, newest.before, newest.after, newest.actor) == ("promoted", "candidate", "live", "key ann")
    assert newest.reason == "the policy lets it serve"
    assert {reason["rule"] for reason in newest.decision["reasons"]} >= {"parity", "evaluation"}
    assert ("house@1", "retired", "live", "retired", "key ann") in lines(two)
    rollback(two.store, two.model, actor="cli bob", reason="complaints")
    assert lines(two)[:2] == [
        ("house@1", "restored", "retired", "live", "cli bob"),
        ("house@2", "rolled back", "live", "retired", "cli bob"),
    ]
    assert two.store.stages.list()[0].reason == "complaints"


def test_what_was_measured_to_be_no_better_is_refused_and_logged(two):
    two.store.evaluations.add("e1", evaluation(low=-3.0))
    with pytest.raises(PromotionRefused, match="house@2 take the place of house@1") as refused:
        promote(two.store, two.model, "house", gate=Gate(actor="key ann"))
    assert "better" in refused.value.got
    assert "--arms rag,house@1,house@2" in refused.value.hint
    assert two.store.adapters.live(MODEL.sha256).version == 1
    row = two.store.stages.list()[0]
    assert (row.event, row.before, row.after, row.actor) == ("refused", "candidate", "candidate", "key ann")
    done = promote(two.store, two.model, "house", gate=Gate(force=True, reason="a demo today"))
    assert done.live.version == 2
    assert not done.decision.promote
    assert two.store.stages.list()[0].reason == "forced: a demo today"


@pytest.mark.parametrize("arm", ["combined", "house@2"])
def test_the_newest_comparison_of_both_decides(two, arm):
    two.store.evaluations.add("e1", evaluation(low=-30.0))
    two.store.evaluations.add("e2", evaluation(low=2.0, arm=arm))
    two.store.evaluations.add("e3", evaluation("other@1", low=-30.0))
    assert promote(two.store, two.model, "house").live.version == 2


def test_the_sign_of_a_difference_follows_who_is_the_candidate(two):
    turned = evaluation(low=2.0)
    turned["difference"] = {"house@1-combined": turned["difference"]["combined-house@1"]}
    two.store.evaluations.add("e1", turned)
    with pytest.raises(PromotionRefused) as refused:
        promote(two.store, two.model, "house")
    assert "-6.0 points (95 % interval -10.0 to -2.0, 200 questions)" in refused.value.got


@pytest.mark.parametrize("result", [evaluation(arm="tuned", low=-30.0), evaluation(n=19, low=-30.0)])
def test_arms_without_passages_and_few_questions_prove_nothing(two, result):
    two.store.evaluations.add("e1", result)
    assert promote(two.store, two.model, "house").live.version == 2


def test_an_arm_that_failed_proves_nothing(two):
    result = evaluation(low=-30.0)
    result["arms"]["combined"]["failed"] = {"type": "unknown-adapter"}
    two.store.evaluations.add("e1", result)
    assert promote(two.store, two.model, "house").live.version == 2


def test_the_first_adapter_is_compared_with_answers_without_one(workspace):
    workspace.store.adapters.add(adapter())
    workspace.store.evaluations.add("e1", evaluation("house@1", "rag", low=-9.0))
    with pytest.raises(PromotionRefused, match="take the place of rag"):
        promote(workspace.store, workspace.model, "house")


def test_forgetting_keeps_its_own_error(workspace):
    forgot = {"drop": 0.5, "ci": [0.3, 0.7], "margin": 0.1, "passed": False}
    workspace.store.adapters.add(adapter(metrics={**adapter().metrics, "forgetting": forgot}))
    with pytest.raises(ForgettingExceeded):
        promote(workspace.store, workspace.model, "house")


def test_stages_that_cannot_follow_are_typed_errors(two):
    with pytest.raises(IllegalTransition, match="house@1 is live and cannot become shadow"):
        shadow(two.store, two.model, "house@1")
    retire(two.store, "house@2")
    with pytest.raises(IllegalTransition) as refused:
        two.store.adapters.leave("house", 2, "candidate")
    assert "live or shadow" in refused.value.wanted
    assert shadow(two.store, two.model, "house@2").stage == "shadow"
    assert two.store.adapters.leave("house", 2, "candidate").stage == "candidate"


def test_one_adapter_is_in_the_shadow_at_a_time(two):
    two.store.adapters.add(adapter(version=3))
    for version in (2, 3):
        shadow(two.store, two.model, f"house@{version}", actor="cli bob")
    assert [a.stage for a in two.store.adapters.list()] == ["live", "candidate", "shadow"]
    assert two.store.adapters.shadowing(MODEL.sha256).version == 3
    assert promote(two.store, two.model, "house@3").live.version == 3
    assert two.store.adapters.shadowing(MODEL.sha256) is None


def test_a_live_adapter_that_is_retired_leaves_none_and_is_not_brought_back(two):
    retire(two.store, "house@1", actor="cli bob", reason="wrong house")
    assert two.store.adapters.live(MODEL.sha256) is None
    assert lines(two)[0] == ("house@1", "retired", "live", "retired", "cli bob")
    promote(two.store, two.model, "house@2")
    with pytest.raises(NoLiveAdapter):
        rollback(two.store, two.model)


def test_the_log_cannot_be_rewritten(two):
    database = sqlite3.connect(two.state.db)
    for statement in ("DELETE FROM stage_log", "UPDATE stage_log SET actor = 'nobody'"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            database.execute(statement)
    database.close()


def test_promotions_at_once_leave_one_live_adapter_and_a_whole_log(two):
    versions = range(3, 9)
    for version in versions:
        two.store.adapters.add(adapter(version=version))
    threads = [
        threading.Thread(target=promote, args=(two.store, two.model, f"house@{version}")) for version in versions
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    live = [a for a in two.store.adapters.list() if a.stage == "live"]
    assert len(live) == 1
    rows = two.store.stages.list(kind="adapter")
    assert [row.event for row in rows].count("promoted") == 1 + len(versions)
    assert [row.event for row in rows].count("retired") == len(versions)


def test_index_generations_write_the_same_log(indexed):
    first = indexed.store.stages.list(kind="index")[0]
    assert (first.subject, first.event, first.before, first.after) == ("default", "promoted", "", "1")
    assert first.decision["canaries"]["dense"] == [first.decision["chunks"]] * 2
    indexed.ingestor.rebuild("default")
    indexed.ingestor.rollback("default", StageNote("cli bob", "worse"))
    rolled = indexed.store.stages.list(kind="index")[0]
    assert (rolled.event, rolled.before, rolled.after, rolled.actor) == ("rolled back", "2", "1", "cli bob")


def test_http_shows_the_log_the_policy_and_the_decision(indexed):
    for version in (1, 2):
        indexed.store.adapters.add(adapter(version=version))
    _, key = indexed.store.keys.create("ann")
    indexed.store.evaluations.add("e1", evaluation("house@2", "house@1", low=-30.0))
    with open_client(indexed, headers={"authorization": f"Bearer {key}"}) as client:
        assert client.post("/v1/adapters/house@1/promote").json()["decision"]["promote"]
        assert not client.get("/v1/adapters/house/decision").json()["promote"]
        refused = client.post("/v1/adapters/house/promote")
        assert (refused.status_code, refused.json()["type"]) == (409, "promotion-refused")
        forced = client.post("/v1/adapters/house/promote", json={"force": True, "reason": "I say so"})
        assert forced.json()["stage"] == "live"
        illegal = client.post("/v1/adapters/house@2/shadow")
        assert (illegal.status_code, illegal.json()["type"]) == (409, "illegal-transition")
        assert client.post("/v1/adapters/house@1/shadow", json={"reason": "again"}).json()["stage"] == "shadow"
        assert client.get("/v1/adapters/house@1").json()["shadow"]["answers"] == 0
        assert client.post("/v1/adapters/house@1/retire").json()["stage"] == "retired"
        log = client.get("/v1/promotions", params={"kind": "adapter", "subject": "house"}).json()["promotions"]
        assert [row["event"] for row in log] == [
            "retired", "shadowed", "promoted", "retired", "refused", "promoted"
        ]  # fmt: skip
        assert {row["actor"] for row in log} == {"key ann"}
        assert log[2]["reason"] == "forced: I say so"
        assert client.get("/v1/promotions/policy").json()["facts"]["margin"] == 5.0


def test_a_policy_of_ones_own_applies_to_every_way_in(make_workspace, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text("[evaluation]\nrequired = true\n")
    workspace = make_workspace("indexed", promotion_policy=policy)
    workspace.store.adapters.add(adapter())
    with open_client(workspace) as client:
        refused = client.post("/v1/adapters/house/promote").json()
        assert "no comparison with it" in refused["got"]
        policy.write_text("[evaluation]\nrequird = true\n")
        assert client.post("/v1/adapters/house/promote").json()["type"] == "policy-invalid"
