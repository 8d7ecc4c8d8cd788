from __future__ import annotations

import json

import anyio
import pytest

from service.access import OPEN_PATHS
from service.app import create_app
from service.guards import MULTIPART
from tests.service.conftest import open_client

LIMIT = 4096
JSON = {"content-type": "application/json"}
KEY = {"Authorization": "Bearer secret"}


def question(size: int) -> bytes:
    """Return a request for an answer, ``size`` bytes long."""
    frame = len(json.dumps({"question": ""}))
    return json.dumps({"question": "x" * (size - frame)}).encode()


def in_pieces(body: bytes):
    """Return a body whose length is not declared: httpx sends it chunked."""
    return iter([body[i : i + 1000] for i in range(0, len(body), 1000)])


class Sender:
    """Sends one request to an ASGI app, and counts how often the body was asked for."""

    def __init__(self, app, path, headers, pieces):
        self.asked = 0
        self.messages = []
        self._app, self._pieces = app, list(pieces)
        self._scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
            "headers": [(k.lower().encode(), v.encode()) for k, v in {"host": "127.0.0.1", **headers}.items()],
        }  # fmt: skip

    async def receive(self):
        self.asked += 1
        if not self._pieces:
            await anyio.sleep_forever()  # it stays for the answer
        piece = self._pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}

    async def send(self, message):
        self.messages.append(message)

    def __call__(self):
        anyio.run(self._app, self._scope, self.receive, self.send)
        body = b"".join(m.get("body", b"") for m in self.messages if m["type"] == "http.response.body")
        return self.messages[0]["status"], json.loads(body)


@pytest.fixture
def limited(make_workspace):
    with open_client(make_workspace("indexed", max_body_bytes=LIMIT)) as client:
        yield client


@pytest.fixture
def keyed(make_workspace):
    return create_app(make_workspace("indexed", api_key="secret", max_body_bytes=LIMIT), run_jobs=False)


def assert_too_large(response):
    body = response.json()
    assert (response.status_code, body["type"], body["status"]) == (413, "body-too-large", 413)
    assert response.headers["content-type"] == "application/problem+json"
    assert str(LIMIT) in body["wanted"]
    assert "RAGTUNE_MAX_BODY_BYTES" in body["hint"]
    assert body["got"]


def test_a_body_of_the_largest_size_is_read_and_a_byte_more_is_not(limited, generator):
    assert limited.post("/v1/answers", content=question(LIMIT), headers=JSON).status_code == 200
    asked = len(generator.requests)
    assert_too_large(limited.post("/v1/answers", content=question(LIMIT + 1), headers=JSON))
    assert len(generator.requests) == asked


def test_a_body_without_a_length_is_counted(limited):
    assert limited.post("/v1/answers", content=in_pieces(question(LIMIT)), headers=JSON).status_code == 200
    assert_too_large(limited.post("/v1/answers", content=in_pieces(question(LIMIT + 1)), headers=JSON))


@pytest.mark.parametrize("length", ["10", "0", "-1", "many", "9" * 30, "9" * 5000])
def test_a_length_that_lies_does_not_help(limited, length):
    headers = {**JSON, "content-length": length}
    assert_too_large(limited.post("/v1/answers", content=in_pieces(question(LIMIT + 1)), headers=headers))


def test_a_declared_length_over_the_limit_is_refused_unread(make_workspace):
    app = create_app(make_workspace(max_body_bytes=LIMIT), run_jobs=False)
    send = Sender(app, "/v1/answers", {**JSON, "content-length": str(10**12)}, [b"{"])
    status, body = send()
    assert (status, body["got"], send.asked) == (413, f"{10**12} bytes", 0)


def test_only_routes_that_take_files_may_be_sent_a_form_over_the_limit(limited):
    """A JSON route reads a body that calls itself a form whole, too."""
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert_too_large(limited.post("/v1/answers", content=question(LIMIT + 1), headers=headers))
    big = ("files", ("big.md", b"# Big\n\n" + b"amber " * LIMIT))
    assert limited.post("/v1/documents", files=[big]).status_code == 202
    assert_too_large(limited.post("/v1/pairs/import", content=question(LIMIT + 1), headers=JSON))


def test_every_route_that_takes_files_is_known(limited):
    """pairs/import takes a form or JSON and reads the request itself, so the description has no form for it."""
    paths = limited.get("/openapi.json").json()["paths"]
    described = {
        path
        for path, operations in paths.items()
        for operation in operations.values()
        if "multipart/form-data" in operation.get("requestBody", {}).get("content", {})
    }
    assert described | {"/v1/pairs/import"} == MULTIPART


def test_the_key_is_checked_before_a_byte_of_the_body_is_read(keyed):
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        for path in ("/v1/answers", *sorted(MULTIPART)):
            send = Sender(keyed, path, {**JSON, **headers, "content-length": str(10**12)}, [b"{"] * 100)
            status, body = send()
            assert (status, body["type"], send.asked) == (401, "unauthorized", 0)
    send = Sender(keyed, "/v1/answers", {**JSON, **KEY}, [b'{"question": "When', b' was it built?"}'])
    assert send()[0] == 200


def test_every_route_but_the_public_ones_needs_the_key(make_workspace):
    """Routes are closed unless they are listed: one that is added later is closed too."""
    app = create_app(make_workspace(api_key="secret"), run_jobs=False)
    app.get("/added-later")(lambda: "open")
    from fastapi.testclient import TestClient

    with TestClient(app, base_url="http://127.0.0.1") as client:
        for path, operations in client.get("/openapi.json").json()["paths"].items():
            for method in operations:
                status = client.request(method, path).status_code
                assert (status == 401) == (path not in OPEN_PATHS), f"{method} {path}: {status}"
        assert client.get("/added-later").status_code == 401
        assert client.get("/added-later", headers=KEY).status_code == 200
        assert client.get("/v1/no-such-route").status_code == 401


def test_the_description_says_which_routes_need_a_key(empty_client):
    for path, operations in empty_client.get("/openapi.json").json()["paths"].items():
        for operation in operations.values():
            assert ("security" in operation) == (path not in OPEN_PATHS), path


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("service.pace.GRACE_S", 0.05)


class Trickle(Sender):
    """Sends what it has and then nothing, though more was announced."""

    async def receive(self):
        message = await super().receive()
        return {**message, "more_body": True}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("path", "kind", "begun"),
    [
        ("/v1/search", "application/json", b'{"query": "'),
        ("/v1/documents", "multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="f'),
    ],
)
def test_a_body_that_stops_coming_is_answered(indexed, path, kind, begun):
    app = create_app(indexed, run_jobs=False)
    status, body = Trickle(app, path, {"content-type": kind}, [begun])()
    assert (status, body["type"]) == (408, "request-too-slow")
    assert f"{len(begun)} bytes" in body["got"]
    assert list(indexed.state.tmp.iterdir()) == []


@pytest.mark.usefixtures("impatient")
def test_what_has_come_earns_time_and_a_whole_body_is_waited_for_no_more(indexed, monkeypatch):
    app = create_app(indexed, run_jobs=False)
    monkeypatch.setattr("service.pace.LEAST_BYTES_PER_S", 1)
    body = question(200)

    class Late(Sender):
        async def receive(self):
            if self.asked:
                await anyio.sleep(0.1)  # longer than nothing may take
            return await super().receive()

    assert Late(app, "/v1/answers", JSON, [body[:100], body[100:]])()[0] == 200
