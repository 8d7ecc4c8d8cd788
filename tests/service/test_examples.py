"""The examples of openapi.json: one for each route, each of the shape that the route takes or gives."""

from __future__ import annotations

import pytest
from jsonschema import Draft202012Validator

from data.errors import RagtuneError, RateLimited, UnknownAdapter
from service.app import create_app
from service.description import problem_types
from tests.service.conftest import small_workspace
from tests.service.parts import ScriptedGenerator


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    with small_workspace(tmp_path_factory.mktemp("described"), ScriptedGenerator()) as workspace:
        return create_app(workspace, run_jobs=False).openapi()


def operations(described):
    for path, found in described["paths"].items():
        for method, operation in found.items():
            yield f"{method.upper()} {path}", operation


def check(described, schema, example):
    """Fail where an example does not fit its schema, whose references are to the whole document."""
    whole = {**schema, "components": described["components"]}
    errors = sorted(Draft202012Validator(whole).iter_errors(example), key=str)
    assert not errors, [error.message for error in errors][:3]


def test_every_route_has_an_example_of_what_it_takes(described):
    missing = []
    for name, operation in operations(described):
        contents = operation.get("requestBody", {}).get("content", {})
        shown = [content for content in contents.values() if "example" in content]
        missing += [name] if contents and not shown else []
        for content in shown:
            check(described, content["schema"], content["example"])
    assert not missing, f"without an example, run python -m docs.examples: {missing}"


def test_every_route_has_an_example_of_what_it_gives(described):
    missing = []
    for name, operation in operations(described):
        replies = {status: reply for status, reply in operation["responses"].items() if status.startswith("2")}
        contents = [content for reply in replies.values() for content in reply.get("content", {}).values()]
        shown = [content for content in contents if "example" in content]
        missing += [] if len(replies) == 1 and len(shown) == 1 else [name]
        for content in shown:
            check(described, content.get("schema", {}), content["example"])
    assert not missing, f"without an example, run python -m docs.examples: {missing}"


def test_parameters_of_paths_have_examples(described):
    for name, operation in operations(described):
        for parameter in operation.get("parameters", ()):
            assert parameter["in"] != "path" or "example" in parameter, name


def test_an_example_of_another_shape_is_noticed(described):
    """The check itself: without it a test of examples could not fail."""
    answer = described["paths"]["/v1/answers"]["post"]["responses"]["200"]["content"]["application/json"]
    with pytest.raises(AssertionError, match="is not of type"):
        check(described, answer["schema"], {**answer["example"], "answer": 1})


def test_every_type_of_problem_is_described(described):
    told = described["components"]["schemas"]["Problem"]["properties"]["type"]["description"]
    for error in (RateLimited(""), UnknownAdapter("")):
        assert f"`{error.type}` ({error.status})" in told
    assert {"internal-error", "wrong-host", "no-such-route"} <= problem_types().keys()
    assert len(problem_types()) > len(RagtuneError.__subclasses__())
