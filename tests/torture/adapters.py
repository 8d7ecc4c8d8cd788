"""Row 32 of the matrix: adapters with changed bytes, sent to be imported, and damaged where they are kept.

A tiny model of random weights is served by the real engine; a LoRA of it is changed and imported over HTTP, job
included. What may come out: one of ragtune's own errors, or an adapter that passed its comparison. Where the manifest
names hashes nothing that was changed may pass. What is damaged later, beside the database, is refused when it is next
loaded, or answers as it did before. After each, the engine still gives the answer that the bare model gave at first.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from data.errors import RagtuneError
from data.protocols import GenerationRequest
from data.records import Message
from data.state import sha256_file
from finetune.convert import hf_to_gguf
from service.adapter_files import ADAPTER_CONFIG, ADAPTER_GGUF, ADAPTER_WEIGHTS
from service.adapters import MANIFEST
from service.app import create_app
from service.jobs import run_job
from service.settings import Settings
from service.workspace import Workspace
from tests.finetune.tiny import save_adapter, save_model
from tests.service.parts import HashEmbedder
from tests.torture.models import change

FAULTS = ("untyped", "silent", "broken")
_FOREIGN = (
    *(b"", b"\0" * 4096, b"GGUF" + b"\3\0\0\0" * 64, b"PK\3\4" + b"x" * 200, b"\x80\4cos\nsystem\n(S'true'\ntR."),
    *(b"<html></html>", b"[" * 200_000, b'{"a":' * 50_000, b"null", b"NaN", b"[]", b'"x"', b"\xff\xfe{}", b"{}"),
)
_NASTY: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**64, 10**400, 0.5, -0.5, 1e308, float("nan"), float("inf"), "", "x", "\0", "../x"),
    *([], {}, [None], {"x": 1}, ["q_proj"], "LORA", "IA3", "nan", "all-linear", "\ud800", [[]], "9" * 5000),
)
ASKED = GenerationRequest((Message("user", "Who kept the lighthouse?"),), max_tokens=8, logprobs=True)


class Service:
    """A workspace over a tiny model, and an adapter of it that is whole."""

    def __init__(self, folder: Path) -> None:
        model = save_model(folder / "model", "llama", max_position_embeddings=4096)
        self.whole = save_adapter(folder / "adapter", model)
        served = hf_to_gguf(model, folder / "model.gguf")  # eight bits would part the near ties of random weights
        self.other = save_adapter(folder / "other", save_model(folder / "wide", "llama", hidden_size=32))
        settings = Settings.load(state_dir=folder / "state", model=str(served), n_ctx=4096, log_level="CRITICAL")
        self.workspace = Workspace(settings, embedder=HashEmbedder())
        self.client = TestClient(
            create_app(self.workspace, run_jobs=False), base_url="http://127.0.0.1", raise_server_exceptions=False
        )
        self.bare = self.said(None)
        assert self.imported(self.files(hashed=False)) == "imported"
        self.adapter = self.workspace.store.adapters.get("house", 1)
        self.kept = self.workspace.adapter_file(self.adapter, ADAPTER_WEIGHTS).parent
        self.tuned = self.said(self.workspace.adapter_key(self.adapter))
        assert self.tuned != self.bare

    def said(self, key: str | None) -> tuple[str, tuple[float, ...]]:
        """Return what the engine writes, greedily."""
        found = self.workspace.generator.generate(replace(ASKED, adapter=key))
        return found.text, tuple(found.logprobs)

    def files(self, *, hashed: bool) -> dict[str, bytes]:
        """Return the whole adapter's files; the manifest names their hashes or none."""
        names = (ADAPTER_WEIGHTS, ADAPTER_CONFIG)
        manifest: dict[str, Any] = {"attention": "full", "recipe": {"r": 4}, "metrics": {"loss": 1.0}, "lineage": {}}
        manifest["base_sha256"] = self.workspace.model.sha256
        if hashed:
            manifest["sha256"] = {name: sha256_file(self.whole / name) for name in names}
        return {
            **{name: (self.whole / name).read_bytes() for name in names},
            MANIFEST: json.dumps(manifest).encode(),
        }

    def imported(self, files: dict[str, bytes]) -> str:
        """Import files as the adapter ``house``; return ``imported``, ``refused`` or ``untyped``."""
        sent = [("files", item) for item in files.items()]
        answer = self.client.post("/v1/adapters/import", files=sent, data={"name": "house"})
        said = answer.json() if answer.headers["content-type"].endswith("json") else {"type": "internal-error"}
        if answer.status_code == 202:
            job = run_job(self.workspace, said["job_id"])
            said = job.error or self.listed()
        if said.get("type") == "internal-error" or answer.status_code >= 500:
            print(json.dumps(said)[:600], flush=True)  # noqa: T201
            return "untyped"
        return "refused" if answer.status_code != 202 or said else "imported"

    def listed(self) -> dict[str, Any]:
        """Return what is wrong with the list of adapters after an import: nothing, or an error of the server."""
        answer = self.client.get("/v1/adapters")
        return {} if answer.status_code == 200 else {"type": "internal-error", "detail": answer.text}


