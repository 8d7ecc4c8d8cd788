"""Who is asking over HTTP: the API key in front of every route, the scope each route wants, the audit log.

A key's limits are in ``limits``, what access means in ``data.access``. Knows nothing of what the routes do.
"""

from __future__ import annotations

import hmac
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from anyio.to_thread import run_sync
from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from data.access import MACHINE, SCOPES, Access, Scope, acting, current, require, require_whole
from data.errors import RagtuneError, Unauthorized
from service.assets import page_assets
from service.limits import MemoryBuckets, RateLimits, rate_headers
from service.replies import error_response
from service.signon import check_same_site, key_of, signed_on, signs_on

if TYPE_CHECKING:
    from data.store import KeyRow
    from service.workspace import Workspace

OPEN_PATHS = frozenset(("/healthz", "/readyz", "/metrics", "/openapi.json", *page_assets()))
"""The paths that need no key, the files of the web page among them; every other one does, route or not."""
API_KEY = HTTPBearer(
    auto_error=False,
    description="An API key: `ragtune keys create NAME`. A route wants one of the scopes it names, or admin.",
)
"""Shows in openapi.json that a route wants a key; ``KeyGuard`` is what asks for it."""
_READS = frozenset(("GET", "HEAD", "OPTIONS"))


class KeyGuard:
    """Lets a request through if its path is open, if no key exists anywhere, or if it carries a valid one.

    Whoever asks is then ``data.access.current`` for all that the request does, in its threads too. What changes
    something goes into the audit log with the status it ended with, refused for its scope included; a request without a
    valid key, or over its limit, is nobody's and is not.
    """

    def __init__(self, app: ASGIApp, workspace: Workspace) -> None:
        self._app = app
        self._workspace = workspace
        self._memory = MemoryBuckets()

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401 or 429."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope)
        peer = (scope.get("client") or ("",))[0]
        try:
            access, headers = await self._asking(asked, scope["method"], peer)
        except RagtuneError as error:
            await error_response(error)(scope, receive, send)
            return
        with acting(access):
            await self._watched(scope, receive, send, headers)

    async def _asking(self, headers: Headers, method: str, peer: str) -> tuple[Access, dict[str, str]]:
        """Return whoever asks: in a thread where that may wait, writes limits down, or reads every key.

        To change to a thread and back takes longer than the one read that it is elsewhere.
        """
        workspace = self._workspace
        if workspace.store.keys.waits or workspace.shares_state or signs_on(workspace.settings):
            return await run_sync(self._identify, headers, method, peer)
        return self._identify(headers, method, peer)

    def _identify(self, headers: Headers, method: str, peer: str) -> tuple[Access, dict[str, str]]:
        """Return whoever asks: by a key of its own, else by a trusted proxy's word."""
        authorization = headers.get("authorization")
        limits = self._limits()
        user = None if authorization else signed_on(self._workspace.settings, headers, peer)
        if user is None:
            return identify(self._workspace, authorization, limits)
        check_same_site(headers, method)
        return _as_key(key_of(self._workspace.store, user), user, limits)

    def _limits(self) -> RateLimits:
        """Return the limits: shared with the other servers of a database server, else this process's own."""
        return RateLimits(self._workspace.store.buckets if self._workspace.shares_state else self._memory)

    async def _watched(self, scope: Connection, receive: Receive, send: Send, headers: dict[str, str]) -> None:
        status = 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(headers)
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            if scope.get("state", {}).get("audited"):
                action = f"{scope['method']} {scope['path']}"[:500]
                await run_sync(self._workspace.store.audit.add, current().key_id, current().name, action, status)


def identify(workspace: Workspace, authorization: str | None, limits: RateLimits) -> tuple[Access, dict[str, str]]:
    """Return whoever carries this Authorization header, and what to tell it about its limits.

    Raises:
        Unauthorized: a key is needed and this is none.
        RateLimited: the key has used up a limit.
    """
    configured = workspace.settings.api_key
    scheme, parameter = get_authorization_scheme_param(authorization)
    given = parameter if scheme.lower() == "bearer" else ""
    if configured is not None and hmac.compare_digest(given.encode(), configured.get_secret_value().encode()):
        return Access("RAGTUNE_API_KEY", frozenset(SCOPES)), {}
    key = workspace.store.keys.find(given) if given else None
    open_here = configured is None and not signs_on(workspace.settings) and not workspace.store.keys.exist()
    if key is None and open_here:
        return MACHINE, {}
    if key is None:
        raise Unauthorized(
            "This server wants an API key" if not given else "The API key is wrong, revoked or expired",
            wanted="Authorization: Bearer KEY",
            hint="Make a key with: ragtune keys create NAME",
        )
    return _as_key(key, key.name, limits)


def _as_key(key: KeyRow, name: str, limits: RateLimits) -> tuple[Access, dict[str, str]]:
    """Return the access that a key gives to whoever is called ``name``, and what is left of its limits."""
    headers = rate_headers(limits.admit(key))
    grant = key.grant
    charge = partial(limits.charge, key)
    return Access(name, frozenset(grant.scopes), frozenset(grant.collections), key.id, charge), headers


def wants(*scopes: Scope, whole: bool = False) -> Any:
    """Return the dependency of a route that wants one of ``scopes``; ``whole``: and every collection.

    Every route has one, which a test asserts; the API's description names the scopes.
    """

    async def check(request: Request, _key: Annotated[object, Depends(API_KEY)]) -> None:
        # Whoever may only ask changes nothing; refusals are kept too.
        request.state.audited = request.method not in _READS and "query" not in scopes
        require(*scopes)
        if whole:
            require_whole()

    return Security(check, scopes=list(scopes))
