"""Streamed text: whole characters, stop strings cut off, nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.text import TextStream


def stream(raw: bytes, stop: tuple[str, ...], size: int = 1) -> tuple[list[str], TextStream]:
    text = TextStream(stop)
    shown = [text.feed(raw[i : i + size]) for i in range(0, len(raw), size)]
    return [*shown, text.finish()], text


def test_an_incomplete_character_is_held_back() -> None:
    text = TextStream()
    raw = "é中😀".encode()
    assert [text.feed(raw[i : i + 1]) for i in range(len(raw))] == ["", "é", "", "", "中", "", "", "", "😀"]


def test_a_character_that_never_ends_becomes_a_replacement() -> None:
    text = TextStream()
    assert text.feed(b"a" + "中".encode()[:2]) == "a"
    assert text.finish() == "\ufffd"


def test_a_stop_string_across_pieces_is_cut_off_with_what_follows() -> None:
    text = TextStream(("###",))
    assert [text.feed(piece) for piece in (b"one #", b"#", b"# two", b"three")] == ["one ", "", "", ""]
    assert text.stopped
    assert text.finish() == ""
    assert text.text == "one "


def test_what_only_looked_like_a_stop_string_is_shown() -> None:
    text = TextStream(("###",))
    assert [text.feed(piece) for piece in (b"##", b"x#")] == ["", "##x"]
    assert text.finish() == "#"
    assert not text.stopped


def test_the_earliest_stop_string_wins() -> None:
    text = TextStream(("END", "\n"))
    assert text.feed(b"a\nb END") == "a"


@given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=4), max_size=3), st.integers(1, 5))
def test_any_cutting_gives_the_text_up_to_the_first_stop(whole: str, stop: list[str], size: int) -> None:
    shown, text = stream(whole.encode("utf-8", "replace"), tuple(stop), size)
    whole = whole.encode("utf-8", "replace").decode()
    ends = [whole.find(s) for s in stop if s in whole]
    # Streaming ends at the stop string that is complete first; among those complete together, at the earliest.
    assert "".join(shown) == text.text
    assert whole.startswith(text.text)
    if not ends:
        assert text.text == whole
        assert not text.stopped
    else:
        assert text.stopped
        assert not any(s in text.text for s in stop)


@pytest.mark.parametrize("stop", [(), ("",)])
def test_without_stop_strings_everything_is_shown_at_once(stop: tuple[str, ...]) -> None:
    assert TextStream(stop).feed(b"abc") == "abc"
