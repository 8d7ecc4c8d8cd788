"""Transformations of Chinese statements into questions: each a small function of one sentence.

As in ``retrieval.stated.definitions``. Chinese needs no inversion: the question word stands where the answer stood.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from retrieval.stated.clauses import Said, Transformation
from retrieval.stated.phrases import Names, is_code_name

LONGEST_SUBJECT = 20
"""Characters of a subject."""
LONGEST_ANSWER = 80
"""Characters of an answer."""
SHORTEST_NAME = 4
"""Characters of a name that is not the document's title; it is said more than once, too."""
SHORTEST_DEFINITION = 8
"""Characters of a predicate; a shorter one names a class and tells nothing."""

_X = r"(?P<x>[^，。；：、！？,;!?（）()\n]{2,40}?)"
_BRACKETS = r"\s*(?:（[^（）]*）|\([^()]*\)|「[^」]*」)?"
_NAMED = r"(?:\s*(?:（[^（）]*）|\([^()]*\))，?)?\s*"
"""Between a subject and its verb: other names in brackets; a comma without them begins another clause."""
_DATE = (
    r"(?:(?:公元前?)?\d{1,4}年(?:\d{1,2}月)?(?:\d{1,2}[日号])?(?:（[^（）]*）)?|"
    r"[一二三四五六七八九〇零]{4}年(?:[一二三四五六七八九十]{1,2}月)?(?:[一二三四五六七八九十]{1,3}[日号])?|"
    r"\d{1,2}世纪(?:\d{2}年代)?(?:初|末|中期|中叶)?)"
)
_POINTING = re.compile(
    r"[该此这那其它他她您你我]|本(?=[片书剧作曲站线校院馆区镇县市村町种属科类届季]|身|地|国)|之[前后]|上述|下列|以下|以上|如下|前者|"
    r"后者|当时|同[年时日]|两者|[某另]|自己|所以|因此|因为|由于|但是?|而且?|并且?|如果|虽然|不过|然而|例如|比如|其中|此外|另外|随后|"
    r"后来|目前|现在|现时|同样|首先|最后|[只仅都均也曾已正将就才又再是于由称因设]|有|最初|本质上|无论|[下上]面|率先|少数|几个|接收|"
    r"包括|造价|所处|进行|成为|使用|实际上|其实|属于"
)
_GENERIC = re.compile(
    r".{0,2}(?:教堂|研究所|中心|车站|大楼|学校|公司|电影|学院|大学|铁路|医院|组织|游戏|小说|球队|工程|建筑|广场|机场|专辑|歌曲|"
    r"剧集|节目|系统|变量|函数|参数|站|寺|岛|湖|山|桥|路|书|片|剧|区|城|县|市|省|国家|政府|代码|结果|响应|请求|数据|文件)|"
    r"电影.*|装饰器|类|对象"
)
_STARTS = re.compile(
    r"^(?:[在从于对为被把将由与和及或以到自当是有不没可能会要应需让使令向给按据经过通用等每各一两三四五六七八九十\d]|"
    r"主要|大多|许多|多数|部分|通常|一般|现|原|全|最)"
)
_BREAKS_OFF = re.compile(
    r"(?:[的了着过在于对为被把将由与和及或以到自当是有不没可能会要应需让使令向给按据就都也还并但而等、]|之一|主要|通常|一般|"
    r"原来|本来|现在|未|并未|未能|未必|没有|并非|绝非|原定|预计|预定|计划|拟|打算|据[说称传]|相传|传说|疑似|大[约概]|或许|也许|"
    r"似乎|几乎|差点|险些|(?<![条公北纽合盟契和制])约)$"
)
_UNSURE = re.compile(r"因|否|不是|谁|什么|怎么?样|哪[里个些一]")
"""How no answer begins."""
_LEANS = re.compile(r"如上|上述|下列|以下|以上|如下|前者|后者|[:：；;]|这[个些种样]|该(?!不)|此(?!外)")
_PAIRS = (("（", "）"), ("《", "》"), ("“", "”"), ("「", "」"), ("(", ")"))


