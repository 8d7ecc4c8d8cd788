"""The lexical leg of an index generation: BM25 in a tantivy index.

English words are folded to ASCII and stemmed, and neighbouring ones count a little more as a pair;
Chinese runs become characters and character bigrams. The importer of tantivy. Knows nothing of vectors,
generations or the store: texts come with the integer keys to return.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tantivy

from data.errors import StorageCorrupt
from data.protocols import Hit, Keys, Vectors
from data.state import map_os_error

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_RUN = re.compile(rf"[{_CJK}]+|(?:(?![{_CJK}_])\w)+")
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_IS_CJK = re.compile(rf"[{_CJK}]")
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_NO_VECTOR: Vectors = np.zeros((1, 0), dtype=np.float32)
ANALYZER = "stemmed-pairs-bigrams-unigrams-2"
"""Name of this analysis: a changed one needs a new name, so that indexes are built anew."""

Weights = Mapping[str, float]
"""Terms of a query and what each counts."""

_ASKING = re.compile(
    "(?<!因)[为為](?:何|[什甚][么麼])|[什甚][么麼]|如何|怎(?:[么麼][样樣办辦]?|[样樣])|(?<![任几幾])何[为為时時种種处處]"
    "|哪(?!吒)(?:一?[个個些种種位里裡儿兒])?|[谁誰]|多少|多久|[几幾](?=[个個年月日天次种種条條位项項岁类類])"
    r"|是否|[请請][问問]|[吗嗎呢](?=\W|$)"
)
"""Chinese words of a question that say what is asked for and not what it is about (bench/RESULTS.md).

Not where they are part of a name or of another word: 几何, 任何, 哪吒, 吗啡."""
_REPEATED = 0.5
"""A term that a query holds n times counts n to this power."""
_HEAP_BYTES = 32_000_000
_MAX_QUERY_TERMS = 256
_PAIR_BOOST = 0.3
"""Weight of two neighbouring words found side by side, against 1 for each word (bench/RESULTS.md)."""
_PAIR_MAX_SHARE = 0.1
"""Of many entries, pairs with a word that a larger share of them holds are not looked for: they cost too much."""
_MAX_PAIRS = 16
_MANY = 20_000
"""Allowed keys up to which they become a clause of the query: beyond, a deeper search is faster."""
_MARGIN = 2.0
_DEEPER = 4
_FEW = 2000
"""Allowed keys up to which each is looked up in every clause: at a million entries, a third of the time of a union."""
_FEWER = 500
"""Allowed keys up to which each is a clause of its own: tantivy's set of terms walks the dictionary of all keys."""
_MAX_NESTED = 64
_LARGE = 100_000
"""Entries from which on a search looks for candidates by the rarer terms first."""
_COMMON = 0.3
"""Share of the entries above which a term is a common one."""
_CANDIDATES = 2
"""Candidates for each hit asked for: at a million entries they held 99.9 % of the ten best of scoring everything."""


def terms(text: str) -> list[str]:
    """Cut ``text`` into lower-case words, Chinese characters, and bigrams of these, in the order of the text."""
    if text.isascii():  # The same, in a fifth of the time.
        return _ASCII_WORD.findall(text.lower())
    found: list[str] = []
    for run in _RUN.findall(unicodedata.normalize("NFKC", text).lower()):
        if _IS_CJK.match(run):
            found.extend(run)
            found.extend(run[i : i + 2] for i in range(len(run) - 1))
        else:
            found.append(run)
    return found


