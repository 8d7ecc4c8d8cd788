"""The starter over two documents with an accepted pair for each question: the least that can be trained on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.records import QAPair, content_id
from service.settings import Settings
from service.workspace import Workspace
from tests.service.parts import DOCUMENTS

ASKED = [
    ("When was the lighthouse of Orrin built?", "1842"),
    ("Who was the keeper of the lighthouse of Orrin?", "Mara Venn"),
    ("What grows in the garden of Tolm?", "blue roses"),
    ("Who planted the garden of Tolm?", "Ask and Embla"),
]


@contextmanager
def trainable(root: Path) -> Iterator[Workspace]:
    """Open a workspace under ``root`` that holds them."""
    (root / "documents").mkdir()
    for name, text in DOCUMENTS.items():
        (root / "documents" / name).write_text(text, encoding="utf-8")
    with Workspace(Settings.load(state_dir=root / "state", model="starter", n_ctx=2048)) as workspace:
        workspace.ingestor.ingest("default", [root / "documents"])
        chunks = [chunk for _key, chunk, _title in workspace.store.chunks.iterate("default")]
        pairs = []
        for question, answer in ASKED:
            chunk = next(chunk for chunk in chunks if answer in chunk.text)
            pairs.append(QAPair(content_id(question), question, answer, (chunk.id,), "span", "test", "accepted"))
        workspace.store.pairs.add("default", None, pairs)
        yield workspace
