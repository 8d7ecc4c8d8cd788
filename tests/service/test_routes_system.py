"""Routes that tell a client what there is: collections, chunks, recipes, settings, health."""

from __future__ import annotations

from data.prompt import prompt_version
from finetune.recipe import Recipe
from tests.service.conftest import open_client
from tests.service.parts import DOCUMENTS


def test_collections_are_listed_with_their_documents(client, indexed):
    indexed.store.collections.ensure("empty")
    listed = client.get("/v1/collections").json()["collections"]
    unset = {"version": 0, "instructions": "", "sampling": {}, "actor": "", "created_at": 0.0, "live_adapter": None}
    unset |= {"prompt_version": prompt_version(), "suggested_adapter": None}
    assert listed == [
        {"name": "default", "collection": "default", "documents": len(DOCUMENTS), "index_generation": 1, **unset},
        {"name": "empty", "collection": "empty", "documents": 0, "index_generation": None, **unset},
    ]


def test_a_documents_chunks_stand_in_its_text(client):
    for document in client.get("/v1/documents").json()["documents"]:
        text = client.get(f"/v1/documents/{document['id']}/text").json()["text"]
        found = client.get(f"/v1/documents/{document['id']}/chunks").json()
        assert (found["id"], found["source"]) == (document["id"], document["source"])
        assert len(found["chunks"]) == document["chunks"] > 0
        assert all(text[chunk["start"] : chunk["end"]] == chunk["text"] for chunk in found["chunks"])
    assert client.get("/v1/documents/none/chunks").json()["type"] == "unknown-document"


def test_recipes_are_listed_and_can_be_trained_with(empty_client):
    found = empty_client.get("/v1/recipes").json()
    assert found["defaults"] == Recipe().to_mapping()
    assert [recipe["name"] for recipe in found["recipes"]] == ["domain", "reader", "style"]
    for recipe in found["recipes"]:
        assert Recipe.from_mapping(recipe["values"]).to_mapping() == {**found["defaults"], **recipe["values"]}


def test_settings_are_shown_without_secrets(make_workspace):
    with open_client(make_workspace(api_key="secret", teacher_api_key="hidden", chunk_size=123)) as client:
        response = client.get("/v1/settings", headers={"Authorization": "Bearer secret"})
    assert response.json()["settings"]["chunk_size"] == 123
    for secret in ("secret", "hidden", "key", "state_dir", "url"):
        assert secret not in response.text


def test_the_doctor_checks_over_http(client):
    findings = client.get("/v1/doctor").json()["findings"]
    checks = {finding["check"]: finding for finding in findings}
    assert {"python", "disk", "state", "store"} <= checks.keys()
    assert checks["store"]["found"].startswith(f"{len(DOCUMENTS)} documents")
    assert all(finding["verdict"] in ("ok", "warning", "failed") for finding in findings)