def _subject(phrase: str, names: Names) -> str | None:
    """Return a subject that names something by itself, else None."""
    name = phrase.strip(" *")
    bare = re.sub(r"[《》“”「」`\s]", "", name)
    if not 2 <= len(bare) <= LONGEST_SUBJECT or any(look.search(name) for look in (_POINTING, _STARTS, _BREAKS_OFF)):
        return None
    if _GENERIC.fullmatch(bare) or (bare in names.title and bare != names.title.strip("《》 ")):
        return None  # "the centre", or the document's own name cut short
    if "`" in name and not is_code_name(name):
        return None
    if re.search(r"\d年|版$|^前身", bare) or not _is_named(name, bare, names):
        return None
    if any(name.count(opening) != name.count(closing) for opening, closing in _PAIRS):
        return None
    return None if re.search(r"[的时]", bare[:-1]) and "《" not in name else name


def _is_named(name: str, bare: str, names: Names) -> bool:
    """Tell whether a subject is a name: it has the title in it, marks of a name, or is said again."""
    title = names.title.strip("《》 ")
    if (title and title in bare) or re.search(r"[《·A-Za-z]", name):
        return True
    return len(bare) >= SHORTEST_NAME and names.text.count(bare) > 1


def _answer(said: str) -> str | None:
    """Return an answer that is whole and leans on nothing, else None."""
    text = said.strip(" ，,")
    if not 2 <= len(text) <= LONGEST_ANSWER or _UNSURE.match(text) or _LEANS.search(text):
        return None
    return text if all(text.count(opening) == text.count(closing) for opening, closing in _PAIRS) else None


_KIND = "一(?:种|个|款|类|部|本|座|家|所|条|项|支|套|名|位|片|颗|首|间|档|艘|门|架|台)"
_IS = re.compile(rf"{_X}{_NAMED}是(?P<y>{_KIND}[^。]+)$")
_VAGUE = ("之一", "例子", "问题", "原因", "方面", "挑战", "错误")
_PERSON = re.compile(
    r"(?:家|人|人物|员|者|师|星|手|王|帝|皇后|教授|将领|将军|大臣|学士|院士|医生|导演|编剧|总统|首相|主席|教练|主持|偶像|爵)$"
)


def definition(sentence: str, names: Names) -> Said:
    """X是一种Y。 → X是什么？, of a person X是谁？."""
    found = _IS.match(sentence.rstrip("。"))
    if found is None or not (subject := _subject(found["x"], names)):
        return
    answer = _answer(found["y"].split("，")[0])
    if not answer or len(answer) < SHORTEST_DEFINITION or answer.endswith(_VAGUE):
        return
    if answer[2:].startswith("位于") and "的" not in answer:
        return  # cut in the middle: 一个位于某地，由…的车站
    who = answer.startswith(("一名", "一位", "一个")) and _PERSON.search(answer)
    yield f"{subject}是{'谁' if who else '什么'}？", answer


_MEANS = re.compile(rf"{_X}{_NAMED}(?:是指|指的是)(?P<y>[^。]+)$")


def meaning(sentence: str, names: Names) -> Said:
    """X是指Y。 → X是指什么？."""
    found = _MEANS.match(sentence.rstrip("。"))
    if found and (subject := _subject(found["x"], names)) and (answer := _answer(found["y"])) and len(answer) >= 4:
        yield f"{subject}是指什么？", answer


_LIES = re.compile(rf"{_X}{_NAMED}(?P<v>位于|坐落于|地处|坐落在)(?P<y>[^，。；]+)")


def located(sentence: str, names: Names) -> Said:
    """X位于Y。 → X位于哪里？."""
    found = _LIES.match(sentence)
    if found is None or re.search(r"\d{4}年|[是为]", found["y"]):
        return
    if (subject := _subject(found["x"], names)) and (answer := _answer(found["y"])):
        yield f"{subject}{found['v']}哪里？", answer


