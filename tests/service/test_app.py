from __future__ import annotations

import re

import pytest

from data.errors import StarterMissing
from tests.service.conftest import open_client

KEYED = [("GET", "/v1/jobs"), ("POST", "/v1/answers"), ("GET", "/v1/models"), ("GET", "/v1/documents")]
OPEN = ("/healthz", "/readyz", "/metrics", "/")


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(("method", "path"), KEYED)
def test_without_any_key_everyone_is_let_in(empty_client, method, path):
    assert empty_client.request(method, path).status_code != 401


@pytest.mark.parametrize(("method", "path"), KEYED)
@pytest.mark.parametrize("headers", [{}, bearer("wrong"), bearer(""), {"Authorization": "Basic c2VjcmV0"}])
def test_a_configured_key_is_required(make_workspace, method, path, headers):
    with open_client(make_workspace(api_key="secret")) as client:
        response = client.request(method, path, headers=headers)
        assert (response.status_code, response.json()["type"]) == (401, "unauthorized")
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert client.request(method, path, headers=bearer("secret")).status_code != 401


def test_a_key_of_the_table_is_required_once_there_is_one(empty_client, workspace):
    key_id, key = workspace.store.keys.create("laptop")
    assert empty_client.get("/v1/jobs").status_code == 401
    assert empty_client.get("/v1/jobs", headers=bearer(key)).status_code == 200
    workspace.store.keys.revoke(key_id)
    assert empty_client.get("/v1/jobs", headers=bearer(key)).status_code == 401
    assert empty_client.get("/v1/jobs").status_code == 401, "revoking the last key opens nothing"


@pytest.mark.parametrize("path", OPEN)
def test_watching_needs_no_key(make_workspace, path):
    with open_client(make_workspace(api_key="secret")) as client:
        assert client.get(path).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.1:80:80", ""])
def test_other_host_names_are_refused_on_loopback(empty_client, host):
    response = empty_client.get("/healthz", headers={"Host": host})
    assert (response.status_code, response.json()["type"]) == (421, "wrong-host")


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:80", "[::1]:8000", "rag.lan"])
def test_own_host_names_are_served(make_workspace, host):
    with open_client(make_workspace(allowed_hosts=("rag.lan",))) as client:
        assert client.get("/healthz", headers={"Host": host}).status_code == 200


def test_off_loopback_the_host_name_is_not_checked(make_workspace):
    with open_client(make_workspace(host="0.0.0.0", api_key="secret")) as client:
        assert client.get("/healthz", headers={"Host": "rag.example"}).status_code == 200


def test_ready_means_that_questions_can_be_answered(empty_client, workspace, monkeypatch):
    assert empty_client.get("/readyz").json() == {
        "status": "ready",
        "checks": {"store": "ok", "model": "ok", "engine": "ok"},
    }

    def missing(_self):
        raise StarterMissing("No starter", hint="pip install")

    monkeypatch.setattr(type(workspace), "generator", property(missing))
    response = empty_client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["checks"]["engine"]["type"] == "starter-missing"


def test_metrics_count_requests_by_route_and_answers_by_mode(client):
    client.post("/v1/answers", json={"question": "When was it built?"})
    client.get("/v1/jobs/unknown-1")
    client.get("/v1/jobs/unknown-2")
    text = client.get("/metrics").text
    assert re.search(r'ragtune_http_requests_total\{method="GET",route="/v1/jobs/\{job_id\}",status="404"\} 2.0', text)
    assert 'ragtune_answers_total{abstained="false",mode="rag"} 1.0' in text
    assert "unknown-1" not in text
    assert 'ragtune_jobs{status="queued"} 0.0' in text


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/v1/nothing", 404, "no-such-route"),
        ("PUT", "/v1/answers", 405, "method-not-allowed"),
        ("DELETE", "/v1/adapters/", 404, "no-such-route"),
    ],
)
def test_what_is_no_route_is_a_problem(empty_client, method, path, status, kind):
    response = empty_client.request(method, path)
    assert (response.status_code, response.json()["type"]) == (status, kind)
    assert response.headers["content-type"] == "application/problem+json"


