"""``/v1/pairs``: generate, review, import and export question-answer pairs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from data.errors import DocumentTooLarge, InvalidRequest
from data.formats import Format
from data.records import PairKind, PairStatus
from data.state import check_name, write_atomic
from service.answerer import check_collection
from service.arms import find_adapter
from service.deps import Cursor, IdempotencyKey, Limit, RunnerDep, WorkspaceDep, accepted
from service.schemas import GeneratePairsBody, ImportPairsBody, PairPatch
from service.uploads import file_name
from service.views import pair_view

router = APIRouter(prefix="/pairs", tags=["pairs"])

LARGEST_IMPORT_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PairSource:
    """Pairs as they were sent: a JSONL file's name and bytes, and where they go."""

    name: str
    content: bytes
    collection: str


async def pair_source(request: Request) -> PairSource:
    """Read pairs from a multipart form or from JSON.

    Raises:
        InvalidRequest: it is neither.
    """
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form() as form:
            return await _from_form(form)
    try:
        body = ImportPairsBody.model_validate_json(await request.body())
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in body.rows)
    return PairSource("rows.jsonl", lines.encode(), body.collection)


async def _from_form(form: FormData) -> PairSource:
    file, collection = form.get("file"), form.get("collection", "default")
    if not isinstance(file, UploadFile) or not isinstance(collection, str):
        raise InvalidRequest("The form has no file", got=", ".join(form), wanted="a field named file")
    content = await file.read(LARGEST_IMPORT_BYTES + 1)
    if len(content) > LARGEST_IMPORT_BYTES:
        raise DocumentTooLarge("The file is too large", wanted=f"at most {LARGEST_IMPORT_BYTES} bytes")
    return PairSource(file_name(file.filename), content, collection)


@router.post("/generate", status_code=202, response_model=None)
def generate(
    body: GeneratePairsBody, workspace: WorkspaceDep, runner: RunnerDep, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Ask for ``limit`` proposals and keep those that pass the checks, as a job."""
    check_collection(workspace.store, body.collection)
    for document_id in body.exclude_documents:
        workspace.store.documents.row(document_id)
    if body.adapter is not None:
        find_adapter(workspace.store, body.adapter)
    return accepted(workspace, runner, "pairs", body.model_dump(), idempotency_key)


@router.get("")
def list_pairs(
    workspace: WorkspaceDep,
    *,
    collection: str = "default",
    status: PairStatus | None = None,
    kind: PairKind | None = None,
    stale: bool | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> dict[str, Any]:
    """Return a page of pairs, oldest first, and the cursor of the next page."""
    check_collection(workspace.store, collection)
    found, following = workspace.store.pairs.list(
        collection, status=status, kind=kind, cursor=cursor, limit=limit, stale=stale
    )
    return {"pairs": [pair_view(pair) for pair in found], "next_cursor": following}


@router.post("/import")
def import_rows(source: Annotated[PairSource, Depends(pair_source)], workspace: WorkspaceDep) -> dict[str, Any]:
    """Import pairs: multipart with a JSONL ``file`` (and ``collection``), or JSON ``{"rows", "collection"}``.

    Rows are of any of the three formats, or ``{"question", "answers"}``; each bad row fails alone.
    """
    from retrieval.rowfiles import import_pairs

    check_name(source.collection, "collection name")
    with TemporaryDirectory(dir=workspace.state.tmp) as folder:
        path = Path(folder) / source.name
        write_atomic(path, source.content)
        indexed = source.collection in workspace.store.collections.names() and (
            workspace.retriever.generation(source.collection) is not None
        )
        retriever = workspace.retriever if indexed else None
        return asdict(import_pairs(workspace.store, source.collection, path, retriever=retriever))


@router.get("/export")
def export(
    workspace: WorkspaceDep,
    *,
    collection: str = "default",
    format: Format = "chat",
    split: Literal["train", "eval"] = "train",
    eval_share: Annotated[float, Query(ge=0, le=1)] = 0.1,
    seed: int = 0,
) -> Response:
    """Return the accepted pairs as train.jsonl or eval.jsonl, over the passages retrieved for each."""
    from retrieval.rowfiles import export_rows

    check_collection(workspace.store, collection)
    name = f"{split}.jsonl" if format == "chat" else f"{split}.{format}.jsonl"
    with TemporaryDirectory(dir=workspace.state.tmp) as folder:
        written = export_rows(
            workspace.store,
            workspace.retriever,
            collection,
            Path(folder),
            formats=(format,),
            eval_share=eval_share,
            seed=seed,
        )
        content = Path(written["files"][name]).read_bytes()
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type="application/jsonl", headers=headers)


@router.get("/{pair_id}")
def get_pair(pair_id: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Return one pair."""
    return pair_view(workspace.store.pairs.get(pair_id))


@router.patch("/{pair_id}")
def review_pair(pair_id: str, body: PairPatch, workspace: WorkspaceDep) -> dict[str, Any]:
    """Accept, reject or correct a pair."""
    pair = workspace.store.pairs.get(pair_id)
    changes = body.model_dump(exclude_unset=True, exclude_none=True)
    if not changes:
        raise InvalidRequest("The review changes nothing", wanted="question, answer, status or reason")
    answer = changes.get("answer", pair.answer)
    if pair.kind != "unanswerable" and not answer.strip():
        raise InvalidRequest("An answerable pair needs an answer", got=repr(answer))
    return pair_view(workspace.store.pairs.update(pair_id, **changes))
