"""The other pages: compare, adapters, evaluations, jobs, settings."""

from __future__ import annotations

import json
import re
import time

import pytest
from playwright.sync_api import expect

from data.errors import EngineBusy
from data.records import QAPair, Question
from service.compare.outcomes import Outcome
from service.compare.result import summarize
from tests.service.conftest import real_server
from tests.service.parts import adapter

pytestmark = pytest.mark.slow


def test_arms_answer_side_by_side(scripted, generator, open_page):
    generator.reply = lambda request: "Mara Venn [1]" if "Venn" in request.messages[-1].content else "from memory"
    page = open_page(scripted, "#/compare")
    page.get_by_label("Question").fill("Who kept the lighthouse of Orrin?")
    page.get_by_role("button", name="Compare", exact=True).click()
    arm = lambda name: page.get_by_role("article").filter(has=page.get_by_role("heading", name=name, exact=True))  # noqa: E731
    expect(arm("Passages")).to_contain_text("Mara Venn")
    expect(arm("Model alone")).to_contain_text("from memory")
    arm("Passages").get_by_role("button", name="Source 1").first.click()
    expect(page.locator("dialog mark")).to_be_visible()


def test_an_arm_that_fails_does_not_hold_the_others(scripted, generator, open_page):
    def reply(request):
        if "Venn" in request.messages[-1].content:
            raise EngineBusy("The queue is full", got="16 wait")
        return "from memory"

    generator.reply = reply
    page = open_page(scripted, "#/compare", allowed=["status of 429"])
    page.get_by_label("Question").fill("Who kept the lighthouse of Orrin?")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="Too many questions at once")).to_be_visible()
    expect(page.get_by_text("from memory")).to_be_visible()


def test_adapters_go_live_and_back(scripted, indexed, open_page):
    passed = {"parity": {"greedy_agreement": 0.99, "kl": 0.001, "passed": True}}
    for version in (1, 2):
        indexed.store.adapters.add(adapter(version=version, metrics=passed))
    page = open_page(scripted, "#/adapters")
    card = lambda label: page.get_by_role("article").filter(has_text=label)  # noqa: E731
    expect(card("house@1")).to_contain_text("99%")
    for label in ("house@1", "house@2"):
        page.get_by_role("button", name=f"Put {label} live").click()
        expect(card(label)).to_contain_text("live")
    expect(card("house@1")).to_contain_text("retired")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Back to the adapter before").click()
    expect(card("house@1").locator(".badge.live")).to_be_visible()
    card("house@2").get_by_role("button", name="Try house@2 in the shadow").click()
    expect(card("house@2")).to_contain_text("in the shadow")
    card("house@2").get_by_role("button", name="Why it may go live").click()
    expect(page.get_by_role("dialog").get_by_role("row").filter(has_text="parity")).to_contain_text("passed")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Show the log").click()
    expect(page.get_by_role("region", name="What went live, and why")).to_contain_text("house@2")
    card("house@1").get_by_role("button", name="Lineage").click()
    expect(page.get_by_role("dialog")).to_contain_text("house@1")
    page.keyboard.press("Escape")
    card("house@1").get_by_role("link", name="Ask through it").click()
    page.get_by_text("How to answer").click()
    expect(page.get_by_label("Adapter")).to_have_value("house@1")


def test_an_adapter_that_forgot_is_refused_and_can_be_forced(scripted, indexed, open_page):
    measured = adapter().metrics["parity"]
    forgot = {"parity": measured, "forgetting": {"passed": False, "drop": 0.4, "ci": [0.3, 0.5], "margin": 0.1}}
    indexed.store.adapters.add(adapter(metrics=forgot))
    page = open_page(scripted, "#/adapters", allowed=["status of 409", "status of 422"])
    page.get_by_role("button", name="Put house@1 live").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_role("button", name="Put it live nevertheless").click()
    expect(page.locator(".badge.live")).to_be_visible()


def test_training_without_pairs_says_what_is_missing(scripted, open_page):
    page = open_page(scripted, "#/adapters", allowed=["status of 409"])
    expect(page.get_by_text("No adapter yet")).to_be_visible()
    page.get_by_label("Recipe").select_option("style")
    expect(page.get_by_text("Several passes over examples")).to_be_visible()
    page.get_by_text("Knobs").click()
    expect(page.get_by_label("Passes over the rows")).to_have_value("4")
    page.get_by_role("button", name="Train an adapter").click()
    expect(page.get_by_role("alert")).to_contain_text("no accepted pairs")


def test_a_training_shows_its_loss_and_can_be_stopped(server, open_page, tmp_path):
    import httpx

    facts = {
        "When was the lighthouse of Orrin built?": "1842", "Who was the keeper of the lighthouse?": "Mara Venn",
        "What does the garden of Tolm grow?": "blue roses", "Who planted the garden?": "the brothers Ask and Embla",
    }  # fmt: skip
    rows = [{"id": question, "question": question, "answers": [answer]} for question, answer in facts.items()]
    with httpx.Client(base_url=server, timeout=60) as http:
        job = http.post("/v1/pairs/import", json={"rows": rows}).json()["job_id"]
        while http.get(f"/v1/jobs/{job}").json()["status"] in ("queued", "running"):
            time.sleep(0.2)
        http.post("/v1/pairs/bulk", json={"status": "accepted", "filter": {}}).raise_for_status()
    page = open_page(server, "#/adapters")
    page.get_by_role("textbox", name="Name").fill("trial")
    page.get_by_text("Knobs").click()
    page.get_by_label("Passes over the rows").fill("100")
    page.get_by_role("button", name="Train an adapter").click()
    panel = page.get_by_role("region", name="Train an adapter")
    expect(page.get_by_text("loss").last).to_be_visible(timeout=120_000)
    expect(page.get_by_role("img", name="Loss by step")).to_be_visible()
    panel.get_by_role("button", name="Cancel the job").click()
    expect(panel).to_contain_text("cancelled")
    page.get_by_role("link", name="Jobs").click()
    row = page.get_by_role("row").filter(has_text="Train an adapter").first
    expect(row).to_contain_text("cancelled")
    row.get_by_role("button", name="Details").click()
    expect(page.locator("dialog .log")).to_contain_text("loss")


