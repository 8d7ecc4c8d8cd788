"""The real engine behind a real server: what clients see of its faults, its settings and its counts."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.settings import Settings
from service.workspace import Workspace
from tests.service.conftest import real_server
from tests.service.parts import DOCUMENTS, HashEmbedder, wait_until

pytestmark = pytest.mark.slow

QUESTION = "When was the lighthouse of Orrin built?"
LONG = {
    "model": "base", "messages": [{"role": "user", "content": "Count from one to ten thousand."}], "max_tokens": 1900,
    "grammar": 'root ::= ("one " | "two ") root', "stream": True,
}  # fmt: skip
"""Under a grammar without an end, so that it takes all of its tokens."""
N_CTX = 2048


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    root = tmp_path_factory.mktemp("engine")
    for name, text in DOCUMENTS.items():
        (root / name).write_text(text, encoding="utf-8")
    settings = Settings.load(
        state_dir=root / "state", n_ctx=N_CTX, n_threads=2, sequences=1, queue_size=1, log_level="WARNING"
    )
    with Workspace(settings, embedder=HashEmbedder()) as workspace:
        workspace.ingestor.ingest("default", [root / name for name in DOCUMENTS])
        workspace.ensure_starter_adapters()
        workspace.warm()
        yield workspace


@pytest.fixture(scope="module")
def client(workspace):
    with real_server(workspace) as url, httpx.Client(base_url=url, timeout=120) as client:
        yield client


def counts(client):
    """Return the engine's series by name (and tier)."""
    return {
        (sample.name.removeprefix("ragtune_engine_") + "".join(f" {tier}" for tier in sample.labels.values())): (
            sample.value
        )
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name.startswith("ragtune_engine_")
    }


