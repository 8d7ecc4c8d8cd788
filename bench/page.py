"""The web page in Chromium over 1,000 documents and 10,000 pairs: bytes and time of its load, its slowest requests.

There is no peer: what is compared with are the limits of ``LIMITS``. Needs Playwright and a Chromium
(``python -m bench.page --data FOLDER``, the folder that holds ``squad-train``).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.records import QAPair, content_id

DOCUMENTS, PAIRS, LOADS = 1_000, 10_000, 15
LIMITS = {"first_load_bytes": 200_000, "first_load_ms": 1000, "slowest_request_ms": 200}
ROOT = Path(__file__).parents[1]
SERVER = """
from service.serve import serve
from service.settings import Settings
from service.workspace import Workspace
serve(Workspace(Settings.load()), on_ready=lambda url: print(url, flush=True))
"""


def fill(state: Path, data: Path, folder: Path) -> None:
    """Index ``DOCUMENTS`` real paragraphs and keep ``PAIRS`` of their human questions as candidates."""
    from service.settings import Settings
    from service.workspace import Workspace

    lines = (data / "squad-train" / "paragraphs.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for n, row in enumerate(rows[:DOCUMENTS]):
        (folder / f"{n:04}.md").write_text(f"# {row['title']} {row['paragraph']}\n\n{row['text']}\n", encoding="utf-8")
    with Workspace(Settings.load(state_dir=state, log_level="ERROR")) as workspace:
        workspace.ingestor.ingest("default", [folder])
        numbers = {row.id: int(source[:4]) for source, row in workspace.store.documents.by_source("default").items()}
        found = [chunk for _, chunk, _ in workspace.store.chunks.iterate("default")]
        chunks = {numbers[chunk.document_id]: chunk.id for chunk in found}
        asked = [(n, asked) for n, row in enumerate(rows) for asked in row["questions"]][:PAIRS]
        pairs = [
            QAPair(content_id(str(k)), each["question"], each["answers"][0], (chunks[n % DOCUMENTS],), "span", "bench")
            for k, (n, each) in enumerate(asked)
        ]
        workspace.store.pairs.add("default", None, pairs)


@contextmanager
def served(state: Path) -> Iterator[str]:
    """Serve the state; the engine is loaded when this yields."""
    import httpx

    environment = {**os.environ, "RAGTUNE_STATE_DIR": str(state), "RAGTUNE_PORT": "0"}
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        httpx.get(f"{url}/readyz", timeout=300)
        time.sleep(5)
        try:
            yield url
        finally:
            process.terminate()


def first_load(browser: Any, url: str) -> tuple[float, int, int]:
    """Load *Ask* with an empty cache; return milliseconds to its question field, bytes and number of the files."""
    context = browser.new_context(locale="en-US")
    page, sizes = context.new_page(), []
    page.on("response", lambda response: "/v1/" not in response.url and sizes.append(len(response.body())))
    started = time.perf_counter()
    page.goto(f"{url}/#/ask")
    page.locator("textarea").first.wait_for()
    elapsed = (time.perf_counter() - started) * 1000
    page.wait_for_load_state("networkidle")
    context.close()
    return elapsed, sum(sizes), len(sizes)


def requests(browser: Any, url: str) -> dict[str, float]:
    """Open *Documents* and *Pairs*, page on, filter and decide; return the slowest milliseconds of each request."""
    page = browser.new_context(locale="en-US").new_page()
    slowest: dict[str, float] = {}

    def finished(request: Any) -> None:
        name = f"{request.method} {request.url.removeprefix(url).partition('?')[0]}"
        if "/v1/" in name:
            name = re.sub(r"/[0-9a-f]{16,}", "/{id}", name)
            slowest[name] = max(slowest.get(name, 0), request.timing["responseEnd"])

    page.on("requestfinished", finished)
    for fragment in ("documents", "pairs"):
        page.goto(f"{url}/#/{fragment}")
        for _ in range(5):
            page.wait_for_load_state("networkidle")
            page.get_by_role("button", name="Show more").first.click()
    for _ in range(20):
        with page.expect_response("**/v1/pairs/*"):
            page.keyboard.press("a")
    page.get_by_label("Contains").fill("university")
    page.keyboard.press("Enter")
    page.wait_for_load_state("networkidle")
    return slowest


def main(arguments: list[str] | None = None) -> None:
    """Measure and print one JSON line."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(prog="python -m bench.page", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds squad-train")
    data = parser.parse_args(arguments).data
    with tempfile.TemporaryDirectory(prefix="ragtune-bench-") as scratch:
        state, folder = Path(scratch) / "state", Path(scratch) / "documents"
        folder.mkdir()
        fill(state, data, folder)
        with served(state) as url, sync_playwright() as driver:
            options = ["--no-sandbox"] if os.geteuid() == 0 else []
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=options)
            loads = [first_load(browser, url) for _ in range(LOADS)]
            slowest = requests(browser, url)
            browser.close()
    result = {
        "first_load_ms": {
            "median": statistics.median(ms for ms, _, _ in loads),
            "worst": max(ms for ms, _, _ in loads),
        },
        "first_load_bytes": loads[0][1],
        "files": loads[0][2],
        "slowest_request_ms": {name: round(ms, 1) for name, ms in sorted(slowest.items())},
        "limits": LIMITS,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
