"""Sign-on at a proxy: who a proxy says is asking, believed from the addresses named for it and from nowhere else.

The proxy names a user in a header; the user may do what the key called ``user:NAME`` may, or what ``user:*`` may.
Knows nothing of what keys are for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from data.errors import Forbidden, Unauthorized
from service.addresses import is_within

if TYPE_CHECKING:
    from starlette.datastructures import Headers

    from data.store import KeyRow, Store
    from service.settings import Settings

PREFIX, EVERYBODY = "user:", "*"
_LONGEST = 200
_SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))


def signs_on(settings: Settings) -> bool:
    """Tell whether sign-on is set up: a header and the proxies that may send it."""
    return bool(settings.signon_header and settings.signon_proxies)


def signed_on(settings: Settings, headers: Headers, peer: str) -> str | None:
    """Return the user whom a trusted proxy names, None where nobody is named or the sender is no such proxy.

    Args:
        settings: the header's name and the proxies' networks.
        headers: of the request.
        peer: the address that the connection comes from, not one that a header tells.

    Raises:
        Unauthorized: the header came twice, or holds what is no name.
    """
    if not signs_on(settings) or not is_within(peer, settings.signon_proxies):
        return None
    named = headers.getlist(str(settings.signon_header))
    if not named or named == [""]:
        return None
    user = named[0].strip()
    if len(named) > 1 or not user or len(user) > _LONGEST or not user.isprintable() or user == EVERYBODY:
        raise Unauthorized(
            "The proxy names nobody who could be asked for",
            got=", ".join(named)[:_LONGEST],
            wanted=f"one {settings.signon_header} with a user's name",
        )
    return user


def check_same_site(headers: Headers, method: str) -> None:
    """Refuse what another web site lets a signed-on browser send: the proxy would sign that on too.

    Browsers say where a request comes from; a page cannot change these headers. Programs that are no browser send
    neither, and no page makes them ask.

    Raises:
        Forbidden: the request changes something and comes from elsewhere.
    """
    if method in _SAFE_METHODS:
        return
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    elsewhere = bool(origin) and urlsplit(str(origin)).netloc != headers.get("host")
    if site not in {"same-origin", "none"} if site else elsewhere:
        raise Forbidden(
            "Another web site sent this in a signed-on user's name",
            got=origin or site,
            wanted="this service's own page",
        )


def key_of(store: Store, user: str) -> KeyRow:
    """Return the key whose scopes a signed-on user has: the newest valid one called so, or else everybody's.

    Raises:
        Unauthorized: there is neither.
    """
    valid = [key for key in store.keys.list() if key.valid]
    for name in (PREFIX + user, PREFIX + EVERYBODY):
        found = [key for key in valid if key.name == name]
        if found:
            return found[-1]
    raise Unauthorized(
        "This user is signed on, but may do nothing here",
        got=user,
        wanted=f"a key called {PREFIX}{user} or {PREFIX}{EVERYBODY}",
        hint=f"An administrator makes one with: ragtune keys create '{PREFIX}{user}' --scope query",
    )
