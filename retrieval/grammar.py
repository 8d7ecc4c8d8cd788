"""GBNF grammars for proposals: the JSON of a pair, its answer copied from the passage.

A small model paraphrases, and most of its paraphrases are wrong; under ``pair_grammar`` it can only
point at a stretch of the passage. Knows nothing of generators. GBNF: llama.cpp, grammars/README.md.
"""

from __future__ import annotations

import json
import re


def _schema(*names: str) -> str:
    """Return the JSON schema of an object of these strings, in this order."""
    members = {name: {"type": "string"} for name in names}
    return json.dumps({"type": "object", "properties": members, "required": names, "additionalProperties": False})


# Characters as json.dumps(..., ensure_ascii=False) writes them: only these need an escape.
_STRING = r"""
string ::= "\"" char+ "\""
char ::= [^"\\\x00-\x1f\x7f] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F])
"""
QUESTION_GRAMMAR = r'root ::= "{\"question\": " string "}"' + _STRING
"""A question alone, for the unanswerable kind."""

# For generators that keep a text to a JSON schema and not to a grammar: the answer is not held to the passage.
QUESTION_SCHEMA = _schema("question")
PAIR_SCHEMA = _schema("question", "answer")
SPAN_SCHEMA = _schema("answer", "question")

# A Chinese character is a unit of its own; elsewhere words, runs of punctuation and runs of blanks are.
_UNIT = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\W\u3400-\u9fff\uf900-\ufaff]+|[^\w\s]+|\n+|[^\S\n]+")


def pair_grammar(passage: str) -> str:
    """Return the grammar of an answer that stands verbatim in ``passage``, and the question that it answers.

    The answer comes first: a small model that asks first answers its own question wrongly more often than not, and a
    question for an answer at hand is easier than an answer to a question (Alberti et al., 2019, arXiv:1906.05416).
    The answer begins and ends at a word or punctuation mark and stays within a line. A passage
    without any text gets a free answer.
    """
    rules: list[str] = []
    starts: list[str] = []
    units = _UNIT.findall(passage)
    for i, unit in enumerate(units):
        if "\n" in unit:
            continue
        # A span goes on over the next unit unless a line ends here, and cannot end in a blank.
        more = i + 1 < len(units) and "\n" not in units[i + 1]
        if unit.isspace():
            if more and _follows(units, i):
                rules.append(f"u{i} ::= {_literal(unit)} u{i + 1}")
            continue
        goes_on = more and not (units[i + 1].isspace() and not _follows(units, i + 1))
        rules.append(f"u{i} ::= {_literal(unit)}" + (f" u{i + 1}?" if goes_on else ""))
        if unit[0].isalnum() or unit[0] in "$€£¥\"'“‘《":
            starts.append(f"u{i}")
    answer = f'"\\"" ({" | ".join(starts)}) "\\""' if starts else "string"
    root = r'root ::= "{\"answer\": " answer ", \"question\": " string "}"'
    return "\n".join([root, f"answer ::= {answer}", *rules]) + _STRING


def _follows(units: list[str], blank: int) -> bool:
    return blank + 1 < len(units) and "\n" not in units[blank + 1]


def _literal(unit: str) -> str:
    """Quote a unit for GBNF, as JSON would write it inside a string."""
    escaped = json.dumps(unit, ensure_ascii=False)[1:-1]
    return '"' + escaped.replace("\\", "\\\\").replace('"', '\\"') + '"'
