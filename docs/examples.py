"""Records what every route takes and gives: ``python -m docs.examples`` writes ``service/examples.json``.

The replies are real: the packaged starter over three of the sample articles, jobs run to their end where that takes
seconds. Long texts and lists are cut, and what names this machine is replaced. ``service.description`` puts them
into openapi.json.
"""

from __future__ import annotations

import json
import socket
import tempfile
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from data.store import KeyGrant
from service.app import create_app
from service.jobs import run_job
from service.settings import Settings
from service.workspace import Workspace

OUT = Path(__file__).parents[1] / "service" / "examples.json"
SAMPLES = Path(__file__).parents[1] / "data" / "samples"
ARTICLES = ("00-super-bowl-50.md", "16-amazon-rainforest.md", "40-prime-number.md")
QUESTION = "Who won Super Bowl XLIX?"
SECRET = ("key", "secret")
LONGEST, MOST = 240, 2
"""Characters of a text and entries of a list that are shown."""


def tidy(value: Any) -> Any:
    """Return a reply cut to what an example needs."""
    if isinstance(value, dict):
        return {name: f"{each[:6]}…" if name in SECRET and each else tidy(each) for name, each in value.items()}
    if isinstance(value, list):
        return [tidy(each) for each in value[:MOST]]
    return f"{value[:LONGEST]}…" if isinstance(value, str) and len(value) > LONGEST else value


class Recorder:
    """Sends requests and keeps each with its reply, under the route's method and path."""

    def __init__(self, client: TestClient, workspace: Workspace) -> None:
        self._client = client
        self._workspace = workspace
        self._hidden = {str(workspace.state.root): "/var/lib/ragtune", socket.gethostname(): "server"}
        self.kept: dict[str, Any] = {}

    def __call__(self, route: str, status: int = 200, path: dict[str, str] | None = None, **sent: Any) -> Any:
        """Send one request; return the reply's JSON, its text where it is none.

        Args:
            route: method and path, as openapi.json has them.
            status: that is wanted.
            path: the values of the path's parameters.
            sent: as httpx takes it: json, data, files, params, headers.
        """
        method, template = route.split()
        reply = self._client.request(method, template.format(**path or {}), **sent)
        assert reply.status_code == status, (route, reply.status_code, reply.text)
        media = reply.headers.get("content-type", "").partition(";")[0]
        found = reply.json() if media == "application/json" else reply.text
        kept: dict[str, Any] = {"status": status, "media": media, "response": self._without_machine(tidy(found))}
        if "files" in sent:
            names = [name for _, (name, _) in sent["files"]]
            field = sent["files"][0][0]
            form = {field: names if field == "files" else names[0], **sent.get("data", {})}
            kept |= {"request": form, "takes": "multipart/form-data"}
        elif "json" in sent:
            kept |= {"request": tidy(sent["json"]), "takes": "application/json"}
        kept |= {"parameters": {**(path or {}), **sent.get("params", {})}}
        self.kept[route] = kept
        return found

    def run(self, accepted: Any) -> Any:
        """Run the job that a route has queued."""
        done = run_job(self._workspace, accepted["job_id"])
        assert done.status == "succeeded", done.error
        return done

    def _without_machine(self, value: Any) -> Any:
        text = json.dumps(value, ensure_ascii=False)
        for name, shown in self._hidden.items():
            text = text.replace(name, shown)
        return json.loads(text)


def _documents(ask: Recorder) -> None:
    files = [("files", (name, (SAMPLES / "corpus" / name).read_bytes())) for name in ARTICLES]
    ask.run(ask("POST /v1/documents", 202, files=files, data={"collection": "default"}))
    ask("POST /v1/documents/preview", files=[("file", files[0][1])])
    listed = ask("GET /v1/documents", params={"limit": 2})
    document = {"document_id": listed["documents"][0]["id"]}
    for part in ("", "/text", "/chunks"):
        ask(f"GET /v1/documents/{{document_id}}{part}", path=document)
    ask("GET /v1/collections")
    ask("GET /v1/collections/{name}", path={"name": "default"})
    house = {"instructions": "Answer in one sentence.", "sampling": {"top_k": 3}}
    ask("PUT /v1/collections/{name}", path={"name": "default"}, json=house)


