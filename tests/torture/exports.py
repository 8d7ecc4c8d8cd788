"""Row 7 of the matrix: killed, or the power cut, while a tiny adapter is trained, another imported and one exported.

Recorded as in ``powercut``; the moments of a kill are all those between two writes. Afterwards each adapter that a
client was told of is listed, and each that is listed has all its files, with the hashes that are kept of them: what is
served or exported is made of those. A file under an exported name is the whole export or not there.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data.protocols import Progress
from data.records import Adapter, QAPair
from data.state import StateDirectory, sha256_file
from data.store import Store
from service.adapter_files import ADAPTER_GGUF, ADAPTER_WEIGHTS, GGUF_SHA256
from service.settings import Settings
from service.workspace import Workspace
from tests.service.parts import HashEmbedder
from tests.torture.forks import Say, run_forked
from tests.torture.powercut import SAID, leave, moments, record
from tests.torture.replay import Disk, read, recorder

FAULTS = ("lost", "partial", "unopened")
KINDS = ("killed", "synced", "some")
RECIPE = {"r": 2, "lora_alpha": 4, "max_steps": 1, "warmup_steps": 0, "init_adapter": "", "max_length": 512}
_HASHED = {ADAPTER_GGUF: GGUF_SHA256, ADAPTER_WEIGHTS: "weights_sha256"}


def opened(root: Path) -> Workspace:
    """Open the state over the tiny model."""
    settings = Settings.load(
        state_dir=root / "state", model=str(root / "model.gguf"), n_ctx=2048, log_level="CRITICAL", n_threads=1
    )
    return Workspace(settings, embedder=HashEmbedder())


def prepare(root: Path, _seed: int) -> None:
    """Make a model, an adapter of it to import, and pairs to train on."""
    from finetune.convert import hf_to_gguf
    from tests.finetune.tiny import save_adapter, save_model

    model = save_model(root / "model", "llama", max_position_embeddings=4096)
    save_adapter(root / "adapter", model)
    hf_to_gguf(model, root / "model.gguf")
    (root / "documents").mkdir()
    (root / "documents" / "a.md").write_text("# Orrin\n\nThe lighthouse of Orrin was built in 1842 by Mara Venn.\n")
    with opened(root) as workspace:
        workspace.ingestor.ingest("default", [root / "documents"])
        chunk = next(chunk for _, chunk, _ in workspace.store.chunks.iterate("default"))
        asked = (("When was the lighthouse built?", "1842"), ("Who built the lighthouse?", "Mara Venn"))
        pairs = [QAPair(f"p{n}", q, a, (chunk.id,), "span", "x", "accepted") for n, (q, a) in enumerate(asked)]
        workspace.store.pairs.add("default", None, pairs)
        assert workspace.model.name


def live(root: Path, _seed: int) -> None:
    """Import, export, train, export what was trained; each is said when a client would be told."""
    from service.adapters import import_adapter
    from service.export import export_adapter
    from service.work.train import run

    said = os.open(root / SAID, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def quiet(_progress: Progress) -> None:
        return

    def export(workspace: Workspace, name: str) -> None:
        adapter = workspace.store.adapters.get(name, 1)
        done = export_adapter(workspace, adapter, root / "exported" / f"{name}.gguf", report=quiet)
        os.write(said, f"acknowledged {name}.gguf {done['sha256']}\n".encode())

    with opened(root) as workspace:
        import_adapter(workspace, "brought", root / "adapter", quiet)
        os.write(said, b"acknowledged brought@1\n")
        export(workspace, "brought")
        run(workspace, {"name": "trained", "collection": "default", "recipe": RECIPE}, quiet)
        os.write(said, b"acknowledged trained@1\n")
        export(workspace, "trained")


def look(root: Path, told: list[str], exports: dict[str, str], say: Say) -> None:
    """Say each fault; ``told`` are the adapters and ``exports`` the hashes of the files a client may count on."""
    state = StateDirectory(root / "state")
    with Store.open(state.db) as store:
        listed = {f"{adapter.name}@{adapter.version}": adapter for adapter in store.adapters.list()}
    for label in told:
        if label not in listed and label not in exports:
            say(f"lost {label}")
    for label, adapter in listed.items():
        for name in partial(state, adapter):
            say(f"partial {label} {name}")
    for name, sha256 in exports.items():
        path = root / "exported" / name
        if path.exists() and sha256_file(path) != sha256:
            say(f"partial {name}")
        elif name in told and not path.exists():
            say(f"lost {name}")


def partial(state: StateDirectory, adapter: Adapter) -> Iterator[str]:
    """Yield each file of an adapter that is missing or not what was registered."""
    for name, path in adapter.files.items():
        wanted = adapter.lineage.get(_HASHED.get(name, ""))
        if not (state.root / path).is_file() or (wanted and sha256_file(state.root / path) != wanted):
            yield name
    manifest = state.adapters(adapter.name, adapter.version) / "manifest.json"
    hashes = json.loads(manifest.read_bytes()).get("sha256", {}) if manifest.exists() else {}
    yield from (name for name, sha256 in hashes.items() if sha256_file(manifest.with_name(name)) != sha256)


def run(trials: int, seed: int, folder: Path) -> dict[str, int]:
    """Stop one recording of all that at ``trials`` moments; return what was found."""
    (root := folder / "root").mkdir(parents=True)
    record(root, folder / "log", f"{__name__}.prepare", seed, None)
    disk = Disk(root)
    record(root, folder / "log", f"{__name__}.live", seed, recorder(folder))
    exports = dict(line.split()[1:] for line in (root / SAID).read_text().splitlines() if ".gguf" in line)
    counts: Counter[str] = Counter(dict.fromkeys((*FAULTS, *KINDS, "trials"), 0))
    chance = random.Random(seed)
    for trial, place in enumerate(moments(disk, list(read(folder / "log")), trials, chance)):
        told = [line.split()[1] for line in disk.read(SAID).decode().splitlines()]
        left, kind = folder / "left", KINDS[trial % len(KINDS)]
        leave(disk, left, kind, chance)
        ended = run_forked(lambda say, left=left, told=told: look(left, told, exports, say))
        faults = [*ended.said, *(["unopened"] if ended.status != 0 else [])]
        counts.update([*{line.split()[0] for line in faults}, "trials", kind])
        if faults:
            print(json.dumps({"at": place, "kind": kind, "told": told, "faults": faults}), flush=True)  # noqa: T201
        shutil.rmtree(left)
    return dict(counts)
