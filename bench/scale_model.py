"""What a corpus of some size takes: a model fitted to points of bench/RESULTS.md, as the tables of docs/scale.md.

Each point names the section it is from, and the words that stand there; a test looks for them. Nothing beyond a million
passages, one machine and a model of 135M parameters was measured: all that is the model's word. Prices are inputs.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

from bench.serving_simulation import NEW_TOKENS


@dataclass(frozen=True, slots=True)
class Point:
    """A measured figure: its value, the section of RESULTS.md, and what is written there."""

    value: float
    section: str
    words: str


POINTS = {
    "ingest chunks/s": Point(126.4, "Ingest: a folder of Markdown", "126.4 and 21.0 chunks per second"),
    "build s at 1e6": Point(121.9, "Scale: 10 thousand to a million passages", "2.03 / 121.9 s"),
    "rebuild s at 1e6": Point(2.03, "Scale: 10 thousand to a million passages", "2.03 / 121.9 s"),
    "growth of build": Point(1.0, "Scale: 10 thousand to a million passages", "an exponent of **1.00**"),
    "store GB at 1e6": Point(3.7, "Scale: 10 thousand to a million passages", "(SQLite, 3.7 GB at a million"),
    "index MB at 1e6": Point(650, "Scale: 10 thousand to a million passages", "736 (643) MB | 650 MB"),
    "mapped MB at 1e6": Point(643, "Scale: 10 thousand to a million passages", "736 (643) MB | 650 MB"),
    "resident MB at 1e6": Point(736, "Scale: 10 thousand to a million passages", "736 (643) MB | 650 MB"),
    "hybrid p50 ms at 1e5": Point(7.5, "Scale: 10 thousand to a million passages", "| 100,000 | IVF | 7.5 / 9.4 ms"),
    "hybrid p50 ms at 1e6": Point(
        9.7, "Scale: 10 thousand to a million passages", "| 1,000,000 | IVF (40 probes) | **9.7 / 14.6 ms**"
    ),
    "search cpu ms at 1e6": Point(
        12.4, "Scale: 10 thousand to a million passages", "| 3 | 30.5 → 12.7 ms | 16.2 → 9.5 | 17.2 → 12.4 |"
    ),
    "query embedding ms": Point(
        6.0, "Scale: 10 thousand to a million passages", "query's embedding comes on top: p50 6.0 ms"
    ),
    "cold tokens/s": Point(
        22.4, "Serving: many people at once, passages known and unknown", "| cold | 8 | 22.4 / 22.9"
    ),
    "warm tokens/s": Point(
        100.7, "Serving: many people at once, passages known and unknown", "| warm | 8 | 100.7 / 24.9"
    ),
    "engine MB, 8 clients": Point(
        1020, "Serving: many people at once, passages known and unknown", "1,020 against 1,170 MB"
    ),
    "maps of a collection": Point(8.05, "Many collections open at once", "8.05 maps"),
    "threads of a collection": Point(1.0, "Many collections open at once", "1.00 threads"),
    "kB of a collection": Point(27, "Many collections open at once", "27 kB"),
    "MB of an adapter": Point(4.9, "Many collections open at once", "4.9 MB"),
}
CORES = 2
"""Of the machine that all points are from."""
SHARD = 10_000_000
"""Chunks of an index in one process before it is split: its lists fit the memory of a machine of 16 GB mapped."""
MAX_MAPS = 65_530
"""Linux' default vm.max_map_count."""


def value(name: str) -> float:
    return POINTS[name].value


def growth(low: str, high: str) -> float:
    """Return the exponent between a point at 1e5 and one at 1e6."""
    return math.log10(value(high) / value(low))


def search_cpu_ms(chunks: float) -> float:
    """Return the processor time of a hybrid search of one index, with the query's embedding, in ms.

    It grows as the median did from a hundred thousand to a million.
    """
    exponent = growth("hybrid p50 ms at 1e5", "hybrid p50 ms at 1e6")
    return value("search cpu ms at 1e6") * (chunks / 1e6) ** exponent + value("query embedding ms")


@dataclass(frozen=True, slots=True)
class Corpus:
    """What a number of chunks takes; ``search_ms`` is processor time over all shards, a query."""

    chunks: float
    embed_core_h: float
    store_gb: float
    index_gb: float
    memory_gb: float
    shards: int
    search_ms: float
    queries_per_core: float
    rebuild_s: float


