"""axe-core over every page, in both themes and languages and on a phone; nothing wider than the screen."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from data.records import QAPair
from tests.service.browser.test_frame import PAGES
from tests.service.browser.test_pages import kept_evaluation
from tests.service.parts import adapter

pytestmark = pytest.mark.slow

LOOKS = {
    "light-en": {"locale": "en-US", "color_scheme": "light"},
    "dark-zh": {"locale": "zh-CN", "color_scheme": "dark", "viewport": {"width": 390, "height": 844}},
}


@pytest.fixture
def filled(scripted, indexed):
    """A server with something on every page."""
    chunk = next(chunk for _, chunk, _ in indexed.store.chunks.iterate("default") if "1842" in chunk.text)
    indexed.store.pairs.add("default", None, [QAPair("p1", "When?", "1842", (chunk.id,), "span", "test")])
    indexed.store.adapters.add(adapter())
    indexed.store.jobs.create("rebuild", {"collection": "default"}, None)
    indexed.store.collections.ensure("attic")
    kept_evaluation(indexed)
    return scripted


def check(page: Page, where: str) -> None:
    """Fail with what axe calls serious or critical, and where the page is wider than the screen."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response
    assert len(found["passes"]) > 10, "axe has looked at nothing"
    serious = [
        f"{where}: {each['id']}: {each['nodes'][0]['html'][:200]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]
    assert not serious, "\n".join(serious)
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{where} is {wide} px wider than the screen"


@pytest.mark.parametrize("look", LOOKS)
def test_no_page_has_a_serious_finding(filled, open_page, look):
    page = open_page(filled, **LOOKS[look])
    for name in PAGES:
        page.goto(f"{filled}/#/{name}")
        expect(page.locator(f"main[data-page={name}]")).to_be_visible()
        page.wait_for_load_state("networkidle")
        page.evaluate("for (const each of document.querySelectorAll('main details')) each.open = true")
        check(page, f"{name} {look}")


@pytest.mark.parametrize("look", LOOKS)
def test_an_answer_and_its_source_have_no_serious_finding(filled, open_page, look):
    page = open_page(filled, **LOOKS[look])
    page.locator("textarea").first.fill("When was the lighthouse of Orrin built?")
    page.keyboard.press("Enter")
    expect(page.locator(".feedback")).to_be_visible()
    page.locator(".passages summary").click()
    check(page, f"answer {look}")
    page.locator(".cite").first.click()
    expect(page.locator("dialog mark")).to_be_visible()
    check(page, f"source {look}")


def test_the_menu_of_a_phone_opens(filled, open_page):
    page = open_page(filled, **LOOKS["dark-zh"])
    expect(page.get_by_role("link", name="设置")).to_be_hidden()
    page.get_by_role("button", name="菜单").click()
    page.get_by_role("link", name="设置").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("设置")
    expect(page.get_by_role("link", name="设置")).to_be_hidden()
