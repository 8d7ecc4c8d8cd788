"""Rank labelled sets with each method, against bm25s, in one run.

Sets lie in a folder of BEIR-like sets (corpus.jsonl, queries.jsonl or questions.jsonl, qrels.tsv) and of
SQuAD-like ones (docs/*.md, questions.jsonl with document and paragraph), of which each paragraph is a
document. Ours is what ``ragtune evaluate retrieval`` measures: production chunks, both legs, defaults.
Peers index whole documents with bm25s' defaults (k1=1.5, b=0.75): character bigrams, jieba in search
mode (where it is installed), English words with a Snowball-like stemmer and bm25s' stop words.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data.records import METHODS

SETS = (
    "cranfield", "clapnq", "hotpot", "pubmedqa", "medquad", "xquad/en", "cmrc2018", "xquad/zh", "lecoqa", "tidb-faq-zh",
)  # fmt: skip
CHINESE = frozenset(("cmrc2018", "xquad/zh", "lecoqa", "tidb-faq-zh"))
_DEPTH = 100
_WORD = re.compile(r"[^\W_]+")
_HAN = re.compile(r"[\u3400-\u9fff]+|[^\W_\u3400-\u9fff]+")

Tokens = Callable[[str], list[str]]


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file."""
    with path.open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def prepare(folder: Path, out: Path) -> tuple[Path, Path, Path]:
    """Return corpus, queries and qrels of a set, written to ``out`` where the set holds paragraphs of documents."""
    if (folder / "corpus.jsonl").exists():
        queries = folder / "queries.jsonl"
        return (
            folder / "corpus.jsonl",
            queries if queries.exists() else folder / "questions.jsonl",
            folder / "qrels.tsv",
        )
    files = (out / "corpus.jsonl", out / "queries.jsonl", out / "qrels.tsv")
    with files[0].open("w", encoding="utf-8") as corpus:
        for path in sorted((folder / "docs").glob("*.md")):
            title, *paragraphs = [part for part in path.read_text(encoding="utf-8").split("\n\n") if part.strip()]
            for number, text in enumerate(paragraphs):
                row = {"id": f"{path.name}#{number}", "title": title.lstrip("# ").strip(), "text": text}
                corpus.write(json.dumps(row, ensure_ascii=False) + "\n")
    with files[1].open("w", encoding="utf-8") as queries, files[2].open("w", encoding="utf-8") as qrels:
        qrels.write("query\tdocument\trelevance\n")
        for row in rows(folder / "questions.jsonl"):
            queries.write(json.dumps({"id": row["id"], "text": row["question"]}, ensure_ascii=False) + "\n")
            qrels.write(f"{row['id']}\t{row['document']}#{row['paragraph']}\t1\n")
    return files


def bigrams(text: str) -> list[str]:
    """Return lower-case words, and bigrams of Chinese runs."""
    found: list[str] = []
    for run in _HAN.findall(text.lower()):
        han = "\u3400" <= run[0] <= "\u9fff"
        found.extend((run[i : i + 2] for i in range(max(1, len(run) - 1))) if han else (run,))
    return found


def jieba_words(text: str) -> list[str]:
    """Return jieba's words in search mode, without punctuation."""
    import jieba  # type: ignore[import-not-found]

    return [word for word in jieba.lcut_for_search(text.lower()) if _WORD.search(word)]


def english_words() -> Tokens:
    """Return a tokenizer of stemmed English words without stop words."""
    import tantivy
    from bm25s.stopwords import STOPWORDS_EN

    stem = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).filter(tantivy.Filter.stemmer("english")).build()
    stop = frozenset(STOPWORDS_EN)
    return lambda text: stem.analyze(" ".join(word for word in _WORD.findall(text.lower()) if word not in stop))


def peers(name: str) -> dict[str, Tokens]:
    """Return the tokenizers of the bm25s sides for a set."""
    if name not in CHINESE:
        return {"bm25s English": english_words()}
    found: dict[str, Tokens] = {"bm25s bigrams": bigrams}
    if importlib.util.find_spec("jieba"):
        found["bm25s jieba"] = jieba_words
    return found


def bm25s_rankings(corpus: Path, asked: dict[str, str], tokens: Tokens) -> dict[str, list[str]]:
    """Return the documents that bm25s finds for each query."""
    import bm25s

    documents = list(rows(corpus))
    index = bm25s.BM25()
    index.index([tokens(f"{row.get('title') or ''}\n{row['text']}") for row in documents], show_progress=False)
    depth = min(_DEPTH, len(documents))
    found = {}
    for name, text in asked.items():
        words = [word for word in tokens(text) if word in index.vocab_dict]
        places = index.retrieve([words], k=depth, show_progress=False).documents[0] if words else ()
        found[name] = [str(documents[place]["id"]) for place in places]
    return found


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Return the figures of ours and of the peers on one set, and their paired differences."""
    from retrieval.embed import SentenceTransformerEmbedder, starter_embedder_path
    from retrieval.evaluate import rank_corpus
    from retrieval.measures import compare

    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ragtune-bench-") as made:
        corpus, queries, qrels = prepare(folder / name, Path(made))
        embedder = SentenceTransformerEmbedder(starter_embedder_path())
        ranked = rank_corpus(corpus, queries, qrels, embedder, METHODS)
        rankings = dict(ranked.rankings)
        for peer, tokens in peers(name).items():
            rankings[peer] = bm25s_rankings(corpus, dict(ranked.asked), tokens)
    result = compare(rankings, ranked.relevant)
    sizes = {"documents": ranked.documents, "chunks": ranked.chunks, "queries": len(ranked.asked)}
    return {"set": name, **sizes, **result, "seconds": round(time.perf_counter() - started, 1)}


def show(result: dict[str, Any]) -> None:
    """Print a set's figures as rows of a table."""
    print(f"\n{result['set']}: {result['documents']} documents, {result['queries']} queries, {result['seconds']} s")
    for method, figures in result["methods"].items():
        low, high = figures["ci"]["ndcg@10"]
        print(
            f"  {method:14} nDCG@10 {figures['ndcg@10']:.4f} [{low:.3f}, {high:.3f}]"
            f"  recall@1 {figures['recall@1']:.4f}  recall@5 {figures['recall@5']:.4f}  MRR {figures['mrr']:.4f}"
        )
    for pair, measures in result["differences"].items():
        if pair.startswith("hybrid-"):
            found = measures["ndcg@10"]
            print(f"  {pair}: {found['difference']:+.4f} [{found['ci'][0]:+.4f}, {found['ci'][1]:+.4f}]")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the sets that are there, and print a JSON line and a readable table for each."""
    parser = argparse.ArgumentParser(prog="python -m bench.retrieval", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds the sets")
    parser.add_argument("--sets", nargs="*", default=list(SETS), help="all by default")
    options = parser.parse_args(arguments)
    for name in options.sets:
        if not (options.data / name).is_dir():
            print(f"\n{name}: not there")
            continue
        result = measure(name, options.data)
        print(json.dumps(result))
        show(result)


if __name__ == "__main__":
    main()
