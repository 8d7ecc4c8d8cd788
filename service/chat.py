"""OpenAI's chat protocol over arms: what a request asks for, and answers in its shape.

A model name is an arm (a mode or an adapter: the last user message is the question, over passages
where the arm has them) or the base model (the messages go to it unchanged). Knows nothing of HTTP.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from data.errors import InvalidRequest
from data.protocols import TokenChoice, WrittenToken
from data.records import Answer, Message, Usage
from service.answerer import AskRequest, Token
from service.arms import Arm, resolve_arm
from service.chat_schemas import ChatBody
from service.hangup import Hangup, generation
from service.views import adapters_view, citation_view, timings_view
from service.workspace import Workspace

OWNER = "ragtune"
_LEAST_LOGPROB = -9999.0
"""What OpenAI's API says for a token that cannot come: JSON has no infinity."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat request with its arm resolved."""

    body: ChatBody
    arm: Arm
    id: str
    created: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """Text as it comes."""

    text: str
    tokens: tuple[WrittenToken, ...]


@dataclass(frozen=True, slots=True)
class _End:
    """The whole text and what it took; ``answer`` where an arm answered. Timings in milliseconds."""

    text: str
    reason: str
    usage: Usage
    timings: Mapping[str, float]
    answer: Answer | None = None


def begin_chat(workspace: Workspace, body: ChatBody) -> Chat:
    """Resolve the model name.

    Raises:
        UnknownMode: it is no arm, no adapter and not the base model.
        NoLiveAdapter: tuned or combined, and no adapter is live.
    """
    arm = resolve_arm(body.model, workspace.store, workspace.model, body.collection)
    if arm.passages or arm.adapter is not None:
        body = body.with_defaults(workspace.store.houses.current(body.collection).sampling)
    return Chat(body, arm, f"chatcmpl-{uuid.uuid4().hex}", int(time.time()))


def complete(workspace: Workspace, chat: Chat, hangup: Hangup) -> tuple[dict[str, Any], Answer | None]:
    """Return the whole completion, and the answer where one was made.

    Raises:
        ClientLeft: ``hangup`` was told that nobody waits any more.
    """
    tokens: list[WrittenToken] = []
    with closing(_follow(workspace, chat, hangup)) as events:
        for event in events:
            if isinstance(event, _End):
                return _completion(chat, event, tokens), event.answer
            tokens += event.tokens
    raise AssertionError("a generation ends with its result")


def stream(
    workspace: Workspace, chat: Chat, on_answer: Callable[[Answer], None], hangup: Hangup
) -> Generator[str, None, None]:
    """Yield the completion in chunks, each as JSON; the last is ``[DONE]``. Closing it stops.

    ``on_answer`` is called where an arm answered.
    """
    yield _chunk(chat, {"role": "assistant", "content": ""})
    with closing(_follow(workspace, chat, hangup)) as events:
        for event in events:
            if isinstance(event, _Piece):
                yield _chunk(chat, {"content": event.text}, event.tokens)
                continue
            if event.answer is not None:
                on_answer(event.answer)
            yield _chunk(chat, {}, (), event)
            options = chat.body.stream_options
            if options is not None and options.include_usage:
                head = _head(chat, "chat.completion.chunk")
                yield json.dumps({**head, "choices": [], "usage": _usage(event.usage)})
    yield "[DONE]"


def _follow(workspace: Workspace, chat: Chat, hangup: Hangup) -> Generator[_Piece | _End, None, None]:
    """Yield what is written and then the end, from the base model itself or from an arm's answer."""
    if chat.arm.passages or chat.arm.adapter is not None:
        yield from _answered(workspace, chat, hangup)
        return
    request = chat.body.request(workspace.settings.engine_timeout_s)
    with generation(workspace.generator, request, hangup) as deltas:
        for delta in deltas:
            if delta.text or delta.tokens:
                yield _Piece(delta.text, delta.tokens)
            if (result := delta.result) is not None:
                took = {"queue": result.queued_ms, "prefill": result.prefill_ms, "generate": result.generate_ms}
                yield _End(result.text, result.finish_reason, result.usage, took)


