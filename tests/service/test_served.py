"""The real starter behind a real server process, asked with plain HTTP and with the official openai client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import httpx
import openai
import pytest
from pydantic import BaseModel

from service.starter import starter_folder
from tests.service.parts import DOCUMENTS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KEY = "rt-test"

SERVER = """
from service.serve import serve
from service.settings import Settings
from service.workspace import Workspace
serve(Workspace(Settings.load()), on_ready=lambda url: print(url, flush=True))
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    state = tmp_path_factory.mktemp("served") / "state"
    environment = {
        **os.environ, "RAGTUNE_STATE_DIR": str(state), "RAGTUNE_PORT": "0", "RAGTUNE_API_KEY": KEY,
    }  # fmt: skip
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            assert process.wait(60) == 0


@pytest.fixture(scope="module")
def http(url):
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=180) as client:
        yield client


def outcome(http, response):
    """Follow the job that a request became to its end; return it."""
    assert response.status_code == 202, response.text
    job_id = response.json()["job_id"]
    with http.stream("GET", f"/v1/jobs/{job_id}/events") as events:
        for _ in events.iter_lines():
            pass
    job = http.get(f"/v1/jobs/{job_id}").json()
    assert job["status"] == "succeeded", job
    return job


@pytest.fixture(scope="module")
def documents(http):
    files = [("files", (name, text.encode())) for name, text in DOCUMENTS.items()]
    job = outcome(http, http.post("/v1/documents", files=files))
    return {row["source"]: row["id"] for row in job["outputs"]["indexed"]}


@pytest.fixture(scope="module")
def client(url, documents):
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=180) as client:
        yield client


MESSAGES = [{"role": "user", "content": "When was the lighthouse of Orrin built?"}]


def test_uploaded_documents_are_found_and_answered_from(http, documents):
    (passage, *_) = http.post("/v1/search", json={"query": "Who kept the lighthouse?"}).json()["passages"]
    assert passage["document_id"] == documents["lighthouse.md"]
    body = http.post("/v1/answers", json={"question": MESSAGES[0]["content"], "max_tokens": 24}).json()
    assert (body["mode"], body["model"]) == ("rag", "starter")
    assert body["usage"]["prompt_tokens"] > 50
    assert body["confidence"] is None
    assert http.get("/readyz").json()["status"] == "ready"


def test_the_official_client_lists_models(client):
    assert {"auto", "rag", "base", "starter", "embedder"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("rag").id == "rag"


def test_the_official_client_chats(client):
    done = client.chat.completions.create(model="rag", messages=MESSAGES, max_tokens=24)
    assert done.choices[0].message.content
    assert done.choices[0].finish_reason in ("stop", "length")
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
    assert done.model_extra["ragtune"]["mode"] == "rag"


def test_the_official_client_streams_what_it_would_get_whole(client):
    settings = {"model": "rag", "messages": MESSAGES, "max_tokens": 16, "temperature": 0, "seed": 1}
    whole = client.chat.completions.create(**settings)
    pieces, usage = [], None
    stream = client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        usage = chunk.usage or usage
        pieces += [choice.delta.content or "" for choice in chunk.choices]
    assert "".join(pieces).strip() == whole.choices[0].message.content
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_the_official_client_talks_to_the_base_model(client):
    done = client.chat.completions.create(
        model="starter", messages=[{"role": "user", "content": "Say hi."}], max_tokens=8
    )
    assert done.choices[0].message.content
    assert "ragtune" not in (done.model_extra or {})


CAPITAL = {
    "model": "starter", "messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 12,
}  # fmt: skip


def test_the_official_client_reads_log_probabilities(client):
    (choice,) = client.chat.completions.create(**CAPITAL, logprobs=True, top_logprobs=3).choices
    tokens = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == choice.message.content
    assert "".join(token.token for token in tokens) == choice.message.content
    assert all(len(token.top_logprobs) == 3 for token in tokens)
    assert all(token.logprob == token.top_logprobs[0].logprob <= 0 for token in tokens)  # greedy
    streamed = []
    for chunk in client.chat.completions.create(**CAPITAL, logprobs=True, top_logprobs=3, stream=True):
        streamed += [token for part in chunk.choices if part.logprobs for token in part.logprobs.content]
    assert streamed == tokens
    (arm,) = client.chat.completions.create(model="rag", messages=MESSAGES, max_tokens=8, logprobs=True).choices
    assert arm.logprobs.content


class City(BaseModel):
    city: Literal["Paris", "Rome"]
    inhabitants: bool


def test_the_official_client_gets_the_format_it_asks_for(client):
    asked = {**CAPITAL, "max_tokens": 60}
    parsed = client.chat.completions.parse(**asked, response_format=City).choices[0].message.parsed
    assert parsed.city in ("Paris", "Rome")
    schema = {"name": "year", "schema": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2}}
    form = {"type": "json_schema", "json_schema": schema}
    for stream in (False, True):
        done = client.chat.completions.create(**asked, response_format=form, stream=stream)
        parts = [c.choices[0].delta.content or "" for c in done] if stream else [done.choices[0].message.content]
        assert {type(value) for value in json.loads("".join(parts))} == {bool}
    done = client.chat.completions.create(**asked, response_format={"type": "json_object"})
    assert done.choices[0].message.content.lstrip().startswith("{")
    done = client.chat.completions.create(**asked, extra_body={"grammar": 'root ::= "yes" | "no"'})
    assert done.choices[0].message.content in ("yes", "no")


