"""OpenAI's chat protocol over arms: what a request asks for, and answers in its shape.

A model name is an arm (a mode or an adapter: the last user message is the question, over passages
where the arm has them) or the base model (the messages go to it unchanged). Knows nothing of HTTP.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from data.errors import InvalidRequest
from data.protocols import GenerationRequest
from data.records import Answer, Message, Usage
from service.answerer import AskRequest, Token
from service.arms import Arm, resolve_arm
from service.schemas import Unicode
from service.views import citation_view
from service.workspace import Workspace

OWNER = "ragtune"


class ContentPart(BaseModel):
    """A part of a message's content; only text is understood."""

    model_config = ConfigDict(extra="ignore")
    type: str
    text: str = ""


class ChatMessage(BaseModel):
    """One message, as OpenAI's clients send it."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart]

    def message(self) -> Message:
        """Return it as a prompt message.

        Raises:
            InvalidRequest: a part is not text.
        """
        parts = [ContentPart(type="text", text=self.content)] if isinstance(self.content, str) else self.content
        for part in parts:
            if part.type != "text":
                raise InvalidRequest("Only text content is understood", got=part.type, wanted="text")
        role = "system" if self.role == "developer" else self.role
        return Message(role, tuple(part.text for part in parts))


class StreamOptions(BaseModel):
    """OpenAI's ``stream_options``."""

    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class ChatBody(Unicode):
    """``POST /v1/chat/completions``. Fields that OpenAI knows and ragtune does not are ignored."""

    model_config = ConfigDict(extra="ignore")
    model: str
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = Field(None, ge=1, le=8192)
    max_completion_tokens: int | None = Field(None, ge=1, le=8192)
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    n: Literal[1] = 1
    stream: bool = False
    stream_options: StreamOptions = Field(default_factory=StreamOptions)
    collection: str = "default"
    top_k: int = Field(4, ge=1, le=50)

    @property
    def limit(self) -> int:
        """Return the bound on generated tokens."""
        return self.max_completion_tokens or self.max_tokens or 256


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat request with its arm resolved."""

    body: ChatBody
    arm: Arm
    id: str
    created: int


def begin_chat(workspace: Workspace, body: ChatBody) -> Chat:
    """Resolve the model name.

    Raises:
        UnknownMode: it is no arm, no adapter and not the base model.
        NoLiveAdapter: tuned or combined, and no adapter is live.
    """
    arm = resolve_arm(body.model, workspace.store, workspace.model, body.collection)
    return Chat(body, arm, f"chatcmpl-{uuid.uuid4().hex}", int(time.time()))


def complete(workspace: Workspace, chat: Chat) -> tuple[dict[str, Any], Answer | None]:
    """Return the whole completion, and the answer where one was made."""
    if _passes_through(chat):
        result = workspace.generator.generate(_request(workspace, chat))
        return _completion(chat, result.text, result.finish_reason, result.usage), None
    answer = workspace.answerer.answer(_ask(chat))
    return {**_completion(chat, answer.text, _reason(chat, answer), answer.usage), OWNER: _extension(answer)}, answer


def stream(workspace: Workspace, chat: Chat, on_answer: Callable[[Answer], None]) -> Generator[str, None, None]:
    """Yield the completion in chunks, each as JSON; the last is ``[DONE]``. Closing it stops.

    ``on_answer`` is called where an arm answered.
    """
    yield _chunk(chat, {"role": "assistant", "content": ""})
    yield from _pass_through(workspace, chat) if _passes_through(chat) else _answered(workspace, chat, on_answer)
    yield "[DONE]"


def _pass_through(workspace: Workspace, chat: Chat) -> Iterator[str]:
    deltas = workspace.generator.stream(_request(workspace, chat))
    try:
        for delta in deltas:
            if delta.text:
                yield _chunk(chat, {"content": delta.text})
            if delta.result is not None:
                yield from _end(chat, delta.result.finish_reason, delta.result.usage, None)
    finally:
        close = getattr(deltas, "close", None)
        if close is not None:
            close()


def _answered(workspace: Workspace, chat: Chat, on_answer: Callable[[Answer], None]) -> Iterator[str]:
    with closing(workspace.answerer.stream(_ask(chat))) as events:
        for event in events:
            if isinstance(event, Token):
                yield _chunk(chat, {"content": event.text})
            elif isinstance(event, Answer):
                on_answer(event)
                yield from _end(chat, _reason(chat, event), event.usage, _extension(event))


def _end(chat: Chat, reason: str, usage: Usage, extension: dict[str, Any] | None) -> Iterator[str]:
    extra = {OWNER: extension} if extension is not None else {}
    yield _chunk(chat, {}, reason, **extra)
    if chat.body.stream_options.include_usage:
        yield json.dumps({**_head(chat, "chat.completion.chunk"), "choices": [], "usage": _usage(usage)})


def _passes_through(chat: Chat) -> bool:
    return not chat.arm.passages and chat.arm.adapter is None


def _request(workspace: Workspace, chat: Chat) -> GenerationRequest:
    body = chat.body
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return GenerationRequest(
        tuple(message.message() for message in body.messages),
        max_tokens=body.limit,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
        stop=stop,
        timeout_s=workspace.settings.engine_timeout_s,
    )


def _ask(chat: Chat) -> AskRequest:
    body = chat.body
    messages = [message.message() for message in body.messages]
    if messages[-1].role != "user":
        raise InvalidRequest("The last message is not the user's", got=messages[-1].role, wanted="user")
    return AskRequest(
        messages[-1].content,
        collection=body.collection,
        top_k=body.top_k,
        max_tokens=body.limit,
        temperature=body.temperature,
        seed=body.seed,
        history=tuple(message for message in messages[:-1] if message.role != "system"),
        system=_system(messages),
        arm=chat.arm,
    )


def _system(messages: Sequence[Message]) -> str | None:
    return "\n".join(message.content for message in messages if message.role == "system") or None


def _head(chat: Chat, kind: str) -> dict[str, Any]:
    return {"id": chat.id, "object": kind, "created": chat.created, "model": chat.body.model}


def _completion(chat: Chat, text: str, reason: str, usage: Usage) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": _openai_reason(reason), "logprobs": None}
    return {**_head(chat, "chat.completion"), "choices": [choice], "usage": _usage(usage)}


def _chunk(chat: Chat, delta: dict[str, Any], reason: str | None = None, **extra: Any) -> str:
    finish = None if reason is None else _openai_reason(reason)
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    return json.dumps({**_head(chat, "chat.completion.chunk"), "choices": [choice], **extra}, ensure_ascii=False)


def _openai_reason(reason: str) -> str:
    return "length" if reason == "length" else "stop"


def _reason(chat: Chat, answer: Answer) -> str:
    return "length" if answer.usage.completion_tokens >= chat.body.limit else "stop"


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _extension(answer: Answer) -> dict[str, Any]:
    return {
        "answer_id": answer.id,
        "mode": answer.mode,
        "adapter": answer.adapter,
        "abstained": answer.abstained,
        "confidence": answer.confidence,
        "citations": [citation_view(citation) for citation in answer.citations],
        "index_generation": answer.index_generation,
    }
