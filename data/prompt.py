"""The one prompt template: what a model is trained on is what it is served.

``answer_messages`` turns (question, passages, history) into chat messages; ``render`` turns chat
messages into segments through the model's own chat template. A passage's label ("[37]") follows
from its text and not from its rank, so that its tokens are the same wherever it is found and its KV
state can be kept; ``renumber`` turns the labels of an answer into ranks. Knows no tokenizer and no model.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

from jinja2 import TemplateError

from data.errors import InvalidModel
from data.records import Chunk, Message, Passage, Segment, content_id
from data.templates import render_template

_CJK = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_MARK = re.compile(r"(?<!\s)\s*\[(\d{1,2})\]")
_LABEL = re.compile(r"(?<!\s)(\s*)\[(\d{2})\]")
_OPENING = re.compile(r"\[\d{1,2}\]\n")
_UNDECIDED = re.compile(r"(?<!\s)\s*(\[\d{0,2})?$")
_FIRST_LABEL, _LABELS = 10, 90
_ABSTAIN = re.compile(
    r"^\W*(i\s+do\s*n[o']?t\s+know|i\s+don’t\s+know|不知道|我不知道|unknown\b|无法回答|资料中没有)", re.IGNORECASE
)

ANSWER_WITH_PASSAGES = {
    "en": (
        "Answer the question using only the passages. Reply with the shortest exact answer and the "
        "number of its passage, like: answer [27]. If the passages do not contain the answer, reply: "
        "I don't know."
    ),
    "zh": "只根据资料回答问题。给出最短的准确答案和资料编号，例如：答案 [27]。如果资料里没有答案，回答：不知道。",
}
ANSWER_ALONE = {
    "en": "Answer the question. Reply with the shortest exact answer. If you do not know it, reply: I don't know.",
    "zh": "回答问题。给出最短的准确答案。如果不知道，回答：不知道。",
}
WRITE_PAIR = {
    "en": "Choose an answer in the passage that people would ask for, then write the question it answers, as JSON.",
    "zh": "先从资料中选出一个人们会问到的答案，再写出它所回答的问题，用 JSON 表示。",
}
WRITE_UNANSWERABLE = {
    "en": "Write a question on the topic of the passage that the passage does not answer, as JSON.",
    "zh": "写一个与资料主题有关、但资料没有回答的问题，用 JSON 表示。",
}
ABSTENTION = {"en": "I don't know.", "zh": "不知道。"}
_DISAGREE = {"en": "Sources disagree: ", "zh": "资料说法不一："}
_QUESTION = {"en": "Question: ", "zh": "问题："}


def language(text: str) -> str:
    """Return "zh" if at least a tenth of the letters of ``text`` are Chinese characters, else "en"."""
    letters = sum(map(str.isalpha, text))
    return "zh" if letters and len(_CJK.findall(text)) >= 0.1 * letters else "en"


def passage_part(passage: Passage) -> str:
    """Return a passage as it stands in a prompt: its heading path, then its text."""
    heading = passage.chunk.heading or passage.title
    return f"{heading}\n{passage.chunk.text.strip()}\n\n" if heading else f"{passage.chunk.text.strip()}\n\n"


def passage_labels(passages: Sequence[Passage]) -> tuple[int, ...]:
    """Return the label of each passage, two digits that follow from its text.

    Where two passages of one prompt would share a label, the later one takes the next that is free.
    """
    labels: list[int] = []
    for passage in passages:
        digest = hashlib.sha256(passage_part(passage).encode(errors="surrogatepass")).digest()
        number = int.from_bytes(digest[:8]) % _LABELS
        while _FIRST_LABEL + number in labels and len(labels) < _LABELS:
            number = (number + 1) % _LABELS
        labels.append(_FIRST_LABEL + number)
    return tuple(labels)


def answer_messages(
    question: str,
    passages: Sequence[Passage],
    history: Sequence[Message] = (),
    system: str | None = None,
    instructions: str = "",
) -> tuple[Message, ...]:
    """Build the messages that ask ``question``, over ``passages`` where there are any.

    Args:
        question: as the user asked it.
        passages: best first; each begins with its label of ``passage_labels``.
        history: earlier turns, oldest first. Without passages their questions stand as a question without passages is
            asked, so that what an engine has read of such turns is what it would read.
        system: replaces the default instruction.
        instructions: a house's own, which stand behind it; with none the prompt is as if there were no houses.
    """
    lang = language(question)
    default = (ANSWER_WITH_PASSAGES if passages else ANSWER_ALONE)[lang]
    labelled = zip(passage_labels(passages), passages, strict=True)
    parts = [f"[{label}]\n{passage_part(passage)}" for label, passage in labelled]
    parts.append(_asked(question))
    turns = history if passages else map(_asked_before, history)
    instruction = "\n\n".join(filter(None, (system or default, instructions.strip())))
    return (Message("system", (instruction,)), *turns, Message("user", tuple(parts)))


def _asked(question: str) -> str:
    return _QUESTION[language(question)] + question.strip()


def _asked_before(turn: Message) -> Message:
    return Message("user", (_asked(asked_question(turn.content)),)) if turn.role == "user" else turn


@lru_cache(maxsize=256)
def prompt_version(instructions: str = "") -> str:
    """Return what changes whenever a first turn's prompt does: the content id of its wording, a house's included."""
    passage = Passage(Chunk("", "", "text", 0, 4, "heading"), 0.0, 1, "")
    shown = [
        part
        for question in ("question", "问题")
        for passages in ((), (passage,))
        for message in answer_messages(question, passages, instructions=instructions)
        for part in message.parts
    ]
    return content_id(*shown, *ABSTENTION.values())


def asked_question(content: str) -> str:
    """Return the question in the content of a user message of ``answer_messages``; other content as it is."""
    for label in _QUESTION.values():
        before, _, question = content.rpartition(label)
        if content.startswith(label) or (_OPENING.match(before) and before.endswith("\n\n")):
            return question.strip()
    return content.strip()


def pair_messages(passage: Passage, *, answerable: bool = True) -> tuple[Message, ...]:
    """Build the messages that ask for a question (and its answer) about one passage."""
    system = (WRITE_PAIR if answerable else WRITE_UNANSWERABLE)[language(passage.chunk.text)]
    return (Message("system", (system,)), Message("user", (passage_part(passage).rstrip(),)))


def cite(answer: str, *labels: int) -> str:
    """Return ``answer`` with the citation marks of the passages of those labels, as training rows have it."""
    return answer.strip() + "".join(f" [{label}]" for label in labels)


def disagreement(answers: Sequence[tuple[str, int]], lang: str) -> str:
    """Return what to say where passages answer differently: each answer with the label of its passage."""
    return _DISAGREE[lang] + ("；" if lang == "zh" else "; ").join(cite(answer, label) for answer, label in answers)


def renumber(text: str, labels: Sequence[int]) -> str:
    """Return ``text`` with the ranks of passages, from 1, in place of their labels.

    A label of no passage goes, mark and all: it would be read as a rank. Without labels nothing changes.
    """
    if not labels:
        return text
    ranks = {f"{label:02}": rank for rank, label in enumerate(labels, 1)}
    return _LABEL.sub(lambda found: f"{found[1]}[{ranks[found[2]]}]" if found[2] in ranks else "", text)


class Renumbering:
    """``renumber`` for a text that comes in pieces: holds back what may yet become a label."""

    def __init__(self, labels: Sequence[int]) -> None:
        self._labels = labels
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take a piece and return the text that cannot change any more."""
        text = self._held + piece
        undecided = len(_UNDECIDED.search(text)[0])  # type: ignore[index]  # it matches every text, if only its end
        settled, self._held = text[: len(text) - undecided], text[len(text) - undecided :]
        return renumber(settled, self._labels)

    def finish(self) -> str:
        """Return what was held back."""
        held, self._held = self._held, ""
        return renumber(held, self._labels)


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
    passages = range(sum(len(m.parts) for m in messages[:-1]), sum(len(m.parts) for m in messages) - 1)
    for message in messages:
        marks = [f"\x02{len(parts) + i}\x03" for i in range(len(message.parts))]
        parts.extend(message.parts)
        shown.append({"role": message.role, "content": "".join(marks)})
    try:
        text = render_template(
            template,
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
        Segment(parts[int(piece)], False, int(piece) in passages) if i % 2 else Segment(piece, True)
        for i, piece in enumerate(pieces)
    ]
    return tuple(segment for segment in segments if segment.text)
