"""Blind comparisons over HTTP and at the command line: nothing gives an arm away before the vote."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.commands.session import Session
from service.compare.preferences import preference, preference_line
from service.compare.statistics import FEWEST_QUESTIONS
from service.workspace import Workspace
from tests.service.parts import MODEL, HashEmbedder, adapter

pytestmark = pytest.mark.slow

QUESTION = "When was the lighthouse of Orrin built?"


@pytest.fixture
def answered(indexed, generator):
    """Return a workspace whose rag says 1842 and whose base model says so from memory, otherwise."""
    generator.reply = lambda request: "It was 1842 [1]" if len(request.messages[-1].parts) > 1 else "In 1900."
    return indexed


def start(client, **changes):
    return client.post("/v1/blind", json={"question": QUESTION, "arms": ["rag", "base"], **changes})


def test_the_reply_tells_two_answers_and_nothing_of_who_gave_them(answered, client):
    trials = [start(client).json() for _ in range(24)]
    orders = {trial["answers"]["A"]["text"] for trial in trials}
    assert orders == {"It was 1842", "In 1900."}, "either arm is A now and then"
    for trial in trials:
        assert sorted(each["text"] for each in trial["answers"].values()) == ["In 1900.", "It was 1842"]
        assert {frozenset(each) for each in trial["answers"].values()} == {frozenset({"text", "abstained"})}
        assert (trial["arms"], trial["vote"]) == (None, None)
        told = json.dumps(trial)
        assert not any(mark in told for mark in ('"rag"', '"base"', "timings", "usage", "confidence", "[1]"))
    sources = [[(s["source"], s["text"]) for s in trial["sources"]] for trial in trials]
    assert all(each == sources[0] for each in sources), "the same beside both, whichever is A"
    assert client.get(f"/v1/blind/{trials[0]['id']}").json() == trials[0]


def test_the_vote_uncovers_the_arms_and_is_counted_once(answered, client):
    trial = start(client).json()
    right = next(letter for letter, each in trial["answers"].items() if "1842" in each["text"])
    voted = client.post(f"/v1/blind/{trial['id']}/vote", json={"vote": right})
    assert voted.status_code == 200
    assert voted.json()["arms"][right]["arm"] == "rag"
    again = client.post(f"/v1/blind/{trial['id']}/vote", json={"vote": "tie"})
    assert (again.status_code, again.json()["type"]) == (409, "conflict")
    found = client.get("/v1/blind").json()
    assert (found["votes"], found["open"]) == (1, 0)
    pair = found["pairs"][0]
    assert (pair["a"]["arm"], pair["b"]["arm"], pair["wins"], pair["losses"]) == ("rag", "base", 1, 0)
    assert pair["p"] == 1.0
    assert not pair["decisive"]


def test_votes_of_either_order_are_of_one_pair(answered, client):
    for arms in (["rag", "base"], ["base", "rag"]) * 4:
        trial = start(client, arms=arms).json()
        right = next(letter for letter, each in trial["answers"].items() if "1842" in each["text"])
        client.post(f"/v1/blind/{trial['id']}/vote", json={"vote": right})
    trial = start(client).json()
    client.post(f"/v1/blind/{trial['id']}/vote", json={"vote": "tie"})
    (pair,) = client.get("/v1/blind").json()["pairs"]
    assert (pair["n"], pair["wins"], pair["losses"], pair["ties"]) == (9, 8, 0, 1)
    assert pair["win_rate"] == 1.0
    assert pair["win_rate_ci"][0] == pytest.approx(0.6756, abs=1e-3)  # Wilson, 8 of 8
    assert pair["p"] == pytest.approx(2 / 2**8)


@pytest.mark.parametrize(
    ("changes", "status", "kind"),
    [
        ({"arms": ["rag"]}, 422, "invalid-request"),
        ({"arms": ["rag", "rag"]}, 422, "invalid-request"),
        ({"arms": ["rag", "rga"]}, 422, "unknown-mode"),
        ({"question": " "}, 422, "question-invalid"),
        ({"collection": "no"}, 404, "unknown-collection"),
    ],
)
def test_what_cannot_be_compared_is_refused_and_nothing_kept(answered, client, changes, status, kind):
    response = start(client, **changes)
    assert (response.status_code, response.json()["type"]) == (status, kind)
    assert client.get("/v1/blind").json()["open"] == 0


def test_unknown_trials_and_votes(client):
    assert client.get("/v1/blind/none").json()["type"] == "unknown-trial"
    assert client.post("/v1/blind/none/vote", json={"vote": "A"}).status_code == 404
    assert client.post("/v1/blind/none/vote", json={"vote": "C"}).status_code == 422


def test_without_names_combined_is_compared_with_rag_where_an_adapter_is_live(answered, client):
    answered.store.adapters.add(adapter())
    answered.store.adapters.promote("house")
    trial = client.post("/v1/blind", json={"question": QUESTION}).json()
    told = client.post(f"/v1/blind/{trial['id']}/vote", json={"vote": "tie"}).json()["arms"]
    assert sorted((arm["arm"], arm["adapter"]) for arm in told.values()) == [("combined", "house@1"), ("rag", None)]


def shell(workspace, *words, typed=""):
    state = workspace.settings.state_dir
    generator = workspace.generator
    session = Session(lambda s: Workspace(s, embedder=HashEmbedder(), generator=generator, model=MODEL))
    return CliRunner().invoke(app, ["--state-dir", str(state), *map(str, words)], obj=session, input=typed)


def test_the_command_takes_votes_and_tells_the_standings(answered, tmp_path):
    questions = tmp_path / "q.jsonl"
    rows = [{"id": str(n), "question": QUESTION, "answers": ["1842"]} for n in range(4)]
    questions.write_text("\n".join(map(json.dumps, rows)))
    done = shell(answered, "blind", "--questions", questions, "--arms", "rag,base", typed="x\na\ns\nb\nq\n")
    assert done.exit_code == 0, done.output
    assert done.stderr.count("A was ") == 2, "two votes, one question skipped"
    before, after = done.stderr.split("A was ", 1)
    assert "rag" not in before
    assert after.startswith(("rag, B was base.", "base, B was rag."))
    assert done.stdout.splitlines()[-1].startswith("rag against base: ")
    told = json.loads(shell(answered, "blind", "--json").stdout)
    assert (told["votes"], told["open"]) == (2, 2)
    assert shell(answered, "blind", "--questions", questions, "--arms", "rag").exit_code == 1


def test_what_votes_show():
    assert preference(0, 0, 3)["win_rate"] is None
    assert preference(0, 0, 3)["p"] == 1.0
    few, many = preference(8, 0, 0), preference(FEWEST_QUESTIONS, 2, 5)
    assert (few["decisive"], many["decisive"]) == (False, True)
    assert preference_line("a", "b", many).endswith("decisive")
    assert "not decisive" in preference_line("a", "b", few)
    assert preference_line("a", "b", preference(0, 0, 1)) == "a against b: 0 won, 0 lost, 1 even"
