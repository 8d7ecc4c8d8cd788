"""The documentation is built without a warning, and its reference names every command, route and error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Build the site as ``make docs`` does."""
    out = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "--fail-on-warning", "-q", "-b", "html", str(DOCS), str(out)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert built.returncode == 0, built.stderr
    return out


def test_every_page_is_built_and_the_reference_is_whole(site):
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS)).with_suffix(".html").is_file()
    reference = {path.stem: path.read_text(encoding="utf-8") for path in (site / "reference").glob("*.html")}
    for name in ("pairs generate", "adapters promote", "index rollback", "keys create"):
        assert f"ragtune {name}" in reference["commands"]
    for route in ("POST /v1/answers", "GET /v1/documents/{document_id}/text", "POST /v1/feedback"):
        assert route in reference["http"]
    assert "encrypted-document" in reference["errors"]
    assert "RAGTUNE_STATE_DIR" in reference["settings"]
    assert "lora_alpha" in reference["recipe"]
