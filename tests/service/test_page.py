"""The web page's files as they are served, and its words; what the page does is tested in ``tests/service/browser``."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import pytest

from service.assets import page_assets
from tests.service.conftest import open_client

WEB = files("service") / "web"
LANGUAGES = ("en", "zh")
SOURCES = {
    path: asset.content.decode() for path, asset in page_assets().items() if not path.endswith((".json", ".svg"))
}
SCRIPTS = {path: text for path, text in SOURCES.items() if path.endswith(".js")}


def words(language: str) -> dict[str, str]:
    return json.loads((WEB / "i18n" / f"{language}.json").read_text(encoding="utf-8"))


def test_every_file_has_its_media_type_and_safe_headers(empty_client):
    kinds = {".js": "text/javascript", ".css": "text/css", ".json": "application/json", ".svg": "image/svg+xml"}
    for path in page_assets():
        response = empty_client.get(path)
        wanted = "text/html" if path == "/" else kinds[path[path.rindex(".") :]]
        assert response.headers["content-type"].partition(";")[0] == wanted, path
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        policy = response.headers["content-security-policy"]
        assert "script-src 'self'; style-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy


def test_only_the_page_itself_is_asked_for_again(empty_client):
    for path in page_assets():
        first = empty_client.get(path)
        cached = "no-cache" if path == "/" else "public, max-age=31536000, immutable"
        assert first.headers["cache-control"] == cached
        again = empty_client.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
        changed = empty_client.get(path, headers={"If-None-Match": '"other"'})
        assert (changed.status_code, changed.content) == (200, first.content)
        head = empty_client.head(path)
        assert (head.status_code, head.content) == (200, b"")


def test_the_page_names_files_that_are_there(empty_client):
    named = re.findall(r'(?:href|src)="([^"]+)"', empty_client.get("/").text)
    assert len(named) >= 3
    for path in named:
        assert empty_client.get(path).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/web/",
        "/web/other/app.js",
        "/web/{version}/comparison.html.jinja",
        "/web/{version}/../../serve.py",
        "/web/{version}/..%2f..%2fserve.py",
        "/web/{version}/%2e%2e/%2e%2e/serve.py",
        "/web/{version}/index.html",
    ],
)
def test_nothing_else_is_served(empty_client, path):
    version = next(iter(page_assets().keys() - {"/"})).split("/")[2]
    response = empty_client.get(path.replace("{version}", version))
    assert (response.status_code, response.json()["type"]) == (404, "no-such-route")


def test_the_page_needs_no_key_and_what_it_calls_does(make_workspace):
    with open_client(make_workspace(api_key="secret")) as client:
        assert {client.get(path).status_code for path in page_assets()} == {200}
        assert client.get("/web/other/app.js").status_code == 401
        for path in ("/v1/collections", "/v1/settings", "/v1/doctor", "/v1/recipes"):
            assert client.get(path).status_code == 401


def test_no_file_names_another_host():
    """The one address is SVG's namespace, which nothing loads."""
    for path, text in SOURCES.items():
        found = set(re.findall(r"(?:https?|wss?):?//[\w.-]+", text)) - {"http://www.w3.org"}
        assert not found, f"{path}: {found}"


def test_no_string_becomes_html():
    for path, text in SOURCES.items():
        risky = (
            r"(inner|outer)HTML|insertAdjacentHTML|document\.write|eval\(|new Function|srcdoc|DOMParser| style=| on\w+="
        )
        assert not re.search(risky, text), path


def test_scripts_stay_small():
    long = {path: n for path, text in SCRIPTS.items() if (n := len(text.splitlines())) > 400}
    assert not long


def test_the_languages_have_the_same_words():
    first, *others = (words(language) for language in LANGUAGES)
    for other in others:
        assert other.keys() == first.keys()
        for key, text in first.items():
            assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", other[key])), key
            assert other[key].strip(), key


def test_every_word_that_is_used_is_there_and_every_word_is_used():
    """Keys stand in the scripts whole, or are put together from a part in front and a value."""
    used, prefixes = set(), set()
    for text in SCRIPTS.values():
        used |= set(re.findall(r"'([a-z_]+(?:\.[a-z_]+)+)'", text))
        prefixes |= set(re.findall(r"\bt(?:Or)?\(\s*`([a-z_.]+)\.\$\{", text))
        # Whatever a script asks for in full has to be there.
        asked = set(re.findall(r"\bt\(\s*'([^']+)'", text))
        assert asked <= words("en").keys(), asked - words("en").keys()
    unused = [key for key in words("en") if key not in used and not key.startswith(tuple(f"{p}." for p in prefixes))]
    assert not unused


def test_what_the_page_loads_is_small():
    """Everything that is loaded before the page is shown, not compressed; one language of two."""
    first = {path: asset for path, asset in page_assets().items() if "/i18n/en" not in path}
    assert sum(len(asset.content) for asset in first.values()) <= 200_000
