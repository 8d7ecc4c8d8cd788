"""The Model Context Protocol: assistants and editors ask, search and list documents as tools.

Over HTTP at ``/mcp`` of the service, behind the same host and key checks as every route, or over standard input and
output (``ragtune mcp``) for a client that starts its servers itself. What the tools do is in ``answerer`` and the
retriever; they change nothing. Needs the ``mcp`` extra.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from anyio.to_thread import run_sync
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import ToolAnnotations
from pydantic import Field
from starlette.applications import Starlette

from data.access import require
from data.errors import RagtuneError
from data.records import Answer
from service.answerer import AskRequest, check_collection, check_question
from service.houses import with_defaults
from service.starter import with_suggestion
from service.views import citation_view, passage_view

if TYPE_CHECKING:
    from service.workspace import Workspace

PATH = "/mcp"
_T = TypeVar("_T")
_READS = ToolAnnotations(read_only_hint=True, destructive_hint=False, open_world_hint=False)
Collection = Annotated[str, Field(description="The set of documents to look in.")]


class DocumentTools:
    """What an assistant can do. The methods' docstrings and annotations are what it is told."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    async def ask(
        self,
        question: Annotated[str, Field(description="A question that the documents may answer.")],
        collection: Collection = "default",
        top_k: Annotated[int | None, Field(ge=1, le=50, description="How many passages to read.")] = None,
    ) -> dict[str, Any]:
        """Answer a question from the documents, with the quotes that support it; ``abstained`` if they do not say."""
        chosen: dict[str, Any] = {} if top_k is None else {"top_k": top_k}

        def answer() -> Answer:
            asked = with_suggestion(self._workspace, AskRequest(question=question, collection=collection, **chosen))
            return self._workspace.answerer.answer(with_defaults(self._workspace.store, asked, chosen))

        return answer_for_tools(await _done(answer))

    async def search(
        self,
        query: Annotated[str, Field(description="What to look for: words or a question.")],
        collection: Collection = "default",
        top_k: Annotated[int, Field(ge=1, le=50)] = 4,
    ) -> dict[str, Any]:
        """Return the passages of the documents that fit best, word for word, with their sources."""

        def found() -> list[dict[str, Any]]:
            check_question(query, self._workspace.settings.max_question_chars)
            check_collection(self._workspace.store, collection)
            return [passage_view(passage) for passage in self._workspace.retriever.search(query, collection, top_k)]

        return {"passages": await _done(found)}

    async def list_documents(
        self,
        collection: Collection = "default",
        cursor: Annotated[str | None, Field(description="``next_cursor`` of the page before.")] = None,
    ) -> dict[str, Any]:
        """Return a page of 50 documents (id, source, title) and the cursor of the next page."""

        def found() -> dict[str, Any]:
            check_collection(self._workspace.store, collection)
            rows, following = self._workspace.store.documents.list(collection, cursor, 50)
            shown = [{"id": row.id, "source": row.source, "title": row.title} for row in rows]
            return {"documents": shown, "next_cursor": following}

        return await _done(found)


def mcp_server(workspace: Workspace) -> MCPServer:
    """Return the server and its tools over ``workspace``."""
    server = MCPServer(
        "ragtune",
        version=version("ragtune"),
        instructions="Answers questions about a team's own documents, with citations. It says when it does not know.",
        log_level="WARNING",
    )
    tools = DocumentTools(workspace)
    for tool in (tools.ask, tools.search, tools.list_documents):
        server.add_tool(tool, annotations=_READS)
    return server


def http_app(server: MCPServer) -> Starlette:
    """Return the app that answers at ``PATH``, without sessions: any process can take any request.

    Its own check of host names is off: ``guards.HostGuard`` is in front of it.
    """
    security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    return server.streamable_http_app(
        streamable_http_path=PATH, stateless_http=True, json_response=True, transport_security=security
    )


def answer_for_tools(answer: Answer) -> dict[str, Any]:
    """Return what an assistant needs of an answer: not its passages, whose best sentences are the quotes."""
    shown = ("n", "source", "title", "heading", "page", "quote", "supported")
    citations = [{name: view[name] for name in shown} for view in map(citation_view, answer.citations)]
    return {
        "answer": answer.text,
        "abstained": answer.abstained,
        "confidence": answer.confidence,
        "citations": citations,
    }


async def _done(work: Callable[[], _T]) -> _T:
    """Do ``work`` in a thread for somebody who may ask; our errors become the tool's, with what to do next.

    Raises:
        ToolError: whoever asks may not, or it cannot be done.
    """

    def checked() -> _T:
        require("query")
        return work()

    try:
        return await run_sync(checked)
    except RagtuneError as error:
        got = "" if error.got is None else f"Got: {error.got}."
        wanted = f"Wanted: {error.wanted}." if error.wanted else ""
        raise ToolError(" ".join(filter(None, (f"{error.detail}.", got, wanted, error.hint)))) from error