def kept_evaluation(indexed):
    questions = [Question(f"q{n}", f"Question {n}?", ("x",)) for n in range(6)]
    figures = {"rag": 50.0, "base": 10.0}
    outcomes = {
        arm: [Outcome(arm, q.id, "x", False, f1, False, False) for q in questions] for arm, f1 in figures.items()
    }
    indexed.store.evaluations.add("e1", summarize(outcomes, questions, {}))


def test_evaluations_are_listed_with_their_figures(scripted, indexed, open_page):
    kept_evaluation(indexed)
    page = open_page(scripted, "#/evaluations")
    expect(page.get_by_role("heading", name="F1 over time")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="Passages").last).to_contain_text("50")
    assert page.get_by_role("link", name="Open the report").get_attribute("href") == "/v1/evaluations/e1/report"


def test_a_line_that_is_no_question_is_named(scripted, open_page):
    page = open_page(scripted, "#/evaluations")
    expect(page.get_by_text("No evaluation yet")).to_be_visible()
    page.get_by_label("Questions", exact=True).fill('{"id": "1", "question": "When?", "answers": ["1842"]}\n<b>oops')
    page.get_by_role("button", name="Start an evaluation").click()
    expect(page.get_by_role("alert")).to_contain_text("Line 2 is not a JSON object: <b>oops")


def test_an_evaluation_runs_and_its_report_opens(server, open_page):
    page = open_page(server, "#/evaluations")
    rows = [
        {"id": str(n), "question": "When was the lighthouse of Orrin built?", "answers": ["1842"]} for n in range(2)
    ]
    rows[1]["question"] = "Who was the keeper of the lighthouse?"
    page.get_by_label("Questions", exact=True).fill("\n".join(json.dumps(row) for row in rows))
    page.get_by_role("group", name="Arms").get_by_label("Model alone").uncheck()
    page.get_by_role("group", name="Arms").get_by_label("reader").check()
    page.get_by_role("button", name="Start an evaluation").click()
    expect(page.get_by_role("heading", name="F1 over time")).to_be_visible(timeout=120_000)
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Open the report").click()
    expect(opened.value.get_by_text("Which arm answers best")).to_be_visible()


def test_settings_tell_health_models_limits_and_routes(scripted, open_page):
    page = open_page(scripted, "#/settings")
    expect(page.get_by_text("RAGTUNE_MAX_DOCUMENT_BYTES")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="scripted")).to_contain_text("base model")
    expect(page.get_by_role("listitem").filter(has_text="Disk")).to_contain_text("GiB free")
    page.get_by_text(re.compile(r"\d+ routes")).click()
    expect(page.get_by_role("cell", name="/v1/answers", exact=True)).to_be_visible()


def test_jobs_of_a_server_that_never_ran_one(make_workspace, open_page):
    with real_server(make_workspace()) as url:
        page = open_page(url, "#/jobs")
        expect(page.get_by_text("No jobs yet")).to_be_visible()


def test_variants_of_the_prompt_are_tried_on_real_questions_and_one_is_used(scripted, indexed, generator, open_page):
    indexed.store.pairs.add(
        "default", None, [QAPair("p1", "Who kept the lighthouse?", "Mara Venn", (), "span", "t", "accepted")]
    )
    generator.reply = lambda request: "MARA VENN [1]" if "capitals" in request.messages[0].content else "Mara Venn [1]"
    page = open_page(scripted, "#/prompt")
    page.get_by_role("button", name="Take questions from the pairs").click()
    expect(page.get_by_label("Questions")).to_have_value("Who kept the lighthouse?")
    page.get_by_label("Variant 2").fill("Write in capitals.")
    page.get_by_label("Passages").fill("1")
    page.get_by_role("button", name="Try all variants").click()
    arm = lambda name: page.get_by_role("article").filter(has=page.get_by_role("heading", name=name, exact=True))  # noqa: E731
    expect(arm("Variant 1")).to_contain_text("Mara Venn")
    expect(arm("Variant 2")).to_contain_text("MARA VENN")
    page.get_by_role("button", name="Use variant 2").click()
    expect(page.get_by_text("Version 1 holds now.").first).to_be_visible()
    house = indexed.store.houses.current("default")
    assert (house.instructions, dict(house.sampling)) == ("Write in capitals.", {"top_k": 1})
    page.get_by_role("button", name="Use variant 1").click()
    expect(page.get_by_text("Version 2 holds now.").first).to_be_visible()
    page.get_by_role("button", name="Go back to version 1").click()
    expect(page.get_by_text("Version 3 holds now.").first).to_be_visible()
    assert indexed.store.houses.current("default").instructions == "Write in capitals."
