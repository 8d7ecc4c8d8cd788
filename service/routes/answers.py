"""``POST /v1/answers``: one question, one answer, whole or streamed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import partial
from itertools import chain
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fastapi.sse import ServerSentEvent

from data.records import Answer
from service import api_models as models
from service.access import wants
from service.answerer import AnswerEvent, PassagesFound, Token
from service.asking import AskRequest
from service.deps import WorkspaceDep
from service.hangup import Hangup
from service.houses import with_defaults
from service.metrics import Metrics
from service.request_ids import problem_for_client
from service.schemas import AnswerBody
from service.shadow import Shadow
from service.sse import event_stream, until_left
from service.views import answer_view, passage_view

router = APIRouter(tags=["answers"], dependencies=[wants("query")])
_REPLIES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": models.Answer,
        "content": {"text/event-stream": {"schema": {"type": "string", "description": "With `stream`."}}},
    }
}


@router.post("/answers", response_model=None, responses=_REPLIES)
async def create_answer(body: AnswerBody, request: Request, workspace: WorkspaceDep) -> Response:
    """Answer a question. With ``stream``, events: passages, token (any number), answer or error."""
    metrics: Metrics = request.app.state.metrics
    shadow: Shadow = request.app.state.shadow
    hangup: Hangup = request.app.state.hangups.new()

    def asked() -> AskRequest:
        return with_defaults(workspace.store, body.ask(), body.model_fields_set)

    def told(ask: AskRequest, answer: Answer) -> None:
        metrics.count(answer)
        shadow.offer(ask, answer)

    def whole() -> dict[str, Any]:
        ask = asked()
        answer = workspace.answerer.answer(ask, hangup)
        told(ask, answer)
        return answer_view(answer)

    if not body.stream:
        return JSONResponse(await until_left(request, hangup, whole))
    ask = await run_sync(asked)
    events = workspace.answerer.stream(ask, hangup)
    # What can be refused is refused with a status, before the stream begins.
    first = await until_left(request, hangup, lambda: next(events))
    return event_stream(_events(first, events, partial(told, ask)), hangup)


def _events(
    first: AnswerEvent, events: Generator[AnswerEvent, None, None], told: Callable[[Answer], None]
) -> Iterator[ServerSentEvent]:
    try:
        for event in chain([first], events):
            if isinstance(event, Answer):
                told(event)
            yield _event(event)
    except Exception as error:
        # The status is sent already: the error can only be an event.
        yield ServerSentEvent(event="error", data=problem_for_client(error))
    finally:
        events.close()


def _event(event: AnswerEvent) -> ServerSentEvent:
    data: dict[str, Any]
    if isinstance(event, PassagesFound):
        data = {"passages": [passage_view(passage) for passage in event.passages]}
        return ServerSentEvent(event="passages", data=data)
    if isinstance(event, Token):
        return ServerSentEvent(event="token", data={"text": event.text})
    return ServerSentEvent(event="answer", data=answer_view(event))
