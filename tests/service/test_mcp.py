"""The tools through the protocol's official client, over HTTP and over standard input and output."""

from __future__ import annotations

import sys

import anyio
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from data.store import KeyGrant
from service.app import create_app
from service.mcp_server import mcp_server
from tests.service.conftest import open_client

QUESTION = {"question": "When was the lighthouse of Orrin built?"}


def call(server, tool, arguments):
    """Call one tool in a session of its own and return (result, the tools that are listed)."""

    async def called():
        async with Client(server) as client:
            listed = [tool.name for tool in (await client.list_tools()).tools]
            return await client.call_tool(tool, arguments), listed

    return anyio.run(called)


def test_an_answer_comes_with_its_quotes(indexed):
    result, listed = call(mcp_server(indexed), "ask", QUESTION)
    assert listed == ["ask", "search", "list_documents"]
    answer = result.structured_content
    assert not result.is_error
    assert answer["answer"]
    assert set(answer) == {"answer", "abstained", "confidence", "citations"}


def test_passages_and_documents_are_found(indexed):
    result, _ = call(mcp_server(indexed), "search", {"query": "blue roses", "top_k": 1})
    [passage] = result.structured_content["passages"]
    assert "blue roses" in passage["text"]
    listed, _ = call(mcp_server(indexed), "list_documents", {})
    assert {document["title"] for document in listed.structured_content["documents"]} == {"Lighthouse", "Garden"}


@pytest.mark.parametrize(
    ("tool", "arguments", "told"),
    [
        ("ask", {"question": " "}, "question"),
        ("ask", {**QUESTION, "collection": "none"}, "No such collection"),
        ("search", {"query": "x", "collection": "none"}, "No such collection"),
        ("search", {"query": "x", "top_k": 0}, "greater than or equal to 1"),
        ("list_documents", {"cursor": "x"}, "Invalid page cursor"),
    ],
)
def test_what_cannot_be_done_is_told(indexed, tool, arguments, told):
    result, _ = call(mcp_server(indexed), tool, arguments)
    assert result.is_error
    assert told in result.content[0].text


def over_http(app, headers, tool, arguments):
    """Call one tool over HTTP, in process; return the result."""

    async def called():
        transport = httpx2.ASGITransport(app)
        http = httpx2.AsyncClient(transport=transport, headers=headers)
        tools = Client(streamable_http_client("http://127.0.0.1/mcp", http_client=http))
        async with app.router.lifespan_context(app), http, tools as client:
            return await client.call_tool(tool, arguments)

    return anyio.run(called)


def test_over_http_the_key_decides(indexed):
    def key(scope, *collections):
        _, plaintext = indexed.store.keys.create(scope, KeyGrant((scope,), collections))
        return {"Authorization": f"Bearer {plaintext}"}

    def app():
        return create_app(indexed, run_jobs=False)

    indexed.store.collections.ensure("secret")
    assert not over_http(app(), key("query"), "ask", QUESTION).is_error
    assert "may not do that" in over_http(app(), key("ingest"), "ask", QUESTION).content[0].text
    bound = over_http(app(), key("query", "default"), "list_documents", {"collection": "secret"})
    assert "No such collection" in bound.content[0].text
    assert not over_http(app(), key("query"), "list_documents", {"collection": "secret"}).is_error
    with open_client(indexed) as client:
        assert client.post("/mcp", json={}).status_code == 401


@pytest.mark.slow
def test_an_assistant_can_start_it(tmp_path):
    (tmp_path / "note.md").write_text("# Orrin\n\nThe lighthouse of Orrin was built in 1842.\n", encoding="utf-8")
    command = ["-m", "service.cli", "--state-dir", str(tmp_path / "state"), "--model", "starter"]

    async def called():
        await anyio.run_process([sys.executable, *command, "ingest", str(tmp_path / "note.md")])
        parameters = StdioServerParameters(command=sys.executable, args=[*command, "mcp"])
        async with Client(stdio_client(parameters)) as client:
            return await client.call_tool("ask", QUESTION)

    assert "1842" in anyio.run(called).structured_content["answer"]
