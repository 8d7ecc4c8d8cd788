"""What the loaders make of a folder of files: outcome, characters, seconds and peak memory of the child.

``python -m bench.loaders FOLDER [--pages 1000 10000] [--ocr off]`` starts a fresh child for each file, so
the seconds include its start (see ``again_s`` for a child that is warm) and the peak is that file's own.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from data.errors import UnreadableDocument
from retrieval.child import Limits, Parsers
from retrieval.load import find_files, load

_LINES = 40


def outcome(path: Path, limits: Limits, parsers: Parsers) -> tuple[str, int, float]:
    started = time.perf_counter()
    try:
        loaded = load(path, limits=limits, source=path.name, parsers=parsers)
    except UnreadableDocument as error:
        return f"{error.type}: {error.detail[:70]} -> {error.hint[:60]}", 0, time.perf_counter() - started
    notes = ", ".join(
        f"{key}={loaded.meta[key]}"
        for key in ("scanned_pages", "ocr_pages", "encoding", "mismatch")
        if key in loaded.meta
    )
    return f"ok {notes}", len(loaded.text), time.perf_counter() - started


def measure(path: Path, limits: Limits) -> None:
    with Parsers() as parsers:
        told, characters, seconds = outcome(path, limits, parsers)
        peak = parsers.peak_bytes / 2**20
        again = outcome(path, limits, parsers)[2] if seconds < 5 else float("nan")
    print(f"| {path.name} | {told} | {characters} | {seconds:.2f} | {again:.3f} | {peak:.0f} |", flush=True)


def make_pdf(path: Path, pages: int) -> None:
    from reportlab.pdfgen import canvas

    pdf = canvas.Canvas(str(path))
    for page in range(pages):
        pdf.setFont("Helvetica", 11)
        for row in range(_LINES):
            number = page * _LINES + row
            words = f"The committee discussed the repairs of bridge number {number} in town {number * 7 % 997}."
            pdf.drawString(60, 780 - 17 * row, words)
        if page % 50 == 0:
            pdf.bookmarkPage(f"p{page}")
            pdf.addOutlineEntry(f"Part {page // 50 + 1}", f"p{page}", 0)
        pdf.showPage()
    pdf.save()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.loaders", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pages", type=int, nargs="*", default=[])
    parser.add_argument("--ocr", choices=("auto", "off"), default="auto")
    arguments = parser.parse_args()
    limits = Limits(ocr=arguments.ocr)
    print("| file | outcome | characters | s | again_s | peak MB |\n|---|---|---|---|---|---|")
    for path, _ in find_files([arguments.folder]):
        measure(path, limits)
    with tempfile.TemporaryDirectory() as folder:
        for pages in arguments.pages:
            path = Path(folder) / f"{pages}-pages.pdf"
            make_pdf(path, pages)
            measure(path, limits)


if __name__ == "__main__":
    main()
