"""Forms that say too little, or something else than they seem to, become no questions."""

from __future__ import annotations

import pytest

from retrieval.stated.statements import statements

ELSEWHERE = [
    "`.spec.br.port`: the port. Defaults to `80` in production and `8080` elsewhere.",
    "`.spec.br.level`: the level. Defaults to `info` unless DEBUG is set.",
    "`.spec.br.level`: the level. Unless DEBUG is set, defaults to `info`.",
    "`.spec.br.level`: the level. Defaults to `info`; if DEBUG is set, `debug`.",
    "`.spec.br.timeout`: Overrides `.spec.timeout.all`, which defaults to `5`.",
    "`.spec.br.all`: the flag. If `allow_all` is set it defaults to `x`.",
    "`.spec.br.all`: the flag. When it is set, defaults to `x`.",
    "`.spec.br.port`：端口。默认值为 `80` 或 `8080`。",
    "`.spec.br.port`：端口。如果没有设置，默认值为 `80`。",
    "`.spec.br.port`：覆盖 `.spec.port.all`，其默认值为 `80`。",
]
"""Items whose default holds in some circumstances, or is another's."""


@pytest.mark.parametrize("item", ELSEWHERE)
def test_a_default_that_depends_or_is_of_something_else_is_not_proposed(item: str) -> None:
    found = statements("Settings", f"# Settings\n\n* {item}\n")
    assert [one.answer for one in found if one.made_by == "setting_default"] == []


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ("`.spec.br.port`: the port. Defaults to `80`. Not used in production.", "`80`"),
        ("`.spec.br.port`: the port of the server, defaults to `80`", "`80`"),
        ("`.spec.br.port`: the port of the server (`80` by default).", "`80`"),
        ("`.spec.br.port`：端口，默认值为 `80`。", "`80`"),
        ("`.spec.br.port`：端口（默认值为 `80`）。", "`80`"),
    ],
)
def test_a_default_that_always_holds_is_proposed(item: str, value: str) -> None:
    found = statements("Settings", f"# Settings\n\n* {item}\n")
    assert [one.answer for one in found if one.made_by == "setting_default"] == [value]


NO_VERSIONS = [
    "The Blue Line is available from 5.30.",
    "The Blue Line is available from Monday 5.30.",
    "FastAPI Cloud is available since 10.05.2019.",
    "FastAPI Cloud is available since FastAPI 10.05.2019.",
    "FastAPI Cloud was released in 12.2019.",
    "FastAPI Cloud was released in Table 12.3.",
    "Article 12.3 removed the powers of Parliament.",
    "Section 12.3 removed the powers of Parliament.",
    "Amendment 12.3 introduced the vote of Parliament.",
    "Parliament 12.3 introduced the vote of Women.",
    "In 12.3, FastAPI added support for `Annotated`.",
    "In Section 12.3, FastAPI added support for `Annotated`.",
    "Parliament removed the powers of Kings in 12.3.",
    "Parliament removed the powers of Kings in version 12.3.",
    "Since 5.30, you can use `Annotated` with FastAPI.",
]
"""Sentences with numbers that are no versions, or of something that is no known product."""


@pytest.mark.parametrize("sentence", NO_VERSIONS)
def test_not_every_number_is_a_version(sentence: str) -> None:
    often = "See FastAPI, " + "the Article, the Section, the Table, " * 5 + "and more."
    assert statements("Names of FastAPI", f"# Names of FastAPI\n\n{sentence}\n\n{often}\n") == []


PAGES = [
    "[Tutorial](tutorial.md): A step by step guide to the first service.",
    "[Getting Started](./start.md): A first look at the whole system.",
    "[Installation](/install/): The ways of installing the system.",
    "[API Reference](reference.md): The reference of all public classes.",
    "[Changelog](https://example.org/changelog): The changes of all versions.",
    "[API Reference](https://example.org/reference): The reference of all public classes.",
    "[Granian](granian.md): A Rust HTTP server for Python applications.",
    "[Jane Roe](mailto:jane@example.org): The person who answers letters.",
    "[Jane Roe](https://example.org/jane): The lead engineer of the project.",
    "[Jane Roe](https://example.org/jane): A maintainer of two projects.",
]
"""Items of lists of pages and people."""


@pytest.mark.parametrize("item", PAGES)
def test_a_list_of_pages_or_people_defines_nothing(item: str) -> None:
    assert statements("Welcome", f"# Welcome\n\n* {item}\n") == []


def test_a_name_that_is_imported_under_another_is_not_asked_about() -> None:
    fence = "```python\nfrom orrin.mail import (\n    Mail as M,\n    Letter,\n)\n```\n"
    found = statements("Orrin", f"# Orrin\n\nImport them from `orrin.mail`:\n\n{fence}")
    assert [one.question for one in found] == ["Where can I import `Letter` from?"]


