"""Row 26 of the matrix: requests made from the API's own description, sent with every role.

Schemathesis makes requests that fit the description and requests that do not; each is sent without a key, with one that
may only read, with one that is bound to a collection, and with an administrator's. Identifiers are often replaced by
ones that exist, since a random one ends at "unknown". The generator follows a script, all else is real.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode

from data.records import QAPair
from data.store import KeyGrant
from service.app import create_app
from service.workspace import Workspace
from tests.service.conftest import small_workspace
from tests.service.parts import ScriptedGenerator, adapter
from tests.torture.direct import Direct

BASE = "http://127.0.0.1"
CANARY = "zqvheron"
"""Stands in the collection that the bound key may not see, and in no request."""
MEMBERS = {"type", "title", "status", "detail", "got", "wanted", "hint"}
TRACE = re.compile(r'Traceback \(most recent call last\)|File "[^"]+", line \d+')
FAULTS = ("server_error", "not_problem", "trace", "path", "crossed", "undescribed")
NASTY: tuple[Any, ...] = (
    *("²", "١", "9" * 30, "9" * 5000, "-0", "1e400", "NaN", "0x10", "default@²", "house@1@2"),
    *("\0", "a\0b", "\r\nX: y", "\u202e\u200b", "a\ud800", "ﷺ" * 300, "x" * 5000, "", " "),
    *("../../etc/passwd", "..\\..\\x", "/etc/passwd", "file:///etc/passwd", "CON", ".", ".."),
    *("a/b", "%2e%2e%2f", "*" * 99),
    *("' OR 1=1 --", '" OR ""="', "{{7*7}}", "${7*7}", "<script>alert(1)</script>", "__proto__", "[" * 300),
    *(10**30, -(10**30), 2**63, 2**64, 2**31, -1, 0, 1e308, 5e-324, True, None),
    *([], {}, [None], {"": ""}, [[[[[[]]]]]], ["default"] * 2000),
)
"""Values that have broken programs before; one stands in place of another in every third request."""
EXPECTED_5XX = {("GET", "/readyz"): 503}
"""Not ready is an answer: the engine of this state is none."""


class Service:
    """An application over a small state, its four roles, and what exists in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workspace: Workspace = small_workspace(folder / "state", ScriptedGenerator())
        self.documents = folder / "documents"
        self.secret = folder / "secret"
        for at, name, words in (
            (self.documents, "lighthouse.md", "The lighthouse of Orrin was built in 1842. Its keeper was Mara Venn."),
            (self.documents, "garden.md", "The garden of Tolm grows blue roses. It was planted by two brothers."),
            (self.secret, f"{CANARY}.md", f"The vault of Karn opens with the word {CANARY}."),
        ):
            at.mkdir(exist_ok=True)
            (at / name).write_text(f"# Title\n\n{words}\n", encoding="utf-8")
        self.workspace.ingestor.ingest("secret", [self.secret])
        store = self.workspace.store
        chunk = next(chunk for _, chunk, _ in store.chunks.iterate("secret"))
        store.pairs.add("secret", None, [QAPair("s1", "Which word?", CANARY, (chunk.id,), "span", "human", "accepted")])
        self._numbers = count()
        self.known: dict[str, str] = {}
        self.restock()
        self.roles: dict[str, dict[str, str]] = {"none": {}}
        for role, scopes, seen in (
            ("reader", ("query",), ()),
            ("bound", ("query", "ingest", "train"), ("default",)),
            ("admin", ("admin",), ()),
        ):
            _, plaintext = store.keys.create(role, KeyGrant(scopes, seen))  # type: ignore[arg-type]
            self.roles[role] = {"Authorization": f"Bearer {plaintext}"}

    def restock(self) -> None:
        """Put back what earlier requests may have deleted, and note the identifiers of what exists."""
        store, number = self.workspace.store, next(self._numbers)
        self.workspace.ingestor.ingest("default", [self.documents])
        document = next(iter(store.documents.by_source("default").values())).id
        chunk = store.chunks.of_document(document)[0].id
        pair = QAPair(f"p{number}", f"Who kept {number}?", "Mara Venn", (chunk,), "span", "human", "accepted")
        store.pairs.add("default", None, [pair])
        store.adapters.add(adapter(f"house{number}", lineage={"collection": "default"}))
        store.evaluations.add(f"e{number}", {"verdict": "none"}, "default")
        job = store.jobs.create("rebuild", {"collection": "default", "number": number})
        store.jobs.claim_one(job.id, "tests", 60)
        store.jobs.finish(job.id, "succeeded", outputs={})
        self.known = {
            "document_id": document,
            "pair_id": pair.id,
            "job_id": job.id,
            "evaluation_id": f"e{number}",
            "name": f"house{number}",
            "identity": document,
            "kind": "document",
        }


