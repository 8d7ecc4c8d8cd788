from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data.records import Question
from service.answerer import AskRequest, PassagesFound
from service.calibration.calibrate import CalibrationRequest, calibrate
from service.compare.evaluation import EvaluationRequest, evaluate
from service.compare.outcomes import Outcome
from service.compare.router import fit_router, router_of
from tests.service.parts import adapter

pytestmark = pytest.mark.slow

IDS = {"rag": "r", "combined": "c"}


def outcome(arm, number, right, confidence):
    return Outcome(arm, f"q{number}", "x", False, 100.0 * right, right, right, confidence=confidence)


def simulated(seed, n=200, *, apart=True):
    """Two arms of equal strength; where ``apart`` each is right of its own half of the questions and knows it."""
    generator = np.random.default_rng(seed)
    questions = tuple(Question(f"q{i}", "?", ("x",), document=f"d{i % 10}") for i in range(n))
    rows = {"rag": [], "combined": []}
    for i in range(n):
        for arm, own in (("rag", 0), ("combined", 1)):
            chance = (0.9 if i // 10 % 2 == own else 0.2) if apart else 0.55
            sure = chance if apart else generator.random()
            rows[arm].append(outcome(arm, i, bool(generator.random() < chance), float(sure)))
    return rows, questions


def test_arms_that_know_different_things_are_routed():
    rows, questions = simulated(1)
    found = fit_router(rows, questions, IDS)
    assert found["enabled"]
    held = found["held_out"]
    assert held["gain_ci"][0] > 0
    assert held["best_single_f1"] + 20 < held["f1"] <= held["oracle_f1"]
    for name in ("f1", "best_single_f1", "oracle_f1"):
        low, high = held[f"{name}_ci"]
        assert low < held[name] < high
        assert high - low == pytest.approx(4 * 100 * np.sqrt(held[name] / 100 * (1 - held[name] / 100) / 200), rel=0.15)
    router = router_of({"router": found})
    assert router is not None
    assert router.takes_second(0.1, 0.9)
    assert not router.takes_second(0.95, 0.99)
    assert not router.takes_second(0.1, None)
    assert router.takes_second(None, 0.1)


def test_a_router_that_gains_nothing_is_off():
    enabled = 0
    for seed in range(40):
        found = fit_router(*simulated(seed, 100, apart=False), IDS)
        enabled += found["enabled"]
        assert found["enabled"] or "not measured to be better" in found["reason"]
        assert found["enabled"] or router_of({"router": found}) is None
    assert enabled <= 2


@pytest.mark.parametrize(
    ("calibrations", "n", "reason"), [({"rag": "r"}, 200, "two calibrated arms"), (IDS, 20, "too few")]
)
def test_what_cannot_be_routed_says_why(calibrations, n, reason):
    found = fit_router(*simulated(1, n), calibrations)
    assert not found["enabled"]
    assert reason in found["reason"]
    assert router_of({}) is None


def number(request):
    return int(request.messages[-1].parts[-1].split("statue ")[1].split()[0])


def knows(request):
    """With the adapter every fourth question is known, without it the other three, but for a few."""
    return (number(request) % 4 == 0) == bool(request.adapter) and number(request) % 13 != 0


@pytest.fixture
def routed(make_workspace, generator, tmp_path):
    """A workspace whose two arms know different things, calibrated and evaluated."""
    generator.reply = lambda request: f"{1700 + number(request)} [1]" if knows(request) else "1600 [1]"
    generator.logprob = lambda request: -0.1 if knows(request) else -2.0
    workspace = make_workspace()
    path = tmp_path / "town.md"
    path.write_text("\n\n".join(f"Statue {n} was cast in {1700 + n}." for n in range(80)), encoding="utf-8")
    workspace.ingestor.ingest("default", [path])
    workspace.store.adapters.add(adapter())
    workspace.store.adapters.promote("house")
    questions = tuple(Question(f"q{n}", f"When was statue {n} cast?", (str(1700 + n),)) for n in range(80))
    far = tuple(Question(f"u{n}", f"When was statue {n} cast?", (), answerable=False) for n in range(900, 905))
    for mode in ("rag", "combined"):
        calibrate(workspace, CalibrationRequest((*questions, *far), mode=mode), lambda _progress: None)
    request = EvaluationRequest(questions, arms=("rag", "combined"), out=tmp_path / "out")
    result = evaluate(workspace, request, lambda _progress: None).result
    assert result["router"]["enabled"], result["router"]
    return workspace


def test_auto_takes_the_arm_that_knows_and_asks_the_second_only_then(routed, generator):
    sure, helped = (routed.answerer.answer(AskRequest(f"When was statue {n} cast?")) for n in (9, 8))
    assert (sure.text, sure.mode) == ("1709 [1]", "rag")
    assert (helped.text, helped.mode, helped.adapter) == ("1708 [1]", "combined", "house@1")
    assert routed.store.answers.get(helped.id).answer == helped
    before = len(generator.requests)
    routed.answerer.answer(AskRequest("When was statue 9 cast?"))
    assert len(generator.requests) == before + 1
    first, token, answer = routed.answerer.stream(AskRequest("When was statue 8 cast?"))
    assert isinstance(first, PassagesFound)
    assert token.text == answer.text == "1708 [1]"


def test_a_router_of_other_artefacts_is_not_followed(routed, generator):
    before = len(generator.requests)
    answer = routed.answerer.answer(AskRequest("When was statue 8 cast?", top_k=2))
    assert len(generator.requests) == before + 1
    assert answer.mode == "rag"
    routed.store.adapters.add(replace(adapter(), version=2))
    routed.store.adapters.promote("house", 2)
    assert routed.answerer.answer(AskRequest("When was statue 9 cast?")).mode == "combined"
    named = routed.answerer.answer(AskRequest("When was statue 8 cast?", mode="rag"))
    assert (named.mode, named.text) == ("rag", "1600")


def test_withheld_answers_make_no_router():
    rows, questions = simulated(0)
    assert fit_router(rows, questions, IDS)["enabled"]
    rows["rag"][0] = replace(rows["rag"][0], abstained_by="confidence")
    found = fit_router(rows, questions, IDS)
    assert not found["enabled"]
    assert "max_false_answer_rate" in found["reason"]
