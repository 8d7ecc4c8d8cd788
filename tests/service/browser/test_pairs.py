"""*Pairs*: the review queue by keyboard and mouse, many at once, in and out."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Page, expect

from data.records import QAPair
from tests.service.browser.conftest import upload
from tests.service.parts import DOCUMENTS

pytestmark = pytest.mark.slow

HOSTILE = "<script>alert(1)</script>\u202e<b>?"


@pytest.fixture
def pairs(indexed):
    store = indexed.store.pairs
    chunk = next(chunk for _, chunk, _ in indexed.store.chunks.iterate("default") if "1842" in chunk.text)
    question = "When was the lighthouse of Orrin built?"
    store.add("default", None, [QAPair("p1", question, "1842", (chunk.id,), "span", "test")])
    store.add("default", None, [QAPair("p2", "Who is the mayor of Orrin?", "", (), "unanswerable", "test")])
    store.add("default", None, [QAPair("p3", HOSTILE, HOSTILE, (chunk.id,), "free", HOSTILE)])
    failed = {"grounded": {"passed": False, "reason": "the answer does not stand in its passage"}}
    rejected = {"status": "rejected", "reason": "grounded", "checks": failed}
    store.add("default", None, [QAPair("p4", "Who painted it?", "Ask", (), "free", "test", **rejected)])
    return store


def queue(page: Page):
    return page.locator("ol.pairs li")


def test_the_queue_is_worked_by_keys_alone(scripted, pairs, open_page):
    page = open_page(scripted, "#/pairs")
    one = page.get_by_label("The pair under review")
    expect(one.locator("mark")).to_have_text("1842")
    page.keyboard.press("a")
    expect(one).to_contain_text("Who is the mayor of Orrin?")
    expect(one).to_contain_text("unanswerable: the passages do not tell")
    page.keyboard.press("r")
    expect(one).to_contain_text(HOSTILE.replace("\u202e", "\ufffd"))
    assert [pairs.get(name).status for name in ("p1", "p2", "p3")] == ["accepted", "rejected", "candidate"]
    page.keyboard.press("u")
    expect(queue(page).nth(1)).to_contain_text("to review")
    page.keyboard.press("u")
    expect(queue(page).nth(0)).to_contain_text("to review")
    assert [pairs.get(name).status for name in ("p1", "p2")] == ["candidate", "candidate"]
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("e")
    expect(page.get_by_label("Question", exact=True)).to_be_focused()
    page.get_by_label("Answer", exact=True).fill("in 1842, a rare year")
    page.get_by_role("button", name="Save and accept").click()
    expect(queue(page).nth(0)).to_contain_text("accepted")
    assert (pairs.get("p1").answer, pairs.get("p1").status) == ("in 1842, a rare year", "accepted")


def test_keys_do_nothing_while_typing_or_when_off(scripted, pairs, open_page):
    page = open_page(scripted, "#/pairs")
    expect(queue(page)).to_have_count(3)
    page.get_by_label("Contains").press_sequentially("ar")
    page.get_by_label("Keyboard shortcuts").uncheck()
    page.locator("h1").click()
    page.keyboard.press("a")
    page.get_by_label("Keyboard shortcuts").check()
    assert {pairs.get(name).status for name in ("p1", "p2", "p3")} == {"candidate"}


def test_an_edit_that_is_refused_keeps_what_was_typed(scripted, pairs, open_page):
    page = open_page(scripted, "#/pairs", allowed=["status of 422"])
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Answer", exact=True).fill("x" * 20_001)
    page.get_by_role("button", name="Save and accept").click()
    expect(page.get_by_role("alert").filter(has_text="20000")).to_be_visible()
    expect(page.get_by_label("Answer", exact=True)).to_have_value("x" * 20_001)
    page.keyboard.press("Escape")
    expect(page.get_by_label("Answer", exact=True)).to_have_count(0)


def test_filters_narrow_the_queue(scripted, pairs, open_page):
    page = open_page(scripted, "#/pairs")
    page.get_by_label("State", exact=True).select_option("rejected")
    expect(queue(page)).to_have_count(1)
    expect(page.get_by_label("The pair under review")).to_contain_text("In its passage: the answer does not stand")
    page.get_by_label("State", exact=True).select_option("")
    expect(queue(page)).to_have_count(4)
    page.get_by_label("Kind").select_option("unanswerable")
    expect(queue(page)).to_have_count(1)
    page.get_by_label("Kind").select_option("")
    page.get_by_label("Document", exact=True).fill("lighthouse")
    page.keyboard.press("Enter")
    expect(queue(page)).to_have_count(2)
    page.get_by_label("Contains").fill("nothing has this")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No pairs match.")).to_be_visible()


def test_many_are_decided_at_once_and_taken_back(scripted, pairs, open_page):
    page = open_page(scripted, "#/pairs")
    page.on("dialog", lambda dialog: dialog.accept())
    queue(page).nth(0).get_by_role("checkbox").check()
    queue(page).nth(1).get_by_role("checkbox").check()
    expect(page.get_by_text("2 ticked")).to_be_visible()
    page.get_by_role("button", name="Reject them").click()
    expect(queue(page)).to_have_count(1)
    assert [pairs.get(name).status for name in ("p1", "p2", "p3")] == ["rejected", "rejected", "candidate"]
    page.locator(".bulk").get_by_role("button", name="Undo").click()
    expect(queue(page)).to_have_count(3)
    page.get_by_role("button", name="Accept them").click()
    expect(page.get_by_text("No pairs match.")).to_be_visible()
    assert {pairs.get(name).status for name in ("p1", "p2", "p3")} == {"accepted"}


def test_a_decision_of_another_tab_is_no_surprise(scripted, pairs, open_page):
    page = open_page(scripted, "#/pairs")
    expect(queue(page)).to_have_count(3)
    pairs_before = pairs.get("p1")
    other = page.context.new_page()
    other.goto(f"{scripted}/#/pairs")
    other.get_by_role("button", name="Reject", exact=True).click()
    expect(queue(other).nth(0)).to_contain_text("rejected")
    page.get_by_role("button", name="Accept", exact=True).click()
    expect(queue(page).nth(0)).to_contain_text("accepted")
    page.keyboard.press("u")
    expect(queue(page).nth(0)).to_contain_text("rejected")
    assert (pairs_before.status, pairs.get("p1").status) == ("candidate", "rejected")


def test_pairs_go_in_and_out_as_files(server, open_page, tmp_path):
    # The server is the whole session's, and others bring pairs into its first collection.
    upload(server, DOCUMENTS, "files")
    page = open_page(server, "#/pairs")
    page.get_by_label("Collection").select_option("files")
    rows = [
        {"id": "q1", "question": "When was the lighthouse of Orrin built?", "answers": ["1842"]},
        {"id": "q2", "question": "", "answers": ["x"]},
    ]
    source = tmp_path / "pairs.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page.get_by_label("Import a file").last.set_input_files(source)
    expect(page.get_by_text("1 new, 0 known already, 1 failed.")).to_be_visible(timeout=60_000)
    page.get_by_role("button", name="Show the coverage").click()
    covered = page.get_by_role("region", name="Coverage").get_by_role("row").filter(has_text="Lighthouse")
    expect(covered).to_contain_text("1 / 1")
    with page.expect_download(timeout=60_000) as download:
        page.get_by_role("button", name="Export", exact=True).click()
    (row,) = [json.loads(line) for line in download.value.path().read_text().splitlines()]
    assert row["messages"][-1]["content"].startswith("1842")
