"""A typed client of the HTTP service: ``from service.client import Client``.

Synchronous, over httpx2; loads no other part of ragtune than the shapes of the replies. A test compares every route
and field it uses with openapi.json. What it does not have a method for, ``Client.request`` sends.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2

from service import api_models as models

_R = TypeVar("_R", bound=models.Reply)
TIMEOUT_S = 300.0
"""Answers on a slow machine take this long; a job is waited for by ``Jobs.wait``."""
FINAL = ("succeeded", "failed", "cancelled")


class ApiError(Exception):
    """A refusal of the service: its problem object (RFC 9457)."""

    def __init__(self, problem: Mapping[str, Any], status: int) -> None:
        self.type = str(problem.get("type", "http-error"))
        self.status = status
        self.detail = str(problem.get("detail") or problem.get("title") or f"HTTP {status}")
        self.got, self.wanted = problem.get("got"), str(problem.get("wanted") or "")
        self.hint = str(problem.get("hint") or "")
        super().__init__(" ".join(filter(None, (f"{self.type}: {self.detail}", self.hint))))


class JobFailed(ApiError):
    """A job that was waited for did not succeed; ``job`` is how it ended."""

    def __init__(self, job: models.Job) -> None:
        super().__init__(job.error or {"type": f"job-{job.status}", "detail": f"The job was {job.status}"}, 0)
        self.job = job


class Client:
    """The service at ``url``; a context manager that closes its connections.

    Args:
        url: as ``ragtune serve`` says it.
        key: an API key; none where the service wants none.
        collection: what questions, searches and jobs are about where a call names no other.
        timeout_s: for one request.
        transport: how requests are sent, for tests.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str | None = None,
        *,
        collection: str = "default",
        timeout_s: float = TIMEOUT_S,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.Client(base_url=url, headers=headers, timeout=timeout_s, transport=transport)
        self.collection = collection
        self.documents = Documents(self)
        self.jobs = Jobs(self)
        self.pairs = Pairs(self)
        self.adapters = Adapters(self)
        self.evaluations = Evaluations(self)
        self.collections = Collections(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Send any request; ``options`` are those of ``httpx2.Client.request``.

        Raises:
            ApiError: the service refused it.
            httpx2.HTTPError: it could not be reached.
        """
        return _checked(self._http.request(method, path, **options))

    def reply(self, model: type[_R], method: str, path: str, **options: Any) -> _R:
        """Send a request and return its reply as ``model``; raises as ``request``."""
        return model.model_validate(self.request(method, path, **options).json())

    def ask(self, question: str, **options: Any) -> models.Answer:
        """Answer a question.

        Args:
            question: the question.
            options: further fields of ``POST /v1/answers``: ``mode``, ``adapter``, ``top_k``, ``max_tokens``,
                ``temperature``, ``history``, ``max_false_answer_rate``, ``instructions``, ``collection`` and others.
        """
        return self.reply(models.Answer, "POST", "/v1/answers", json=self._about({"question": question, **options}))

    def stream(self, question: str, **options: Any) -> Iterator[str | models.Answer]:
        """Yield the answer's text piece by piece as it is written, and the whole ``Answer`` at the end.

        Closing the iterator stops the generation. Options and errors as for ``ask``.
        """
        body = self._about({"question": question, **options, "stream": True})
        with self._http.stream("POST", "/v1/answers", json=body) as response:
            if response.is_error:
                response.read()
            for event, data in _events(_checked(response)):
                if event == "error":
                    raise ApiError(data, int(data.get("status", 0)))
                if event == "token":
                    yield str(data["text"])
                elif event == "answer":
                    yield models.Answer.model_validate(data)

    def search(self, query: str, **options: Any) -> models.SearchResult:
        """Return the passages that fit a query; ``options`` are fields of ``POST /v1/search``."""
        return self.reply(models.SearchResult, "POST", "/v1/search", json=self._about({"query": query, **options}))

    def feedback(self, answer_id: str, **said: Any) -> models.Feedback:
        """Keep a ``rating`` (-1 to 1), a ``correction`` or a ``comment`` of an answer."""
        return self.reply(models.Feedback, "POST", "/v1/feedback", json={"answer_id": answer_id, **said})

    def _about(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"collection": self.collection, **body}


class _Part:
    def __init__(self, client: Client) -> None:
        self._client = client

    def _job(self, path: str, key: str | None = None, **options: Any) -> models.Accepted:
        headers = {"Idempotency-Key": key} if key else {}
        return self._client.reply(models.Accepted, "POST", path, headers=headers, **options)

    def _collection(self, named: str | None) -> str:
        return self._client.collection if named is None else named


class Documents(_Part):
    """``/v1/documents``."""

    def upload(
        self, *paths: Path | str, collection: str | None = None, tags: Sequence[str] = (), key: str | None = None
    ) -> models.Accepted:
        """Send files and return the job that ingests them; ``key`` makes a repeat return the first job."""
        files = [("files", (Path(path).name, Path(path).read_bytes())) for path in paths]
        data: dict[str, Any] = {"collection": self._collection(collection)}
        data |= {"tags": list(tags)} if tags else {}
        return self._job("/v1/documents", key, files=files, data=data)

    def list(self, collection: str | None = None) -> Iterator[models.Document]:
        """Yield every document of a collection, page by page."""
        about = {"collection": self._collection(collection), "limit": 200}
        for page in _pages(self._client, models.DocumentPage, "/v1/documents", about):
            yield from page.documents

    def text(self, document_id: str) -> str:
        """Return a document's text, in which every citation's quote stands at ``start:end``."""
        path = f"/v1/documents/{_id(document_id)}/text"
        return self._client.reply(models.DocumentText, "GET", path).text

    def delete(self, document_id: str) -> None:
        """Delete a document, its chunks and its place in the index."""
        self._client.request("DELETE", f"/v1/documents/{_id(document_id)}")


class Jobs(_Part):
    """``/v1/jobs``."""

    def get(self, job_id: str) -> models.Job:
        """Return a job as it is now."""
        return self._client.reply(models.Job, "GET", f"/v1/jobs/{_id(job_id)}")

    def list(self, status: str | None = None, limit: int = 50) -> list[models.Job]:
        """Return the newest jobs."""
        params = {"limit": limit, **({} if status is None else {"status": status})}
        return self._client.reply(models.JobList, "GET", "/v1/jobs", params=params).jobs

    def cancel(self, job_id: str) -> models.Job:
        """Ask a job to stop."""
        return self._client.reply(models.Job, "POST", f"/v1/jobs/{_id(job_id)}/cancel")

    def wait(self, job: models.Accepted | str, timeout_s: float | None = None, poll_s: float = 0.5) -> models.Job:
        """Wait until a job has succeeded, and return it.

        Raises:
            JobFailed: it failed or was cancelled.
            TimeoutError: it was not over after ``timeout_s`` seconds; it goes on.
        """
        job_id = job if isinstance(job, str) else job.job_id
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (found := self.get(job_id)).status not in FINAL:
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"The job {job_id} is {found.status} after {timeout_s} s")
            time.sleep(poll_s)
        if found.status != "succeeded":
            raise JobFailed(found)
        return found


class Pairs(_Part):
    """``/v1/pairs``."""

    def list(self, collection: str | None = None, **chosen: Any) -> Iterator[models.Pair]:
        """Yield pairs, page by page; ``chosen`` narrows them: ``status``, ``kind``, ``source``, ``text`` and others."""
        about = {"collection": self._collection(collection), "limit": 200, **chosen}
        for page in _pages(self._client, models.PairPage, "/v1/pairs", about):
            yield from page.pairs

    def generate(self, limit: int = 200, collection: str | None = None, **options: Any) -> models.Accepted:
        """Ask for ``limit`` proposals, as a job; ``options`` are fields of ``POST /v1/pairs/generate``."""
        body = {"collection": self._collection(collection), "limit": limit, **options}
        return self._job("/v1/pairs/generate", json=body)

    def add(self, rows: Sequence[Mapping[str, Any]], collection: str | None = None, style: bool = False) -> models.Job:
        """Import pairs, ``{"question", "answers"}`` each, and return the finished job."""
        body = {"collection": self._collection(collection), "rows": [dict(row) for row in rows], "style": style}
        return self._client.jobs.wait(self._job("/v1/pairs/import", json=body))

    def review(self, pair_id: str, **changes: Any) -> models.Pair:
        """Change a pair's ``status``, ``question``, ``answer`` or ``reason``."""
        return self._client.reply(models.Pair, "PATCH", f"/v1/pairs/{_id(pair_id)}", json=changes)


class Adapters(_Part):
    """``/v1/adapters``."""

    def list(self) -> list[models.Adapter]:
        """Return every version of every adapter."""
        return self._client.reply(models.AdapterList, "GET", "/v1/adapters").adapters

    def get(self, name: str) -> models.Adapter:
        """Return ``name`` (its newest version) or ``name@version``."""
        return self._client.reply(models.Adapter, "GET", f"/v1/adapters/{_id(name)}")

    def train(
        self,
        name: str,
        recipe: str | Mapping[str, Any] | None = None,
        collection: str | None = None,
        promote: bool = False,
    ) -> models.Accepted:
        """Train an adapter on the accepted pairs, as a job; ``recipe`` is a packaged one's name, or fields."""
        chosen = recipe if isinstance(recipe, str) else dict(recipe or {})
        body = {"name": name, "recipe": chosen, "collection": self._collection(collection), "promote": promote}
        return self._job("/v1/adapters", json=body)

    def promote(self, name: str, version: int | None = None, force: bool = False, reason: str = "") -> models.Adapter:
        """Make an adapter live if the policy lets it."""
        body = {"version": version, "force": force, "reason": reason}
        return self._client.reply(models.Adapter, "POST", f"/v1/adapters/{_id(name)}/promote", json=body)

    def rollback(self, collection: str | None = None) -> models.Adapter:
        """Make the adapter live again that answered in the collection before."""
        params = {"collection": self._collection(collection)}
        return self._client.reply(models.Adapter, "POST", "/v1/adapters/rollback", params=params)


class Evaluations(_Part):
    """``/v1/evaluations``."""

    def create(
        self, questions: Sequence[Mapping[str, Any]], collection: str | None = None, **options: Any
    ) -> models.Accepted:
        """Compare the arms over questions (``{"id", "question", "answers"}`` each), as a job."""
        body = {"collection": self._collection(collection), "questions": [dict(q) for q in questions], **options}
        return self._job("/v1/evaluations", json=body)

    def get(self, evaluation_id: str) -> dict[str, Any]:
        """Return a result; while its job runs, the job's status and progress. A job's id names its evaluation."""
        return dict(self._client.request("GET", f"/v1/evaluations/{_id(evaluation_id)}").json())

    def list(self) -> list[models.StoredEvaluation]:
        """Return the newest evaluations."""
        return self._client.reply(models.EvaluationList, "GET", "/v1/evaluations").evaluations


class Collections(_Part):
    """``/v1/collections``."""

    def list(self) -> list[models.Collection]:
        """Return every collection that the key may know."""
        return self._client.reply(models.CollectionList, "GET", "/v1/collections").collections

    def get(self, name: str) -> models.CollectionDetails:
        """Return a collection with every version of its settings."""
        return self._client.reply(models.CollectionDetails, "GET", f"/v1/collections/{_id(name)}")

    def put(
        self, name: str, instructions: str = "", sampling: Mapping[str, float] | None = None
    ) -> models.CollectionDetails:
        """Set a collection's instructions and sampling defaults, whole, as a new version."""
        body = {"instructions": instructions, "sampling": dict(sampling or {})}
        return self._client.reply(models.CollectionDetails, "PUT", f"/v1/collections/{_id(name)}", json=body)


def _id(name: str) -> str:
    return quote(name, safe="@")


def _pages(client: Client, model: type[_R], path: str, params: Mapping[str, Any]) -> Iterator[_R]:
    cursor: str | None = None
    while True:
        page = client.reply(model, "GET", path, params={**params, **({} if cursor is None else {"cursor": cursor})})
        yield page
        cursor = getattr(page, "next_cursor", None)
        if cursor is None:
            return


def _checked(response: httpx2.Response) -> httpx2.Response:
    if response.is_success:
        return response
    try:
        problem = response.json()
    except ValueError:
        problem = {"detail": response.text[:500]}
    raise ApiError(problem if isinstance(problem, dict) else {}, response.status_code)


def _events(response: httpx2.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the data of each Server-Sent Event; this service sends one data line for each."""
    event = "message"
    for line in response.iter_lines():
        name, _, value = line.partition(":")
        if name == "event":
            event = value.strip()
        elif name == "data":
            yield event, json.loads(value)
        elif not line:
            event = "message"
