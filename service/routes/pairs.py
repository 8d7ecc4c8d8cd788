"""``/v1/pairs``: generate, list, change, import and export question-answer pairs; ``routes.reviews`` has the rest."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from io import BytesIO
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from data.access import require_collection
from data.errors import InvalidRequest
from data.formats import Format
from data.records import PairKind, PairStatus
from data.state import check_name
from service import api_models as models
from service.access import wants
from service.answerer import check_collection
from service.arms import find_adapter
from service.deps import Cursor, IdempotencyKey, Limit, RunnerDep, WorkspaceDep, accepted
from service.pair_exports import PairExport, accepted_pairs
from service.review import edit_pair, pair_details, pair_with_history
from service.schemas import ExportPairsBody, GeneratePairsBody, ImportPairsBody, PairFilterBody, PairPatch
from service.uploads import UPLOAD, file_name, keep_for_job

router = APIRouter(prefix="/pairs", tags=["pairs"], dependencies=[wants("train")])

LARGEST_IMPORT_BYTES = 256 * 1024 * 1024
_JSONL = "application/jsonl"


@dataclass(frozen=True, slots=True)
class PairSource:
    """Pairs as they were sent: a JSONL file, its name, and where they go."""

    name: str
    file: BinaryIO
    collection: str
    style: bool = False


_IMPORTS = {
    "application/json": {"schema": ImportPairsBody.model_json_schema()},
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["file"],
            "properties": {
                "file": {"type": "string", "contentMediaType": "application/octet-stream"},
                "collection": {"type": "string", "default": "default"},
                "style": {"type": "boolean", "default": False},
            },
        }
    },
}
"""What ``POST /v1/pairs/import`` takes; it reads the request itself."""


async def pair_source(request: Request) -> AsyncIterator[PairSource]:
    """Open the pairs of a multipart form (which lies on the disk already) or of JSON.

    Raises:
        InvalidRequest: it is neither.
    """
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form() as form:
            yield _from_form(form)
        return
    try:
        body = ImportPairsBody.model_validate_json(await request.body())
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in body.rows)
    yield PairSource("rows.jsonl", BytesIO(lines.encode()), body.collection, body.style)


def _from_form(form: FormData) -> PairSource:
    file, collection = form.get("file"), form.get("collection", "default")
    style = str(form.get("style", "")).lower() in {"1", "true", "on", "yes"}
    if not isinstance(file, UploadFile) or not isinstance(collection, str):
        raise InvalidRequest("The form has no file", got=", ".join(form), wanted="a field named file")
    return PairSource(file_name(file.filename), file.file, collection, style)


def pair_filter(
    *,
    status: PairStatus | None = None,
    kind: PairKind | None = None,
    stale: bool | None = None,
    source: Annotated[str | None, Query(description="A document's source, or a pattern with * and ?.")] = None,
    document_id: str | None = None,
    text: Annotated[str | None, Query(description="Stands in the question or the answer.")] = None,
    failed_check: Annotated[str | None, Query(description="A check that the pair failed.")] = None,
    generated_by: str | None = None,
) -> PairFilterBody:
    """Return the filter that the query names."""
    return PairFilterBody(
        status=status,
        kind=kind,
        stale=stale,
        source=source,
        document_id=document_id,
        text=text,
        failed_check=failed_check,
        generated_by=generated_by,
    )


@router.post("/generate", status_code=202, response_model=None, responses={202: {"model": models.Accepted}})
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


@router.get("", responses={200: {"model": models.PairPage}})
def list_pairs(
    workspace: WorkspaceDep,
    *,
    collection: str = "default",
    chosen: Annotated[PairFilterBody, Depends(pair_filter)],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> dict[str, Any]:
    """Return a page of pairs with their passages, oldest first, and the cursor of the next page."""
    check_collection(workspace.store, collection)
    found, following = workspace.store.pairs.find(collection, chosen.record(), cursor, limit)
    return {"pairs": pair_details(workspace.store, found), "next_cursor": following}


@router.post(
    "/import",
    status_code=202,
    response_model=None,
    responses={202: {"model": models.Accepted}},
    openapi_extra={"requestBody": {"required": True, "content": _IMPORTS}},
)
def import_rows(
    source: Annotated[PairSource, Depends(pair_source)],
    workspace: WorkspaceDep,
    runner: RunnerDep,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Keep the rows, then answer 202 with the job that makes pairs of them.

    Multipart with a JSONL ``file`` (and ``collection``, ``style``), or JSON ``{"rows", "collection", "style"}``. Rows
    are of any of the three formats, or ``{"question", "answers"}``; each bad row fails alone. The job's outputs are
    ``{"imported", "known", "failed": [...]}``.
    """
    collection = check_name(source.collection, "collection name")
    require_collection(collection)
    about = f"import_pairs {collection}"
    kept = {source.name: source.file}
    folder = keep_for_job(workspace.state, kept, LARGEST_IMPORT_BYTES, about=about, key=idempotency_key)
    inputs = {"path": str(folder / source.name), "collection": collection, "style": source.style}
    inputs |= {"strict": True, UPLOAD: folder.name}
    return accepted(workspace, runner, "import_pairs", inputs, idempotency_key)


@router.post("/export", status_code=202, response_model=None)
def start_export(
    workspace: WorkspaceDep,
    runner: RunnerDep,
    body: ExportPairsBody | None = None,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Export the accepted pairs, in every format and both splits, as a job; then ``GET`` the files."""
    chosen = body or ExportPairsBody()
    check_collection(workspace.store, chosen.collection)
    accepted_pairs(workspace.store, chosen.collection)
    return accepted(workspace, runner, "export_pairs", chosen.model_dump(), idempotency_key)


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
    """Return the accepted pairs as train.jsonl or eval.jsonl, over the passages retrieved for each.

    A search for each pair is long work where there are many: up to 200 pairs are exported at once, more
    are taken from the newest export that ``POST /v1/pairs/export`` (with the same ``collection``,
    ``eval_share`` and ``seed``) has finished. Where the pairs, the documents or the index have changed
    since, or there is no export yet, the answer is 409.
    """
    from retrieval.rowfiles import row_file

    check_collection(workspace.store, collection)
    found = PairExport(collection, eval_share, seed).read(workspace, format, split)
    headers = {"Content-Disposition": f'attachment; filename="{row_file(split, format)}"'}
    if isinstance(found, bytes):
        return Response(found, media_type=_JSONL, headers=headers)
    return FileResponse(found, media_type=_JSONL, headers=headers)


@router.get("/{pair_id}")
def get_pair(pair_id: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Return one pair with its passages, the answer's span in each, and what it was before each review."""
    return pair_with_history(workspace.store, pair_id)


@router.patch("/{pair_id}", responses={200: {"model": models.Pair}})
def review_pair(pair_id: str, body: PairPatch, workspace: WorkspaceDep) -> dict[str, Any]:
    """Accept, reject or correct a pair."""
    edit_pair(workspace.store, pair_id, body.model_dump(exclude_unset=True, exclude_none=True))
    return pair_with_history(workspace.store, pair_id)
