"""reStructuredText as Markdown, Sphinx's directives and roles included. The only importer of docutils."""

from __future__ import annotations

import re
from typing import Any

from data.errors import DamagedDocument
from retrieval.parsers.markup import to_markdown
from retrieval.parsers.parsed import Budget, Parsed, join_within
from retrieval.text import decode

_DIRECTIVE = re.compile(r"^\s*\.\. +(?:\|[^|]+\| +)?([\w:+.-]+?):: ?", re.MULTILINE)
_ROLE = re.compile(r":([a-zA-Z][\w:+.-]*):`")
_TARGET = re.compile(r"(?s)(.*?)\s*<[^<>]*>")
_DROPPED = {"toctree", "index", "currentmodule", "module", "raw", "include", "literalinclude", "highlight", "meta"}
_SETTINGS = {
    "report_level": 5,  # only a failure of docutils itself
    "halt_level": 5,
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "_disable_config": True,
    "embed_stylesheet": False,
    "stylesheet_path": "",
    "initial_header_level": "1",
    "doctitle_xform": False,
    "smart_quotes": False,
    "syntax_highlight": "none",
    "warning_stream": False,
    "line_length_limit": 10_000_000,
}


def parse_rst(raw: bytes, budget: Budget) -> Parsed:
    """Return the document as Markdown; directives and roles unknown to docutils keep their content.

    Raises:
        DamagedDocument: docutils gives up on it.
    """
    from docutils.core import publish_parts

    text = decode(raw)
    _accept_unknown(text)
    try:
        parts = publish_parts(text, writer="html5", settings_overrides=_SETTINGS)
    except MemoryError:
        raise
    except Exception as error:  # docutils lets its own mistakes through as any exception
        detail = f"The reStructuredText cannot be read: {type(error).__name__}: {error}."
        raise DamagedDocument(detail, hint="Check it with docutils, or rename it to .txt.") from error
    return Parsed(join_within([to_markdown(parts["html_body"] or "<p></p>")], budget))


def _accept_unknown(text: str) -> None:
    """Register what ``text`` uses and docutils does not know: Sphinx has hundreds of its own."""
    from docutils.parsers.rst import directives, roles
    from docutils.parsers.rst.languages import en

    known = set(en.directives)
    for name in set(_DIRECTIVE.findall(text)):
        if name in _DROPPED or name.split(":")[-1] in _DROPPED:
            directives.register_directive(name, _dropping())
        elif name in {"code-block", "sourcecode"} or name not in known:
            directives.register_directive(name, _literal() if "code" in name or "prompt" in name else _keeping())
    for name in set(_ROLE.findall(text)):
        if name not in en.roles:
            roles.register_local_role(name, _role)


def _role(
    _name: str, rawtext: str, text: str, _line: int, _inliner: Any, options: Any = None, _content: Any = ()
) -> Any:
    """Keep the words of a role such as :ref:`words <target>` or :class:`~package.Name`."""
    from docutils import nodes

    del options
    found = _TARGET.fullmatch(text)
    return [nodes.inline(rawtext, found[1] if found and found[1] else text.lstrip("~!"))], []


def _directive(run: Any) -> Any:
    from docutils.parsers.rst import Directive

    attributes = {"has_content": True, "optional_arguments": 1, "final_argument_whitespace": True, "run": run}
    made = type("Accepted", (Directive,), attributes)
    made.option_spec = _AnyOption()  # type: ignore[attr-defined]
    return made


class _AnyOption(dict[str, Any]):
    """Takes every option as text."""

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, _: str) -> Any:
        return lambda argument: argument or ""


def _dropping() -> Any:
    return _directive(lambda _: [])


def _literal() -> Any:
    def run(self: Any) -> list[Any]:
        from docutils import nodes

        body = "\n".join(self.content)
        return [nodes.literal_block(body, body, classes=[f"highlight-source-{(self.arguments or ['text'])[0]}"])]

    return _directive(run)


def _keeping() -> Any:
    def run(self: Any) -> list[Any]:
        from docutils import nodes

        node = nodes.container()
        if self.arguments:
            node += nodes.paragraph("", "", *self.state.inline_text(self.arguments[0], self.lineno)[0])
        self.state.nested_parse(self.content, self.content_offset, node)
        return [node]

    return _directive(run)
