"""Versions, defaults, measures, lists and code become questions where their form is certain."""

from __future__ import annotations

import pytest

from retrieval.stated.statements import statements

ENGLISH = [
    ("In it a graphical user interface (GUI) was new.", "What does GUI stand for?", "graphical user interface"),
    (
        '"Hashing" means converting some content into a sequence of bytes.',
        "What does “Hashing” mean?",
        "converting some content into a sequence of bytes",
    ),
    ("Mexico City has an area of 1,485 km2 (573 sq mi).", "What is the area of Mexico City?", "1,485 km2"),
    (
        "Mexico City had a population of about 9.2 million in 2020.",
        "What was the population of Mexico City in 2020?",
        "about 9.2 million",
    ),
    (
        "Mexico City has a population of 9,209,944 people and 34% of the population are young.",
        "What is the population of Mexico City?",
        "9,209,944 people",
    ),
    (
        "The Mexico City Council is elected every two years; it meets often.",
        "How often is the Mexico City Council elected?",
        "every two years",
    ),
    ("By default, FastAPI will return JSON responses.", "What does FastAPI return by default?", "JSON responses"),
    (
        "By default, the OpenAPI schema is served at `/openapi.json`.",
        "Where is the OpenAPI schema served by default?",
        "at `/openapi.json`",
    ),
    (
        "OpenAPI Webhooks are available since OpenAPI 3.1.0.",
        "Since which version of OpenAPI are OpenAPI Webhooks available?",
        "3.1.0",
    ),
    (
        "`ORJSONResponse` was deprecated in FastAPI version 0.131.0.",
        "In which version of FastAPI was `ORJSONResponse` deprecated?",
        "0.131.0",
    ),
    (
        "FastAPI 0.126.0 dropped support for Pydantic v1, while still supporting it elsewhere.",
        "Which version of FastAPI dropped support for Pydantic v1?",
        "0.126.0",
    ),
    (
        "FastAPI 0.119.0 introduced partial support for Pydantic v1 (as `pydantic.v1`), to help with v2.",
        "Which version of FastAPI introduced partial support for Pydantic v1?",
        "0.119.0",
    ),
    (
        "FastAPI added support for `Annotated` (and started recommending it) in version 0.95.0.",
        "In which version did FastAPI add support for `Annotated`?",
        "0.95.0",
    ),
    (
        'In version 0.121.0, FastAPI added support for `Depends(scope="function")` for functions.',
        'In which version did FastAPI add support for `Depends(scope="function")` for functions?',
        "0.121.0",
    ),
    (
        "Since OpenAPI 3.1.0, you can also set `license_info` with an `identifier`.",
        "Since which version of OpenAPI can I set `license_info` with an `identifier`?",
        "3.1.0",
    ),
    (
        "To use `EmailStr`, first install `email-validator`.",
        "What do I need to install to use `EmailStr`?",
        "`email-validator`",
    ),
    (
        "You need to install `PyJWT` to verify the JWT tokens in Python.",
        "What do I need to install to verify the JWT tokens in Python?",
        "`PyJWT`",
    ),
]


@pytest.mark.parametrize(("sentence", "question", "answer"), ENGLISH)
def test_a_statement_becomes_a_question(sentence: str, question: str, answer: str) -> None:
    known = "See also Mexico City, FastAPI, OpenAPI, the Mexico City Council and PyPy."
    found = statements("Names of FastAPI and Mexico", f"# Names\n\n{sentence}\n\n{known}\n")
    assert (question, answer) in [(one.question, one.answer) for one in found]


MANUAL = """---
title: Reference
---

# Middleware

Use <abbr title="Cross-Origin Resource Sharing">CORS</abbr>, see the <dfn title="A program that checks for code
errors.">linter</dfn> and a <dfn title="A group of machines that work together in some way.">cluster</dfn>.

## `CORSMiddleware` { #cors }

* `max_age` - Sets a maximum time in seconds for browsers to cache CORS responses. Defaults to `600`.
* `allow_origins`: A list of origins that should be permitted. E.g. `['https://example.org']`.
* `expose` - See above.

And that function `get_openapi()` receives as parameters:

* `title`: The OpenAPI title, shown in the docs.

See <abbr title="Integrated Development Environment: similar to an editor">IDE</abbr>.

## Others

* `max_age` - Sets a maximum time in seconds for browsers.
* `.spec.br.rateLimit`: the speed limit of the backup, in MB/s.
* `--bare`: create only the minimal project file, without a sample.
* Hypercorn: an ASGI server compatible with HTTP/2.
* [Daphne](https://github.com/django/daphne): the ASGI server built for Django Channels.
* `.spec.pageSize.max`: Specifies the number of files to be deleted at a time. The default value is `10000`.
* `.spec.level.log`：日志级别。默认值为 `info`。
* ACTION REQUIRED: the flag has been updated to another format.
"""