def _answers(ask: Recorder) -> None:
    short = {"question": QUESTION, "top_k": 2, "max_tokens": 32}
    answer = ask("POST /v1/answers", json={**short, "adapter": "reader"})
    ask("POST /v1/compare", json={**short, "arms": ["base", "rag"]})
    trial = ask("POST /v1/blind", 201, json=short)
    trial_id = {"trial_id": trial["id"]}
    ask("GET /v1/blind/{trial_id}", path=trial_id)
    ask("POST /v1/blind/{trial_id}/vote", path=trial_id, json={"vote": "A"})
    ask("GET /v1/blind")
    ask("POST /v1/search", json={"query": QUESTION, "top_k": 2})
    said = {"answer_id": answer["id"], "rating": -1, "correction": "The New England Patriots won Super Bowl XLIX."}
    ask("POST /v1/feedback", 201, json=said)
    ask("GET /v1/feedback", params={"limit": 2})
    chat = {"model": "rag", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 32}
    ask("POST /v1/chat/completions", json=chat)
    embedder = next(each["id"] for each in ask("GET /v1/models")["data"] if "embed" in each["id"])
    ask("POST /v1/embeddings", json={"model": embedder, "input": [QUESTION]})
    ask("GET /v1/models/{name}", path={"name": "rag"})
    ask("GET /v1/lineage/{kind}/{identity}", path={"kind": "answer", "identity": answer["id"]})


