from __future__ import annotations

import json

import pytest

from data.errors import InvalidRequest
from data.formats import read_questions
from service.jobs import run_job

QUESTIONS = [
    {"id": "q1", "question": "When was the lighthouse of Orrin built?", "answers": ["1842"]},
    {"id": "q2", "question": "What grows in the garden of Tolm?", "answers": ["blue roses"]},
]


def start(client, **changes):
    return client.post("/v1/evaluations", json={"questions": QUESTIONS, **changes})


def test_an_evaluation_is_a_job_with_a_result_and_a_page(client, indexed, generator):
    generator.reply = lambda request: "1842 [1]" if len(request.messages[-1].parts) > 1 else "I don't know."
    response = start(client)
    assert response.status_code == 202
    job_id = response.json()["job_id"]
    assert client.get(f"/v1/evaluations/{job_id}").json()["status"] == "queued"
    assert client.get(f"/v1/evaluations/{job_id}/report").status_code == 404
    job = run_job(indexed, job_id)
    assert job.status == "succeeded", job.error
    result = client.get(f"/v1/evaluations/{job_id}").json()
    assert set(result["arms"]) == {"base", "rag"}
    assert result["arms"]["rag"]["f1"] == 50.0
    assert result["arms"]["base"]["abstained"] == 2
    assert result == client.get(f"/v1/evaluations/{job.outputs['evaluation_id']}").json()
    page = client.get(f"/v1/evaluations/{job_id}/report")
    assert page.headers["content-type"].startswith("text/html")
    assert "<html" in page.text
    assert "rag" in page.text
    assert len(client.get("/v1/evaluations").json()["evaluations"]) == 1


def test_questions_need_no_ids_of_their_own(client, indexed):
    nameless = [{key: value for key, value in row.items() if key != "id"} for row in QUESTIONS]
    response = start(client, questions=[*nameless, nameless[0]])
    assert response.status_code == 202, response.text
    job = indexed.store.jobs.get(response.json()["job_id"])
    ids = [row["id"] for row in job.inputs["questions"]]
    assert len(set(ids)) == 3
    again = indexed.store.jobs.get(start(client, questions=nameless).json()["job_id"])
    assert [row["id"] for row in again.inputs["questions"]] == ids[:2], "the same text has the same id"
    half = rb'{"questions": [{"question": "\ud800", "answers": ["1"]}]}'
    refused = client.post("/v1/evaluations", content=half, headers={"Content-Type": "application/json"})
    assert refused.status_code == 422


def test_the_questions_of_a_file_have_the_same_ids_over_http(client, indexed, tmp_path):
    rows = [{"question": text, "answers": ["1842"]} for text in ("When?", "Since when?", "When?", "When?")]
    rows.insert(1, {"id": 7, "question": "When?", "answers": ["1842"]})
    path = tmp_path / "mine.jsonl"
    path.write_text("\n\n".join(map(json.dumps, rows)))
    rows[1]["id"] = "7"
    job = indexed.store.jobs.get(start(client, questions=rows).json()["job_id"])
    assert [row["id"] for row in job.inputs["questions"]] == [each.id for each in read_questions(path)]


@pytest.mark.parametrize("route", ["evaluations", "calibrations"])
@pytest.mark.parametrize("change", [{"answerable": False}, {"answers": []}, {"answers": [" "]}, {"id": "q1"}])
def test_a_question_that_contradicts_itself_is_named_over_http_as_in_a_file(client, tmp_path, route, change):
    rows = [QUESTIONS[0], {**QUESTIONS[1], **change}]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InvalidRequest) as raised:
        read_questions(path)
    told = client.post(f"/v1/{route}", json={"questions": rows})
    assert told.status_code == 422
    assert told.json()["detail"] == raised.value.detail.replace("mine.jsonl, line 2", "questions, row 2")
    assert [told.json()[name] for name in ("type", "got", "wanted", "hint")] == [
        getattr(raised.value, name) for name in ("type", "got", "wanted", "hint")
    ]
    assert client.get("/v1/jobs").json()["jobs"] == []


def test_an_evaluation_measures_the_style_of_a_house(client, indexed):
    job = run_job(indexed, start(client, style=[f"It is {year}." for year in range(1830, 1840)]).json()["job_id"])
    assert set(job.outputs["style"]["arms"]) == {"base", "rag"}


@pytest.mark.parametrize(
    ("changes", "status", "kind"),
    [
        ({"questions": []}, 409, "no-questions"),
        ({"questions": [QUESTIONS[0], QUESTIONS[0]]}, 422, "invalid-request"),
        ({"arms": ["rga"]}, 422, "unknown-mode"),
        ({"arms": ["tuned"]}, 409, "no-live-adapter"),
        ({"collection": "no"}, 404, "unknown-collection"),
        ({"question": []}, 422, "invalid-request"),
        ({"style": ["Yes.", "No."]}, 422, "invalid-request"),
        ({"questions": [{**QUESTIONS[0], "question": " "}]}, 422, "question-invalid"),
        ({"questions": [QUESTIONS[1], {**QUESTIONS[0], "question": "why " * 30_000}]}, 422, "question-invalid"),
    ],
)
def test_evaluations_that_are_refused_at_once(client, changes, status, kind):
    response = start(client, **changes)
    assert (response.status_code, response.json()["type"]) == (status, kind)
    assert client.get("/v1/jobs").json()["jobs"] == []


def test_a_question_that_cannot_be_asked_is_named_and_no_calibration_queued(client):
    for text in ("", "why " * 30_000):
        response = client.post(
            "/v1/calibrations", json={"questions": [{**QUESTIONS[0], "question": text}], "mode": "rag"}
        )
        assert (response.status_code, response.json()["type"]) == (422, "question-invalid")
        assert "q1" in response.json()["got"]
    assert client.get("/v1/jobs").json()["jobs"] == []


def test_fresh_asks_again_what_was_answered(client, indexed, generator):
    assert run_job(indexed, start(client).json()["job_id"]).status == "succeeded"
    asked = len(generator.requests)
    assert run_job(indexed, start(client).json()["job_id"]).status == "succeeded"
    assert len(generator.requests) == asked
    assert run_job(indexed, start(client, fresh=True).json()["job_id"]).status == "succeeded"
    assert len(generator.requests) == 2 * asked


def test_unknown_evaluations(client, indexed):
    other = client.post("/v1/index/rebuild", json={}).json()["job_id"]
    for name in ("none", other):
        response = client.get(f"/v1/evaluations/{name}")
        assert (response.status_code, response.json()["type"]) == (404, "unknown-evaluation")
