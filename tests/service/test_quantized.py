"""Arms in several quantizations: what they are called, what is refused, and the real starter in two types."""

from __future__ import annotations

import json

import pytest

from data.errors import InvalidRequest, JobCancelled
from data.model_files import file_type
from data.records import Question
from service.arms import Arm
from service.calibration.kept import can_calibrate
from service.compare.evaluation import EvaluationRequest, evaluate
from service.compare.outcomes import read_outcomes
from service.compare.quantized import quantizations
from service.compare.run import MOST_ARMS, with_methods, with_quantizations
from service.settings import Settings
from service.workspace import Workspace
from tests.service.conftest import small_workspace
from tests.service.parts import DOCUMENTS

ARMS = (Arm("base", passages=False), Arm("rag", passages=True))
QUESTIONS = (
    Question("built", "When was the lighthouse of Orrin built?", ("1842",)),
    Question("keeper", "Who was the keeper of the lighthouse?", ("Mara Venn",)),
)


def ignore(_progress):
    pass


def test_arms_are_multiplied_and_what_serves_keeps_its_names():
    both = with_quantizations(with_methods(ARMS, ["hybrid", "dense"]), {"": "", ":Q4_K_M": "q4_k_m"})
    assert [arm.name for arm in both] == [
        "base", "rag", "rag:dense", "base:Q4_K_M", "rag:Q4_K_M", "rag:dense:Q4_K_M",
    ]  # fmt: skip
    assert {arm.quantization for arm in both[3:]} == {"q4_k_m"}
    assert can_calibrate(both[1])
    assert not can_calibrate(both[4]), "a calibration is of what serves"


def test_more_arms_than_can_be_compared_are_refused():
    many = [Arm(f"adapter{i}", passages=True) for i in range(MOST_ARMS // 2 + 1)]
    with pytest.raises(InvalidRequest, match="at most 48"):
        with_quantizations(many, {"": "", ":Q4_0": "q4_0"})


@pytest.mark.parametrize("wanted", [("q3_k",), ("Q8_0", "q8_0"), ("f16", "bf16", "q8_0", "q6_k", "q4_0")])
def test_unknown_repeated_and_too_many_types_are_refused(workspace, wanted):
    with pytest.raises(InvalidRequest, match="no quantizations to compare"):
        quantizations(workspace, wanted)


def test_another_server_s_weights_cannot_be_quantized_here(tmp_path, generator):
    with small_workspace(tmp_path / "state", generator, engine_url="http://127.0.0.1:9/v1") as workspace:
        assert quantizations(workspace, ()) == {"": ""}
        with pytest.raises(InvalidRequest, match="RAGTUNE_ENGINE_URL"):
            quantizations(workspace, ("q4_0",))


def test_the_route_refuses_them_before_a_job_is_queued(client):
    body = {"questions": [{"id": "q", "question": "When?", "answers": ["1842"]}], "quantizations": ["q3_k"]}
    response = client.post("/v1/evaluations", json=body)
    assert (response.status_code, response.json()["type"]) == (422, "invalid-request")
    assert client.get("/v1/jobs").json()["jobs"] == []


@pytest.mark.slow
def test_the_starter_answers_in_two_types_and_a_stopped_run_goes_on(tmp_path):
    for name, text in DOCUMENTS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    settings = Settings.load(state_dir=tmp_path / "state", model="starter", embedder="starter", sequences=1)
    request = EvaluationRequest(
        QUESTIONS, ("rag", "combined"), "reader", top_k=1, max_tokens=4, out=tmp_path / "out",
        quantizations=("Q8_0", "Q4_0"),
    )  # fmt: skip

    def stop(progress):
        if progress.done == 5:  # within the second type
            raise JobCancelled("stop")

    with Workspace(settings) as workspace:
        assert file_type(workspace.model.meta) == "q8_0"
        workspace.ensure_starter_adapters()
        workspace.ingestor.ingest("default", [tmp_path / name for name in DOCUMENTS])
        with pytest.raises(JobCancelled):
            evaluate(workspace, request, stop)
        kept = read_outcomes(tmp_path / "out" / "answers.jsonl")
        assert len(kept) == 5
        done = evaluate(workspace, request, ignore)
        smaller = workspace.models.quantized(workspace.model, "q4_0")
    arms = done.result["arms"]
    assert list(arms) == ["rag", "combined", "rag:Q4_0", "combined:Q4_0"]
    assert {row["n"] for row in arms.values()} == {2}
    assert (arms["rag"]["quantization"], arms["combined:Q4_0"]["quantization"]) == ("q8_0", "q4_0")
    assert arms["combined:Q4_0"]["adapter"].startswith("reader@")
    assert smaller.meta["gguf_bytes"] < 0.7 * workspace.model.meta["gguf_bytes"]
    assert "q4_0</span>" in (tmp_path / "out" / "index.html").read_text()
    answered = {(row["arm"], row["question_id"]) for row in lines(tmp_path / "out" / "answers.jsonl")}
    assert len(answered) == 8
    assert done.result["recommendation"] is None


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]
