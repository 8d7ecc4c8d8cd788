"""Notices of finished jobs, delivered to a local receiver: signed, tried again, and never to private addresses."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address, ip_network

import pytest

from data.access import Access, acting
from data.errors import InvalidRequest
from data.store import KeyGrant
from service import addresses
from service.jobs import run_job, submit
from service.webhooks import MOST_ATTEMPTS, WebhookSender, pause_s
from tests.service.conftest import open_client
from tests.service.parts import wait_until
from tests.service.shells import Shell

pytestmark = pytest.mark.slow

LOOPBACK = "127.0.0.0/8, ::1"


class Receiver:
    """A server that keeps what is posted to it and answers with the statuses it was given, the last again and again."""

    def __init__(self, *statuses: int) -> None:
        self.posts: list[tuple[dict[str, str], bytes]] = []
        self.statuses = list(statuses or (204,))
        self.hold: threading.Event | None = None
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.posts.append((dict(self.headers), body))
                if receiver.hold is not None:
                    receiver.hold.wait(20)
                statuses = receiver.statuses
                self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?who=me"


@contextmanager
def receiving(*statuses: int) -> Iterator[Receiver]:
    receiver = Receiver(*statuses)
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        thread.join()
        receiver.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def allowed(make_workspace):
    return make_workspace("indexed", webhook_networks=LOOPBACK)


def register(workspace, url, **body):
    with open_client(workspace) as client:
        response = client.post("/v1/webhooks", json={"url": url, **body})
    assert response.status_code == 201, response.text
    return response.json()


def finish_job(workspace, collection="default", kind="verify"):
    return run_job(workspace, submit(workspace.store, kind, {"collection": collection}).id)


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def test_a_finished_job_is_told_and_the_signature_holds(allowed, receiver):
    made = register(allowed, receiver.url)
    job = finish_job(allowed)
    assert WebhookSender(allowed).deliver_due() == 1
    ((headers, body),) = receiver.posts
    event = json.loads(body)
    assert event["type"] == "job.succeeded"
    assert event["data"]["job_id"] == job.id
    assert (event["data"]["kind"], event["data"]["collection"]) == ("verify", "default")
    # As a receiver checks it, by the specification and not by our own function.
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(made["secret"].removeprefix("whsec_"))
    wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{wanted}"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert headers["Host"] == receiver.url.split("/")[2]
    assert WebhookSender(allowed).deliver_due() == 0


def test_what_fails_is_tried_again_after_growing_pauses_and_given_up_at_last(allowed):
    clock = Clock()
    with receiving(500) as receiver:
        made = register(allowed, receiver.url)
        finish_job(allowed)
        sender = WebhookSender(allowed, clock=clock)
        assert sender.deliver_due() == 1
        assert sender.deliver_due() == 0, "not before its pause is over"
        for attempt in range(2, MOST_ATTEMPTS + 1):
            clock.ahead += pause_s(attempt - 1) + 1
            assert sender.deliver_due() == 1
        clock.ahead += 86_400
        assert sender.deliver_due() == 0
        assert len(receiver.posts) == MOST_ATTEMPTS
        assert len({headers["webhook-id"] for headers, _ in receiver.posts}) == 1
    (notice,) = allowed.store.webhooks.notices(made["id"])
    assert (notice.status, notice.attempts, notice.reply) == ("given up", MOST_ATTEMPTS, "HTTP 500")
    pauses = [pause_s(n) for n in range(1, MOST_ATTEMPTS)]
    assert pauses == sorted(pauses)
    assert 12 * 3600 < sum(pauses) < 24 * 3600


def test_a_receiver_that_is_down_hears_of_it_later(allowed, make_workspace):
    clock = Clock()
    with receiving() as receiver:
        url = receiver.url
    made = register(allowed, url)
    finish_job(allowed)
    assert WebhookSender(allowed, clock=clock).deliver_due() == 1
    allowed.close()
    # Another process, later: what was not delivered is in the store.
    again = make_workspace(webhook_networks=LOOPBACK)
    (notice,) = again.store.webhooks.notices(made["id"])
    assert (notice.status, notice.attempts) == ("pending", 1)
    clock.ahead = 60
    assert WebhookSender(again, clock=clock).deliver_due() == 1
    assert again.store.webhooks.notices(made["id"])[0].attempts == 2


def test_a_redirect_is_not_followed(allowed):
    with receiving(302) as receiver:
        made = register(allowed, receiver.url)
        finish_job(allowed)
        WebhookSender(allowed).deliver_due()
    assert allowed.store.webhooks.notices(made["id"])[0].reply == "HTTP 302"


def test_a_receiver_that_does_not_answer_is_left(allowed, receiver, monkeypatch):
    monkeypatch.setattr("service.webhooks.TIMEOUT_S", 0.2)
    receiver.hold = threading.Event()
    made = register(allowed, receiver.url)
    finish_job(allowed)
    WebhookSender(allowed).deliver_due()
    receiver.hold.set()
    (notice,) = allowed.store.webhooks.notices(made["id"])
    assert (notice.status, "Timeout" in notice.reply) == ("pending", True)


def test_only_what_was_asked_for_is_told(allowed, receiver):
    allowed.store.collections.ensure("manual")
    register(allowed, receiver.url, collections=["manual"], kinds=["verify"])
    finish_job(allowed)
    allowed.store.jobs.request_cancel(submit(allowed.store, "rebuild", {"collection": "manual"}).id)
    cancelled = submit(allowed.store, "verify", {"collection": "manual"})
    allowed.store.jobs.request_cancel(cancelled.id)
    WebhookSender(allowed).deliver_due()
    ((_, body),) = receiver.posts
    assert json.loads(body)["type"] == "job.cancelled"
    assert json.loads(body)["data"]["job_id"] == cancelled.id


def test_a_bound_key_hears_of_its_own_collections_until_it_is_revoked(allowed, receiver):
    allowed.store.collections.ensure("secret")
    key_id, key = allowed.store.keys.create("ann", KeyGrant(("train",), ("default",)))
    with open_client(allowed) as client:
        client.headers["Authorization"] = f"Bearer {key}"
        assert client.post("/v1/webhooks", json={"url": receiver.url, "collections": ["secret"]}).status_code == 403
        made = client.post("/v1/webhooks", json={"url": receiver.url}).json()
        assert made["collections"] == ["default"]
        other = Access("bob", frozenset(("train",)), key_id="other")
        with acting(other):
            allowed.store.webhooks.add(receiver.url)
        assert [each["id"] for each in client.get("/v1/webhooks").json()["webhooks"]] == [made["id"]]
        assert client.get(f"/v1/webhooks/{allowed.store.webhooks.list()[1].id}/notices").status_code == 404
    finish_job(allowed, "secret")
    finish_job(allowed)
    assert [notice.event["data"]["collection"] for notice in allowed.store.webhooks.notices(made["id"])] == ["default"]
    allowed.store.keys.revoke(key_id)
    finish_job(allowed)
    assert len(allowed.store.webhooks.notices(made["id"])) == 1


def test_deleting_forgets_what_was_to_be_told(allowed, receiver):
    made = register(allowed, receiver.url)
    finish_job(allowed)
    with open_client(allowed) as client:
        assert client.delete(f"/v1/webhooks/{made['id']}").json()["deleted"] is True
        assert client.delete(f"/v1/webhooks/{made['id']}").status_code == 404
    assert WebhookSender(allowed).deliver_due() == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x",
        "http://localhost:8000/v1/keys",
        "http://10.1.2.3/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[fd00::1]/",
        "http://0.0.0.0/",
        "http://100.64.0.1/",
        "http://224.0.0.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "ftp://93.184.216.34/",
        "file:///etc/passwd",
        "http://user:word@93.184.216.34/",
        "http:///x",
        "http://93.184.216.34:99999/",
        "nonsense",
        "http://no-such-host.invalid/",
    ],
)
def test_private_addresses_and_strange_urls_are_refused(client, indexed, url):
    response = client.post("/v1/webhooks", json={"url": url})
    assert (response.status_code, response.json()["type"]) == (422, "invalid-request"), response.text
    assert indexed.store.webhooks.list() == []


def test_a_name_that_means_a_private_address_by_now_gets_nothing(indexed, receiver, monkeypatch):
    """DNS rebinding: public when it was registered, this machine when it is called."""
    answers = iter(["93.184.216.34", "127.0.0.1"])
    real = addresses.socket.getaddrinfo
    monkeypatch.setattr(
        addresses.socket, "getaddrinfo", lambda _host, port, **options: real(next(answers), port, **options)
    )
    port = receiver.server.server_port
    made = register(indexed, f"http://rebound.example:{port}/")
    finish_job(indexed)
    WebhookSender(indexed).deliver_due()
    assert receiver.posts == []
    assert "private address" in indexed.store.webhooks.notices(made["id"])[0].reply


def test_what_is_connected_to_is_the_address_that_was_looked_at(allowed, receiver, monkeypatch):
    """The name is asked for once for each try: a second answer could be another one."""
    asked = []

    def resolve_once(host, port, **_options):
        asked.append(host)
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    made = register(allowed, receiver.url.replace("127.0.0.1", "localhost"))
    finish_job(allowed)
    monkeypatch.setattr(addresses.socket, "getaddrinfo", resolve_once)
    WebhookSender(allowed).deliver_due()
    ((headers, _),) = receiver.posts
    assert headers["Host"] == f"localhost:{receiver.server.server_port}"
    assert asked.count("localhost") == 1
    assert allowed.store.webhooks.notices(made["id"])[0].status == "delivered"


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch):
    found = [(2, 1, 6, "", (address, 80)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *_args, **_options: found)
    with pytest.raises(InvalidRequest, match="private"):
        addresses.resolve("both.example", 80)
    assert addresses.resolve("both.example", 80, [ip_network("10.0.0.0/8")]) == "93.184.216.34"


def test_public_addresses_are_public():
    for address in ("93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"):
        assert addresses.is_public(ip_address(address)), address


@pytest.mark.parametrize(
    "body", [{}, {"url": 3}, {"url": "http://x/", "kinds": ["dance"]}, {"url": "http://x/", "a": 1}]
)
def test_bodies_that_cannot_be(client, body):
    assert client.post("/v1/webhooks", json=body).status_code == 422


def test_the_server_delivers_by_itself(allowed, receiver):
    register(allowed, receiver.url)
    finish_job(allowed)
    sender = WebhookSender(allowed)
    sender.start()
    wait_until(lambda: receiver.posts)
    sender.stop()


def test_commands(make_workspace, generator, tmp_path, receiver, monkeypatch):
    make_workspace("indexed").close()
    shell = Shell(tmp_path / "state", generator)
    assert "private address" in shell("webhooks", "add", receiver.url, code=1).output
    monkeypatch.setenv("RAGTUNE_WEBHOOK_NETWORKS", LOOPBACK)
    made = shell.json("webhooks", "add", receiver.url, "--kind", "verify")
    assert made["secret"].startswith("whsec_")
    assert shell.json("webhooks", "list")[0]["id"] == made["id"]
    assert made["secret"] not in shell("webhooks", "list").stdout
    shell("index", "verify")
    (notice,) = shell.json("webhooks", "log", made["id"])
    assert (notice["status"], notice["event"]["type"]) == ("pending", "job.succeeded")
    assert "pending" in shell("webhooks", "log", made["id"]).stdout
    assert "gone" in shell("webhooks", "delete", made["id"]).stdout
    assert "No such webhook" in shell("webhooks", "log", made["id"], code=1).output
