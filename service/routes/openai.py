"""OpenAI's protocol: ``/v1/models``, ``/v1/chat/completions``, ``/v1/embeddings``."""

from __future__ import annotations

import base64
from collections.abc import Generator, Iterator
from itertools import chain
from typing import Any, Literal

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fastapi.sse import ServerSentEvent
from pydantic import BaseModel, ConfigDict, field_validator

from data.access import current
from data.errors import InvalidRequest, UnknownModel
from data.records import Answer
from service.access import wants
from service.arms import did_you_mean
from service.chat import OWNER, ask_of, begin_chat, complete, stream
from service.chat_schemas import ChatBody
from service.deps import WorkspaceDep
from service.hangup import Hangup
from service.metrics import Metrics
from service.request_ids import problem_for_client
from service.shadow import Shadow
from service.sse import event_stream, until_left
from service.workspace import Workspace

router = APIRouter(tags=["openai"], dependencies=[wants("query")])

EMBEDDER = "embedder"
"""Name of the embedding model, beside the one it is configured under."""
_MOST_INPUTS = 2048
"""As many as OpenAI's API takes."""


class EmbeddingsBody(BaseModel):
    """``POST /v1/embeddings``. Fields that OpenAI knows and ragtune does not are ignored."""

    model_config = ConfigDict(extra="ignore")
    model: str
    input: str | list[str]
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = None

    @field_validator("input", mode="before", json_schema_input_type=str | list[str])
    @classmethod
    def _texts(cls, value: object) -> object:
        # OpenAI takes lists of its own tokens too, which no other tokenizer can read.
        if isinstance(value, list) and value and not isinstance(value[0], str):
            raise ValueError("tokens cannot be embedded, send texts (LangChain: check_embedding_ctx_length=False)")
        return value


@router.get("/models")
def list_models(workspace: WorkspaceDep) -> dict[str, Any]:
    """Return every model name that chat completions and embeddings take."""
    return {"object": "list", "data": [_model(name, role) for name, role in _names(workspace).items()]}


@router.get("/models/{name:path}")
def get_model(name: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Return one of them."""
    names = _names(workspace)
    if name not in names:
        raise UnknownModel("No such model", got=name, wanted=", ".join(names), hint=did_you_mean(name, names))
    return _model(name, names[name])


def _names(workspace: Workspace) -> dict[str, str]:
    known = [each for each in workspace.store.adapters.list() if each.base_sha256 == workspace.model.sha256]
    live = any(each.stage == "live" for each in known)
    arms = ["auto", "rag", *(["combined", "tuned"] if live else []), "base"]
    adapters = [each.name for each in known]
    names = dict.fromkeys(arms, "arm") | dict.fromkeys(adapters, "adapter")
    return {**names, workspace.model.name: "base model", EMBEDDER: "embedding model"}


def _model(name: str, role: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNER, "role": role}


@router.post("/chat/completions", response_model=None)
async def create_chat_completion(body: ChatBody, request: Request, workspace: WorkspaceDep) -> Response:
    """Answer a chat, whole or streamed; an arm's citations are in the ``ragtune`` field."""
    chat = await run_sync(begin_chat, workspace, body)
    metrics: Metrics = request.app.state.metrics
    shadow: Shadow = request.app.state.shadow
    hangup: Hangup = request.app.state.hangups.new()

    def told(answer: Answer) -> None:
        metrics.count(answer)
        shadow.offer(ask_of(chat, workspace.settings.engine_timeout_s), answer)

    if not body.stream:
        completion, answer = await until_left(request, hangup, lambda: complete(workspace, chat, hangup))
        if answer is not None:
            told(answer)
        return JSONResponse(completion)
    chunks = stream(workspace, chat, told, hangup)
    # The second chunk proves that the question was taken; until then a status can refuse it.
    first = await until_left(request, hangup, lambda: [next(chunks), next(chunks)])
    return event_stream(_events(first, chunks), hangup)


def _events(first: list[str], chunks: Generator[str, None, None]) -> Iterator[ServerSentEvent]:
    try:
        for chunk in chain(first, chunks):
            yield ServerSentEvent(raw_data=chunk)
    except Exception as error:
        # OpenAI's clients raise for a chunk with an error in it.
        found = problem_for_client(error)
        yield ServerSentEvent(
            data={"error": {"message": found["detail"], "type": found["type"], "code": found["status"]}}
        )
    finally:
        chunks.close()


@router.post("/embeddings")
def create_embeddings(body: EmbeddingsBody, workspace: WorkspaceDep) -> dict[str, Any]:
    """Embed texts with the model that the index uses."""
    names = (EMBEDDER, workspace.settings.embedder)
    if body.model not in names:
        raise UnknownModel("No such embedding model", got=body.model, wanted=", ".join(names))
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not texts or len(texts) > _MOST_INPUTS or not all(text.strip() for text in texts):
        raise InvalidRequest(
            "Nothing to embed", got=f"{len(texts)} texts", wanted=f"1 to {_MOST_INPUTS} texts, none blank"
        )
    embedder = workspace.embedder
    if body.dimensions not in (None, embedder.dimension):
        raise InvalidRequest(
            "This model's vectors have another length", got=body.dimensions, wanted=str(embedder.dimension)
        )
    rows = embedder.embed_documents(texts)
    tokens = sum(embedder.count_tokens(text) for text in texts)
    current().charge(tokens)
    as_text = body.encoding_format == "base64"
    vectors = [base64.b64encode(row.tobytes()).decode() if as_text else row.tolist() for row in rows]
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)],
        "model": body.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
