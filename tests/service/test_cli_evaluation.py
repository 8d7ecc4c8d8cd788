"""The commands that measure: searches, arms, calibration."""

from __future__ import annotations

import json

import pytest

from tests.service.parts import DOCUMENTS, adapter

pytestmark = pytest.mark.slow


def test_evaluate_retrieval(shell, tmp_path):
    corpus, queries, qrels = (tmp_path / name for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"))
    rows = [{"id": name, "title": name, "text": text} for name, text in DOCUMENTS.items()]
    corpus.write_text("\n".join(map(json.dumps, rows)))
    queries.write_text(json.dumps({"id": "q", "text": "Who planted the garden of Tolm?"}))
    qrels.write_text("query-id\tcorpus-id\tscore\nq\tgarden.md\t1\n")
    words = ("evaluate", "retrieval", "--corpus", corpus, "--queries", queries, "--qrels", qrels)
    result = shell.json(*words)
    assert set(result["methods"]) == {"hybrid", "dense", "lexical"}
    assert result["methods"]["hybrid"]["ndcg@10"] == 1.0
    assert "lexical" in shell(*words, "--methods", "lexical").stdout
    shell(*words, "--methods", "magic", code=2)
    shell("evaluate", "retrieval", "--corpus", tmp_path / "absent", "--queries", queries, "--qrels", qrels, code=2)
    shell(*words, "--out", tmp_path / "report", code=2)


def test_evaluate_retrieval_writes_a_report_of_one_s_own_questions(filled, questions, tmp_path):
    out = tmp_path / "report"
    words = ("evaluate", "retrieval", "--questions", questions, "--methods", "lexical,dense", "--out", out)
    assert set(filled.json(*words)["methods"]) == {"dense", "lexical"}
    assert sorted(path.name for path in out.iterdir()) == ["index.html", "ranks.csv", "result.json"]
    assert "ragtune evaluate retrieval --questions" in (out / "index.html").read_text()


def test_compare_writes_a_report_and_prints_the_verdict(filled, questions, generator, tmp_path):
    generator.reply = "1842 [1]"
    result = filled.json("compare", "--questions", questions, "--arms", "base,rag", "--out", tmp_path / "out")
    assert set(result["arms"]) == {"base", "rag"}
    assert result["arms"]["rag"]["f1"] == 50.0
    assert "rag-base" in result["difference"]
    assert (tmp_path / "out" / "index.html").exists()
    asked = len(generator.requests)
    shown = filled("compare", "--questions", questions, "--arms", "base,rag", "--out", tmp_path / "out")
    assert result["verdict"] in shown.stdout.replace("\n", " ")
    assert "2 questions can show differences" in shown.stderr
    assert len(generator.requests) == asked  # kept from the first run
    filled("compare", "--questions", questions, "--arms", "rag", "--out", tmp_path / "out", "--fresh")
    assert len(generator.requests) == asked + 2


def test_compare_of_what_cannot_be_compared(filled, questions, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    assert "no questions" in filled("compare", "--questions", empty, code=1).stderr
    assert "No such arm" in filled("compare", "--questions", questions, "--arms", "rug", code=1).stderr
    assert "calibrated" in filled("compare", "--questions", questions, "--max-false-answer-rate", 0.1, code=1).stderr
    filled("compare", "--questions", tmp_path / "absent.jsonl", code=2)


def test_compare_and_promote_of_a_bare_name_mean_the_same_version(filled, questions):
    """Trained again while version 1 is live."""
    with filled.open() as workspace:
        workspace.store.adapters.add(adapter())
        workspace.store.adapters.promote("house", 1)
        workspace.store.adapters.add(adapter(version=2))
    words = ("compare", "--questions", questions, "--arms", "rag,combined", "--adapter", "house")
    assert filled.json(*words)["arms"]["combined"]["adapter"] == "house@2"
    assert "combined house@2" in filled(*words).stdout
    assert filled.json("adapters", "show", "house")["version"] == 2
    answer = filled.json("ask", "When was the lighthouse of Orrin built?", "--adapter", "house")
    assert answer["adapter"] == "house@1", "an answer comes from what is live"
    scaled = ("ask", "When was the lighthouse of Orrin built?", "--adapter", "house@1=0.5", "--adapter", "house@2=-1")
    used = filled.json(*scaled)["adapters"]
    assert used == [{"name": "house@1", "scale": 0.5}, {"name": "house@2", "scale": -1.0}]
    for wrong in ("house=much", "house=", "house=5", "house=nan"):
        assert "is no scale" in filled("ask", "When?", "--adapter", wrong, code=2).stderr
    assert filled.json("adapters", "promote", "house", "--dry-run")["promote"]
    assert filled.json("adapters", "promote", "house")["version"] == 2
    assert filled.json("adapters", "show", "house@1")["stage"] == "retired"
    newest = filled.json("adapters", "log", "house@2")[0]
    assert (newest["event"], newest["actor"][:4]) == ("promoted", "cli ")
    assert "house@2 promoted (candidate → live) by cli" in filled("adapters", "log").stdout
    assert filled.json("adapters", "policy")["facts"]["measure"] == "containment"
    assert "shadow" in filled("adapters", "shadow", "house@1").stdout
    assert filled.json("adapters", "retire", "house@1", "--reason", "old")["stage"] == "retired"
    assert filled.json("adapters", "delete", "house@1") == {"deleted": ["house@1"]}


def test_compare_measures_the_style_of_a_house(filled, questions, tmp_path):
    house = tmp_path / "house.jsonl"
    rows = [{"instruction": "", "input": f"When {i}?", "output": f"**Answer:** {1830 + i}."} for i in range(10)]
    house.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("compare", "--questions", questions, "--arms", "rag,base", "--style", house)
    assert filled.json(*words)["style"]["examples"] == 10
    assert "10 examples reach" in filled(*words).stdout
    house.write_text(json.dumps(rows[0]) + "\n")
    assert "Too few examples" in filled(*words, code=1).stderr


def test_calibrate_then_keep_to_a_share_of_false_answers(shell, tmp_path, generator):
    towns = tmp_path / "towns.md"
    towns.write_text("\n\n".join(f"Tower {n} was built in {1700 + n}." for n in range(0, 50, 2)), encoding="utf-8")
    shell("ingest", towns)
    path = tmp_path / "towers.jsonl"
    rows = [
        {
            "id": f"t{n}",
            "question": f"When was tower {n} built?",
            "answers": [str(1700 + n)] * known,
            "answerable": known,
        }
        for n, known in ((n, n % 2 == 0) for n in range(50))
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    generator.reply = lambda request: f"{1700 + tower(request)} [1]"
    generator.logprob = lambda request: -0.1 if tower(request) % 2 == 0 else -1.5
    shell.serves_here = True
    with shell.open() as workspace:
        workspace.store.adapters.add(adapter("reader"))
    refused = shell("compare", "--questions", path, "--arms", "rag", "--max-false-answer-rate", "0.1", code=1)
    assert "ragtune calibrate --questions FILE --mode rag" in refused.stderr
    figures = shell.json("calibrate", "--questions", path, "--mode", "rag")
    assert {"n", "auroc", "ece", "aurc", "bins", "thresholds"} <= set(figures)
    assert "questions it had not seen" in shell("calibrate", "--questions", path, "--mode", "rag").stdout
    unnamed = ("ask", "When was tower 7 built?")
    assert shell.json(*unnamed, "--max-false-answer-rate", "0.1")["abstained_by"] == "confidence"  # as calibrate says
    assert shell.json(*unnamed)["mode"] == "rag", "no reader is suggested beside what was calibrated"
    arm = shell.json("compare", "--questions", path, "--arms", "rag", "--max-false-answer-rate", "0.1")["arms"]["rag"]
    assert arm["false_answer_rate"] <= 0.1
    assert arm["coverage_answerable"] == 1.0
    asked = ("ask", "When was tower 7 built?", "--mode", "rag", "--max-false-answer-rate", "0.1")
    assert shell.json(*asked)["abstained_by"] == "confidence"
    assert "1707" not in shell(*asked).stdout
    path.write_text(json.dumps(rows[0]))
    assert "at least 10 right ones" in shell("calibrate", "--questions", path, "--mode", "rag", code=1).stderr


def test_the_suggested_reader_is_not_in_the_way_of_a_calibration(filled):
    question = "When was the lighthouse of Orrin built?"
    filled.serves_here = True
    with filled.open() as workspace:
        workspace.store.adapters.add(adapter("reader"))
    assert filled.json("ask", question)["adapter"] == "reader@1"
    told = filled("ask", question, "--max-false-answer-rate", "0.1", code=1).stderr
    assert "ragtune calibrate --questions FILE --mode rag" in told, "what calibrate would calibrate, named nothing"


def tower(request):
    return int(request.messages[-1].parts[-1].split("tower ")[1].split()[0])