def corpus(chunks: float) -> Corpus:
    shards = max(1, math.ceil(chunks / SHARD))
    each = chunks / shards
    search = shards * search_cpu_ms(each) - (shards - 1) * value("query embedding ms")  # embedded once
    scale = chunks / 1e6
    return Corpus(
        chunks,
        chunks / value("ingest chunks/s") * CORES / 3600,
        scale * value("store GB at 1e6"),
        scale * value("index MB at 1e6") / 1000,
        (scale * value("mapped MB at 1e6") + shards * (value("resident MB at 1e6") - value("mapped MB at 1e6"))) / 1000,
        shards,
        search,
        1000 / search,
        value("rebuild s at 1e6") * scale ** value("growth of build"),
    )


def corpora() -> list[str]:
    """Return the table of sizes, as Markdown."""
    lines = [
        "| chunks | embed and ingest, core hours | store | index | memory for it | shards | search, ms of processor "
        "| searches/s of a core | 1 % changed, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for power in (4, 5, 6, 7, 8, 9):
        row = corpus(10.0**power)
        lines.append(
            f"| {10**power:,} | {short(row.embed_core_h)} | {size(row.store_gb)} | {size(row.index_gb)} "
            f"| {size(row.memory_gb)} | {row.shards} | {short(row.search_ms)} | {short(row.queries_per_core)} "
            f"| {short(row.rebuild_s)} |"
        )
    return lines


def tenants() -> list[str]:
    """Return the table of tenants, each with a collection and an adapter, as Markdown."""
    lines = [
        "| tenants | adapters on disk | all collections open: maps of files | threads | memory |",
        "|---|---|---|---|---|",
    ]
    for count in (10, 100, 1000, 10_000):
        maps = count * value("maps of a collection")
        over = " (over the limit)" if maps > MAX_MAPS else ""
        lines.append(
            f"| {count:,} | {size(count * value('MB of an adapter') / 1000)} | {maps:,.0f}{over} "
            f"| {count * value('threads of a collection'):,.0f} | {size(count * value('kB of a collection') / 1e6)} |"
        )
    return lines


def answers() -> list[str]:
    """Return the table of machines for a rate of answers, as Markdown."""
    lines = ["| answers/s | machines, passages new | machines, passages known | their memory |", "|---|---|---|---|"]
    for rate in (1, 10, 100):
        cold = math.ceil(rate * NEW_TOKENS / value("cold tokens/s"))
        warm = math.ceil(rate * NEW_TOKENS / value("warm tokens/s"))
        memory = size(cold * value("engine MB, 8 clients") / 1000)
        lines.append(f"| {rate} | {cold} | {warm} | {memory} (new) |")
    return lines


def money(core_hour: float, gb_month: float, memory_gb_month: float) -> list[str]:
    """Return what a month of each size costs at prices that are given, 10 searches a second, as Markdown."""
    lines = [
        "| chunks | embed once | disk, a month | memory, a month | 10 searches/s, a month |",
        "|---|---|---|---|---|",
    ]
    for power in (6, 7, 8, 9):
        row = corpus(10.0**power)
        searching = 10 / row.queries_per_core * 730 * core_hour
        disk = (row.store_gb + row.index_gb) * gb_month
        lines.append(
            f"| {10**power:,} | {short(row.embed_core_h * core_hour)} | {short(disk)} "
            f"| {short(row.memory_gb * memory_gb_month)} | {short(searching)} |"
        )
    return lines


def short(number: float) -> str:
    """Return two significant digits, without an exponent."""
    if number >= 10:
        digits = 10 ** (math.floor(math.log10(number)) - 1)
        return f"{round(number / digits) * digits:,.0f}"
    return f"{number:.2g}"


def size(gigabytes: float) -> str:
    unit, factor = next((unit, factor) for unit, factor in (("TB", 1e3), ("GB", 1.0), ("MB", 1e-3)) if
                        gigabytes >= factor or unit == "MB")  # fmt: skip
    return f"{short(gigabytes / factor)} {unit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--core-hour", type=float, default=0.04)
    parser.add_argument("--gb-month", type=float, default=0.1)
    parser.add_argument("--memory-gb-month", type=float, default=4.0)
    options = parser.parse_args()
    tables = (corpora(), tenants(), answers(), money(options.core_hour, options.gb_month, options.memory_gb_month))
    print("\n\n".join("\n".join(table) for table in tables))


if __name__ == "__main__":
    main()