_SINCE = re.compile(
    rf"{_X}{_NAMED}(?P<v>成立|建立|创立|创建|创办|始建|兴建|建|生|卒|出生|逝世|开通|建成|启用|创刊|出版|发行|发布|设立|落成|开幕)"
    rf"于(?P<y>{_DATE})"
)
_ON = re.compile(
    rf"{_X}{_NAMED}于(?P<y>{_DATE})(?P<v>(?:正式)?(?:成立|创立|创建|创办|建成|开通|开业|开幕|启用|通车|上映|首播|发行|出版|发售|"
    r"落成|竣工|动工|改名|更名|逝世|去世|出生|解散|废止|发布|推出|开馆|开园|开工|设立|建立|投入使用|投入服务|停刊|创刊|上市))"
    r"(?=[，。；、]|$)"
)


def when_done(sentence: str, names: Names) -> Said:
    """X成立于1842年。 → X成立于何时？; X于1842年成立。 → X是什么时候成立的？."""
    if found := _SINCE.match(sentence):
        if subject := _subject(found["x"], names):
            yield f"{subject}{found['v']}于何时？", found["y"]
    elif (found := _ON.match(sentence)) and (subject := _subject(found["x"], names)):
        yield f"{subject}是什么时候{found['v']}的？", found["y"]


_BY = re.compile(
    rf"{_X}{_NAMED}(?:是|最初)?由(?P<y>[^，。；]{{2,30}}?)(?P<v>创立|创建|创办|设计|导演|执导|撰写|编写|开发|制作|发行|出版|"
    r"主演|主持|命名|发现|发明|提出|建造|兴建|建立|作曲|作词|演唱|绘制|创作)(?:的[^，。；]{1,20})?(?=[，。；]|$)"
)
_NOBODY = re.compile(
    r"[一二三四五六七八九十\d]+(?:年|人|家)|不同|多[位名家]|[于在]|^[一北][位名个]?|"
    r"(?:建筑师|设计师|作家|导演|团队|开发者|人士|公司)$"
)


def who_did(sentence: str, names: Names) -> Said:
    """X由Y创立。 → X由谁创立？."""
    found = _BY.match(sentence)
    if found is None or _NOBODY.search(found["y"]):
        return
    if (subject := _subject(found["x"], names)) and (answer := _answer(found["y"])):
        yield f"{subject}由谁{found['v']}？", answer


_CALLED = re.compile(
    rf"{_X}{_BRACKETS}，?(?P<v>又名|又称为?|也称为?|亦称为?|亦作|别名|别称|俗称|简称为?|全称为?|全名为?|原名为?|本名|旧称|学名|又叫|"
    r"也叫|英文名称?为?)：?(?P<y>[^，。；：（）()]{2,40})(?=[，。（(；]|$)"
)
_NAMES = {"全称", "全名", "原名", "本名", "学名", "简称", "英文名", "英文名称", "旧称", "别名", "别称", "俗称"}


def also_known(sentence: str, names: Names) -> Said:
    """X，又名Y。 → X又名什么？; X全称Y。 → X的全称是什么？."""
    found = _CALLED.match(sentence)
    if found is None or re.search(r"[是在于为的](?!.*[《“])", found["y"]):
        return
    if (subject := _subject(found["x"], names)) and (answer := _answer(found["y"])):
        verb = found["v"].removesuffix("为")
        yield f"{subject}的{verb}是什么？" if verb in _NAMES else f"{subject}{verb}什么？", answer


_OF = re.compile(
    r"(?P<x>[^，。；：、的]{2,20})的(?P<n>首都|首府|省会|作者|创始人|创办人|官方语言|默认值|别名|首任校长|校训|主要成分|化学式)(?P<v>[是为])(?P<y>[^，。；]+)(?=[，。；]|$)"
)


def attribute(sentence: str, names: Names) -> Said:
    """X的首都是Y。 → X的首都是什么？, of attributes that have one value."""
    found = _OF.match(sentence)
    if found and (subject := _subject(found["x"], names)) and (answer := _answer(found["y"])):
        who = found["n"] in {"作者", "创始人", "创办人", "首任校长"}
        yield f"{subject}的{found['n']}{found['v']}{'谁' if who else '什么'}？", answer


