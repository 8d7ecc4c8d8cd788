"""Chat templates of models are programs that somebody else wrote: they run in Jinja's sandbox, and not for long.

The sandbox keeps a template from what is outside it. It does not keep one from looping for ever or from building texts
without end, so every loop, call of a macro, sum, product and joined text here goes by a count that ends. Filters are
not counted: what they can build in one step is bounded by the memory of the process alone.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any, TypeVar

from jinja2 import TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

_T = TypeVar("_T")
MOST_TURNS = 100_000
"""Of all loops together in one rendering; a template goes a few times over its messages."""
MOST_CHARACTERS = 2**20
"""Of one text that a template builds; it sees short marks in place of what was said."""
_LARGEST_POWER = 64
_count = threading.local()


class _Counted(NodeTransformer):
    """Puts a count into every loop and macro, and takes joined texts through a check."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802  (jinja2's name)
        if node.test is not None:
            node.test = nodes.And(nodes.Not(_call("turn")), node.test)
        return self._counting(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        return self._counting(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        return self._counting(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("joined", *node.nodes).set_lineno(node.lineno)

    def _counting(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("turn")).set_lineno(node.lineno))
        counted: nodes.Node = node
        return counted


def _call(name: str, *arguments: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None)


class _Bounded(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def turn(self) -> str:
        """Count one turn of a loop, or one call."""
        _count.turns += 1
        if _count.turns > MOST_TURNS:
            raise TemplateError(f"it loops more than {MOST_TURNS} times")
        return ""

    def joined(self, *values: object) -> str:
        """Return what ``~`` gives."""
        return str(_bounded("".join(map(str, values))))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute what is not too large."""
        self.turn()
        if operator == "**" and not (abs(left) <= MOST_TURNS and abs(right) <= _LARGEST_POWER):
            raise TemplateError("it computes a number that is too large")
        for sized, times in ((left, right), (right, left)):
            if operator == "*" and isinstance(sized, str | list | tuple) and len(sized) * int(times) > MOST_CHARACTERS:
                raise TemplateError(f"it builds more than {MOST_CHARACTERS} characters")
        return _bounded(super().call_binop(context, operator, left, right))


def _bounded(value: _T) -> _T:
    large = isinstance(value, str | list | tuple) and len(value) > MOST_CHARACTERS
    if large or (isinstance(value, int) and value.bit_length() > 4096):
        raise TemplateError(f"it builds more than {MOST_CHARACTERS} characters")
    return value


@lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    environment = _Bounded(trim_blocks=True, lstrip_blocks=True)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda _format: ""
    return environment.from_string(_Counted().visit(environment.parse(source)))


def render_template(source: str, **values: object) -> str:
    """Render a chat template.

    Raises:
        TemplateError: it is none, it fails, or it takes more than any conversation needs.
    """
    _count.turns = 0
    try:
        text: str = _compiled(source).render(**values)
    except TemplateError:
        raise
    except (ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
        raise TemplateError(f"{type(error).__name__}: {error}") from error
    return str(_bounded(text))
