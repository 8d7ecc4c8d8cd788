"""Headings as they are shown and searched: words alone, and never more than can be repeated in every chunk."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.records import Document
from retrieval.chunk import chunk
from retrieval.heading import heading_name
from retrieval.load import load


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("# Title", "Title"),
        ("   ###### Deep ######  ", "Deep"),
        ("Under\n=====", "Under"),
        ("Over two\nlines\n---", "Over two lines"),
        ("## A `b` [c](d) *e* ##", "A b c e"),
        ("## Request Body { #request-body }", "Request Body"),
        ("Head {#x .wide}\n----", "Head"),
        ("# Classed {.wide}", "Classed"),
        ("# Kramdown {: #anchor}", "Kramdown"),
        ("# Both {#anchor} ##", "Both"),
        ("### Über uns {#über-uns}", "Über uns"),
        ("# C#", "C#"),
        ("# A set {1, 2}", "A set {1, 2}"),
        ("# The {name} of it", "The {name} of it"),
        ("####### seven", "####### seven"),
    ],
)
def test_a_heading_says_its_words(line: str, words: str) -> None:
    assert heading_name(line) == words


@pytest.mark.parametrize("filler", [" ", "[", " #", " {#a", "![", "`", "-"])
def test_a_heading_of_a_million_letters_is_read_and_cut(filler: str) -> None:
    """Patterns that go back over what they read would take hours here."""
    assert len(heading_name(f"# a{filler * 500_000}b")) <= 200


def test_a_long_heading_is_not_repeated_whole_in_every_chunk() -> None:
    text = f"# Title\n\n## {'long ' * 50_000}\n\n" + "Some words of a sentence. " * 400
    found = chunk(Document("d", "a.md", "Title", text, "text/markdown"), lambda part: len(part.split()), 100)
    assert len(found) > 5
    assert all(len(piece.heading) < 300 for piece in found)
    assert all(piece.heading.startswith("Title > long long") for piece in found)


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# Body { #body }\n\nText.\n", "Body"),
        ("# The *big* `guide`\n\nText.\n", "The big guide"),
        ("#\n\n# Second\n", "Second"),
        ('---\nlayout: x\ntitle: "Named"\n---\n# Other\n', "Named"),
        ("---\ntitle:\n---\n# Other\n", "Other"),
        ("---\ntitle: never closed\n# Other\n", "Other"),
        (f"---\ntitle: {' ' * 100_000}\n# Other\n", "Other"),
        (f"# a{' ' * 100_000}b\n", "a b"),
    ],
)
def test_a_page_s_title(tmp_path: Path, text: str, title: str) -> None:
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    assert load(tmp_path / "page.md").title == title
