"""A generator that says what was prepared, and a small corpus over a real store and index."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from data.errors import EngineError
from data.protocols import Delta, GenerationRequest, GenerationResult
from data.records import Usage
from data.state import StateDirectory
from data.store import Store
from retrieval.ingest import Ingestor
from retrieval.retriever import Retriever
from tests.retrieval.hashing import HashingEmbedder, Settings


@dataclass
class ScriptedGenerator:
    """Says the prepared texts for the first key that stands in the prompt's last part, in turn.

    An error among the texts is raised. Unprepared prompts get ``otherwise``.
    """

    script: Mapping[str, Sequence[str | EngineError]]
    otherwise: str = "I don't know."
    model: str = "scripted"
    requests: list[GenerationRequest] = field(default_factory=list)

    def generate(self, request: GenerationRequest) -> GenerationResult:
        self.requests.append(request)
        asked = request.messages[-1].parts[-1]
        key = next((key for key in self.script if key in asked), None)
        said: str | EngineError = self.otherwise
        if key is not None:
            before = sum(key in earlier.messages[-1].parts[-1] for earlier in self.requests[:-1])
            said = self.script[key][before % len(self.script[key])]
        if isinstance(said, EngineError):
            raise said
        return GenerationResult(said, "stop", Usage(1, 0, 1), 1.0, 1.0)

    def stream(self, request: GenerationRequest) -> Iterator[Delta]:
        result = self.generate(request)
        yield Delta(result.text, result)


CORPUS = {
    "fresno.md": "# Fresno\n\nFresno was founded in 1872 by the Central Pacific Railroad Company in California. "
    "The name of the town means ash tree in Spanish.\n\n## Climate\n\nThe hottest month of Fresno is July with 36 "
    "degrees on average, and the wettest month of the valley is January with rain on eight days of the month.\n",
    "oxygen.md": "# Oxygen\n\nOxygen was isolated by Michael Sendivogius before 1604, and it was named by Antoine "
    "Lavoisier in 1777. Its atomic number is 8.\n\n## Uses\n\nSteel smelting consumes 55 percent of the oxygen that "
    "is made for trade, and divers breathe nitrox, a mixture that holds more of the gas than common air does.\n",
    "luther.md": "# Luther\n\nMartin Luther was born in Eisleben on 10 November 1483, a son of Hans Luder and "
    "Margarethe Lindemann.\n\n## Theses\n\nThe theses against indulgences were sent to Albrecht of Mainz in October "
    "1517 and were printed in Leipzig, Nuremberg and Basel before the end of that year.\n",
}


class Corpus:
    """The corpus above, ingested into a store and indexed; a context manager."""

    def __init__(self, folder: Path, documents: Mapping[str, str] = CORPUS) -> None:
        self.folder = folder / "documents"
        self.folder.mkdir()
        self.state = StateDirectory(folder / "state")
        self.state.create()
        self.store = Store.open(self.state.db)
        embedder = HashingEmbedder()
        self.ingestor = Ingestor(self.store, self.state, embedder, Settings())
        self.retriever = Retriever(self.store, self.state, embedder)
        self.write(documents)

    def write(self, documents: Mapping[str, str]) -> None:
        for name, text in documents.items():
            (self.folder / name).write_text(text)
        assert self.ingestor.ingest("default", [self.folder]).failed == []

    def chunk_id(self, words: str) -> str:
        return next(chunk.id for _, chunk, _ in self.store.chunks.iterate("default") if words in chunk.text)

    def document_id(self, name: str) -> str:
        return self.store.documents.by_source("default")[name].id

    def __enter__(self) -> Corpus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.retriever.close()
        self.store.close()
