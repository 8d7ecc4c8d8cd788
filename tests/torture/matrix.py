"""What is promised about faults and hostile input, which test shows it, and what the recorded runs gave.

``RELIABILITY.md`` is made from this table and from ``results.json``; a test fails where they differ.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("results.json")
PAGE = ROOT / "RELIABILITY.md"
FAILURES = {
    "kills": ("lost", "phantom", "duplicate", "resurrected", "unopened", "broken"),
    "points": ("mixed", "damaged", "broken", "unopened"),
    "index": ("crash", "silent"),
    "database": ("crash", "silent"),
    "lock": ("entered",),
    "fuzz": ("server_error", "not_problem", "trace", "path", "crossed", "undescribed"),
    "powercut": ("lost", "phantom", "duplicate", "resurrected", "unopened", "broken"),
    "exports": ("lost", "partial", "unopened"),
    "together": ("failed", "mixed", "stale", "lost", "foreign", "backwards", "broken"),
    "callers": ("mismatched", "failed", "blind"),
    "overload": ("failed", "mismatched", "unsaid", "unrecovered"),
    "trainings": ("unresumed", "lost", "other", "unended"),
    "full": ("lost", "untyped", "unread", "unrecovered", "broken"),
    "jobs": ("lost", "doubled", "other_job", "failed", "stuck"),
    "crossings": ("crossed", "blind"),
    "models": ("untyped", "hung"),
    "adapters": ("untyped", "silent", "broken"),
    "soak": ("failed", "grew"),
    "loaders": ("untyped", "hung"),
    "swaps": ("mismatched", "failed", "blind"),
    "clients": ("held", "failed", "leaked"),
    "snapshots": ("refused", "unopened", "lost", "phantom", "mixed", "broken"),
    "deletions": ("failed", "found", "usable", "unmarked", "returned", "kept", "blind"),
    "terminations": ("slow", "status", "cut", "lost", "doubled", "left"),
    "deaths": ("mismatched", "untyped", "down", "slow", "missed"),
    "cancels": ("status", "half", "lost", "left", "grew", "broken"),
}
"""The counts of each long run that are failures."""


@dataclass(frozen=True)
class Row:
    """One row: ``test`` is a path, ``run`` a long run of ``make torture``; ``gap`` says what is not shown.

    ``also``: further promises of the row, each with its long run and its test.
    """

    number: int
    promise: str
    test: str = ""
    run: str = ""
    gap: str = ""
    also: tuple[tuple[str, str, str], ...] = ()


ROWS = (
    Row(
        1,
        "SIGKILL during ingest: what was acknowledged is there, nothing twice, it opens every time",
        "tests/torture/test_torture.py",
        "kills",
    ),
    Row(
        2,
        "killed before every write, rename, link, removal and commit of a change: the old or the new index, no mixture",
        "tests/torture/test_torture.py",
        "points",
        "between two of them native code writes",
    ),
    Row(
        3,
        "power cut between any two writes, what was not synced dropped or kept by chance: nothing acknowledged is lost",
        "tests/torture/test_torture.py",
        "powercut",
        "replayed from recorded writes, by POSIX's rules for what a sync keeps; no real disk was cut off. Answers are "
        "kept without a sync: a power cut may take the last ones from the history",
    ),
    Row(
        4,
        "killed during a rebuild: the old index serves, what was half-written is swept",
        "tests/torture/test_torture.py",
        "kills",
    ),
    Row(
        5,
        "killed during delete or compaction: what was deleted stays deleted",
        "tests/torture/test_torture.py",
        "kills",
    ),
    Row(
        6,
        "killed, or the power cut, during training: it goes on from the newest checkpoint that was told of, at the "
        "latest, and ends in the adapter of an undisturbed run",
        "tests/torture/test_torture.py",
        "trainings",
        "a tiny model of twelve steps",
    ),
    Row(
        7,
        "killed, or the power cut, while adapters are trained, imported and exported: what is listed is whole",
        "tests/torture/test_torture.py",
        "exports",
        "a tiny model; merged models are written by a child and not recorded",
    ),
    Row(8, "a damaged index file is refused before it is read", "tests/torture/test_torture.py", "index"),
    Row(
        9,
        "damaged database pages are refused or found, nothing is deleted",
        "tests/torture/test_torture.py",
        "database",
        "SQLite keeps no checksums: a changed byte outside of texts and structure is not noticed",
    ),
    Row(
        10,
        "file system full at an upload, a rebuild, an import, a log line: refused as such, reads and questions go on, "
        "and all works again, without a restart, once there is room",
        "tests/torture/test_torture.py",
        "full",
        "not while training; a process that begins when less than 32 kB are left cannot read either: SQLite's log",
    ),
    Row(
        11,
        "failing fsync: not acknowledged",
        "tests/service/test_routes_documents.py",
        gap="of uploads; what SQLite does where its own fsync fails is SQLite's",
    ),
    Row(
        12,
        "backups while documents are put, replaced and deleted and the index changes: each can be restored, is of one "
        "moment, and what was acknowledged before is in it, is found, and has its bytes",
        "tests/torture/test_rows.py",
        "snapshots",
        "taken in the process that writes; no trainings meanwhile",
    ),
    Row(13, "state of older versions is migrated", "tests/data/test_store.py", gap="not killed during a migration"),
    Row(
        14,
        "questions while documents are put, replaced and deleted and the index is rebuilt: none fails, each response "
        "is of one generation, what was acknowledged before is in it, whole",
        "tests/torture/test_torture.py",
        "together",
        "eight readers, two writers; not for thirty minutes",
    ),
    Row(15, "a second process on the same state is refused", "tests/torture/test_torture.py", "lock"),
    Row(
        16,
        "SIGTERM while streams are written and a job runs: the server ends within 30 s and leaves no process, streams "
        "are finished or end with an error event, the job goes on with the next server, each document is there once",
        "tests/torture/test_rows.py",
        "terminations",
        "answers of a script, jobs that ingest; streams of a job's progress are cut",
        (("a client that waits for a whole answer is told", "", "tests/service/test_serve.py"),),
    ),
    Row(
        17,
        "killed with jobs under way, and asked again with the same Idempotency-Key: one job, each effect once",
        "tests/torture/test_torture.py",
        "jobs",
        "ingest and import of pairs; not trainings",
    ),
    Row(
        18,
        "a job is cancelled at a moment of chance: it ends cancelled, each document is as before or whole, no process "
        "and no file is left, and the server's memory grew by no more than 5 %",
        "tests/torture/test_rows.py",
        "cancels",
        "ingest, rebuild, compact, verify; no trainings or evaluations",
    ),
    Row(19, "a client that leaves frees its place", "tests/service/test_routes_answers.py", "clients"),
    Row(
        20,
        "64 callers of one engine get their own answers, some of them leaving in the middle",
        "tests/torture/test_torture.py",
        "callers",
        "a tiny model; by trials, not for ten minutes",
    ),
    Row(
        21,
        "the engine's process is killed or faults while it writes: who is answered is told, by 503 with Retry-After or "
        "an error event, or gets the answer; /healthz answers; the engine is back within 10 s",
        "tests/torture/test_rows.py",
        "deaths",
        "a tiny model, which loads at once; memory does not run out",
    ),
    Row(
        22,
        "ten times as many clients as places: 429 with Retry-After, the others get the text written alone, /healthz "
        "answers, and all is well afterwards",
        "tests/torture/test_torture.py",
        "overload",
        "a tiny model; no times",
    ),
    Row(
        23,
        "clients that send a byte a second or never read are cut, others are served, nothing of them is left",
        "tests/torture/test_torture.py",
        "clients",
        "how much slower others are served meanwhile",
    ),
    Row(
        24,
        "adapters alternate over kept states: each answer is that adapter's",
        "tests/torture/test_torture.py",
        "swaps",
        "a tiny model; 1,000 requests of the starter: python -m bench.adapters",
    ),
    Row(
        25,
        "mixed load, then ten times too much: no request fails; memory, descriptors and temporary files do not grow",
        "tests/soak/__main__.py",
        "soak",
        "half an hour and no day, a training beside it that did not end; memory grows until the kept passages fill "
        "their bound; the two failed are answers over 300 s, of ten "
        "minutes on a machine with six times more to do than it can",
    ),
    Row(
        26,
        "requests made from the API's description, with every role: no unexpected 5xx, each error a problem object",
        "tests/torture/test_torture.py",
        "fuzz",
        "sequences of requests that build on each other",
    ),
    Row(27, "every route with every scope, no key and a revoked key", "tests/service/test_access.py"),
    Row(28, "foreign Host and Origin are refused", "tests/service/test_guards.py"),
    Row(29, "another tenant's ids are unknown, in the same words", "tests/service/test_access.py"),
    Row(30, "names that would leave the state directory are refused", "tests/service/test_bad_input.py"),
    Row(
        31,
        "what a client names to be told of (webhooks) is a public address, looked at once; documents are not fetched",
        "tests/service/test_webhooks.py",
    ),
    Row(
        32,
        "broken model files are refused, or end the child that reads them",
        "tests/torture/test_torture.py",
        "models",
        "as they are read first and then loaded; nothing is generated from them. A load timed out while the run stood "
        "still for nine minutes; its thousand files were read again",
        (
            (
                "changed adapters are refused when they are imported, or when they are loaded again",
                "adapters",
                "tests/torture/test_torture.py",
            ),
        ),
    ),
    Row(
        33,
        "hostile chat templates are refused: what leads out of the sandbox, and what never ends",
        "tests/data/test_prompt.py",
        gap="one filter over a large text is bounded by memory alone",
    ),
    Row(
        34,
        "no pickle is read while documents, jobs, answers, trainings and imports of adapters run, children included",
        "tests/service/test_no_pickle.py",
        gap="a checkpoint's optimizer, scheduler and rng_state hold pickles, which torch reads with weights_only",
    ),
    Row(
        35,
        "bombs end in a killed child and a typed error",
        "tests/retrieval/test_load_hostile.py",
        gap="what the fuzzer found (below), a malformed message inside another and a control character behind a table, "
        "were mended after it",
        also=(
            (
                "whatever bytes coverage leads to, a loader gives exact chunks or a typed error (atheris; Markdown, "
                "HTML, reStructuredText, e-mail, CSV, JSON, JSONL, notebooks)",
                "loaders",
                "tests/torture/test_torture.py",
            ),
        ),
    ),
    Row(36, "bodies and forms over their limits", "tests/service/test_guards.py", gap="no 100,000 parts"),
    Row(
        37,
        "for twice as much text that programs choke on, chunking counts the tokens of about twice as many letters",
        "tests/retrieval/test_chunk.py",
        gap="counted in letters, not in time; the token counter's own time is its library's",
    ),
    Row(38, "types are told by bytes, not by names", "tests/retrieval/test_load.py"),
    Row(39, "hostile text stays text in the page", "tests/service/browser/test_ask.py"),
    Row(
        40,
        "text that a document hides is not read; an instruction in it moves nothing but the answer",
        "tests/retrieval/test_hidden_text.py",
        gap="a plain order won in 0 of 24 answers of the packaged reader; else not measured; not solved",
    ),
    Row(
        41,
        "planted documents are traced from the adapter, and go with all that was made of them, rows and files",
        "tests/service/test_poisoning.py",
        gap="how many poison an adapter is not measured",
    ),
    Row(
        42,
        "nothing crosses ten collections, asked for by name, by id and by its words",
        "tests/torture/test_torture.py",
        "crossings",
        "first-token times not compared; the engine's kept states, which go by their text alone, are in row 24's run",
    ),
    Row(
        43,
        "a deleted document is found nowhere: by id, by its words, by vectors, in answers, lists, exports, kept "
        "answers, uploads or after a rollback; its pairs are not used, adapters trained on it are marked",
        "tests/torture/test_rows.py",
        "deletions",
        "reports, blind trials, evaluations, corrections, later answers of the conversation and pairs to be reviewed "
        "quote on; an answer under way just then may be kept, and one of a version so old that no index holds "
        "it; archives that were replaced, until a compaction; an engine's kept states; freed pages of the database",
    ),
    Row(
        44,
        "what ships has hashes and allowed licences",
        "tests/supply/test_supply.py",
        gap="advisories: make audit says when it looked at nothing, which it does where the tests run",
        also=(("no log, answer, job, audit entry or metric holds a secret", "", "tests/service/test_secrets.py"),),
    ),
)


def page() -> str:
    """Return RELIABILITY.md as the table and the recorded runs give it."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = [
        "# Reliability",
        "",
        "What is promised, which test shows it on every commit, and what the long runs gave (`make torture`).",
        "No failure in N trials means a rate under 3/N with 95 % confidence, and no more. Without a test nothing is",
        "claimed. A run of two commits began at the first and ended at the second. 9e314bd, c33bc96, 5fc4813, 6858341,",
        "64ebd84, 1e53e34 and cb680a2 were run on branches that lacked what else was merged that day. Made by",
        "`python -m tests.torture --page`; a test fails if it differs.",
        "",
        "| row | promise | test | trials | failures | 95 % bound | run | what is not shown |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        for promise, run, shown in ((row.promise, row.run, row.test), *row.also):
            test = f"`{shown}`" if shown else ""
            ran = results.get(run)
            trials = failures = bound = when = ""
            if ran is not None:
                count = sum(ran[kind] for kind in FAILURES[run])
                trials, failures = f"{ran['trials']:,}", str(count)
                bound = f"{3 / ran['trials']:.2%}" if count == 0 else "–"
                since = ran.get("since", ran["commit"])
                commits = since if since == ran["commit"] else f"{since} to {ran['commit']}"
                when = f"{ran['date']}, {commits}"
            gap = row.gap if promise == row.promise else ""
            lines.append(f"| {row.number} | {promise} | {test} | {trials} | {failures} | {bound} | {when} | {gap} |")
    return "\n".join(lines) + "\n"