TASKS = (
    "使用|创建|安装|删除|查看|修改|设置|启用|禁用|配置|导入|导出|升级|启动|停止|添加|更新|返回|声明|定义|获取|访问|恢复|备份|部署|"
    "运行|关闭|开启|覆盖|自定义|迁移|指定|传递|接收|发送|处理|限制|检查|测试|避免|排除|扩容|缩容|连接|调整|实现|让|将|把|在"
)
"""Verbs of what a reader can do."""
_TO = re.compile(
    r"(?:如果?你?(?:想要?|需要?|要|希望)|若[要需]|当你(?:需要|想要?)|要(?:想)?|为了|如需)"
    rf"(?P<a>(?:{TASKS})[^，。；：]{{2,40}}?)(?:时|的话)?，(?:那么)?"
    r"(?P<b>(?:你?(?:还|也)?(?:可以|需要|应该?|必须)|请|只需要?|使用|直接|建议)[^。；：]+)[。：]?$"
)
_BEFORE_THAT = re.compile("先|安装")
"""In what has to be done before a task, which does not say how the task itself is done."""
_ELSEWHERE = re.compile(r"参[见阅考照看]|查看.*(?:文档|章节|部分)|章节|教程|[上下前]面|示例")


def how_to(sentence: str, _names: Names) -> Said:
    """要A，可以B。 → 如何A？."""
    found = _TO.match(sentence)
    if found is None or re.search(r"任何|如上|示例", found["a"]):
        return
    if _POINTING.search(re.sub(r"你的|使用|进行|设置|由|接收|包括|成为", "", found["a"])) or not (
        answer := _answer(found["b"])
    ):
        return
    named = re.search(r"[`A-Za-z]", answer) and not _ELSEWHERE.search(answer) and not _BEFORE_THAT.search(answer)
    if named and not answer.endswith(("如", "下", "以", "用")):
        yield f"如何{found['a']}？", answer


_FOREIGN = re.compile(
    r"(?P<x>[^，。；：、！？（）()\n]{2,40}?)\s*[（(]英[语文](?:名称?)?[：:]\s*"
    r"(?P<y>[A-Z][A-Za-z0-9 .'’&-]{2,60})(?=[，,；;）)])"
)


def foreign_name(sentence: str, names: Names) -> Said:
    """X（英语：Y） → X的英文名称是什么？."""
    found = _FOREIGN.match(sentence)
    if found and (subject := _subject(found["x"], names)):
        yield f"{subject}的英文名称是什么？", found["y"].strip()


_SHORT = re.compile(
    rf"{_X}\s*[（(][^（）()]*?(?:缩写|简称)(?:为|是)?[：:]?\s*(?P<y>[A-Z][A-Z0-9-]{{1,9}})(?=[，；）)])"
)


def short_name(sentence: str, names: Names) -> Said:
    """X（…，缩写为Y） → X的缩写是什么？."""
    found = _SHORT.match(sentence)
    if found and (subject := _subject(found["x"], names)):
        yield f"{subject}的缩写是什么？", found["y"]


_ENDS = "(?:(?:[东西南北][起至]|[由从自起止经])[^，。]*，)"
"""Where a line begins, ends or goes through; any other clause may have a subject of its own."""
_LONG = re.compile(
    rf"{_X}{_NAMED}(?:[是为位][^，。]*，{_ENDS}*)?(?:线路|路线)?(?P<v>全长)(?:为|共)?\s*(?P<y>(?:大?约为?|近|超过|逾)?\s*\d[\d.,]*\s*(?:公里|千米|米|公尺))(?=[，。；（]|$)"
)


def length(sentence: str, names: Names) -> Said:
    """X全长Y。 → X全长多少？."""
    found = _LONG.match(sentence)
    if found and (subject := _subject(found["x"], names)) and "。" not in sentence[: found.end()]:
        yield f"{subject}全长多少？", found["y"]


CHINESE: Mapping[str, Transformation] = {
    run.__name__: run
    for run in (
        definition,
        meaning,
        located,
        when_done,
        who_did,
        also_known,
        attribute,
        how_to,
        foreign_name,
        short_name,
        length,
    )
}