def chat(client, **body):
    sent = {"model": "base", "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 4, **body}
    return client.post("/v1/chat/completions", json=sent)


def told(line):
    return json.loads(line.removeprefix("data: "))


def begin(client, stack):
    """Begin a long text and return its lines; it is being written when this returns."""
    response = stack.enter_context(client.stream("POST", "/v1/chat/completions", json=LONG))
    assert response.status_code == 200
    # The stack holds the lines: a response whose lines nobody holds is closed.
    lines = stack.enter_context(closing(line for line in response.iter_lines() if line))
    while not told(next(lines))["choices"][0]["delta"].get("content"):
        pass
    return lines


def idle(client):
    found = counts(client)
    return (found["running_requests"], found["waiting_requests"]) == (0, 0)


def test_the_counts_are_those_of_the_requests(client):
    before = counts(client)
    usage = chat(client, max_tokens=6).json()["usage"]
    after = counts(client)
    assert after["up"] == 1
    assert after["streams"] == 1
    assert after["requests_started_total"] - before["requests_started_total"] == 1
    assert after["prompt_tokens_total"] - before["prompt_tokens_total"] == usage["prompt_tokens"]
    assert (
        after["cached_prompt_tokens_total"] - before["cached_prompt_tokens_total"]
        == (usage["prompt_tokens_details"]["cached_tokens"])
    )
    assert after["prefill_seconds_total"] > before["prefill_seconds_total"]
    assert after["decode_tokens_total"] > before["decode_tokens_total"]
    assert {"kv_hits_total memory", "kv_hits_total disk", "kv_bytes memory", "kv_bytes disk"} <= set(after)


def test_a_full_queue_is_a_429_and_those_who_leave_make_room(client):
    before = counts(client)["requests_cancelled_total"]
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        begin(client, stack)
        waiting = pool.submit(chat, client, messages=LONG["messages"])
        wait_until(lambda: counts(client)["waiting_requests"] == 1)
        assert counts(client)["batch_occupancy_ratio"] == 1
        for route, body in (
            ("chat/completions", LONG),
            ("chat/completions", {**LONG, "stream": False}),
            ("answers", {"question": QUESTION}),
            ("answers", {"question": QUESTION, "stream": True}),
        ):
            refused = client.post(f"/v1/{route}", json=body)
            assert (refused.status_code, refused.json()["type"]) == (429, "engine-busy")
            assert int(refused.headers["Retry-After"]) >= 1
        stack.close()  # the first one leaves in the middle of its text
        assert waiting.result(60).status_code == 200
    wait_until(lambda: idle(client))
    assert counts(client)["requests_cancelled_total"] - before == 1


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_while_it_waits_frees_its_place(client, workspace, stream):
    """Neither of the two has been sent a byte when its client gives up."""
    before = counts(client)["requests_cancelled_total"]
    with ExitStack() as stack:
        begin(client, stack)
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/chat/completions", json={**LONG, "stream": stream}, timeout=0.5)
        wait_until(lambda: counts(client)["waiting_requests"] == 0)
        assert counts(client)["running_requests"] == 1
    wait_until(lambda: idle(client))
    assert counts(client)["requests_cancelled_total"] - before == 2


def test_an_engine_that_dies_fails_what_runs_and_comes_back(client, workspace):
    before = counts(client)["restarts_total"]
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        lines = begin(client, stack)
        waiting = pool.submit(client.post, "/v1/answers", json={"question": QUESTION, "mode": "base"})
        wait_until(lambda: counts(client)["waiting_requests"] == 1)
        os.kill(workspace.generator.pid, signal.SIGKILL)
        *_, last = lines
        assert told(last)["error"]["type"] == "engine-unavailable"
        assert told(last)["error"]["code"] == 503
        failed = waiting.result(60)
        assert (failed.status_code, failed.json()["type"]) == (503, "engine-unavailable")
        assert int(failed.headers["Retry-After"]) >= 1
    down = counts(client)
    assert down["up"] == 0
    assert "running_requests" not in down
    assert counts(client)["up"] == 0  # to ask did not start it
    assert chat(client).status_code == 200
    back = counts(client)
    assert (back["up"], back["restarts_total"] - before) == (1, 1)


def test_an_answer_that_is_streamed_ends_in_an_error_when_the_engine_dies(client, workspace):
    sent = {"question": "Count to a thousand.", "mode": "base", "max_tokens": 1900, "stream": True}
    with client.stream("POST", "/v1/answers", json=sent) as response:
        lines = (line for line in response.iter_lines() if line)
        while next(lines) != "event: token":
            pass
        os.kill(workspace.generator.pid, signal.SIGKILL)
        *_, event, data = lines
    assert (event, told(data)["type"], told(data)["status"]) == ("event: error", "engine-unavailable", 503)
    assert chat(client).status_code == 200


@pytest.mark.parametrize(
    "body",
    [{"grammar": r"root ::= [^\x00-\U0010FFFF]"}, {"grammar": "root ::= (((("}, {"grammar": "root ::= nothing"},
     {"grammar": 'root ::= root "a" | "a"'}, {"grammar": 'root ::= "a\x00b"'}, {"grammar": "root ::= " + "(" * 5000},
     {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#/nowhere"}}}}],
)  # fmt: skip
@pytest.mark.parametrize("stream", [True, False])
def test_a_grammar_that_cannot_be_met_is_refused(client, body, stream):
    before = counts(client)["restarts_total"]
    response = chat(client, **body, stream=stream)
    assert (response.status_code, response.json()["type"]) == (422, "invalid-request")
    assert counts(client)["restarts_total"] == before


def test_a_grammar_that_ends_in_the_middle_of_a_text_says_so(client):
    grammar = r'root ::= "one two " [^\x00-\U0010FFFF]'
    response = chat(client, grammar=grammar, max_tokens=50)
    assert (response.status_code, response.json()["type"]) == (422, "invalid-request")
    assert "one two" in response.json()["got"]
    lines = [line for line in chat(client, grammar=grammar, max_tokens=50, stream=True).text.splitlines() if line]
    assert told(lines[-1])["error"]["type"] == "invalid-request"


def test_a_prompt_beyond_the_context_is_refused_with_the_counts(client):
    response = chat(client, messages=[{"role": "user", "content": "word " * 4000}])
    found = response.json()
    assert (response.status_code, found["type"]) == (422, "context-overflow")
    assert found["wanted"] == f"at most {N_CTX}"
    assert int(found["got"].split()[0]) > 4000


def test_passages_beyond_the_context_are_left_out_whole(client):
    sent = {"question": QUESTION, "mode": "rag", "top_k": 2, "max_tokens": 4}
    whole = client.post("/v1/answers", json=sent).json()
    assert (len(whole["passages"]), whole["passages_dropped"]) == (2, 0)
    room = N_CTX - whole["usage"]["prompt_tokens"] + 1
    cut = client.post("/v1/answers", json={**sent, "max_tokens": room}).json()
    assert (cut["passages"], cut["passages_dropped"]) == (whole["passages"][:1], 1)


def test_adapters_are_scaled_and_only_like_ones_are_summed(client):
    sent = {"question": QUESTION, "mode": "combined", "max_tokens": 12}
    whole = client.post("/v1/answers", json={**sent, "adapter": "reader"}).json()
    none = client.post("/v1/answers", json={**sent, "adapter": "reader", "adapter_scale": 0}).json()
    halves = client.post("/v1/answers", json={**sent, "adapters": [{"name": "reader", "scale": 0.5}]}).json()
    assert whole["adapters"] == [{"name": "reader@1", "scale": 1.0}]
    assert [each["scale"] for answer in (none, halves) for each in answer["adapters"]] == [0, 0.5]
    assert whole["answer"] != none["answer"]
    assert counts(client)["loaded_adapters"] >= 1
    mixed = client.post("/v1/answers", json={**sent, "adapters": [{"name": "reader"}, {"name": "pair-writer"}]})
    assert (mixed.status_code, mixed.json()["type"]) == (422, "invalid-request")
    assert "blockwise" in mixed.json()["detail"]


def test_timings_add_up(client):
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        begin(client, stack)
        waiting = pool.submit(client.post, "/v1/answers", json={"question": QUESTION, "mode": "base", "max_tokens": 4})
        wait_until(lambda: counts(client)["waiting_requests"] == 1)
        time.sleep(0.05)
        stack.close()
        took = waiting.result(60).json()["timings_ms"]
    assert took["queue"] > 50
    assert sum(took[name] for name in ("queue", "retrieve", "prefill", "generate")) <= took["total"]
