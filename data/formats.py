"""Training rows and evaluation questions as JSONL, in the formats that other tools read and write.

- chat: ``{"messages": [{"role", "content"}, …]}``, the format every other one is converted through
- instruction: ``{"instruction", "input", "output"}``, one turn; the system message is the instruction
- sharegpt: ``{"conversations": [{"from", "value"}, …]}``

Other keys of a row (an id, its lineage) are kept in every format. Knows nothing of what a row says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from data.errors import InvalidRequest
from data.jsonl import OnError, located, read_objects, report
from data.records import Question, content_id
from data.state import write_atomic

Format = Literal["chat", "instruction", "sharegpt"]
FORMATS: tuple[Format, ...] = get_args(Format)

_ROLES = ("system", "user", "assistant")
_TO_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}
_FROM_SHAREGPT = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
_ID_DIGITS = 16
"""Hex digits of an id made of a question's text: 64 bits, as short as file names and tables want it."""
_KEYS: dict[Format, tuple[str, ...]] = {
    "chat": ("messages",),
    "instruction": ("instruction", "input", "output"),
    "sharegpt": ("conversations",),
}


def _invalid(what: str, got: object, wanted: str, hint: str = "") -> InvalidRequest:
    shown = repr(got)
    return InvalidRequest(what, got=shown if len(shown) <= 200 else f"{shown[:200]}…", wanted=wanted, hint=hint)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise _invalid(f"{name} is not text.", value, "a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _invalid(f"{name} holds half of a surrogate pair.", value, "valid Unicode") from error
    return value


def _turns(value: object, role_key: str, text_key: str, roles: Mapping[str, str]) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise _invalid("The row has no turns.", value, f"a list of objects with {role_key} and {text_key}")
    turns = []
    for turn in value:
        if not isinstance(turn, dict) or role_key not in turn or text_key not in turn:
            raise _invalid("A turn is incomplete.", turn, f"an object with {role_key} and {text_key}")
        role = roles.get(str(turn[role_key]))
        if role is None:
            raise _invalid("A turn has an unknown role.", turn[role_key], ", ".join(roles))
        turns.append({"role": role, "content": _text(turn[text_key], text_key)})
    return turns


def _check_turns(messages: Sequence[Mapping[str, str]]) -> None:
    roles = [message["role"] for message in messages]
    spoken = roles[1:] if roles[0] == "system" else roles
    if not spoken or len(spoken) % 2 or spoken != ["user", "assistant"] * (len(spoken) // 2):
        wanted = "an optional system message, then user and assistant in turn, the assistant last"
        raise _invalid("The turns are out of order.", roles, wanted)
    if not messages[-1]["content"].strip():
        raise _invalid("The last answer is empty.", messages[-1]["content"], "what the model should say")


def _from_instruction(row: Mapping[str, Any]) -> list[dict[str, str]]:
    instruction, given = _text(row["instruction"], "instruction"), _text(row.get("input") or "", "input")
    asked = [("system", instruction), ("user", given)] if given else [("user", instruction)]
    return [{"role": role, "content": text} for role, text in (*asked, ("assistant", _text(row["output"], "output")))]


def format_of(row: Mapping[str, Any]) -> Format:
    """Tell a row's format by its keys.

    Raises:
        InvalidRequest: it has none.
    """
    if "messages" in row:
        return "chat"
    if "conversations" in row:
        return "sharegpt"
    if "instruction" in row and "output" in row:
        return "instruction"
    raise _invalid("The row has no known format.", sorted(map(str, row)), "the keys of chat, instruction or sharegpt")


def _messages(row: Mapping[str, Any]) -> list[dict[str, str]]:
    source = format_of(row)
    if source == "chat":
        messages = _turns(row["messages"], "role", "content", {role: role for role in _ROLES})
    elif source == "sharegpt":
        messages = _turns(row["conversations"], "from", "value", _FROM_SHAREGPT)
    else:
        messages = _from_instruction(row)
    _check_turns(messages)
    return messages


def convert(row: Mapping[str, Any], format: Format) -> dict[str, Any]:
    """Return a row of any format in another; converting there and back gives the same messages.

    Raises:
        InvalidRequest: the row is invalid, or the format cannot hold it (instruction: several turns).
    """
    if format not in FORMATS:
        raise _invalid("Unknown format.", format, ", ".join(FORMATS))
    messages = _messages(row)
    rest = {key: value for key, value in row.items() if key not in _KEYS[format_of(row)]}
    if format == "chat":
        return {"messages": messages} | rest
    if format == "sharegpt":
        turns = [{"from": _TO_SHAREGPT[message["role"]], "value": message["content"]} for message in messages]
        return {"conversations": turns} | rest
    asked = [message["content"] for message in messages[:-1]]
    has_system = messages[0]["role"] == "system"
    if len(asked) != 1 + has_system or (has_system and not asked[1]):
        raise _invalid("The instruction format holds one question and one answer.", messages, "chat or sharegpt")
    instruction, given = asked if has_system else (asked[0], "")
    return {"instruction": instruction, "input": given, "output": messages[-1]["content"]} | rest


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], format: Format = "chat") -> int:
    """Write rows of any format as JSONL of one; the file is replaced as a whole, or not at all.

    Returns:
        How many rows were written.

    Raises:
        InvalidRequest: a row is invalid; its number is named.
    """
    lines = []
    for number, row in enumerate(rows, 1):
        try:
            lines.append(json.dumps(convert(row, format), ensure_ascii=False) + "\n")
        except InvalidRequest as error:
            raise located(error, f"Row {number}") from error
    write_atomic(path, "".join(lines).encode())
    return len(lines)


