"""A judge over a real socket: both orders, whether they agree, its own answers, nonsense, and a judge that is down."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from data.errors import InvalidRequest
from data.records import Question
from service.cli import app
from service.commands.session import Session
from service.compare.evaluation import EvaluationRequest, evaluate
from service.compare.judge import GIVE_UP, read_verdict, same_model
from service.jobs import run_job
from tests.service.conftest import open_client, small_workspace
from tests.service.engine.fake_server import FakeServer, Refused
from tests.service.parts import MODEL
from tests.service.test_traces import recorded

N = 8
QUESTIONS = tuple(Question(f"q{n}", f"When was lighthouse {n} of Orrin built?", ("1842",)) for n in range(N))
RIGHT, WRONG = "It was 1842", "In 1900."


def prompt(body):
    return body["messages"][1]["content"]


def first(body):
    return re.search(r"Answer 1: (.*?)\n\n", prompt(body), re.DOTALL)[1]


def fair(body):
    """Prefer what holds the accepted answer, whichever is shown first."""
    return json.dumps({"better": "1" if "1842" in first(body) else "2"})


@pytest.fixture
def judge():
    with FakeServer("openai") as server:
        server.models = ("grand-judge",)
        server.reply = fair
        yield server


@pytest.fixture
def answered(indexed, generator):
    generator.reply = lambda request: f"{RIGHT} [1]" if len(request.messages[-1].parts) > 1 else WRONG
    return indexed


def run(workspace, tmp_path, judge, **changes):
    request = EvaluationRequest(QUESTIONS, ("rag", "base"), judge=judge.url, out=tmp_path / "out", **changes)
    return evaluate(workspace, request, lambda _progress: None)


def test_each_pair_is_shown_in_both_orders_and_the_verdict_counted(answered, judge, tmp_path):
    done = run(answered, tmp_path, judge)
    found = done.result["judge"]
    pair = found["pairs"]["rag-base"]
    assert (found["model"], found["unscored"]) == ("grand-judge", None)
    assert (pair["n"], pair["wins"], pair["losses"], pair["ties"]) == (N, N, 0, 0)
    assert (pair["agreement"], pair["first_shown"], pair["unscored"]) == (1.0, 0.5, {})
    assert pair["p"] == pytest.approx(2 / 2**N)
    shown = [first(body) for _, body in judge.seen]
    assert sorted(shown) == [WRONG] * N + [RIGHT] * N
    assert all("Accepted: 1842" in prompt(body) and "[1]" not in prompt(body) for _, body in judge.seen)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<h2>Judge</h2>" in page
    assert "grand-judge saw each pair" in page


def test_each_judgment_is_a_span(answered, judge, tmp_path):
    with recorded() as exporter:
        run(answered, tmp_path, judge)
    asked = [span for span in exporter.get_finished_spans() if span.name == "chat grand-judge"]
    assert len(asked) == len(judge.seen) > 0
    about = asked[0].attributes
    assert (about["gen_ai.operation.name"], about["ragtune.purpose"]) == ("chat", "judge")
    assert about["gen_ai.output.type"] == "json"


def test_a_judge_that_always_takes_the_first_is_found_out(answered, judge, tmp_path):
    judge.reply = lambda body: '{"better": "1"}'
    pair = run(answered, tmp_path, judge).result["judge"]["pairs"]["rag-base"]
    assert (pair["wins"], pair["losses"], pair["ties"]) == (0, 0, N)
    assert (pair["agreement"], pair["first_shown"], pair["win_rate"]) == (0.0, 1.0, None)


def test_what_was_judged_is_not_asked_again(answered, judge, tmp_path):
    run(answered, tmp_path, judge)
    kept = tmp_path / "out" / "judgments.jsonl"
    whole = kept.read_text().splitlines()
    assert len(whole) == 2 * N
    kept.write_text("\n".join(whole[:-1]) + "\n" + whole[-1][:20])  # a crash cut the last line short
    pair = run(answered, tmp_path, judge).result["judge"]["pairs"]["rag-base"]
    assert len(judge.seen) == 2 * N + 1
    assert pair["wins"] == N
    assert sorted(kept.read_text().splitlines()) == sorted(whole)


def test_nonsense_is_unscored_and_never_a_number(answered, judge, tmp_path):
    judge.reply = lambda body: "Both have their merits." if "lighthouse 3" in prompt(body) else fair(body)
    pair = run(answered, tmp_path, judge).result["judge"]["pairs"]["rag-base"]
    assert (pair["n"], pair["unscored"]) == (N - 1, {"no verdict in what the judge said": 1})
    judge.reply = lambda body: "1"
    nothing = run(answered, tmp_path / "other", judge).result
    pair = nothing["judge"]["pairs"]["rag-base"]
    assert (pair["n"], pair["win_rate"], pair["agreement"], pair["first_shown"]) == (0, None, None, None)
    assert pair["unscored"] == {"no verdict in what the judge said": N}
    assert "NaN" not in json.dumps(nothing)


def test_a_judge_that_goes_down_half_way_leaves_the_rest_unscored(answered, judge, tmp_path):
    def fails(body):
        if len(judge.seen) > 4:
            raise Refused(503, {"error": {"message": "down"}})
        return fair(body)

    judge.reply = fails
    pair = run(answered, tmp_path, judge).result["judge"]["pairs"]["rag-base"]
    assert (pair["n"], pair["wins"]) == (2, 2)
    assert sum(pair["unscored"].values()) == N - 2
    assert any(reason.startswith("the judge is down") for reason in pair["unscored"])
    assert len(judge.seen) <= 4 + GIVE_UP


def test_a_judge_that_is_not_there_leaves_the_evaluation_whole(answered, tmp_path):
    nobody = "http://127.0.0.1:9/v1"
    request = EvaluationRequest(QUESTIONS, ("rag", "base"), judge=nobody, out=tmp_path / "out")
    done = evaluate(answered, request, lambda _progress: None)
    assert done.result["arms"]["rag"]["n"] == N
    assert done.result["judge"]["pairs"] == {}
    assert done.result["judge"]["unscored"].startswith("engine-unavailable")
    assert "Unscored: engine-unavailable" in (tmp_path / "out" / "index.html").read_text()


def test_equal_answers_are_even_without_asking(answered, generator, judge, tmp_path):
    generator.reply = RIGHT
    pair = run(answered, tmp_path, judge).result["judge"]["pairs"]["rag-base"]
    assert (pair["ties"], pair["same"], pair["agreement"], judge.seen) == (N, N, None, [])


@pytest.mark.parametrize("models", [("scripted",), ("org/Scripted-GGUF:q4_k_m",), ("base", "rag", "auto", "house")])
def test_no_model_judges_its_own_answers(answered, generator, judge, tmp_path, models):
    judge.models = models
    with pytest.raises(InvalidRequest, match="its own answers"):
        run(answered, tmp_path, judge, judge_model=models[0])
    assert generator.requests == [], "refused before anything was asked"


def test_names_of_one_model():
    model = replace(MODEL, name="Qwen2.5-1.5B-Instruct", source="Qwen/Qwen2.5-1.5B-Instruct", gguf="/m/x.q8_0.gguf")
    assert same_model("qwen2.5-1.5b-instruct:q4_k_m", model)
    assert same_model("bartowski/Qwen2.5-1.5B-Instruct-GGUF", model)
    assert not same_model("Qwen/Qwen2.5-7B-Instruct", model)
    assert not same_model("", model)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"better": "1"}', "first"),
        ('Sure:\n```json\n{"better": "2"}\n```', "second"),
        ('{"better": "tie"}', "tie"),
        ('{"better": 1}', "first"),
        ('{"better": "1"} {"better": "2"}', None),
        ('{"better": "3"}', None),
        ("2", None),
        ("", None),
    ],
)
def test_a_verdict_is_read_or_it_is_none(text, said):
    assert read_verdict(text) == said


def test_over_http_the_operator_s_judge_judges(make_workspace, generator, judge):
    generator.reply = lambda request: f"{RIGHT} [1]" if len(request.messages[-1].parts) > 1 else WRONG
    body = {"questions": [{"id": q.id, "question": q.question, "answers": q.answers} for q in QUESTIONS[:2]]}
    workspace = make_workspace("indexed", judge_url=judge.url)
    with open_client(workspace) as client:
        job = run_job(workspace, client.post("/v1/evaluations", json={**body, "judge": True}).json()["job_id"])
    assert job.outputs["judge"]["pairs"]["rag-base"]["wins"] == 2


def test_over_http_without_a_judge_it_is_refused(client):
    body = {"questions": [{"id": "q", "question": "When?", "answers": ["1842"]}], "judge": True}
    response = client.post("/v1/evaluations", json=body)
    assert (response.status_code, response.json()["type"]) == (422, "invalid-request")
    assert "RAGTUNE_JUDGE_URL" in response.json()["hint"]
    assert client.get("/v1/jobs").json()["jobs"] == []


def test_the_command_names_a_judge_and_prints_what_it_says(answered, generator, judge, tmp_path):
    questions = tmp_path / "q.jsonl"
    rows = [{"id": q.id, "question": q.question, "answers": q.answers} for q in QUESTIONS]
    questions.write_text("\n".join(map(json.dumps, rows)))
    state = answered.settings.state_dir
    answered.close()
    session = Session(lambda settings: small_workspace(settings.state_dir, generator))
    words = ["compare", "--questions", str(questions), "--arms", "rag,base", "--judge", judge.url]
    done = CliRunner().invoke(app, ["--state-dir", str(state), *words], obj=session)
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert "Judge grand-judge, each pair of answers in both orders" in said
    assert f"rag against base: {N} won, 0 lost, 0 even" in said
    assert "the orders agree on 100 %" in said
