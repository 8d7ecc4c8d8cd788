"""What other programs send to a server of OpenAI's protocol, replayed: each reply has what that program reads.

``recorded/langchain.jsonl`` and ``llama-index.jsonl`` hold what these two sent to ``ragtune serve``
with the starter model (their versions stand in each line). ``open-webui.jsonl`` was written after a
changed copy of that program's source (``backend/open_webui/routers/openai.py``), its title task, sampling settings and
embeddings from memory; Open WebUI itself was not run.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "recorded"
LINES = [line for path in sorted(FOLDER.glob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()]
RECORDED = [json.loads(line) for line in LINES]


def names(request):
    return f"{request['client'].split()[0]} {request['case']}"


def replay(client, request):
    return client.request(request["method"], request["path"], headers=request["headers"], json=request["body"])


def test_every_client_was_recorded():
    assert {request["client"].split()[0] for request in RECORDED} == {
        "langchain-openai",
        "llama-index-llms-openai-like",
        "llama-index-embeddings-openai-like",
        "Open",
    }


CHATS = [request for request in RECORDED if request["path"] == "/v1/chat/completions"]
WHOLE = [request for request in CHATS if not request["body"].get("stream")]
STREAMED = [request for request in CHATS if request["body"].get("stream")]
EMBEDDINGS = [request for request in RECORDED if request["path"] == "/v1/embeddings"]


@pytest.mark.parametrize("request_", WHOLE, ids=names)
def test_a_whole_completion_has_what_the_client_reads(client, generator, request_):
    shaped = "response_format" in request_["body"]
    generator.reply = '{"name": "Orrin"}' if shaped else "It was 1842 [1]"
    response = replay(client, request_)
    assert response.status_code == 200, response.text
    body = response.json()
    (choice,) = body["choices"]
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == ('{"name": "Orrin"}' if shaped else "It was 1842 [1]")
    assert body["id"]
    assert body["model"] == request_["body"]["model"]
    assert isinstance(body["created"], int)
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize("request_", STREAMED, ids=names)
def test_a_stream_has_what_the_client_reads(client, generator, request_):
    generator.reply = "It was 1842 [1]"
    response = replay(client, request_)
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    said = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    assert "".join(each["delta"].get("content") or "" for each in said) == "It was 1842 [1]"
    assert said[-1]["finish_reason"] == "stop"
    wanted = (request_["body"].get("stream_options") or {}).get("include_usage", False)
    assert [bool(chunk.get("usage")) for chunk in chunks if not chunk["choices"]] == ([True] if wanted else [])


@pytest.mark.parametrize("request_", EMBEDDINGS, ids=names)
def test_embeddings_have_what_the_client_reads(client, request_):
    body = replay(client, request_).json()
    texts = request_["body"]["input"]
    assert [row["index"] for row in body["data"]] == list(range(1 if isinstance(texts, str) else len(texts)))
    for row in body["data"]:
        vector = row["embedding"]
        packed = request_["body"].get("encoding_format") == "base64"
        assert len(base64.b64decode(vector)) == 4 * 256 if packed else len(vector) == 256
    assert body["usage"]["total_tokens"] > 0


def test_open_webui_finds_the_models_by_their_ids(client):
    (request,) = [each for each in RECORDED if each["path"] == "/v1/models"]
    body = replay(client, request).json()
    assert {"auto", "rag"} <= {model["id"] for model in body["data"]}
    assert all(model["object"] == "model" for model in body["data"])


def test_sampling_settings_reach_the_generator(client, generator):
    (request,) = [each for each in CHATS if names(each) == "langchain-openai sampling"]
    replay(client, request)
    sent, got = request["body"], generator.requests[-1]
    assert (got.temperature, got.max_tokens, got.seed) == (sent["temperature"], 16, sent["seed"])
    assert list(got.stop) == sent["stop"]


def test_tokens_instead_of_texts_are_refused_with_the_way_out(client):
    response = client.post("/v1/embeddings", json={"model": "embedder", "input": [[1, 2, 3]]})
    assert response.status_code == 422
    assert "check_embedding_ctx_length=False" in response.json()["detail"]
