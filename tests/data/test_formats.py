import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import data
from data.errors import InvalidRequest
from data.formats import FORMATS, convert, read_questions, read_rows, write_rows

SAMPLES = Path(data.__file__).parent / "samples"
CHAT = {
    "messages": [
        {"role": "system", "content": "Answer from the passages."},
        {"role": "user", "content": "[1]\n氧气\u2028line\n\nQuestion: what?"},
        {"role": "assistant", "content": "Oxygen [1]"},
    ]
}
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
single = st.tuples(st.none() | words, words, words.filter(str.strip))


def chat(system, *turns):
    messages = [] if system is None else [{"role": "system", "content": system}]
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def test_formats_look_as_other_tools_expect():
    assert convert(CHAT, "instruction") == {
        "instruction": "Answer from the passages.",
        "input": CHAT["messages"][1]["content"],
        "output": "Oxygen [1]",
    }
    assert convert(chat(None, ("Why?", "Because.")), "instruction") == {
        "instruction": "Why?",
        "input": "",
        "output": "Because.",
    }
    assert convert(chat("S", ("Why?", "Because.")), "sharegpt") == {
        "conversations": [
            {"from": "system", "value": "S"},
            {"from": "human", "value": "Why?"},
            {"from": "gpt", "value": "Because."},
        ]
    }


@given(single, st.sampled_from(FORMATS), st.sampled_from(FORMATS))
def test_converting_there_and_back_keeps_the_messages(turn, one, other):
    row = chat(turn[0], turn[1:]) | {"id": "r1"}
    assert convert(convert(convert(row, one), other), "chat") == row


def test_several_turns_fit_all_but_instruction():
    row = chat(None, ("a", "b"), ("c", "d"))
    assert convert(convert(row, "sharegpt"), "chat") == row
    with pytest.raises(InvalidRequest, match="one question"):
        convert(row, "instruction")


@pytest.mark.parametrize("format", FORMATS)
def test_written_rows_are_read_back(tmp_path, format):
    rows = [CHAT | {"id": "r1"}, chat("S", ("Question\nwith lines", "答案。😀"))]
    assert write_rows(tmp_path / "rows.jsonl", rows, format) == 2
    assert read_rows(tmp_path / "rows.jsonl") == rows
    assert len((tmp_path / "rows.jsonl").read_bytes().split(b"\n")) == 3


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"messages": []},
        {"messages": "text"},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x"}]},
        {"messages": [{"role": "user", "content": None}, {"role": "assistant", "content": "x"}]},
        {"messages": [{"role": "assistant", "content": "x"}]},
        {"messages": [{"role": "system", "content": "x"}]},
        chat(None, ("q", " ")),
        chat(None, ("q", "half \ud800")),
        {"conversations": [{"from": "alien", "value": "x"}]},
        {"conversations": [{"from": ["human"], "value": "x"}]},
        {"instruction": "x"},
        {"instruction": "x", "output": 5},
        {"instruction": "x", "input": ["y"], "output": "z"},
    ],
)
def test_invalid_row_is_refused_with_its_line(tmp_path, row):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(CHAT) + "\n\n" + json.dumps(row) + "\n")
    with pytest.raises(InvalidRequest, match=r"rows\.jsonl, line 3"):
        read_rows(path)
    with pytest.raises(InvalidRequest, match="Row 2"):
        write_rows(tmp_path / "out.jsonl", [CHAT, row], "chat")
    assert not (tmp_path / "out.jsonl").exists()


def test_every_bad_line_can_be_collected(tmp_path):
    path = tmp_path / "rows.jsonl"
    good = json.dumps(CHAT, ensure_ascii=False).encode()
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([good, b"{broken", b"[1]", b"\xff\xfe", b"{}", b"[" * 99999, good]))
    errors = []
    assert read_rows(path, on_error=errors.append) == [CHAT, CHAT]
    assert [error.detail.split(":")[0] for error in errors] == [f"rows.jsonl, line {n}" for n in (2, 3, 4, 5, 6)]