def read_rows(path: Path, *, on_error: OnError | None = None) -> list[dict[str, Any]]:
    """Read rows, each of any format, as chat rows.

    Args:
        path: JSONL (blank lines are skipped) or a JSON array; see ``data.jsonl.read_objects``.
        on_error: called for each bad line, which is then left out; None to stop at the first.

    Raises:
        InvalidRequest: a line is bad; its number is named.
    """
    return [convert(row, "chat") for row in iterate_rows(path, on_error=on_error)]


def iterate_rows(path: Path, *, on_error: OnError | None = None) -> Iterator[dict[str, Any]]:
    """Yield the valid rows of a file, each in its own format, in bounded memory; as ``read_rows`` otherwise."""
    for where, found in read_objects(path, on_error):
        try:
            _messages(found)
        except InvalidRequest as error:
            report(located(error, where), on_error)
        else:
            yield found


def read_questions(path: Path, *, on_error: OnError | None = None) -> list[Question]:
    """Read evaluation questions: JSONL of question, answers, and id, answerable, document, origin where wished.

    A question without an id gets one, see ``QuestionIds``.

    Args:
        path: JSONL (blank lines are skipped) or a JSON array; see ``data.jsonl.read_objects``.
        on_error: called for each bad line, which is then left out; None to stop at the first.

    Raises:
        InvalidRequest: a line is bad, or two have the same id; the line's number is named.
    """
    return list(iterate_questions(path, on_error=on_error))


def iterate_questions(path: Path, *, on_error: OnError | None = None) -> Iterator[Question]:
    """Yield what ``read_questions`` returns, in bounded memory but for a hash of each id."""
    ids = QuestionIds()
    for where, found in read_objects(path, on_error):
        try:
            question = _question(found, ids)
        except InvalidRequest as error:
            report(located(error, where), on_error)
        else:
            yield question


class QuestionIds:
    """The ids of one set of questions, from a file or a request: a question's own, or one made of its text.

    The same text has the same id in every set; where it stands again without an id, of its text and how often it stood.
    Of each question 8 bytes of its id's hash are kept.
    """

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._times: dict[bytes, int] = {}

    def claim(self, question: str, own: str | None) -> str:
        """Return the id of the next question; ``own`` is what it came with.

        Raises:
            InvalidRequest: an earlier question has it.
        """
        identity = self._made(question) if own is None else own
        digest = _digest(identity)
        if digest in self._seen:
            hint = "Give it another, or leave all ids out: then they are made of the questions."
            raise _invalid("The id is used twice.", identity, "an id for each question", hint)
        self._seen.add(digest)
        return identity

    def _made(self, question: str) -> str:
        made = content_id(question)[:_ID_DIGITS]
        first = _digest(made)
        while _digest(made) in self._seen:  # more than once where another question brought such an id along
            self._times[first] = self._times.get(first, 1) + 1
            made = content_id(question, str(self._times[first]))[:_ID_DIGITS]
        return made


def accepted_answers(answers: Sequence[str], *, answerable: bool) -> tuple[str, ...]:
    """Return the answers of a question; of one that is not answerable none, and blank ones count as none.

    Raises:
        InvalidRequest: it is answerable and has none, or is not and has some.
    """
    given = any(answer.strip() for answer in answers)
    if answerable and not given:
        hint = 'Give it "answers", or mark it "answerable": false.'
        raise _invalid("An answerable question has no accepted answer.", list(answers), "an answer or more", hint)
    if given and not answerable:
        wanted, hint = '"answerable": true, or no answers', 'Take out "answerable": false, or the answers.'
        raise _invalid("An unanswerable question has answers.", list(answers), wanted, hint)
    return tuple(answers) if answerable else ()


def _digest(identity: str) -> bytes:
    return hashlib.blake2b(identity.encode(), digest_size=8).digest()


def _question(row: Mapping[str, Any], ids: QuestionIds) -> Question:
    question = _text(row.get("question"), "question")
    if not question.strip():
        raise _invalid("The question is empty.", question, "some text")
    own = row.get("id")
    if own is not None and (not isinstance(own, str | int) or isinstance(own, bool) or own == ""):
        raise _invalid("The question's id cannot be one.", own, "text or an integer, or no id")
    answers = row.get("answers", [])
    if not isinstance(answers, list):
        raise _invalid("answers is not a list.", answers, "a list of strings")
    answerable, document = row.get("answerable", True), row.get("document")
    if not isinstance(answerable, bool):
        raise _invalid("answerable is neither true nor false.", answerable, "true or false")
    accepted = accepted_answers([_text(answer, "an answer") for answer in answers], answerable=answerable)
    document = None if document is None else _text(document, "document")
    origin = _text(row.get("origin", "file"), "origin")
    identity = ids.claim(question, None if own is None else _text(str(own), "id"))
    return Question(identity, question, accepted, answerable, document, origin)