def test_every_route_describes_its_errors_as_they_are(empty_client):
    described = empty_client.get("/openapi.json").json()
    shown = described["components"]["schemas"]["Problem"]
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            error = operation["responses"]["default"]["content"]["application/problem+json"]["schema"]
            assert error == {"$ref": "#/components/schemas/Problem"}, (method, path)
            assert "422" not in operation["responses"], (method, path)
    for answer in (empty_client.get("/v1/nothing"), empty_client.post("/v1/answers", json={"x": 1})):
        assert set(shown["required"]) <= set(answer.json()) <= set(shown["properties"])


def test_every_route_of_the_design_exists(empty_client):
    paths = empty_client.get("/openapi.json").json()["paths"]
    wanted = {
        "/v1/answers": "post", "/v1/compare": "post", "/v1/search": "post", "/v1/documents": "post get",
        "/v1/documents/{document_id}": "get delete", "/v1/documents/{document_id}/chunks": "get",
        "/v1/collections": "get", "/v1/recipes": "get", "/v1/settings": "get", "/v1/doctor": "get",
        "/v1/documents/{document_id}/text": "get", "/v1/index": "get",
        "/v1/index/rebuild": "post", "/v1/index/generations": "get", "/v1/index/rollback": "post",
        "/v1/index/verify": "post", "/v1/index/compact": "post", "/v1/documents/preview": "post",
        "/v1/pairs/generate": "post", "/v1/pairs": "get", "/v1/pairs/{pair_id}": "patch", "/v1/pairs/import": "post",
        "/v1/pairs/export": "get post", "/v1/pairs/bulk": "post", "/v1/pairs/coverage": "get",
        "/v1/pairs/{pair_id}/undo": "post", "/v1/pairs/reviews/{review_id}/undo": "post",
        "/v1/adapters": "post get", "/v1/adapters/{name}/promote": "post",
        "/v1/adapters/rollback": "post", "/v1/adapters/import": "post", "/v1/adapters/{name}": "delete get",
        "/v1/evaluations": "post", "/v1/evaluations/{evaluation_id}": "get",
        "/v1/evaluations/{evaluation_id}/report": "get", "/v1/jobs": "get", "/v1/jobs/{job_id}": "get",
        "/v1/jobs/{job_id}/events": "get", "/v1/jobs/{job_id}/cancel": "post", "/v1/feedback": "post",
        "/v1/models": "get", "/v1/chat/completions": "post", "/v1/embeddings": "post", "/healthz": "get",
        "/v1/lineage/{kind}/{identity}": "get", "/readyz": "get", "/metrics": "get",
    }  # fmt: skip
    routes = {(path, verb) for path, verbs in wanted.items() for verb in verbs.split()}
    missing = [(path, verb) for path, verb in routes if verb not in paths.get(path, {})]
    assert missing == []


@pytest.mark.slow
def test_importing_the_app_loads_no_heavy_library():
    import subprocess
    import sys

    heavy = ["torch", "transformers", "peft", "faiss", "tantivy", "llama_cpp", "sentence_transformers", "scipy"]
    heavy += ["ray", "pymilvus", "psycopg"]
    code = f"import sys, service.app, service.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example"])
def test_another_sites_page_cannot_write(empty_client, origin):
    refused = empty_client.post("/v1/adapters/rollback", headers={"Origin": origin})
    assert (refused.status_code, refused.json()["type"]) == (403, "wrong-origin")


def test_this_servers_own_pages_can(empty_client):
    answer = empty_client.post("/v1/adapters/rollback", headers={"Origin": "http://127.0.0.1:8000"})
    assert answer.json()["type"] == "no-live-adapter"


def test_off_loopback_the_named_hosts_are_enforced(make_workspace):
    with open_client(make_workspace(host="0.0.0.0", api_key="secret", allowed_hosts=("rag.lan",))) as client:
        assert client.get("/healthz", headers={"Host": "rag.lan"}).status_code == 200
        assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 421
