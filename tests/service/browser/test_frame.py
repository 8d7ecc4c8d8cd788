"""The frame: menu, language, colours, keys, a server that goes and comes back."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from data.store import KeyGrant
from tests.service.conftest import real_server

pytestmark = pytest.mark.slow

PAGES = ["ask", "compare", "documents", "pairs", "prompt", "adapters", "evaluations", "jobs", "settings"]


def test_every_page_opens_from_the_menu_by_keyboard(scripted, open_page):
    page = open_page(scripted, "#/settings")
    menu = page.get_by_role("navigation")
    expect(menu.get_by_role("link")).to_have_count(len(PAGES))
    for link in menu.get_by_role("link").all():
        link.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text(link.inner_text())
        expect(link).to_have_attribute("aria-current", "page")
        expect(page.locator("main")).to_be_focused()
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")


def test_language_and_colours_are_kept(scripted, open_page):
    page = open_page(scripted)
    page.get_by_label("Language").select_option("zh")
    expect(page.get_by_role("heading", level=1)).to_have_text("提问")
    expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
    page.get_by_label("配色").select_option("dark")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("提问")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 26)"


@pytest.mark.parametrize("locale", ["zh-CN", "en-GB", "fr-FR"])
def test_the_browsers_language_is_taken_first(scripted, open_page, locale):
    page = open_page(scripted, locale=locale)
    expect(page.get_by_role("heading", level=1)).to_have_text("提问" if locale == "zh-CN" else "Ask")


def test_a_key_is_asked_for_kept_in_the_tab_and_replaced(make_workspace, open_page):
    """A refused key loses nothing: what was asked goes on with the next one."""
    with real_server(make_workspace(api_key="right")) as url:
        page = open_page(url, "#/settings", allowed=["status of 401"])
        box = page.get_by_role("dialog")
        for key in ("wrong", "right"):
            expect(box).to_be_visible()
            box.get_by_label("Key", exact=True).fill(key)
            box.get_by_role("button", name="Use this key").click()
        expect(page.get_by_role("button", name="Forget the key")).to_have_count(0)  # drawn before there was one
        expect(page.get_by_text("RAGTUNE_CHUNK_SIZE")).to_be_visible()
        page.reload()
        expect(page.get_by_role("button", name="Forget the key")).to_be_visible()
        assert page.evaluate("JSON.stringify(localStorage)").find("right") == -1
        other = page.context.new_page()
        other.goto(f"{url}/#/settings")
        expect(other.get_by_role("dialog")).to_be_visible()
        page.get_by_role("button", name="Forget the key").click()
        expect(page.get_by_role("dialog")).to_be_visible()


def test_a_key_that_may_only_ask_sees_only_what_it_can_use(indexed, open_page):
    indexed.store.collections.ensure("attic")
    _, key = indexed.store.keys.create("reader", KeyGrant(("query",), ("default",)))
    with real_server(indexed) as url:
        page = open_page(url, "#/settings", allowed=["status of 401"])
        page.get_by_label("Key", exact=True).fill(key)
        page.get_by_role("button", name="Use this key").click()
        menu = page.get_by_role("navigation").get_by_role("link")
        expect(menu).to_have_text(["Ask", "Compare", "Documents", "Settings"])
        expect(page.get_by_role("cell", name="base model")).to_be_visible()
        expect(page.get_by_role("heading", name="Health")).to_have_count(0)
        expect(page.get_by_label("Collection")).to_have_count(0)  # it sees one
        menu.first.click()
        page.get_by_label("Question").fill("When was the lighthouse of Orrin built?")
        page.keyboard.press("Enter")
        expect(page.locator(".feedback")).to_be_visible()


def test_keys_are_made_shown_once_and_revoked(make_workspace, open_page):
    workspace = make_workspace(api_key="root")
    with real_server(workspace) as url:
        page = open_page(url, "#/settings", allowed=["status of 401"])
        page.get_by_label("Key", exact=True).fill("root")
        page.get_by_role("button", name="Use this key").click()
        page.get_by_label("Name of the key").fill("<b>laptop</b>")
        page.get_by_label("Only these collections").fill("default")
        page.get_by_label("pairs, training, evaluations").check()
        page.get_by_role("button", name="Make a key").click()
        key = page.locator("code.secret").inner_text()
        found = workspace.store.keys.find(key)
        assert (found.name, found.grant.scopes, found.grant.collections) == (
            "<b>laptop</b>", ("query", "train"), ("default",),
        )  # fmt: skip
        page.reload()
        expect(page.get_by_role("row").filter(has_text="<b>laptop</b>")).to_contain_text("valid")
        expect(page.locator("code.secret")).to_have_count(0)
        page.once("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Revoke <b>laptop</b>").click()
        expect(page.get_by_role("row").filter(has_text="<b>laptop</b>")).to_contain_text("revoked")
        assert workspace.store.keys.find(key) is None


def test_a_server_that_goes_is_told_and_looked_for(workspace, open_page):
    with real_server(workspace) as url:
        page = open_page(url, "#/jobs", allowed=["ERR_CONNECTION_REFUSED"])
        expect(page.get_by_text("No jobs yet")).to_be_visible()
    expect(page.locator(".banner")).to_contain_text("The server does not answer")
    page.get_by_role("link", name="Documents").click()
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    with real_server(workspace, port=int(url.rpartition(":")[2])):
        expect(page.locator(".banner")).to_be_hidden()
        page.get_by_role("button", name="Try again").click()
        expect(page.get_by_text("No documents yet")).to_be_visible()


def test_a_page_that_does_not_exist_is_the_first(scripted, open_page):
    page = open_page(scripted, "#/../../etc/passwd?x=<script>")
    expect(page.get_by_role("heading", level=1)).to_have_text("Ask")
    assert re.search(r"Ask", page.title())
