"""The real starter behind a real server process, asked with plain HTTP and with the official openai client."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import openai
import pytest

from service.starter import starter_folder
from tests.service.conftest import DOCUMENTS

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
    assert 0 < body["confidence"] <= 1
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
    assert brought["outputs"] == {"imported": 1, "known": 0, "failed": []}
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
