"""Statements become questions where their form is certain, and nothing else does; on sentences of real documents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import data
from retrieval.stated.sentences import sentences
from retrieval.stated.statements import agreed, statements

CORPUS = Path(data.__file__).parent / "samples" / "corpus"

ENGLISH = [
    (
        "A prime number (or a prime) is a natural number greater than 1 that has no positive divisors other than 1 and "
        "itself.",
        "What is a prime number?",
        "a natural number greater than 1 that has no positive divisors other than 1 and itself",
    ),
    (
        "The Amazon rainforest is a moist broadleaf forest that covers most of the Amazon basin of South America.",
        "What is the Amazon rainforest?",
        "a moist broadleaf forest that covers most of the Amazon basin of South America",
    ),
    (
        "William Farel was a theologian of the Swiss Reformation.",
        "Who was William Farel?",
        "a theologian of the Swiss Reformation",
    ),
    ("The Block II crew had a Lunar Module Pilot (LMP).", "What does LMP stand for?", "Lunar Module Pilot"),
    ("NP stands for nondeterministic polynomial time.", "What does NP stand for?", "nondeterministic polynomial time"),
    ("FastAPI is based on Starlette and Pydantic.", "What is FastAPI based on?", "Starlette and Pydantic"),
    ("OpenAPI (previously known as Swagger) is open.", "What was OpenAPI previously known as?", "Swagger"),
    ("ABC Television is also known as the Alphabet.", "What is ABC Television also known as?", "the Alphabet"),
    ("The Grainger Market was opened in 1835 by Earl Grey.", "When was the Grainger Market opened?", "1835"),
    ("In 1998, Sky Digital was launched.", "When was Sky Digital launched?", "1998"),
    ("Martin Luther died on 18 February 1546, in Eisleben.", "When did Martin Luther die?", "18 February 1546"),
    ("Sky Digital was founded by Rupert Murdoch in 1998.", "Who founded Sky Digital?", "Rupert Murdoch"),
    ("Philip Johnson designed the WRVA Building.", "Who designed the WRVA Building?", "Philip Johnson"),
    ("ExxonMobil Canada is based in St. John's.", "Where is ExxonMobil Canada based?", "in St. John's"),
    ("Mexico City has three zoos.", "How many zoos does Mexico City have?", "three"),
    (
        "PyPy is fast because it compiles Python code while it runs.",
        "Why is PyPy fast?",
        "because it compiles Python code while it runs",
    ),
    (
        "OpenAPI doesn't support webhooks of OAuth2.",
        "Does OpenAPI support webhooks of OAuth2?",
        "OpenAPI doesn't support webhooks of OAuth2.",
    ),
    (
        "To stream events with FastAPI, use `yield` in your function.",
        "How do I stream events with FastAPI?",
        "use `yield` in your function",
    ),
    (
        "You can use the `StaticFiles` class to serve static files of Starlette.",
        "What can I use to serve static files of Starlette?",
        "the `StaticFiles` class",
    ),
    (
        "If you want to receive form fields with `curl`, you can use `Form`.",
        "How can I receive form fields with `curl`?",
        "you can use `Form`",
    ),
    (
        "If you declare `File` as a parameter, FastAPI will read the body as `bytes`.",
        "What happens if I declare `File` as a parameter?",
        "FastAPI will read the body as `bytes`",
    ),
    ("You can import `Annotated` from `typing`.", "Where can I import `Annotated` from?", "`typing`"),
    (
        "You don't have to add metadata to `Body` in FastAPI.",
        "Do I have to add metadata to `Body` in FastAPI?",
        "You don't have to add metadata to `Body` in FastAPI.",
    ),
]  # fmt: skip


def asked(text: str, title: str = "Names of ABC, Sky, Martin Luther and Mexico") -> list[tuple[str, str]]:
    """Return what a document of one paragraph is asked; its names stand inside of a sentence too."""
    known = "See also Martin Luther, William Farel, Philip Johnson, Mexico City, Sky Digital, ABC Television and PyPy."
    return [(one.question, one.answer) for one in statements(title, f"# {title}\n\n{text}\n\n{known}\n")]


@pytest.mark.parametrize(("sentence", "question", "answer"), ENGLISH)
def test_a_statement_becomes_a_question(sentence: str, question: str, answer: str) -> None:
    assert (question, answer) in asked(sentence)


CHINESE = [
    (
        "姆拉登·佩特里奇（，），是一名克罗地亚职业足球运动员，司职前锋。",
        "姆拉登·佩特里奇是谁？",
        "一名克罗地亚职业足球运动员",
    ),
    ("皮纳图博火山是一座活跃的层状火山，位于菲律宾。", "皮纳图博火山是什么？", "一座活跃的层状火山"),
    ("永明之治是指南齐在齐武帝在位时代出现的治世。", "永明之治是指什么？", "南齐在齐武帝在位时代出现的治世"),
    ("瓦勒普斯岛位于弗吉尼亚州阿科马克县。", "瓦勒普斯岛位于哪里？", "弗吉尼亚州阿科马克县"),
    ("圣体堂区成立于1905年，服务底特律北部的天主教徒。", "圣体堂区成立于何时？", "1905年"),
    ("横道河子机车库于1903年建成。", "横道河子机车库是什么时候建成的？", "1903年"),
    ("Hug 由 Timothy Crosley 创建，他也是 `isort` 的作者。", "Hug由谁创建？", "Timothy Crosley"),
    ("坡鹿，又名海南坡鹿，是东南亚特有的一种鹿。", "坡鹿又名什么？", "海南坡鹿"),
    ("加纳的首都是阿克拉，位于南部。", "加纳的首都是什么？", "阿克拉"),
    ("甘珠尔俱乐部（英文：Kanjur Phoenix FC）是一支足球队。", "甘珠尔俱乐部的英文名称是什么？", "Kanjur Phoenix FC"),
    ("国家气象局（，缩写为NWS）是一个机构。", "国家气象局的缩写是什么？", "NWS"),
    ("横道河子铁路是穿行于广东西部的一条铁路线，全长61公里。", "横道河子铁路全长多少？", "61公里"),
    ("要接收上传的文件，请使用 `UploadFile` 参数。", "如何接收上传的文件？", "请使用 `UploadFile` 参数"),
]


@pytest.mark.parametrize(("sentence", "question", "answer"), CHINESE)
def test_a_chinese_statement_becomes_a_question(sentence: str, question: str, answer: str) -> None:
    title = "请求文件" if question.startswith("如何") else re.split("全长|是|又名|位于|成立|的|由", question)[0]
    found = [(one.question, one.answer) for one in statements(title, f"# {title}\n\n{sentence}\n")]
    assert (question, answer) in [("".join(q.split()), a) if "Hug" in q else (q, a) for q, a in found]


NOTHING = [
    "It was opened in five phases between 1980 and 1984, and was Britain's first urban light rail transit system.",
    "These tropical cyclones were the costliest indirect hits to Jacksonville.",
    "Fresno is the largest U.S. city not directly linked to an Interstate highway.",
    "The Grainger Market itself, was opened in 1835 and was Newcastle's first indoor market.",
    "Carolina had two more drives, but failed to get a first down on each one.",
    "Three of his best-known works were published in 1520: To the Christian Nobility of the German Nation.",
    "A bridge was built across the Tyne, between Newcastle and Gateshead, and opened by Queen Elizabeth II in 1981.",
    "The Parliament was opened in 1999.",
    "For example, the prime field is the smallest subfield of a field F containing both 0 and 1.",
    "In On the Abrogation of the Private Mass, he condemned as idolatry the idea that the mass is a sacrifice.",
    "The 2005 series reveals that the Ninth Doctor thought he was the last surviving Time Lord.",
    "Constantine states that the war was a father and a grandfather of all.",
    "Oxygen was discovered independently by Carl Wilhelm Scheele, in Uppsala, in 1773 or earlier.",
    "Jacksonville is a good example of a consolidated city.",
    "The committee (CTE) met in a Room of Great Doors (RGX).",
    "The generated `requirements.txt` is an export for the container build.",
    "`item_id` is a path parameter of the function above.",
    "`Stopped` is the terminal state for log backup.",
    "To do that, you can use the `--workers` option.",
    "If you want to read more about it, check the MDN web docs for `POST`.",
    "If a client tries to send some extra headers, they will receive an error response.",
    "You can use `async def` or normal `def`.",
    "FastAPI has a great community constantly growing.",
    "Configure the MySQL client to use an encrypted connection.",
    "该岛位于弗吉尼亚州。",
    "如需自定义部署参数，请先导出默认的 `values.yaml` 文件。",
    "要连接到 TiDB，你需要在使用 `kubectl` 的主机上安装与 MySQL 兼容的命令行客户端。",
    "教堂始建于1913年，但进展相当缓慢。",
    "下面是一个可视化图示，展示了代理如何添加转发请求头。",
    "变量 `items_s` 是一个 `set`，其中每个元素的类型是 `bytes`。",
    "研究所的前身是1953年成立的河北省文物管理委员会。",
    "中文漫画版由东立出版社代理发行。",
    "乐队成立于1996年，安蒂是主唱。",
    "克利希广场是巴黎少数几个位于四个区交界处的地点。",
]


@pytest.mark.parametrize("sentence", NOTHING)
def test_what_is_in_doubt_is_not_proposed(sentence: str) -> None:
    assert asked(sentence) == []


DENIED = [
    ("圣体堂区", "圣体堂区未于1907年成立。"),
    ("圣体堂区", "圣体堂区并未于1907年成立。"),
    ("圣体堂区", "圣体堂区没有于1907年成立。"),
    ("圣体堂区", "圣体堂区原定于1907年成立。"),
    ("圣体堂区", "圣体堂区预计于2030年落成。"),
    ("圣体堂区", "圣体堂区预定于2030年落成。"),
    ("圣体堂区", "圣体堂区计划于2030年落成。"),
    ("圣体堂区", "圣体堂区拟于2030年落成。"),
    ("圣体堂区", "圣体堂区约建于1907年。"),
    ("圣体堂区", "圣体堂区据说成立于1907年。"),
    ("圣体堂区", "圣体堂区成立于1907年吗？"),
    ("圣体堂区", "圣体堂区是不是成立于1907年呢。"),
    ("圣体堂区", "圣体堂区成立于1907年？"),
    ("圣体堂区", "圣体堂区并非是一种常见的宗教组织。"),
    ("澳门", "澳门的首都是澳门吗？"),
    ("澳门", "澳门的首都是否改名，由议会决定。"),
    ("Yahoo", "Philip Johnson almost acquired Yahoo in 2008."),
    ("Yahoo", "Philip Johnson nearly acquired Yahoo in 2008."),
    ("Yahoo", "Philip Johnson never acquired Yahoo in 2008."),
    ("Yahoo", "Philip Johnson eventually acquired Yahoo in 2008."),
    ("Yahoo", "Philip Johnson perhaps acquired Yahoo in 2008."),
    ("Yahoo", "Yahoo was reportedly acquired by Microsoft in 2008."),
    ("Yahoo", "Yahoo allegedly was acquired by Microsoft in 2008."),
    ("Sky Digital", "Sky Digital was built in 1842 and 1850."),
    ("Sky Digital", "Sky Digital was built in 1842, 1850 and 1861."),
    ("Sky Digital", "Sky Digital was built in May 1842 and again in June 1850."),
    ("Sky Digital", "Sky Digital was built in 1842, or in 1850."),
    ("Sky Digital", "Sky Digital was built in 1842 and in 1850."),
    ("Sky Digital", "Sky Digital was built in 1842, 1850, and 1861."),
    ("Sky Digital", "Sky Digital was built in 1842, or later."),
    ("Sky Digital", "Sky Digital was built in 1842 to 1850."),
    ("Sky Digital", "Philip Johnson founded Sky Digital in 1842 and 1850."),
    ("Yahoo", "Yahoo Mail was added in 1.2 and removed in 1.3."),
    ("Yahoo", "Yahoo Mail is not available since Yahoo 1.2."),
    ("Yahoo", "Yahoo Mail is available in 1.2."),
    ("Yahoo", "Yahoo 1.2 never dropped support for Yahoo Mail."),
    ("Yahoo", "To use forms, first install `mail`."),
    ("Yahoo", "Yahoo never returns JSON by default."),
    ("Yahoo", "Yahoo had a population of 9 million."),
    ("Yahoo", "Yahoo is scheduled every four years."),
    ("Yahoo", "“Seven Years” refers to events in Europe."),
    ("Yahoo", "It is a graphical user item (GUX)."),
    ("Yahoo", "The state of the art (SOTA) was old."),
    ("Yahoo", "To use Yahoo Mail, you don't need to install `mail`."),
    ("圣体堂区", "圣体堂区管辖的铁路全长61公里。"),
    ("Yahoo", "Use `eval` to parse Yahoo files at your own risk."),
    ("Yahoo", "Yahoo was acquired by Microsoft in 2008?"),
]
"""Titles, and what their documents deny, plan, doubt, ask, or say of several times."""


@pytest.mark.parametrize(("title", "sentence"), DENIED)
def test_what_is_denied_planned_or_asked_is_no_statement(title: str, sentence: str) -> None:
    assert asked(sentence, title) == []


@pytest.mark.parametrize(
    ("title", "sentence", "answer"),
    [
        ("Sky Digital", "Sky Digital was built in 1842, and by 1850 more than 40 people had come.", "1842"),
        ("Sky Digital", "Sky Digital was built in 1842, and in 1850 a wall was added.", "1842"),
        ("Sky Digital", "Sky Digital was built in 1842, and 40 people came to see it.", "1842"),
        ("北约", "北约成立于1949年。", "1949年"),
        ("华沙条约", "华沙条约于1955年成立。", "1955年"),
    ],
)
def test_what_stands_beside_a_time_does_not_take_it_away(title: str, sentence: str, answer: str) -> None:
    assert [said for _, said in asked(sentence, title)] == [answer]


def test_whole_sample_documents() -> None:
    found = {
        (path.name[:2], one.made_by, one.question, one.answer)
        for path in sorted(CORPUS.glob("*.md"))
        for text in [path.read_text(encoding="utf-8")]
        for one in statements(text.splitlines()[0].removeprefix("# "), text)
    }
    assert found == {
        ("00", "expansion", "What does ASL stand for?", "American Sign Language"),
        ("14", "expansion", "What does MSFC stand for?", "Marshall Space Flight Center"),
        ("14", "expansion", "What does CMP stand for?", "Command Module Pilot"),
        ("14", "expansion", "What does LMP stand for?", "Lunar Module Pilot"),
        ("24", "expansion", "What does ARTS stand for?", "Alpha Repertory Television Service"),
        ("26", "expansion", "What does AMA stand for?", "American Medical Association"),
        ("38", "small_expansion", "What does TAR stand for?", "third assessment report"),
        (
            "32",
            "definition",
            "What is Jacksonville?",
            "the principal city in the Jacksonville metropolitan area, with a population of 1,345,596 in 2010",
        ),
        (
            "40",
            "definition",
            "What is a prime number?",
            "a natural number greater than 1 that has no positive divisors other than 1 and itself",
        ),
    }


def test_a_name_that_its_title_tells_from_others_is_not_asked_about_alone() -> None:
    film = (
        "# Ali (film)\n\nAli is a 2001 American sports drama film of Michael Mann, and Ali was seen by many people.\n"
    )
    assert statements("Ali (film)", film) == []
    assert [one.question for one in statements("Ali", film)] == ["What is Ali?"]


def test_a_statement_knows_where_it_stands() -> None:
    said = "**Sky Digital** was [founded](http://a.b) by Rupert Murdoch in 1998."
    text = f"# Sky\n\nA word. {said} It was.\n\nOn Sky Digital.\n"
    (one,) = [one for one in statements("Sky", text) if one.made_by == "who_did"]
    assert text[one.start : one.end] == said


PROSE = """# A title