def query_terms(query: str) -> list[str]:
    """Return the ``terms`` of a query without the Chinese words that only ask; with them if nothing else is there."""
    if query.isascii():
        return terms(query)
    return terms(_ASKING.sub(" ", unicodedata.normalize("NFKC", query))) or terms(query)


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
            self._index.register_tokenizer(ANALYZER, self._analyzer)
            self._index.reload()
        self._folder = folder
        self._writer: Any = None
        self._last = -1

    def add(self, keys: Sequence[int] | Keys, texts: Sequence[str], vectors: Vectors) -> None:  # noqa: ARG002
        """Add entries, replacing those with the same keys; ``vectors`` are ignored."""
        if not len(keys):
            return
        writer = self._write()
        if min(map(int, keys)) <= self._last:  # Keys beyond the largest that was ever added replace nothing.
            self.remove(keys)
        with _mapped(self._folder):
            for key, text in zip(keys, texts, strict=True):
                document = tantivy.Document()
                document.add_unsigned("key", int(key))
                document.add_text("body", " ".join(terms(text)))
                writer.add_document(document)
        self._last = max(self._last, *map(int, keys))

    def remove(self, keys: Sequence[int] | Keys) -> None:
        """Remove entries; absent keys are ignored."""
        if len(keys):
            # By query: deletion by term takes every integer as signed, and silently misses unsigned fields.
            wanted = tantivy.Query.term_set_query(self._index.schema, "key", sorted(map(int, keys)))
            self._write().delete_documents_by_query(wanted)

    def search(self, query: str, vector: Vectors, k: int, allowed: Keys | None = None) -> list[Hit]:  # noqa: ARG002
        """Return at most ``k`` hits that share a term with ``query``, best first; ties by key."""
        stemmed, pairs = self._analyzed(query)
        if not stemmed or k < 1:
            return []
        if allowed is not None and len(allowed) > _MANY:
            return self._among_many(stemmed, pairs, k, allowed)
        if allowed is None:
            allowed = self._candidates(stemmed, k, pairs)
        clauses = self._clauses(stemmed, pairs)
        return self._find(_union(clauses) if allowed is None else self._narrowed(clauses, allowed), k)

    def search_beside(self, query: str, k: int, others: Callable[[], Keys]) -> list[Hit]:
        """Return the ``k`` best hits and those of the ``others`` beyond them, best first; ties by key.

        Of many entries, both are scored in one pass over what is worth scoring. The others are asked for
        once what does not depend on them is found.
        """
        stemmed, pairs = self._analyzed(query)
        near = self._candidates(stemmed, k, pairs) if stemmed else None
        if near is None:
            own = self.search(query, _NO_VECTOR, k)
            beyond = np.setdiff1d(others(), [hit.key for hit in own])
            return own + (self.search(query, _NO_VECTOR, len(beyond), beyond) if len(beyond) else [])
        beside = others()
        scored = np.union1d(near, beside)
        found = self._find(self._narrowed(self._clauses(stemmed, pairs), scored), len(scored))
        wanted = set(beside.tolist())
        return found[:k] + [hit for hit in found[k:] if hit.key in wanted]

    def _analyzed(self, query: str) -> tuple[Weights, list[tuple[str, str]]]:
        """Return the terms of a query, with their weights, and its pairs of words."""
        self.save()
        words = self._analyzer.analyze(" ".join(query_terms(query)))[:_MAX_QUERY_TERMS]
        return {word: count**_REPEATED for word, count in Counter(words).items()}, self._pairs(words)

    def _among_many(self, stemmed: Weights, pairs: Sequence[tuple[str, str]], k: int, allowed: Keys) -> list[Hit]:
        """Search without the filter, deeper the less it lets through, and leave out what it does not.

        A clause of many keys takes tantivy longer than finding a few times as many hits. What passes is
        the same as with the clause: the first of the ranking that are allowed.
        """
        total = len(self)
        depth = int(_MARGIN * k * total / min(len(allowed), total))
        clauses = self._clauses(stemmed, pairs)
        while depth < total:
            near = self._candidates(stemmed, depth, pairs)
            hits = self._find(_union(clauses) if near is None else self._narrowed(clauses, near), depth)
            inside = np.isin([hit.key for hit in hits], allowed)
            passing = [hit for hit, passes in zip(hits, inside, strict=True) if passes]
            if len(passing) >= k:
                return passing[:k]
            depth *= _DEEPER
        return self._find(self._narrowed(clauses, allowed), k)

    def _candidates(self, stemmed: Weights, k: int, pairs: Sequence[tuple[str, str]]) -> Keys | None:
        """Return the keys worth scoring, None for all: of many entries, those that score best by the rarer terms."""
        searcher = self._index.searcher()
        if searcher.num_docs < _LARGE:
            return None
        most = _COMMON * searcher.num_docs
        rare = {term: weight for term, weight in stemmed.items() if searcher.doc_freq("body", term) <= most}
        if not rare or (len(rare) == len(stemmed) and not pairs):
            return None
        return np.array(
            sorted(hit.key for hit in self._find(_union(self._clauses(rare)), _CANDIDATES * k)), dtype=np.int64
        )

    def _pairs(self, words: Sequence[str]) -> list[tuple[str, str]]:
        """Return the neighbouring words of a query that are worth finding side by side; bigrams are terms already."""
        searcher = self._index.searcher()
        most = searcher.num_docs * (_PAIR_MAX_SHARE if searcher.num_docs >= _LARGE else 1)
        spaced = [(one, two) for one, two in pairwise(words) if not (_IS_CJK.match(one) or _IS_CJK.match(two))]
        pairs = list(dict.fromkeys(spaced))[:_MAX_PAIRS]
        counts = {word: searcher.doc_freq("body", word) for pair in pairs for word in pair}
        return [(one, two) for one, two in pairs if 0 < counts[one] <= most and 0 < counts[two] <= most]

    def _clauses(self, stemmed: Weights, pairs: Sequence[tuple[str, str]] = ()) -> list[Any]:
        schema = self._index.schema
        found = []
        for term, weight in stemmed.items():
            clause = tantivy.Query.term_query(schema, "body", term, "freq")
            found.append(clause if weight == 1 else tantivy.Query.boost_query(clause, weight))
        for pair in pairs:
            phrase = tantivy.Query.phrase_query(schema, "body", list(pair))
            found.append(tantivy.Query.boost_query(phrase, _PAIR_BOOST))
        return found

    def _narrowed(self, clauses: Sequence[Any], allowed: Keys) -> Any:
        """Return a query for the allowed keys; those that match no clause may be found too, with a score of 0.

        Each clause is optional beside all before it, so it is looked up for the allowed keys alone. In a
        union it would be evaluated for thousands of entries around each of them.
        """
        schema, keys = self._index.schema, allowed.tolist()
        if len(keys) <= _FEWER:
            among = _union([tantivy.Query.term_query(schema, "key", key, "basic") for key in keys])
        else:
            among = tantivy.Query.term_set_query(schema, "key", keys)
        query = tantivy.Query.const_score_query(among, 0.0)
        if len(allowed) > _FEW or len(clauses) > _MAX_NESTED:
            return tantivy.Query.boolean_query([(tantivy.Occur.Must, _union(clauses)), (tantivy.Occur.Must, query)])
        for clause in clauses:
            query = tantivy.Query.boolean_query([(tantivy.Occur.Must, query), (tantivy.Occur.Should, clause)])
        return query

    def keys(self) -> Keys:
        """Return every key held, ascending."""
        count = len(self)
        found = self._find(tantivy.Query.all_query(), count) if count else []
        return np.sort(np.fromiter((hit.key for hit in found), dtype=np.int64))

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
            self._last = self._largest()
            with _mapped(self._folder):
                self._writer = self._index.writer(heap_size=_HEAP_BYTES, num_threads=1)
        return self._writer

    def _largest(self) -> int:
        """Return the largest key held, -1 if there is none."""
        everything = tantivy.Query.all_query()
        found = self._index.searcher().search(everything, limit=1, count=False, order_by_field="key").hits
        return int(self._index.searcher().fast_field_values("key", [found[0][1]])[0]) if found else -1

    def _find(self, query: Any, k: int) -> list[Hit]:
        self.save()
        searcher = self._index.searcher()
        found = searcher.search(query, limit=k, count=False).hits
        keys = searcher.fast_field_values("key", [address for _, address in found]) if found else []
        hits = [Hit(int(key), float(score)) for (score, _), key in zip(found, keys, strict=True) if score > 0]
        return sorted(hits, key=lambda hit: (-hit.score, hit.key))


def _union(clauses: Sequence[Any]) -> Any:
    return tantivy.Query.boolean_query([(tantivy.Occur.Should, clause) for clause in clauses])


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
    builder.add_text_field("body", stored=False, tokenizer_name=ANALYZER, index_option="position")
    return builder.build()
