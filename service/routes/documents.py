"""``/v1/documents``: upload, preview, list, show, read and delete documents."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, UploadFile
from fastapi.responses import JSONResponse

from data.access import require_collection
from data.errors import InvalidRequest
from data.records import Filter
from data.state import check_name
from retrieval.facts import check_tags
from service import api_models as models
from service.access import wants
from service.answerer import check_collection
from service.deletion import delete_document as delete_everywhere
from service.deps import Cursor, IdempotencyKey, Limit, RunnerDep, WorkspaceDep, accepted
from service.preview import preview_chunks
from service.uploads import file_name, keep_upload

router = APIRouter(prefix="/documents", tags=["documents"])


@router.post(
    "",
    status_code=202,
    response_model=None,
    dependencies=[wants("ingest")],
    responses={202: {"model": models.Accepted}},
)
def upload_documents(
    *,
    files: Annotated[list[UploadFile], File(description="One or more files.")],
    workspace: WorkspaceDep,
    runner: RunnerDep,
    collection: Annotated[str, Form()] = "default",
    tags: Annotated[list[str] | None, Form(description="Put on every document; repeatable.")] = None,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Keep the bytes of every file, then answer 202 with the job that ingests them."""
    require_collection(check_name(collection, "collection name"))
    labels = None if tags is None else list(check_tags(tags))
    names = [file_name(file.filename) for file in files]
    if len(set(names)) < len(names):
        raise InvalidRequest("Two files have the same name", got=", ".join(names), wanted="a name of its own for each")
    limit = workspace.settings.max_document_bytes
    paths = [keep_upload(workspace.state, name, file.file, limit) for name, file in zip(names, files, strict=True)]
    inputs: dict[str, Any] = {"paths": [str(path) for path in paths], "collection": collection}
    inputs |= {"sync": False, "strict": True} | ({} if labels is None else {"tags": labels})
    return accepted(workspace, runner, "ingest", inputs, idempotency_key)


@router.post("/preview", dependencies=[wants("ingest")])
def preview_document(
    *,
    file: Annotated[UploadFile, File(description="The file to chunk.")],
    workspace: WorkspaceDep,
    chunk_size: Annotated[int | None, Form(ge=1, le=100_000)] = None,
    chunk_overlap: Annotated[int | None, Form(ge=0, le=100_000)] = None,
) -> dict[str, Any]:
    """Return the chunks that a file would become under these settings; nothing is stored."""
    name = file_name(file.filename)
    with tempfile.TemporaryDirectory(prefix="preview-", dir=workspace.state.tmp) as folder:
        path = Path(folder) / f"upload{PurePath(name).suffix}"
        with path.open("wb") as copy:
            shutil.copyfileobj(file.file, copy)
        return preview_chunks(workspace, path, name, chunk_size, chunk_overlap)


@router.get("", dependencies=[wants("query", "ingest", "train")], responses={200: {"model": models.DocumentPage}})
def list_documents(
    *,
    workspace: WorkspaceDep,
    collection: str = "default",
    source: Annotated[list[str] | None, Query(description="Exact, or a pattern with * and ?; repeatable.")] = None,
    tag: Annotated[list[str] | None, Query(description="A tag it must have; repeatable.")] = None,
    media_type: Annotated[list[str] | None, Query(description="Repeatable.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> dict[str, Any]:
    """Return a page of documents, without their text, and the cursor of the next page."""
    check_collection(workspace.store, collection)
    chosen = Filter(tuple(source or ()), tuple(media_type or ()), tuple(tag or ()))
    rows, following = workspace.store.documents.list(collection, cursor, limit, chosen)
    return {"documents": [asdict(row) for row in rows], "next_cursor": following}


@router.get("/{document_id}", dependencies=[wants("query", "ingest", "train")])
def get_document(document_id: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Return a document without its text."""
    row = workspace.store.documents.row(document_id)
    return {**asdict(row), "meta": dict(workspace.store.documents.get(document_id).meta)}


@router.get(
    "/{document_id}/text",
    dependencies=[wants("query", "ingest", "train")],
    responses={200: {"model": models.DocumentText}},
)
def get_document_text(document_id: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Return a document's text, in which every citation's quote stands at start:end."""
    document = workspace.store.documents.get(document_id)
    return {"id": document.id, "source": document.source, "text": document.text}


@router.get("/{document_id}/chunks", dependencies=[wants("query", "ingest", "train")])
def get_document_chunks(document_id: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Return a document's chunks in the order of its text; each one's text stands at start:end of it."""
    row = workspace.store.documents.row(document_id)
    chunks = workspace.store.chunks.of_document(document_id)
    return {"id": row.id, "source": row.source, "chunks": [asdict(chunk) for chunk in chunks]}


@router.delete("/{document_id}", dependencies=[wants("ingest")])
def delete_document(document_id: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Delete a document, its chunks, its place in the index, its uploaded bytes and exports that quote it.

    ``adapters`` are those that were trained on it: what it taught them stays until they are trained again.
    """
    return delete_everywhere(workspace, document_id)
