"""Who may do what: the scopes of a key, the collections it sees, and whoever is asking now.

Whoever asks is a context variable, so that what decides about a collection need not be handed it through every call;
threads that anyio starts for a request inherit it. On the command line and in jobs it is ``MACHINE``, who may do all.
Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, get_args

from data.errors import Forbidden, InvalidRequest

Scope = Literal["query", "ingest", "train", "admin"]
"""query: ask, search, rate. ingest: upload and delete documents, build the index. train: pairs, adapters, evaluations
and what they are made from. admin: all of these, keys and the audit log."""
SCOPES: tuple[Scope, ...] = get_args(Scope)


def _free(_tokens: int) -> None:
    """Charge nobody."""


@dataclass(frozen=True, slots=True)
class Access:
    """What somebody may do. No ``collections`` stands for all of them, those of the future too."""

    name: str
    scopes: frozenset[Scope]
    collections: frozenset[str] = frozenset()
    key_id: str | None = None
    charge: Callable[[int], None] = _free
    """Takes the tokens of a finished answer off what the key may spend."""

    def may(self, *scopes: Scope) -> bool:
        """Tell whether one of ``scopes`` is among its own, or it is an administrator."""
        return "admin" in self.scopes or not self.scopes.isdisjoint(scopes)

    @property
    def identity(self) -> tuple[str, str]:
        """Return what tells it from everybody else: its key, and its name, since a proxy's users may share a key."""
        return self.key_id or "", self.name

    def sees(self, collection: str) -> bool:
        """Tell whether it may know of a collection."""
        return not self.collections or collection in self.collections


MACHINE = Access("this machine", frozenset(SCOPES))
_current: ContextVar[Access] = ContextVar("access", default=MACHINE)


def current() -> Access:
    """Return who is asking."""
    return _current.get()


@contextmanager
def acting(access: Access) -> Iterator[None]:
    """Let ``access`` be who is asking until the end of the block."""
    token = _current.set(access)
    try:
        yield
    finally:
        _current.reset(token)


def require(*scopes: Scope) -> None:
    """Let whoever asks go on if it has one of ``scopes``.

    Raises:
        Forbidden: it has none of them.
    """
    if not current().may(*scopes):
        raise Forbidden(
            "This key may not do that",
            got=f"{current().name}: {', '.join(sorted(current().scopes))}",
            wanted=f"a key with {' or '.join(scopes)}",
            hint=f"An administrator makes one with: ragtune keys create NAME --scope {scopes[0]}",
        )


def require_whole() -> None:
    """Let whoever asks go on if it sees every collection: what it asks for is not of one alone.

    Raises:
        Forbidden: it is bound to some.
    """
    if current().collections:
        raise Forbidden(
            "This reaches beyond the collections of this key",
            got=", ".join(sorted(current().collections)),
            wanted="a key for all collections",
            hint="An administrator makes one with: ragtune keys create NAME",
        )


def require_collection(collection: str) -> None:
    """Let whoever asks write to a collection, which need not exist yet.

    Raises:
        Forbidden: its key is bound to others.
    """
    if not current().sees(collection):
        raise Forbidden(
            "This key may not write to that collection",
            got=collection,
            wanted=", ".join(sorted(current().collections)),
            hint="An administrator makes another with: ragtune keys create NAME --collection C",
        )


def check_scopes(names: list[str]) -> tuple[Scope, ...]:
    """Return ``names`` as scopes, each once, in the order of ``SCOPES``.

    Raises:
        InvalidRequest: none, or an unknown one.
    """
    unknown = [name for name in names if name not in SCOPES]
    if unknown or not names:
        raise InvalidRequest(
            "A key needs scopes that exist", got=", ".join(unknown) or "none", wanted=f"some of {', '.join(SCOPES)}"
        )
    return tuple(scope for scope in SCOPES if scope in names)