First, by J. R. Smith of St. Paul. Second!

```
Code is a thing.
```

| a | table |
> A quotation is a text.

1. Third item. Fourth with `a.b` and [a link](http://x.y/z_(w)).
- Fifth *here*
  goes on.

Sixth <b>bold</b>[1] and {{ variable }}. 第七句。第八句！
"""


def test_sentences_of_prose_as_they_read() -> None:
    assert [said.text for said in sentences(PROSE)] == [
        "First, by J. R. Smith of St. Paul.",
        "Second!",
        "Third item.",
        "Fourth with `a.b` and a link.",
        "Fifth here goes on.",
        "第七句。",
        "第八句！",
    ]
    assert all(said.under == "A title" for said in sentences(PROSE))


def test_what_documents_answer_in_different_ways_is_asked_only_where_all_are_right() -> None:
    one = statements("Sky", "# Sky\n\nFastAPI is compatible with Starlette.\n")
    other = statements("Sky", "# Sky\n\nFastAPI is compatible with Pydantic.\n")
    assert len(one) == len(other) == 1
    assert agreed([("a", one[0]), ("b", other[0])]) == []
    assert agreed([("a", one[0]), ("b", one[0])]) == [("a", one[0])]
    brief = statements("Sky", "# Sky\n\nFastAPI is an ASGI web framework.\n")
    full = statements("Sky", "# Sky\n\nFastAPI is a fast ASGI web framework for APIs.\n")
    assert agreed([("a", brief[0]), ("b", full[0])]) == [("b", full[0])]
    owed = statements("One", "# One\n\n“Services” means the hosting of software for the customer.\n")
    sold = statements("Two", "# Two\n\n“Services” means the repair of vehicles at the workshop.\n")
    assert [one.question for one in owed + sold] == ["What does “Services” mean?"] * 2
    assert agreed([("a", owed[0]), ("b", sold[0])]) == []
    assert agreed([("a", owed[0]), ("b", owed[0])]) == [("a", owed[0])]


@pytest.mark.parametrize(
    "text",
    [
        "*" * 50_000,
        "[" * 50_000,
        "A. " * 30_000,
        "<a " * 20_000,
        "`" * 50_001,
        "如果要" * 20_000,
        "a, (B " * 9000,
        "```sh\n" * 9000,
        "a b " * 30_000 + "(ABC)",
        "By default, a " * 9000,
    ],
)
def test_hostile_text_is_read_to_its_end(text: str) -> None:
    assert statements("A", f"# A\n\n{text}\n") == []