def _answered(workspace: Workspace, chat: Chat, hangup: Hangup) -> Iterator[_Piece | _End]:
    ask = ask_of(chat, workspace.settings.engine_timeout_s)
    with closing(workspace.answerer.stream(ask, hangup)) as events:
        for event in events:
            if isinstance(event, Token):
                yield _Piece(event.text, event.tokens)
            elif isinstance(event, Answer):
                reason = "length" if event.usage.completion_tokens >= chat.body.limit else "stop"
                yield _End(event.text, reason, event.usage, event.timings, event)


def ask_of(chat: Chat, timeout_s: float) -> AskRequest:
    """Return the question of a chat that an arm answers; its mode is the model's name.

    Raises:
        InvalidRequest: the last message is not the user's.
    """
    body = chat.body
    request = body.request(timeout_s)
    messages = request.messages
    if messages[-1].role != "user":
        raise InvalidRequest("The last message is not the user's", got=messages[-1].role, wanted="user")
    return AskRequest(
        messages[-1].content,
        collection=body.collection,
        mode=body.model,
        top_k=body.n_passages,
        history=tuple(message for message in messages[:-1] if message.role != "system"),
        system=_system(messages),
        arm=chat.arm,
        like=request,
    )


def _system(messages: Sequence[Message]) -> str | None:
    return "\n".join(message.content for message in messages if message.role == "system") or None


def _head(chat: Chat, kind: str) -> dict[str, Any]:
    return {"id": chat.id, "object": kind, "created": chat.created, "model": chat.body.model}


def _completion(chat: Chat, end: _End, tokens: Sequence[WrittenToken]) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": end.text, "refusal": None},
        "finish_reason": _openai_reason(end.reason),
        "logprobs": _logprobs(tokens) if chat.body.logprobs else None,
    }
    return {**_head(chat, "chat.completion"), "choices": [choice], "usage": _usage(end.usage), **_more(end)}


def _chunk(chat: Chat, delta: dict[str, Any], tokens: Sequence[WrittenToken] = (), end: _End | None = None) -> str:
    choice = {
        "index": 0,
        "delta": delta,
        "finish_reason": None if end is None else _openai_reason(end.reason),
        "logprobs": _logprobs(tokens) if tokens else None,
    }
    more = {} if end is None else _more(end)
    return json.dumps({**_head(chat, "chat.completion.chunk"), "choices": [choice], **more}, ensure_ascii=False)


def _openai_reason(reason: str) -> str:
    return "length" if reason == "length" else "stop"


def _logprobs(tokens: Sequence[WrittenToken]) -> dict[str, Any]:
    content = [
        {**_choice(token.choice), "top_logprobs": [_choice(other) for other in token.likeliest]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def _choice(choice: TokenChoice) -> dict[str, Any]:
    return {"token": choice.text, "logprob": max(choice.logprob, _LEAST_LOGPROB), "bytes": list(choice.utf8) or None}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _more(end: _End) -> dict[str, Any]:
    """Return the members that OpenAI's protocol does not have: llama-server's ``timings``, and ragtune's own."""
    timings = {
        "cache_n": end.usage.cached_tokens,
        "prompt_n": end.usage.prompt_tokens - end.usage.cached_tokens,
        "prompt_ms": round(end.timings["prefill"], 3),
        "predicted_n": end.usage.completion_tokens,
        "predicted_ms": round(end.timings["generate"], 3),
    }
    return {"timings": timings, **({} if end.answer is None else {OWNER: _extension(end.answer)})}


def _extension(answer: Answer) -> dict[str, Any]:
    return {
        "answer_id": answer.id,
        "mode": answer.mode,
        "adapter": answer.adapter,
        "adapters": adapters_view(answer),
        "adapter_stale": answer.adapter_stale,
        "abstained": answer.abstained,
        "confidence": answer.confidence,
        "citations": [citation_view(citation) for citation in answer.citations],
        "passages_dropped": answer.passages_dropped,
        "timings_ms": timings_view(answer),
        "index_generation": answer.index_generation,
    }