def test_unknown_format_and_missing_file_are_named(tmp_path):
    with pytest.raises(InvalidRequest, match="alpaca"):
        convert(CHAT, "alpaca")
    with pytest.raises(InvalidRequest, match=r"none\.jsonl"):
        read_rows(tmp_path / "none.jsonl")


def test_sample_questions_are_read_and_their_answers_stand_in_their_documents():
    questions = read_questions(SAMPLES / "questions.jsonl")
    assert len(questions) > 20
    for question in questions:
        assert question.document is not None
        text = (SAMPLES / "corpus" / question.document).read_text(encoding="utf-8")
        assert bool(question.answers) == question.answerable
        assert all(answer in text for answer in question.answers)


def test_questions_without_the_optional_keys(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text(
        '{"id": 7, "question": "Q?", "answers": ["A"]}\n{"id": "8", "question": "R?", "answerable": false}\n'
    )
    first, second = read_questions(path)
    assert (first.id, first.answers, first.answerable, first.document) == ("7", ("A",), True, None)
    assert (second.answers, second.answerable) == ((), False)


def test_a_question_without_an_id_is_known_by_its_text(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [{"question": each, "answers": ["A"]} for each in ("Q?", "R?", "Q?")]
    path.write_text("\n".join(map(json.dumps, rows)))
    first, second, again = read_questions(path)
    assert len({first.id, second.id, again.id}) == 3, "a question that stands twice is named later, not refused here"
    path.write_text("\n".join(map(json.dumps, [{"id": None, **rows[1]}, rows[0]])))
    assert [each.id for each in read_questions(path)] == [second.id, first.id], "also when lines were moved"
    elsewhere = tmp_path / "others.jsonl"
    elsewhere.write_text("\n\n" + "\n".join(map(json.dumps, (rows[0], rows[2], rows[2]))))
    assert [each.id for each in read_questions(elsewhere)][:2] == [first.id, again.id], "whatever the file and the line"
    assert len({each.id for each in read_questions(elsewhere)}) == 3
    made = [{**rows[0], "id": each.id} for each in (first, again)]
    elsewhere.write_text("\n".join(map(json.dumps, (*made, rows[0]))))
    assert len({each.id for each in read_questions(elsewhere)}) == 3, "ids that were made before came along as given"


def test_an_unanswerable_question_has_no_answers(tmp_path):
    path = tmp_path / "questions.jsonl"
    row = {"id": "x", "question": "Q?", "answerable": False}
    path.write_text(json.dumps({**row, "answers": ["A"]}))
    with pytest.raises(
        InvalidRequest, match=r"questions\.jsonl, line 1: An unanswerable question has answers"
    ) as raised:
        read_questions(path)
    assert raised.value.got == "['A']"
    assert "answerable" in raised.value.wanted
    assert raised.value.hint
    for fine in ({"answers": []}, {"answers": [" "]}, {}, {"answers": [], "plausible_answers": ["A"]}):
        path.write_text(json.dumps({**row, **fine}))
        assert [(each.answerable, each.answers) for each in read_questions(path)] == [(False, ())]


@pytest.mark.parametrize(
    "row",
    [
        {"id": "", "question": "Q?", "answers": ["A"]},
        {"id": "x", "question": " ", "answers": ["A"]},
        {"id": "x", "answers": ["A"]},
        {"id": "x", "question": "Q?", "answers": []},
        {"id": "x", "question": "Q?", "answers": "A"},
        {"id": "x", "question": "Q?", "answers": [1]},
        {"id": "x", "question": "Q?", "answers": ["A"], "answerable": "yes"},
        {"id": "x", "question": "Q?", "answers": ["A"], "document": 5},
        {"id": True, "question": "Q?", "answers": ["A"]},
        {"id": "1", "question": "Q?", "answers": ["A"]},
    ],
)
def test_invalid_question_is_refused_with_its_line(tmp_path, row):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"id": 1, "question": "Q?", "answers": ["A"]}\n' + json.dumps(row))
    with pytest.raises(InvalidRequest, match="line 2"):
        read_questions(path)
    errors = []
    assert len(read_questions(path, on_error=errors.append)) == len(errors) == 1
