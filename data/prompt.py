"""The one prompt template: what a model is trained on is what it is served.

``answer_messages`` turns (question, passages, history) into chat messages; ``render`` turns chat
messages into segments through the model's own chat template. Passage labels ("[1]") are parts of
their own, so a passage's tokens do not depend on its rank. Knows no tokenizer and no model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from data.errors import InvalidModel
from data.records import Message, Passage, Segment

_CJK = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_MARK = re.compile(r"\s*\[(\d{1,2})\]")
_ABSTAIN = re.compile(
    r"^\W*(i\s+do\s*n[o']?t\s+know|i\s+don’t\s+know|不知道|我不知道|unknown\b|无法回答|资料中没有)", re.IGNORECASE
)

ANSWER_WITH_PASSAGES = {
    "en": (
        "Answer the question using only the passages. Reply with the shortest exact answer and the "
        "number of its passage, like: answer [1]. If the passages do not contain the answer, reply: "
        "I don't know."
    ),
    "zh": "只根据资料回答问题。给出最短的准确答案和资料编号，例如：答案 [1]。如果资料里没有答案，回答：不知道。",
}
ANSWER_ALONE = {
    "en": "Answer the question. Reply with the shortest exact answer. If you do not know it, reply: I don't know.",
    "zh": "回答问题。给出最短的准确答案。如果不知道，回答：不知道。",
}
WRITE_PAIR = {
    "en": "Write a question that the passage answers, then its exact answer from the passage, as JSON.",
    "zh": "根据资料写一个资料能回答的问题，再写出资料中的准确答案，用 JSON 表示。",
}
WRITE_UNANSWERABLE = {
    "en": "Write a question on the topic of the passage that the passage does not answer, as JSON.",
    "zh": "写一个与资料主题有关、但资料没有回答的问题，用 JSON 表示。",
}
ABSTENTION = {"en": "I don't know.", "zh": "不知道。"}
_QUESTION = {"en": "Question: ", "zh": "问题："}


def language(text: str) -> str:
    """Return "zh" if at least a tenth of the letters of ``text`` are Chinese characters, else "en"."""
    letters = sum(map(str.isalpha, text))
    return "zh" if letters and len(_CJK.findall(text)) >= 0.1 * letters else "en"


def passage_part(passage: Passage) -> str:
    """Return a passage as it stands in a prompt: its heading path, then its text."""
    heading = passage.chunk.heading or passage.title
    return f"{heading}\n{passage.chunk.text.strip()}\n\n" if heading else f"{passage.chunk.text.strip()}\n\n"


def answer_messages(
    question: str, passages: Sequence[Passage], history: Sequence[Message] = (), system: str | None = None
) -> tuple[Message, ...]:
    """Build the messages that ask ``question``, over ``passages`` where there are any.

    Args:
        question: as the user asked it.
        passages: best first; passage i is labelled ``[i]``, counting from 1.
        history: earlier turns, oldest first.
        system: replaces the default instruction (a house style, say).
    """
    lang = language(question)
    default = (ANSWER_WITH_PASSAGES if passages else ANSWER_ALONE)[lang]
    parts: list[str] = []
    for number, passage in enumerate(passages, 1):
        parts += [f"[{number}]\n", passage_part(passage)]
    parts.append(_QUESTION[lang] + question.strip())
    return (Message("system", (system or default,)), *history, Message("user", tuple(parts)))


def asked_question(content: str) -> str:
    """Return the question in the content of a user message of ``answer_messages``; other content as it is."""
    for label in _QUESTION.values():
        before, _, question = content.rpartition(label)
        if content.startswith(label) or (before.startswith("[1]\n") and before.endswith("\n\n")):
            return question.strip()
    return content.strip()


def pair_messages(passage: Passage, *, answerable: bool = True) -> tuple[Message, ...]:
    """Build the messages that ask for a question (and its answer) about one passage."""
    system = (WRITE_PAIR if answerable else WRITE_UNANSWERABLE)[language(passage.chunk.text)]
    return (Message("system", (system,)), Message("user", (passage_part(passage).rstrip(),)))


def cite(answer: str, number: int) -> str:
    """Return ``answer`` with the citation mark of passage ``number``, as training rows have it."""
    return f"{answer.strip()} [{number}]"


def cited_numbers(text: str) -> tuple[int, ...]:
    """Return the passage numbers that ``text`` cites, in order, each once."""
    return tuple(dict.fromkeys(int(number) for number in _MARK.findall(text)))


def strip_citations(text: str) -> str:
    """Return ``text`` without its citation marks."""
    return _MARK.sub("", text).strip()


def abstains(text: str) -> bool:
    """Tell whether an answer says that it does not know (or says nothing)."""
    bare = strip_citations(text)
    return not bare or bool(_ABSTAIN.match(bare))


@lru_cache(maxsize=8)
def _template(source: str) -> Any:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda _format: ""
    return environment.from_string(source)


def render(
    messages: Sequence[Message],
    template: str,
    *,
    bos_token: str = "",
    eos_token: str = "",
    add_generation_prompt: bool = True,
) -> tuple[Segment, ...]:
    """Render messages through a chat template into segments, one for each part and markup stretch.

    The template sees a placeholder for every part; the parts are put back afterwards, so text can
    neither run template code nor forge chat markup. ``bos_token`` is rendered where the template
    puts it, never added.

    Args:
        messages: the conversation.
        template: Jinja source, as a GGUF's ``tokenizer.chat_template`` or a tokenizer's has it.
        bos_token: as the template may name it.
        eos_token: likewise.
        add_generation_prompt: end with the mark after which the assistant speaks.

    Raises:
        InvalidModel: the template fails, or drops or repeats a part.
    """
    parts: list[str] = []
    shown: list[dict[str, str]] = []
    for message in messages:
        marks = [f"\x02{len(parts) + i}\x03" for i in range(len(message.parts))]
        parts.extend(message.parts)
        shown.append({"role": message.role, "content": "".join(marks)})
    try:
        text = _template(template).render(
            messages=shown,
            add_generation_prompt=add_generation_prompt,
            bos_token=bos_token,
            eos_token=eos_token,
            tools=None,
            documents=None,
        )
    except TemplateError as error:
        raise InvalidModel(
            f"The model's chat template failed: {error}", hint="Use a model with a working chat template."
        ) from error
    pieces = re.split(r"\x02(\d+)\x03", text)
    if [int(i) for i in pieces[1::2]] != list(range(len(parts))):
        raise InvalidModel(
            "The model's chat template drops, repeats or reorders message content",
            hint="Use an instruction-tuned model whose template keeps system and user messages.",
        )
    segments = [
        Segment(piece, True) if i % 2 == 0 else Segment(parts[int(piece)], False) for i, piece in enumerate(pieces)
    ]
    return tuple(segment for segment in segments if segment.text)