@pytest.mark.parametrize(
    ("said", "fence", "asked"),
    [
        ("Check the Orrin logs:", "console\nlistening on port 8080", 0),
        ("To view the Orrin logs, run the following command:", "console\nlistening on port 8080", 0),
        ("Check the Orrin logs:", "shell\nlistening on port 8080", 0),
        ("Check the Orrin logs:", "shell\norrin logs --all", 0),
        ("Check the Orrin logs:", "console\n$ orrin logs --all\nlistening on port 8080", 1),
        ("Check the Orrin logs:", "shell\n$ orrin logs --all", 1),
        ("Check the Orrin logs:", "shell\nkubectl logs orrin", 1),
        ("To view the Orrin logs, run the following command:", "shell\norrin logs --all", 1),
    ],
)
def test_what_a_command_prints_is_no_command(said: str, fence: str, asked: int) -> None:
    assert len(statements("Orrin", f"# Orrin\n\n{said}\n\n```{fence}\n```\n")) == asked


@pytest.mark.parametrize("heading", ["Parts", "`FastAPI`"])
@pytest.mark.parametrize(
    "line",
    [
        "These parameters are not part of `FastAPI`:",
        "These parameters have been removed from `FastAPI`:",
        "These parameters of `FastAPI` no longer exist:",
        "These parameters don't belong to `FastAPI`:",
    ],
)
def test_a_list_of_what_something_has_not_names_no_members(heading: str, line: str) -> None:
    text = f"# {heading}\n\n{line}\n\n* `title`: The title, shown in the docs.\n"
    assert statements("Parts", text) == []


def test_an_item_without_a_term_ends_no_list_of_members() -> None:
    said = "The function `get_openapi()` receives as parameters:"
    items = "* `title`: The title, shown in the docs.\n* See also below\n* `version`: The version of the API.\n"
    found = statements("Parts", f"# Parts\n\n{said}\n\n{items}")
    assert [one.question for one in found] == [
        "What is `title` in `get_openapi()`?",
        "What is `version` in `get_openapi()`?",
    ]


@pytest.mark.parametrize(
    "sentence",
    [
        "`ORJSONResponse` was deprecated in version 0.131.0.",
        "`ORJSONResponse` is available since version 0.131.0.",
        "PyPy Lite was removed in version 0.128.0.",
        "Since version 3.1.0, you can also set `license_info` with an `identifier`.",
    ],
)
def test_a_version_of_nothing_is_not_asked_for(sentence: str) -> None:
    assert statements("Names of FastAPI", f"# Names of FastAPI\n\n{sentence}\n\nSee FastAPI and PyPy.\n") == []


HALVES = [
    "To use the queue of FastAPI, install Redis first.",
    "To use the queue of FastAPI, you need to install Docker manually.",
    "To use the queue of FastAPI, install `redis` separately.",
    "Mexico City has a height of 5,636 and 5,230 metres.",
    "Mexico City has a height of 5,636 metres and about 5,230 metres.",
    "Mexico City has a height of 5,636 metres, and 5,230 metres.",
    "FastAPI 0.126.0 dropped support for Pydantic v1 (but only on Windows).",
    "In version 0.126.0, FastAPI dropped support for Pydantic v1: it is too old.",
]
"""Sentences whose pattern would take too much, or leave out a part."""


@pytest.mark.parametrize("sentence", HALVES)
def test_what_would_be_cut_or_carry_too_much_is_not_proposed(sentence: str) -> None:
    known = "See also Mexico City, FastAPI, Redis, Docker and Pydantic."
    assert statements("FastAPI and Mexico City", f"# FastAPI and Mexico City\n\n{sentence}\n\n{known}\n") == []


@pytest.mark.parametrize(
    ("sentence", "lengths"),
    [
        ("横道河子铁路全长约61公里。", ["约61公里"]),
        ("横道河子铁路是一条铁路线，全长为61公里。", ["61公里"]),
        ("横道河子铁路是一条铁路线，西起海林，东至牡丹江，全长61公里。", ["61公里"]),
        ("横道河子铁路是一条铁路线，穿过老爷岭隧道，全长61公里。", []),
        ("横道河子铁路位于黑龙江，沿线的山洞众多，全长3公里。", []),
    ],
)
def test_a_length_keeps_its_about_and_is_of_the_subject(sentence: str, lengths: list[str]) -> None:
    found = statements("横道河子铁路", f"# 横道河子铁路\n\n{sentence}\n")
    assert [one.answer for one in found if one.made_by == "length"] == lengths
