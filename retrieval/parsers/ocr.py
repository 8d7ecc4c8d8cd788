"""OCR through an installed Tesseract program, page by page; without one nothing here runs."""

from __future__ import annotations

import shutil
import subprocess
from functools import lru_cache

from retrieval.parsers.parsed import Budget

RENDER_DPI = 200
_RESERVED_S = 5.0  # kept back from the file's time, to send what was read
_LANGUAGES = ("eng", "chi_sim", "chi_tra", "jpn")


@lru_cache(maxsize=1)
def installed() -> tuple[str, str]:
    """Return (program, languages as Tesseract wants them), empty strings where there is no Tesseract."""
    program = shutil.which("tesseract")
    if not program:
        return "", ""
    listed = subprocess.run([program, "--list-langs"], capture_output=True, text=True, timeout=30, check=False)
    names = set((listed.stdout + listed.stderr).split())
    languages = [name for name in _LANGUAGES if name in names]
    return (program, "+".join(languages[:2])) if languages else ("", "")


def seconds_for_page(budget: Budget) -> float:
    """Return the seconds that the next page may take."""
    return budget.seconds() - _RESERVED_S


def recognize(gray: bytes, width: int, height: int, stride: int, budget: Budget) -> str:
    """Return the text in a page of 8-bit gray pixels, empty where Tesseract fails on it or takes too long."""
    program, languages = installed()
    rows = gray if stride == width else b"".join(gray[row * stride : row * stride + width] for row in range(height))
    image = b"P5 %d %d 255\n" % (width, height) + rows
    command = [program, "stdin", "stdout", "-l", languages, "--dpi", str(RENDER_DPI)]
    try:
        done = subprocess.run(
            command, input=image, capture_output=True, timeout=max(1.0, seconds_for_page(budget)), check=False
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.decode("utf-8", errors="replace").replace("\f", "").strip()