def test_the_official_client_sets_every_knob(client):
    knobs = {
        "temperature": 1.0, "top_p": 0.9, "seed": 5, "presence_penalty": 0.5, "frequency_penalty": 0.5,
        "extra_body": {"top_k": 20, "min_p": 0.02, "repeat_penalty": 1.1},
    }  # fmt: skip
    first, again = (client.chat.completions.create(**CAPITAL, **knobs) for _ in range(2))
    assert first.choices[0].message.content == again.choices[0].message.content
    assert again.usage.prompt_tokens_details.cached_tokens > 0
    other = client.chat.completions.create(**CAPITAL, **{**knobs, "seed": 6, "temperature": 2.0})
    assert other.choices[0].message.content != first.choices[0].message.content
    plain = client.chat.completions.create(**CAPITAL).choices[0].message.content
    word = plain.split()[2]
    (cut,) = client.chat.completions.create(**CAPITAL, stop=[word, "never"]).choices
    assert (cut.message.content, cut.finish_reason) == (plain[: plain.index(word)], "stop")
    banned = client.chat.completions.create(**CAPITAL, logit_bias={str(n): -100 for n in range(200, 1200)})
    assert banned.choices[0].message.content != plain
    short = client.chat.completions.create(**{**CAPITAL, "max_completion_tokens": 2})
    assert (short.usage.completion_tokens, short.choices[0].finish_reason) == (2, "length")
    assert short.model_extra["timings"]["predicted_n"] == 2
    with pytest.raises(openai.UnprocessableEntityError, match="n must be 1"):
        client.chat.completions.create(**CAPITAL, n=2)


def test_the_official_client_embeds(client):
    found = client.embeddings.create(model="embedder", input=["red cliff", "a cliff of red rock", "blue roses"])
    same, near, far = (row.embedding for row in found.data)
    assert len(same) == 384

    def dot(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert dot(same, near) > dot(same, far)


def test_the_official_client_raises_its_own_errors(client, url):
    with pytest.raises(openai.UnprocessableEntityError, match="gpt-9"):
        client.chat.completions.create(model="gpt-9", messages=MESSAGES)
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0) as other,
        pytest.raises(openai.AuthenticationError),
    ):
        other.models.list()


@pytest.mark.usefixtures("documents")
def test_pairs_come_and_go_through_jobs(http):
    rows = [{"id": "q1", "question": "When was the lighthouse of Orrin built?", "answers": ["1842"]}]
    brought = outcome(http, http.post("/v1/pairs/import", json={"rows": rows}))
    assert brought["outputs"] == {"imported": 1, "known": 0, "failed": [], "failed_count": 0}
    made = outcome(http, http.post("/v1/pairs/export", json={"eval_share": 0}))
    assert made["outputs"]["train"] >= 1
    served = http.get("/v1/pairs/export", params={"eval_share": 0, "split": "train"})
    assert len(served.content) == made["outputs"]["files"]["train.jsonl"]


def test_an_adapter_that_is_imported_can_be_promoted(http):
    folder = starter_folder() / "reader"
    names = ("adapter_model.safetensors", "adapter_config.json")
    files = [("files", (name, (folder / name).read_bytes())) for name in names]
    job = outcome(http, http.post("/v1/adapters/import", files=files, data={"name": "brought"}))
    assert job["outputs"]["parity"]["ids_equal"]
    promoted = http.post("/v1/adapters/brought/promote").json()
    assert (promoted["name"], promoted["stage"]) == ("brought", "live")
    assert http.delete("/v1/adapters/brought").json() == {"deleted": ["brought@1"]}