def changed(service: Service, files: dict[str, bytes], chance: random.Random) -> dict[str, bytes]:
    """Return the files with one of them changed."""
    name = chance.choice([ADAPTER_WEIGHTS, ADAPTER_WEIGHTS, ADAPTER_CONFIG, MANIFEST])
    kind = chance.random()
    if kind < 0.15:
        return {**files, name: chance.choice(_FOREIGN)}
    if kind < 0.2:
        return {**files, ADAPTER_WEIGHTS: (service.other / ADAPTER_WEIGHTS).read_bytes()}
    if name == ADAPTER_WEIGHTS or kind < 0.4:
        return {**files, name: change(files[name], chance)}
    said = json.loads(files[name])
    said[chance.choice([*said, "attention", "use_rslora", "use_dora", "served", "rank_pattern"])] = chance.choice(
        _NASTY
    )
    return {**files, name: json.dumps(said).encode()}


def run(trials: int, seed: int, folder: Path) -> dict[str, int]:
    """Change an adapter ``trials`` times, every second time where it is kept; return how each ended."""
    service = Service(folder)
    counts: Counter[str] = Counter(dict.fromkeys((*FAULTS, "refused", "imported", "same"), 0))
    try:
        for trial in range(trials):
            chance = random.Random(seed + trial)
            counts["trials"] += 1
            for ended in _sent(service, chance) if trial % 2 else _damaged(service, chance):
                counts[ended] += 1
            counts["broken"] += service.said(None) != service.bare
    finally:
        service.workspace.close()
    return dict(counts)


def _sent(service: Service, chance: random.Random) -> list[str]:
    hashed = chance.random() < 0.5
    before = service.files(hashed=hashed)
    after = changed(service, before, chance)
    ended = service.imported(after)
    # The manifest itself has no hash: where it was changed the files are what they were.
    same = all(before[name] == after[name] for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG))
    return [ended, *(["silent"] if ended == "imported" and hashed and not same else [])]


def _damaged(service: Service, chance: random.Random) -> list[str]:
    name = chance.choice([ADAPTER_GGUF, ADAPTER_GGUF, ADAPTER_WEIGHTS, ADAPTER_CONFIG])
    path = service.kept / name
    content = path.read_bytes()
    path.write_bytes(change(content, chance))
    if name != ADAPTER_GGUF:  # what it was made from matters where it is made again
        (service.kept / ADAPTER_GGUF).rename(service.kept / "kept")
    service.workspace.forget_adapter(service.adapter)
    try:
        return ["same" if service.said(service.workspace.adapter_key(service.adapter)) == service.tuned else "silent"]
    except RagtuneError:
        return ["refused"]
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {error}", flush=True)  # noqa: T201
        return ["untyped"]
    finally:
        service.workspace.forget_adapter(service.adapter)
        path.write_bytes(content)
        if (service.kept / "kept").exists():
            shutil.move(service.kept / "kept", service.kept / ADAPTER_GGUF)
