"""``POST /v1/search``: passages for a query."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from service import api_models as models
from service.access import wants
from service.answerer import check_collection, check_question, question_before
from service.deps import WorkspaceDep
from service.schemas import SearchBody
from service.spans import retrieval_span
from service.views import passage_view

router = APIRouter(tags=["retrieval"], dependencies=[wants("query")])


@router.post("/search", responses={200: {"model": models.SearchResult}})
def search(body: SearchBody, workspace: WorkspaceDep) -> dict[str, Any]:
    """Return the best passages, and the index generation they come from."""
    check_question(body.query, workspace.settings.max_question_chars)
    check_collection(workspace.store, body.collection)
    with retrieval_span(body.query, body.collection, body.top_k, body.method) as span:
        found = span.found = workspace.retriever.retrieve(
            body.query,
            body.collection,
            body.top_k,
            body.method,
            context=question_before([turn.message() for turn in body.history]),
            filter=None if body.filter is None else body.filter.record(),
            reranker=workspace.reranker(body.rerank),
        )
    return {"passages": [passage_view(passage) for passage in found.passages], "index_generation": found.generation}