def test_terms_of_lists_and_glosses() -> None:
    found = [(one.made_by, one.question, one.answer) for one in statements("Hypercorn", MANUAL)]
    assert sorted(found) == [
        ("abbreviation", "What does CORS stand for?", "Cross-Origin Resource Sharing"),
        ("abbreviation", "What does IDE stand for?", "Integrated Development Environment"),
        ("gloss", "What is meant by “cluster”?", "A group of machines that work together in some way"),
        ("gloss", "What is meant by “linter”?", "A program that checks for code\nerrors"),
        ("listed_term", "What is Daphne?", "the ASGI server built for Django Channels"),
        ("listed_term", "What is Hypercorn?", "an ASGI server compatible with HTTP/2"),
        (
            "member",
            "What does `max_age` do in `CORSMiddleware`?",
            "Sets a maximum time in seconds for browsers to cache CORS responses",
        ),
        ("member", "What is `allow_origins` in `CORSMiddleware`?", "A list of origins that should be permitted"),
        ("member", "What is `title` in `get_openapi()`?", "The OpenAPI title, shown in the docs"),
        ("member_default", "What does `max_age` default to in `CORSMiddleware`?", "`600`"),
        ("setting", "What does `.spec.pageSize.max` specify?", "the number of files to be deleted at a time"),
        ("setting", "What does the `--bare` option do?", "create only the minimal project file, without a sample"),
        ("setting", "What is `.spec.br.rateLimit`?", "the speed limit of the backup, in MB/s"),
        ("setting_default", "What does `.spec.pageSize.max` default to?", "`10000`"),
        ("setting_default", "`.spec.level.log` 的默认值是什么？", "`info`"),
    ]


def test_a_member_is_stated_from_the_line_on_that_names_what_it_belongs_to() -> None:
    (title,) = [one for one in statements("Hypercorn", MANUAL) if "`title`" in one.question]
    said = MANUAL[title.start : title.end]
    assert said.startswith("And that function `get_openapi()`")
    assert said.endswith("shown in the docs.")


SHOWN = """# Upgrade Orrin

To view the pods of Orrin, run the following command:

```shell
kubectl get pods -n orrin
```

Add `pyjwt` to your project:

<div class="termy">

```console
$ uv add pyjwt
---> 100%
```

</div>

It is needed for mail.

```sh
pip install "orrin[mail]"
```

You can import them directly from `orrin.mail`:

```python
from orrin.mail import (
    Mail,
    Letter,
    Stamp,
    Post,
)
```

要查看 Orrin 的日志，可使用以下命令：

```bash
orrin logs --all
```
"""


def test_what_code_behind_a_sentence_answers() -> None:
    found = statements("Upgrade Orrin", SHOWN)
    assert [(one.made_by, one.question, one.answer) for one in found] == [
        ("command", "Which command can I use to view the pods of Orrin?", "kubectl get pods -n orrin"),
        ("command", "Which command can I use to add `pyjwt` to my project?", "uv add pyjwt"),
        ("install_command", "Which command can I use to install `orrin[mail]`?", 'pip install "orrin[mail]"'),
        ("imported_from", "Where can I import `Mail` from?", "`orrin.mail`"),
        ("imported_from", "Where can I import `Letter` from?", "`orrin.mail`"),
        ("imported_from", "Where can I import `Stamp` from?", "`orrin.mail`"),
        ("command", "可以用什么命令查看 Orrin 的日志？", "orrin logs --all"),
    ]
    assert all(one.answer in SHOWN[one.start : one.end] for one in found)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("Do not run the following command to remove Orrin:", "rm -r orrin"),
        ("To avoid Orrin, you can't run the following command:", "rm -r orrin"),
        ("If Orrin is in use, run the following command to stop it:", "orrin stop"),
        ("To apply this change to Orrin, run the following command:", "orrin apply"),
        ("To create the Orrin cluster, run the following command:", "kubectl apply -f orrin.yaml"),
        ("To list Orrin letters, run the following command:", "orrin list\norrin show"),
        ("To list Orrin letters, run the following command:", "orrin list \\\n  --all"),
        ("To list Orrin letters, run the following command:", "orrin list <name>"),
        ("To list Orrin letters, see the output:", "NAME   READY"),
        ("Don't install Orrin:", "pip install orrin"),
        ("不要运行以下命令删除 Orrin 集群：", "orrin delete"),
    ],
)
def test_code_that_says_too_little_is_asked_nothing(said: str, code: str) -> None:
    assert statements("Orrin", f"# Orrin\n\n{said}\n\n```shell\n{code}\n```\n") == []


def test_imports_are_asked_about_only_where_prose_says_so_too() -> None:
    fence = "```python\nfrom orrin.mail import Mail\n```\n"
    assert statements("Orrin", f"# Orrin\n\nYou can't import it from `orrin.mail`:\n\n{fence}") == []
    assert statements("Orrin", f"# Orrin\n\nYou can use mail:\n\n{fence}") == []
    assert len(statements("Orrin", f"# Orrin\n\nImport it from `orrin.mail`:\n\n{fence}")) == 1
