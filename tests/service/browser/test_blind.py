"""The blind mode of *Compare*: two answers, a vote, and only then which arm wrote which."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.service.browser.test_accessibility import check

pytestmark = pytest.mark.slow


def test_arms_are_hidden_until_the_vote_is_in(scripted, indexed, generator, open_page):
    generator.reply = lambda request: "Mara Venn [1]" if "Venn" in request.messages[-1].content else "from memory"
    page = open_page(scripted, "#/compare")
    replies: list[str] = []
    page.on("response", lambda reply: replies.append(reply.text()) if reply.request.method == "POST" else None)
    page.get_by_label("Blind: two arms").check()
    page.get_by_label("Question").fill("Who kept the lighthouse of Orrin?")
    page.get_by_role("button", name="Compare", exact=True).click()
    articles = page.get_by_role("article")
    expect(articles).to_have_count(2)
    expect(page.get_by_role("heading", name="Answer A")).to_be_visible()
    expect(page.get_by_role("article").filter(has_text="Mara Venn")).to_have_count(1)
    expect(articles.filter(has_text="Passages")).to_have_count(0)
    assert '"arms":null' in replies[-1]
    assert not any(name in replies[-1] for name in ('"rag"', '"base"', "[1]"))
    check(page, "blind, before the vote")
    letter = "A" if "Mara Venn" in articles.first.inner_text() else "B"
    page.get_by_role("button", name=f"{letter} is better").click()
    expect(page.get_by_role("heading", name=f"{letter}: Passages")).to_be_visible()
    expect(page.get_by_role("button", name="Equally good")).to_be_hidden()
    row = page.get_by_role("row").filter(has_text="Passages against Model alone")
    expect(row.get_by_role("cell").first).to_have_text("1")
    check(page, "blind, after the vote")
    assert indexed.store.blind.open("default") == 0
    page.reload()
    page.get_by_text("What the votes say so far").click()
    expect(page.get_by_role("row").filter(has_text="Passages against Model alone")).to_be_visible()


def test_it_wants_exactly_two_arms(scripted, indexed, open_page):
    page = open_page(scripted, "#/compare")
    page.get_by_label("Blind: two arms").check()
    page.get_by_label("Passages", exact=True).uncheck()
    page.get_by_label("Question").fill("Who kept the lighthouse of Orrin?")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="exactly two arms")).to_be_visible()
    assert indexed.store.blind.open("default") == 0
