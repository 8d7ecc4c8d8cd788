"""The lexical leg of an index generation: BM25 in a tantivy index.

English words are folded to ASCII and stemmed, Chinese runs become character bigrams. The importer of
tantivy. Knows nothing of vectors, generations or the store: texts come with the integer keys to
return.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tantivy

from data.errors import StorageCorrupt
from data.protocols import Hit, Vectors
from data.state import map_os_error

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_RUN = re.compile(rf"[{_CJK}]+|(?:(?![{_CJK}_])\w)+")
_IS_CJK = re.compile(rf"[{_CJK}]")
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_ANALYZER = "ragtune"
_HEAP_BYTES = 32_000_000
_MAX_QUERY_TERMS = 256


def terms(text: str) -> list[str]:
    """Cut ``text`` into lower-case words and bigrams of Chinese characters (a lone one stays alone)."""
    found: list[str] = []
    for run in _RUN.findall(unicodedata.normalize("NFKC", text).lower()):
        if _IS_CJK.match(run):
            found.extend(run[i : i + 2] for i in range(max(len(run) - 1, 1)))
        else:
            found.append(run)
    return found


class TantivyIndex:
    """A BM25 ``Index`` in ``folder``, created there if missing.

    Scores are BM25 with tantivy's fixed k1=1.2, b=0.75. One writer at a time; searches see what was
    last saved, plus pending changes, which are committed by the search itself.

    Raises:
        StorageCorrupt: the folder holds an index that cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self._analyzer = (
            tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace())
            .filter(tantivy.Filter.ascii_fold())
            .filter(tantivy.Filter.stemmer("english"))
            .build()
        )
        with _mapped(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._index = tantivy.Index(_schema(), path=str(folder))
            self._index.register_tokenizer(_ANALYZER, self._analyzer)
            self._index.reload()
        self._folder = folder
        self._writer: Any = None
        self._held: set[int] = set()

    def add(self, keys: Sequence[int], texts: Sequence[str], vectors: Vectors) -> None:  # noqa: ARG002
        """Add entries, replacing those with the same keys; ``vectors`` are ignored."""
        self.remove(keys)
        writer = self._write()
        with _mapped(self._folder):
            for key, text in zip(keys, texts, strict=True):
                document = tantivy.Document()
                document.add_unsigned("key", key)
                document.add_text("body", " ".join(terms(text)))
                writer.add_document(document)
        self._held.update(keys)

    def remove(self, keys: Sequence[int]) -> None:
        """Remove entries; absent keys are ignored."""
        writer = self._write()
        held = self._held.intersection(keys)
        if held:
            # By query: deletion by term takes every integer as signed, and silently misses unsigned fields.
            writer.delete_documents_by_query(tantivy.Query.term_set_query(self._index.schema, "key", sorted(held)))
            self._held -= held

    def search(self, query: str, vector: Vectors, k: int) -> list[Hit]:  # noqa: ARG002
        """Return at most ``k`` hits that share a term with ``query``, best first; ties by key."""
        stemmed = list(dict.fromkeys(self._analyzer.analyze(" ".join(terms(query)))))[:_MAX_QUERY_TERMS]
        if not stemmed or k < 1:
            return []
        schema = self._index.schema
        clauses = [(tantivy.Occur.Should, tantivy.Query.term_query(schema, "body", term, "freq")) for term in stemmed]
        return self._find(tantivy.Query.boolean_query(clauses), k)

    def keys(self) -> set[int]:
        """Return every key held."""
        count = len(self)
        return {hit.key for hit in self._find(tantivy.Query.all_query(), count)} if count else set()

    def save(self) -> None:
        """Commit: tantivy syncs its segments and then swaps its own meta file."""
        if self._writer is None:
            return
        with _mapped(self._folder):
            self._writer.commit()
            self._writer.wait_merging_threads()
            self._writer = None
            self._index.reload()

    def close(self) -> None:
        """Release the writer's lock; changes that were not saved are dropped."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with _mapped(self._folder):
                writer.rollback()
                writer.wait_merging_threads()

    def __len__(self) -> int:
        self.save()
        return int(self._index.searcher().num_docs)

    def _write(self) -> Any:
        if self._writer is None:
            self._held = self.keys()
            with _mapped(self._folder):
                self._writer = self._index.writer(heap_size=_HEAP_BYTES, num_threads=1)
        return self._writer

    def _find(self, query: Any, k: int) -> list[Hit]:
        self.save()
        searcher = self._index.searcher()
        found = searcher.search(query, limit=k, count=False).hits
        keys = searcher.fast_field_values("key", [address for _, address in found]) if found else []
        hits = [Hit(int(key), float(score)) for (score, _), key in zip(found, keys, strict=True)]
        return sorted(hits, key=lambda hit: (-hit.score, hit.key))


@contextlib.contextmanager
def _mapped(folder: Path) -> Iterator[None]:
    """Map what tantivy raises: always ValueError, with the system's error number only in the text."""
    try:
        yield
    except OSError as error:
        raise map_os_error(error, folder) from error
    except ValueError as error:
        number = _OS_ERROR.search(str(error))
        if number:
            raise map_os_error(OSError(int(number[1]), str(error)), folder) from error
        raise StorageCorrupt(
            f"The lexical index is damaged: {error}", got=str(folder), hint="Repair it: ragtune index rebuild."
        ) from error


def _schema() -> Any:
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("key", stored=False, indexed=True, fast=True)
    builder.add_text_field("body", stored=False, tokenizer_name=_ANALYZER, index_option="freq")
    return builder.build()
