"""A house's terms: which form is preferred, which others are not to be written, read from a TOML or CSV file.

Knows nothing of generators or checks.
"""

from __future__ import annotations

import csv
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data.errors import InvalidRequest
from retrieval.text import decode

_WANTED = 'TOML of [terms] with "preferred form" = ["other form", …], or CSV of a preferred form and its other forms'
MOST_TERMS = 2000


@dataclass(frozen=True, slots=True)
class Term:
    """A preferred form, and the forms that it stands instead of."""

    preferred: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Glossary:
    """The terms of a house, in the order of their file."""

    terms: tuple[Term, ...] = ()

    @classmethod
    def of(cls, terms: Mapping[str, object]) -> Glossary:
        """Return a glossary of ``{preferred: [other forms]}``.

        Raises:
            InvalidRequest: a form is blank or no text, stands twice, or there are too many terms.
        """
        found = tuple(Term(_form(name), _others(name, others)) for name, others in terms.items())
        if len(found) > MOST_TERMS:
            raise InvalidRequest("The glossary is too long", got=f"{len(found)} terms", wanted=f"at most {MOST_TERMS}")
        preferred = {term.preferred for term in found}
        for term in found:
            if twice := preferred & set(term.others):
                raise InvalidRequest("A form is both preferred and not", got=sorted(twice)[0], wanted=_WANTED)
        return cls(found)

    def to_mapping(self) -> dict[str, list[str]]:
        """Return it as ``of`` takes it."""
        return {term.preferred: list(term.others) for term in self.terms}

    def found_in(self, text: str) -> tuple[Term, ...]:
        """Return the terms of which any form stands in ``text``."""
        return tuple(t for t in self.terms if any(_stands(form, text) for form in (t.preferred, *t.others)))

    def avoided(self, text: str) -> tuple[str, str] | None:
        """Return a form in ``text`` that is not the preferred one, and the preferred one; None if there is none."""
        for term in self.terms:
            bare = _pattern(term.preferred).sub(" ", text)  # "LoRA adapter" holds "adapter" rightly
            for form in term.others:
                if _stands(form, bare):
                    return form, term.preferred
        return None


NO_GLOSSARY = Glossary()


def read_glossary(path: Path) -> Glossary:
    """Read a glossary file: TOML by its suffix, else CSV (the preferred form first; a header may come before).

    Raises:
        InvalidRequest: it cannot be read, or holds no terms.
    """
    text = decode(path.read_bytes())  # in the encodings that people save
    terms = _from_toml(path, text) if path.suffix.lower() == ".toml" else _from_csv(text)
    if not terms:
        raise InvalidRequest("The glossary holds no terms", got=path.name, wanted=_WANTED)
    return Glossary.of(terms)


def _from_toml(path: Path, text: str) -> Mapping[str, object]:
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"The glossary is no TOML: {error}", got=path.name, wanted=_WANTED) from error
    terms = found.get("terms")
    if not isinstance(terms, dict) or found.keys() != {"terms"}:
        raise InvalidRequest("The glossary has no table of terms", got=", ".join(found) or "nothing", wanted=_WANTED)
    return terms


def _from_csv(text: str) -> dict[str, object]:
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines())]
    rows = [row for row in rows if any(row)]
    if rows and rows[0][0].lower() in {"preferred", "term", "首选", "术语"}:
        rows = rows[1:]
    terms: dict[str, object] = {}
    for row in rows:
        if row[0] in terms:
            raise InvalidRequest("A preferred form stands twice", got=row[0], wanted="each once")
        terms[row[0]] = [cell for cell in row[1:] if cell]
    return terms


def _form(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest("A form of the glossary is blank or no text", got=repr(value)[:100], wanted=_WANTED)
    return value.strip()


def _others(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise InvalidRequest("The other forms of a term are no list", got=f"{name} = {value!r}"[:100], wanted=_WANTED)
    return tuple(dict.fromkeys(form for form in map(_form, value) if form != name))


def _pattern(form: str) -> re.Pattern[str]:
    before = r"(?<!\w)" if form[0].isascii() and form[0].isalnum() else ""
    after = r"(?!\w)" if form[-1].isascii() and form[-1].isalnum() else ""
    return re.compile(before + r"\s+".join(map(re.escape, form.split())) + after)


def _stands(form: str, text: str) -> bool:
    # As written: forms may differ by case alone ("lora", "LoRA").
    return _pattern(form).search(text) is not None
