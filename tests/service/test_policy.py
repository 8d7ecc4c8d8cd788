from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data.errors import PolicyInvalid
from data.records import Question
from service.compare.outcomes import Outcome
from service.compare.result import summarize
from service.evidence import compared
from service.policy import Compared, Evidence, Paired, Policy, Shadowed, decide, load_policy, policy_from, questions_for

PARITY = {"greedy_agreement": 1.0, "kl": 0.0, "passed": True}
FORGETTING = {"drop": 0.01, "ci": [-0.01, 0.03], "margin": 0.1, "passed": True}
BETTER = Paired(6.0, 2.0, 10.0, 200)
ALIKE = Paired(0.0, -3.0, 3.0, 200)
COMPARED = Compared(
    "e1", "house@1", 200, containment=ALIKE, f1=ALIKE, style=BETTER, p50_ms=100, p95_ms=300, incumbent_p50_ms=90
)
GOOD = Evidence("house@2", "house@1", parity=PARITY, forgetting=FORGETTING, compared=COMPARED)


def failed(evidence, policy=None):
    return [reason.rule for reason in decide(evidence, policy or Policy()).failed]


def test_all_rules_hold_and_each_is_named_with_figure_and_bound():
    decision = decide(GOOD, Policy())
    assert decision.promote
    assert [r.rule for r in decision.reasons] == [
        "parity", "forgetting", "evaluation", "leaked questions", "facts", "better", "latency"
    ]  # fmt: skip
    facts = next(r for r in decision.reasons if r.rule == "facts")
    assert "-3.0 to +3.0" in facts.figure
    assert "-5" in facts.bound
    assert all(reason.figure and reason.bound for reason in decision.reasons)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"parity": None}, "parity"),
        ({"parity": {**PARITY, "passed": False}}, "parity"),
        ({"forgetting": {**FORGETTING, "ci": [0.3, 0.7], "passed": False}}, "forgetting"),
        ({"compared": replace(COMPARED, containment=Paired(-1, -6, 4, 200))}, "facts"),
        ({"compared": replace(COMPARED, style=ALIKE)}, "better"),
        ({"compared": replace(COMPARED, style=None)}, "better"),
        ({"compared": replace(COMPARED, p50_ms=141)}, "latency"),
        ({"compared": replace(COMPARED, leaked=("q7",))}, "leaked questions"),
    ],
)
def test_each_rule_alone_refuses(changes, rule):
    assert failed(replace(GOOD, **changes)) == [rule]


def test_better_facts_are_enough_without_a_style():
    evidence = replace(GOOD, compared=replace(COMPARED, containment=BETTER, style=None))
    assert decide(evidence, Policy()).promote
    f1 = policy_from({"facts": {"measure": "f1"}})
    assert failed(evidence, f1) == ["better"], "the same evidence, measured by F1, shows no gain"


def test_a_median_that_nobody_notices_is_within_the_budget():
    fast = replace(GOOD, compared=replace(COMPARED, p50_ms=12, incumbent_p50_ms=3))
    assert failed(fast) == []
    assert failed(fast, policy_from({"latency": {"tolerance_ms": 0}})) == ["latency"]


def test_the_margin_itself_is_within_the_margin():
    assert failed(replace(GOOD, compared=replace(COMPARED, containment=Paired(0, -5.0, 5.0, 99)))) == []


def test_what_was_not_measured_passes_unless_it_is_required():
    bare = replace(GOOD, compared=None, forgetting=None)
    assert failed(bare) == []
    assert [r.passed for r in decide(bare, Policy()).reasons] == [True, None, None]
    strict = policy_from({"evaluation": {"required": True}, "forgetting": {"required": True}})
    assert failed(bare, strict) == ["forgetting", "evaluation"]
    few = replace(GOOD, compared=replace(COMPARED, questions=19, style=ALIKE))
    assert failed(few) == []
    assert failed(few, strict) == ["evaluation"]
    assert failed(replace(bare, packaged=True, parity=None), policy_from({"forgetting": {"required": True}})) == []


def test_the_shadow_counts_where_the_policy_asks_for_it():
    wanted = policy_from({"shadow": {"min_answers": 50}})
    assert failed(GOOD, wanted) == ["shadow"]
    assert failed(replace(GOOD, shadow=Shadowed(49, 0, 0, 0)), wanted) == ["shadow"]
    assert failed(replace(GOOD, shadow=Shadowed(50, 0.01, 0.1, 0.1)), wanted) == []
    assert failed(replace(GOOD, shadow=Shadowed(50, 0.1, 0.5, 0.1)), wanted) == [
        "shadow failures",
        "shadow abstentions",
    ]
    assert failed(replace(GOOD, shadow=Shadowed(50, 1.0, 1.0, 0.0))) == []


def test_questions_that_would_prove_non_inferiority():
    assert questions_for(Paired(0.0, -10.0, 10.0, 100), 5.0) == 400
    assert questions_for(Paired(-6.0, -10.0, -2.0, 100), 5.0) is None, "worse by more than the margin"


def test_the_packaged_file_says_what_the_defaults_are():
    assert load_policy() == Policy()


@pytest.mark.parametrize(
    ("text", "got", "hint"),
    [
        ("[facts]\nmargn = 3", "margn", "Did you mean margin for margn?"),
        ("[fact]\nmargin = 3", "fact", "Did you mean facts for fact?"),
        ("[facts]\nmargin = -1", "-1", ""),
        ("[facts]\nmargin = nan", "nan", ""),
        ("[facts]\nmeasure = 'bleu'", "bleu", ""),
        ("[facts]\nmeasure = ['f1']", "f1", ""),
        ("[better]\non = []", "[]", ""),
        ("[better]\non = ['speed']", "speed", ""),
        ("[shadow]\nshare = 2", "2", ""),
        ("[shadow]\nmin_answers = 1.5", "1.5", ""),
        ("[evaluation]\nrequired = 1", "1", ""),
        ("facts = 3", "facts", ""),
        ("[facts", None, ""),
    ],
)
def test_a_policy_that_cannot_be_is_refused(tmp_path, text, got, hint):
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(PolicyInvalid) as refused:
        load_policy(path)
    assert hint in refused.value.hint
    assert got is None or got in str(refused.value.got)


def test_a_policy_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(PolicyInvalid, match="cannot be read"):
        load_policy(tmp_path / "none.toml")


@pytest.mark.slow
def test_an_adapter_that_is_no_better_is_seldom_promoted():
    """A/A: both adapters answer alike at random; each comparison is summarized, gathered and decided as in service."""
    runs, promoted, decisive = 200, 0, 0
    asked = [Question(f"q{i}", f"Question {i}?", ("x",)) for i in range(60)]
    lenient = policy_from({"facts": {"margin": 100.0}})
    for seed in range(runs):
        draw = np.random.default_rng(seed)
        rows = {}
        for arm in ("house@1", "house@2"):
            right = draw.random(len(asked)) < 0.6
            rows[arm] = [
                Outcome(arm, q.id, "x", False, 100.0 * r, bool(r), bool(r), latency_ms=5.0, adapter=arm)
                for q, r in zip(asked, right, strict=True)
            ]
        result = summarize(rows, asked, {})
        decisive += any(row["decisive"] for row in result["difference"].values())
        found = compared(result, "house@2", "house@1")
        promoted += decide(replace(GOOD, compared=found), lenient).promote
    from scipy.stats import binom

    limit = binom.ppf(0.95, runs, 0.05)
    assert decisive <= limit
    assert promoted <= limit