def _pairs(ask: Recorder) -> None:
    rows = [json.loads(line) for line in (SAMPLES / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    chosen = [row for row in rows if row["document"] in ARTICLES and row["answerable"]]
    asked = [{"id": row["id"], "question": row["question"], "answers": row["answers"][:1]} for row in chosen]
    ask.run(ask("POST /v1/pairs/import", 202, json={"rows": asked, "collection": "default"}))
    pairs = ask("GET /v1/pairs", params={"limit": 50})["pairs"]
    ids = [pair["id"] for pair in pairs]
    ask("GET /v1/pairs/coverage")
    done = ask("POST /v1/pairs/bulk", json={"ids": ids[:3], "status": "rejected", "reason": "ambiguous"})
    ask("POST /v1/pairs/reviews/{review_id}/undo", path={"review_id": done["review_id"]})
    pair = {"pair_id": ids[-1]}
    ask("PATCH /v1/pairs/{pair_id}", path=pair, json={"status": "rejected", "reason": "ambiguous"})
    ask("POST /v1/pairs/{pair_id}/undo", path=pair)
    ask("GET /v1/pairs/{pair_id}", path=pair)
    ask("POST /v1/pairs/generate", 202, json={"collection": "default", "limit": 50})
    ask("POST /v1/pairs/export", 202, json={"collection": "default", "eval_share": 0.1})
    ask("GET /v1/pairs/export", params={"format": "chat", "split": "train"})


def _index(ask: Recorder) -> None:
    body = {"collection": "default"}
    ask.run(ask("POST /v1/index/rebuild", 202, json=body))
    ask("POST /v1/index/verify", 202, json={**body, "repair": False})
    ask("POST /v1/index/compact", 202, json=body)
    ask("GET /v1/index")
    ask("GET /v1/index/generations")


def _adapters(ask: Recorder) -> None:
    training = {"name": "house", "collection": "default", "recipe": {"num_train_epochs": 1, "seed": 1}}
    ask("POST /v1/adapters", 202, json=training)
    ask("POST /v1/adapters/estimate", 202, json=training)
    ask("GET /v1/adapters")
    name = {"name": "reader"}
    ask("GET /v1/adapters/{name}", path=name)
    ask("GET /v1/adapters/{name}/decision", path=name)
    ask("POST /v1/adapters/{name}/shadow", path=name, json={"reason": "to see it on real questions"})
    for each in ("pair-writer", "reader"):  # so that there is one to go back to
        forced = {"force": True, "reason": "measured elsewhere"}
        ask("POST /v1/adapters/{name}/promote", path={"name": each}, json=forced)
    ask("GET /v1/promotions")
    ask("GET /v1/promotions/policy")
    ask("POST /v1/adapters/rollback", json={"reason": "too many wrong answers"})
    ask("POST /v1/adapters/{name}/retire", path={"name": "pair-writer"}, json={"reason": "no longer used"})
    files = [
        ("files", (path.name, path.read_bytes()))
        for path in sorted((Path(__file__).parents[1] / "data" / "starter" / "reader").iterdir())
    ]
    ask("POST /v1/adapters/import", 202, files=files, data={"name": "brought"})
    ask("DELETE /v1/adapters/{name}", path={"name": "pair-writer"})
    ask("GET /v1/recipes")
    ask("POST /v1/loop", 202, json={"collection": "default"})
    ask("GET /v1/loop")


def _measured(ask: Recorder) -> None:
    questions = [{"id": "q1", "question": QUESTION, "answers": ["New England Patriots"]}]
    asked = {"questions": questions, "arms": ["base", "rag"], "top_k": 2}
    done = ask.run(ask("POST /v1/evaluations", 202, json=asked))
    ask("GET /v1/evaluations")
    for part in ("", "/report"):
        ask(f"GET /v1/evaluations/{{evaluation_id}}{part}", path={"evaluation_id": done.outputs["evaluation_id"]})
    ask("POST /v1/calibrations", 202, json={"questions": questions, "mode": "rag"})
    ask("GET /v1/calibrations")
    tuned = ask("POST /v1/retrievers", 202, json={"name": "house", "epochs": 1})
    ask.run(tuned)
    ask("GET /v1/retrievers")
    name = {"name": "house"}
    ask("GET /v1/retrievers/{name}", path=name)
    ask("POST /v1/retrievers/{name}/promote", 202, path=name, json={"force": True, "reason": "finds more"})
    ask("DELETE /v1/retrievers/{name}", path=name)


def _jobs(ask: Recorder) -> None:
    ask("GET /v1/jobs", params={"limit": 2})
    ended = {"job_id": ask.kept["POST /v1/documents"]["response"]["job_id"]}
    ask("GET /v1/jobs/{job_id}", path=ended)
    ask("GET /v1/jobs/{job_id}/events", path=ended)
    waiting = {"job_id": ask("POST /v1/index/rebuild", 202, json={"collection": "default"})["job_id"]}
    ask("POST /v1/jobs/{job_id}/cancel", path=waiting)
    hook = ask("POST /v1/webhooks", 201, json={"url": "http://127.0.0.1:9/hook", "kinds": ["ingest"]})
    ask("GET /v1/webhooks")
    ask("GET /v1/webhooks/{webhook_id}/notices", path={"webhook_id": hook["id"]})
    ask("DELETE /v1/webhooks/{webhook_id}", path={"webhook_id": hook["id"]})


def _operation(ask: Recorder, administrator: dict[str, str]) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        ask(f"GET {path}")
    for path in ("/v1/me", "/v1/settings", "/v1/doctor"):
        ask(f"GET {path}")
    made = ask("POST /v1/keys", 201, json={"name": "wiki", "scopes": ["query"], "requests_per_minute": 60})
    ask("GET /v1/keys", headers=administrator)
    ask("DELETE /v1/keys/{key_id}", path={"key_id": made["id"]}, headers=administrator)
    ask("GET /v1/audit", params={"limit": 2}, headers=administrator)


def record() -> dict[str, Any]:
    """Return the example of every route."""
    with tempfile.TemporaryDirectory(prefix="ragtune-examples-") as folder:
        settings = Settings.load(state_dir=Path(folder), log_level="ERROR", webhook_networks="127.0.0.0/8")
        with Workspace(settings) as workspace, workspace.lock():
            workspace.ensure_starter_adapters()
            with TestClient(create_app(workspace, run_jobs=False), base_url="http://127.0.0.1") as client:
                ask = Recorder(client, workspace)
                for part in (_documents, _pairs, _answers, _index, _measured, _adapters, _jobs):
                    part(ask)
                round_id = {"job_id": ask.kept["POST /v1/loop"]["response"]["job_id"]}
                ask("GET /v1/loop/{job_id}", path=round_id)
                document = ask("GET /v1/documents", params={"limit": 2})["documents"][-1]["id"]
                ask("DELETE /v1/documents/{document_id}", path={"document_id": document})
                ask("POST /v1/index/rollback", json={"collection": "default"})
                _, key = workspace.store.keys.create("administrator", KeyGrant(("admin",)))
                client.headers["Authorization"] = f"Bearer {key}"
                _operation(ask, {})
    return dict(sorted(ask.kept.items(), key=lambda item: item[0].split()[::-1]))


if __name__ == "__main__":
    OUT.write_text(json.dumps(record(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
