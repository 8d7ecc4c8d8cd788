"""Sign-on at a proxy: the header counts from the proxies that are named, and from no other address."""

from __future__ import annotations

import httpx2
import pytest
from fastapi.testclient import TestClient

from data.errors import InvalidRequest
from data.store import KeyGrant
from service.app import create_app
from service.serve import bind
from service.settings import Settings

pytestmark = pytest.mark.slow

PROXY, ELSEWHERE = "10.0.0.7", "10.0.1.7"
SETTINGS = {"signon_header": "X-Forwarded-User", "signon_proxies": "10.0.0.0/24, fd00::/64", "host": "0.0.0.0"}
ANN = {"X-Forwarded-User": "ann"}


@pytest.fixture
def behind(make_workspace):
    """Return ``client(address)``: a client whose connections come from there; ann may ask, bob may do all."""
    workspace = make_workspace("indexed", **SETTINGS)
    workspace.store.keys.create("user:ann", KeyGrant(("query",)))
    workspace.store.keys.create("user:bob", KeyGrant(("admin",)))
    workspace.store.keys.create("ci", KeyGrant(("admin",)))
    made = []

    def client(address=PROXY):
        made.append(TestClient(create_app(workspace, run_jobs=False), base_url="http://127.0.0.1", client=(address, 1)))
        made[-1].__enter__()
        return made[-1]

    client.workspace = workspace
    yield client
    for each in made:
        each.__exit__(None, None, None)


def test_a_user_has_the_scopes_of_its_key(behind):
    client = behind()
    assert client.get("/v1/me", headers=ANN).json() == {"name": "ann", "scopes": ["query"], "collections": []}
    assert client.get("/v1/keys", headers=ANN).status_code == 403
    assert client.get("/v1/keys", headers={"X-Forwarded-User": "bob"}).status_code == 200
    assert client.get("/v1/me", headers={"x-forwarded-user": "ann"}).status_code == 200


@pytest.mark.parametrize("address", [ELSEWHERE, "127.0.0.1", "::1", "fd00:0:0:1::1", "testclient", "10.0.0.7.evil"])
def test_from_any_other_address_the_header_is_ignored(behind, address):
    client = behind(address)
    for headers in (ANN, {**ANN, "X-Forwarded-For": PROXY, "Forwarded": f"for={PROXY}", "X-Real-IP": PROXY}):
        response = client.get("/v1/me", headers=headers)
        assert (response.status_code, response.json()["type"]) == (401, "unauthorized")


def test_a_mapped_address_is_the_address_that_it_maps(behind):
    assert behind("::ffff:10.0.0.7").get("/v1/me", headers=ANN).status_code == 200
    assert behind("::ffff:10.0.1.7").get("/v1/me", headers=ANN).status_code == 401


def test_who_has_no_key_may_nothing_until_everybody_has_one(behind):
    client = behind()
    for user in ("carl", "ci", "user:ann", "*", "", " ", "x" * 201, "a\tb"):
        assert client.get("/v1/me", headers={"X-Forwarded-User": user}).status_code == 401, user
    key_id, _ = behind.workspace.store.keys.create("user:*", KeyGrant(("query",), ("default",)))
    assert client.get("/v1/me", headers={"X-Forwarded-User": "carl"}).json()["collections"] == ["default"]
    assert client.get("/v1/me", headers={"X-Forwarded-User": "*"}).status_code == 401
    assert client.get("/v1/me", headers=ANN).json()["collections"] == []
    behind.workspace.store.keys.revoke(key_id)
    assert client.get("/v1/me", headers={"X-Forwarded-User": "carl"}).status_code == 401


def test_a_header_that_comes_twice_names_nobody(behind):
    twice = [("X-Forwarded-User", "ann"), ("X-Forwarded-User", "bob")]
    assert behind().get("/v1/me", headers=twice).status_code == 401


