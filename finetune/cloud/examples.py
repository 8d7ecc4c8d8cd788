"""Examples to files and back, so that a machine without documents, index and pairs trains on the same tokens.

A line is a chat row (``data.formats``) with one key more: ``parts`` holds, for each message but the target, the
lengths in characters of the parts that are tokenized on their own. Other trainers can ignore it. Knows no tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from data.errors import InvalidRequest
from data.formats import read_rows, write_rows
from data.records import Message
from finetune.rows import Example


def write_examples(path: Path, examples: Iterable[Example]) -> int:
    """Write examples as JSONL; return how many.

    Raises:
        InvalidRequest: an example's messages are no conversation; its number is named.
        InsufficientStorage: the disk is full.
    """
    return write_rows(path, (_row(example) for example in examples))


def read_examples(path: Path) -> list[Example]:
    """Read examples from JSONL; a row without ``parts`` (made elsewhere) has one part in each message.

    Raises:
        InvalidRequest: a line is bad; its number is named.
    """
    return [_example(row, f"{path.name}, row {number}") for number, row in enumerate(read_rows(path), 1)]


def _row(example: Example) -> dict[str, Any]:
    messages = [{"role": message.role, "content": message.content} for message in example.messages]
    target = {"role": "assistant", "content": example.completion}
    parts = [[len(part) for part in message.parts] for message in example.messages]
    return {"messages": [*messages, target], "parts": parts}


def _example(row: Mapping[str, Any], where: str) -> Example:
    *asked, target = row["messages"]
    lengths = row.get("parts", [[len(message["content"])] for message in asked])
    if not _fit(lengths, [message["content"] for message in asked]):
        raise InvalidRequest(
            f"{where}: the parts are not those of the messages",
            got=str(lengths)[:200],
            wanted="for each message but the last, the lengths of its parts in characters",
        )
    split = zip(asked, lengths, strict=True)
    messages = tuple(Message(message["role"], _parts(message["content"], each)) for message, each in split)
    return Example(messages, target["content"])


def _fit(lengths: object, contents: list[str]) -> bool:
    if not isinstance(lengths, list) or len(lengths) != len(contents):
        return False
    return all(
        isinstance(each, list)
        and all(isinstance(length, int) and not isinstance(length, bool) and length >= 0 for length in each)
        and sum(each) == len(content)
        for each, content in zip(lengths, contents, strict=True)
    )


def _parts(content: str, lengths: list[int]) -> tuple[str, ...]:
    ends = list(accumulate(lengths))
    return tuple(content[end - length : end] for end, length in zip(ends, lengths, strict=True))