def run(trials: int, first_seed: int, folder: Path) -> dict[str, int]:
    """Send ``trials`` requests; return how many were met by each kind of fault, and each status class."""
    service = Service(folder)
    counts: Counter[str] = Counter(dict.fromkeys(FAULTS, 0))
    try:
        app = create_app(service.workspace, run_jobs=False)
        with Direct(app, BASE) as client:
            operations = [found.ok() for found in schemathesis.openapi.from_dict(app.openapi()).get_all_operations()]
            rounds = -(-trials // (len(operations) * len(service.roles)))
            for number, operation in enumerate(operations):
                service.restock()
                left = trials - counts["trials"]
                if left <= 0:
                    break
                _fuzz(service, client, operation, rounds, first_seed + number, counts)
    finally:
        service.workspace.close()
    return dict(counts)


def _fuzz(service: Service, client: Direct, operation: Any, rounds: int, first_seed: int, counts: Counter[str]) -> None:
    chance = random.Random(first_seed)
    strategy = operation.as_strategy(GenerationMode.POSITIVE)
    if any(True for _ in operation.iter_parameters()) or operation.body:
        strategy = strategy | operation.as_strategy(GenerationMode.NEGATIVE)

    @seed(first_seed)
    @settings(
        max_examples=rounds, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=HealthCheck
    )
    @given(case=strategy)
    def send(case: Any) -> None:
        for name, value in service.known.items():
            if name in (case.path_parameters or {}) and chance.random() < 0.5:
                case.path_parameters[name] = value
        if chance.random() < 0.33:
            _spoil(case, chance)
        for role, headers in service.roles.items():
            counts["trials"] += 1
            for fault, what in _met(service, client, case, role, headers, counts):
                counts[fault] += 1
                print(json.dumps({"fault": fault, "role": role, **what}), flush=True)  # noqa: T201

    send()


def _spoil(case: Any, chance: random.Random) -> None:
    """Put a nasty value in place of one parameter, or of one value in the body."""
    slots: list[tuple[Any, Any]] = []
    for container in (case.path_parameters, case.query, case.headers):
        slots += [(container, name) for name in container or {}]
    waiting = [case.body] if isinstance(case.body, dict | list) else []
    while waiting:
        container = waiting.pop()
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for name, value in items:
            slots.append((container, name))
            waiting += [value] if isinstance(value, dict | list) else []
    if slots:
        container, name = chance.choice(slots)
        value = chance.choice(NASTY)
        text = container is case.path_parameters or container is case.headers
        container[name] = str(value) if text else value


def _met(
    service: Service, client: Direct, case: Any, role: str, headers: dict[str, str], counts: Counter[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Send one request and yield each fault that its answer has."""
    try:
        prepared = requests.Request(**case.as_transport_kwargs(base_url=BASE)).prepare()
    except (ValueError, UnicodeError):  # what no client can send
        counts["unsendable"] += 1
        return
    sent = {**{k: v for k, v in prepared.headers.items() if k.lower() != "authorization"}, **headers}
    body = prepared.body if isinstance(prepared.body, bytes) else (prepared.body or "").encode()
    answer = client.request(case.method, str(prepared.url), body, _encoded(sent))
    status, text = answer.status_code, answer.text
    counts[f"{status // 100}xx"] += 1
    what = {"request": f"{case.method} {prepared.url}"[:500], "body": repr(body[:600]), "answer": text[:600]}
    what |= {"status": str(status)}
    if status >= 500 and EXPECTED_5XX.get((case.method, case.path)) != status:
        yield "server_error", what
    elif status >= 400 and not _is_problem(answer):
        yield "not_problem", what
    if status >= 400 and TRACE.search(text):
        yield "trace", what
    if status >= 400 and str(service.folder) in text:
        yield "path", what
    if role in {"none", "bound"} and CANARY in text:
        yield "crossed", what
    if str(status) not in case.operation.definition.raw["responses"] and (
        status < 400 or "default" not in case.operation.definition.raw["responses"]
    ):
        yield "undescribed", what


def _encoded(headers: dict[str, str | bytes]) -> list[tuple[bytes, bytes]]:
    """Return header fields as bytes, as a client of any kind could send them."""
    return [
        (name.encode(), value if isinstance(value, bytes) else value.encode("latin-1", "replace"))
        for name, value in headers.items()
    ]


def _is_problem(answer: Any) -> bool:
    if answer.headers.get("content-type") != "application/problem+json":
        return False
    body = answer.json()
    return set(body) >= MEMBERS and body["status"] == answer.status_code