def test_a_key_of_ones_own_counts_before_the_header(behind):
    _, key = behind.workspace.store.keys.create("robot", KeyGrant(("train",)))
    client = behind()
    assert client.get("/v1/me", headers={**ANN, "Authorization": f"Bearer {key}"}).json()["name"] == "robot"
    assert client.get("/v1/me", headers={**ANN, "Authorization": "Bearer wrong"}).status_code == 401


def test_without_a_user_or_key_nothing_is_open_even_on_this_machine(make_workspace):
    """The proxy itself comes from here: what it lets through unnamed must not be an administrator."""
    workspace = make_workspace(signon_header="X-Forwarded-User", signon_proxies="127.0.0.1")
    with TestClient(
        create_app(workspace, run_jobs=False), base_url="http://127.0.0.1", client=("127.0.0.1", 1)
    ) as client:
        assert client.get("/v1/me").status_code == 401
        assert client.get("/v1/me", headers=ANN).status_code == 401


def test_it_is_off_unless_both_are_set(make_workspace):
    for given in ({}, {"signon_header": "X-Forwarded-User"}, {"signon_proxies": "10.0.0.0/24"}):
        workspace = make_workspace(**given, api_key="secret")
        with TestClient(create_app(workspace, run_jobs=False), base_url="http://127.0.0.1", client=(PROXY, 1)) as c:
            assert c.get("/v1/me", headers=ANN).status_code == 401, given
        workspace.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1"}, 201),
        ({"Sec-Fetch-Site": "none"}, 201),
        ({"Origin": "http://127.0.0.1"}, 201),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "https://other.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_another_site_cannot_act_in_a_users_name(behind, headers, status):
    client = behind()
    bob = {"X-Forwarded-User": "bob"}
    made = client.post("/v1/keys", json={"name": "n", "scopes": ["query"]}, headers={**bob, **headers})
    assert made.status_code == status
    assert client.get("/v1/keys", headers={**bob, **headers}).status_code == 200, "to read shows another site nothing"


def test_what_a_user_changes_is_in_the_audit_log_under_its_name(behind):
    client = behind()
    client.post("/v1/keys", json={"name": "n", "scopes": ["query"]}, headers={"X-Forwarded-User": "bob"})
    client.post("/v1/index/rebuild", json={}, headers=ANN)
    entries = client.get("/v1/audit", headers={"X-Forwarded-User": "bob"}).json()["entries"]
    assert [(each["name"], each["status"]) for each in entries] == [("ann", 403), ("bob", 201)]


def test_the_limits_of_the_key_count(behind):
    behind.workspace.store.keys.create("user:dora", KeyGrant(("query",), (), 1))
    client, dora = behind(), {"X-Forwarded-User": "dora"}
    assert client.get("/v1/me", headers=dora).status_code == 200
    assert client.get("/v1/me", headers=dora).status_code == 429


@pytest.mark.parametrize("given", [{"signon_proxies": "ten"}, {"signon_header": "X User"}, {"signon_header": ""}])
def test_settings_that_cannot_be(given):
    with pytest.raises(InvalidRequest):
        Settings.load(**given)


def test_the_server_believes_no_header_about_addresses(make_workspace, monkeypatch):
    """uvicorn would take the client's address from X-Forwarded-For of a connection that comes from this machine."""
    import threading

    from service import serve

    workspace = make_workspace(signon_header="X-Forwarded-User", signon_proxies=PROXY, api_key="secret", port=0)
    workspace.store.keys.create("user:ann", KeyGrant(("query",)))
    servers = []
    monkeypatch.setattr(serve, "_warm", lambda _workspace: None)
    started = serve._Server.startup

    async def startup(self, sockets=None):
        servers.append(self)
        await started(self, sockets)

    monkeypatch.setattr(serve._Server, "startup", startup)
    urls = []
    with bind("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=serve._run, args=(workspace, listener, url, urls.append))
        thread.start()
        try:
            from tests.service.parts import wait_until

            wait_until(lambda: urls)
            reply = httpx2.get(f"{url}/v1/me", headers={**ANN, "X-Forwarded-For": PROXY})
            assert reply.status_code == 401
        finally:
            servers[0].should_exit = True
            thread.join(30)
