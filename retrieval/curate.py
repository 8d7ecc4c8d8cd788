"""The checks that decide whether a proposed question-answer pair is kept: small functions, cheapest first.

A check sees the candidate and a ``Context`` (what was accepted so far, the retriever's and the
reader's view of the question). It knows nothing of the store, nor of how the proposal was made.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from data.prompt import abstains, language, strip_citations
from data.records import Chunk, PairKind, Passage
from data.scoring import token_f1
from data.splits import QuestionIndex
from retrieval.meaning import Embed, MeaningIndex
from retrieval.privacy import PERSONAL, SECRET, found_kinds
from retrieval.wording import dangling_reference, is_short, points_at_source, stretch_of, terms

MIN_QUESTION_TERMS = {"en": 3, "zh": 5}
MAX_QUESTION_TERMS = {"en": 40, "zh": 80}
MIN_READER_F1 = 0.5
CONTAMINATION_THRESHOLD = 0.7
LONGEST_ANSWER = 2000
"""Characters of an answer found in a document; what is longer is a chapter."""

Search = Callable[[str], Sequence[Passage]]
"""Returns what the production retriever finds for a question, best first."""

Read = Callable[[str, Sequence[Passage]], str]
"""Returns the reader's answer to a question over passages."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A proposal about ``passage``: ``raw`` as it was generated; the rest is "" where ``raw`` lacks it."""

    raw: str
    question: str
    answer: str
    kind: PairKind
    passage: Passage


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The outcome of one check; ``reason`` says what was found."""

    name: str
    passed: bool
    reason: str = ""


class SourceCap:
    """How many accepted pairs each document has, and how many one may have: a share of the whole set."""

    def __init__(self, accepted: Mapping[str, int], requested: int, share: float) -> None:
        """Start from the numbers of accepted pairs by document; ``share`` is of all, or of ``requested`` if more."""
        self._counts = Counter(accepted)
        self._requested = requested
        self._share = share

    def limit(self) -> float:
        """Return how many pairs one document may have by now."""
        return max(1.0, self._share * max(self._requested, self._counts.total() + 1))

    def full(self, document_id: str) -> bool:
        """Tell whether one more pair of this document would be too many."""
        return self._counts[document_id] + 1 > self.limit()

    def add(self, document_id: str) -> None:
        """Count an accepted pair."""
        self._counts[document_id] += 1


class Context:
    """What checks may ask about a question; the passages of the latest question are kept."""

    def __init__(
        self,
        search: Search,
        *,
        accepted: Iterable[tuple[str, str]] = (),
        evaluation: Iterable[str] = (),
        read: Read | None = None,
        embed: Embed | None = None,
        cap: SourceCap | None = None,
    ) -> None:
        """Start from the questions (with answers) already accepted and the ones that are measured on."""
        self.accepted = QuestionIndex()
        self.evaluation = QuestionIndex(CONTAMINATION_THRESHOLD)
        known = list(accepted)
        for question, _ in known:
            self.accepted.add(question)
        for question in evaluation:
            self.evaluation.add(question)
        self.read = read
        self.cap = cap
        self.meanings = MeaningIndex(embed) if embed else None
        if self.meanings is not None:
            self.meanings.add(known)
        self._search = search
        self._latest: tuple[str, Sequence[Passage]] | None = None

    def accept(self, question: str, answer: str, document_id: str) -> None:
        """Take in a pair that passed, so that those that follow are compared with it."""
        self.accepted.add(question)
        if self.meanings is not None:
            self.meanings.add([(question, answer)])
        if self.cap is not None:
            self.cap.add(document_id)

    def passages(self, question: str) -> Sequence[Passage]:
        """Return what the production retriever finds for ``question``."""
        if self._latest is None or self._latest[0] != question:
            self._latest = (question, self._search(question))
        return self._latest[1]


Check = Callable[[Candidate, Context], CheckResult]


def parse_candidate(raw: str, kind: PairKind, passage: Passage) -> Candidate:
    """Read a generated JSON object into a candidate; a grounded answer gets the passage's own spelling."""
    fields = _fields(raw, kind) or {}
    question = " ".join(fields.get("question", "").split())
    answer = " ".join(fields.get("answer", "").split())
    return Candidate(raw, question, stretch_of(answer, passage.chunk.text) or answer, kind, passage)


def _fields(raw: str, kind: PairKind) -> dict[str, str] | None:
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    wanted = ["question"] if kind == "unanswerable" else ["question", "answer"]
    if not isinstance(value, dict) or list(value) != wanted or not all(isinstance(v, str) for v in value.values()):
        return None
    return value


def well_formed(candidate: Candidate, _context: Context) -> CheckResult:
    """Check the JSON, its keys, the question mark, the lengths and the language."""
    return CheckResult("well_formed", not (reason := _form_fault(candidate)), reason)


def _form_fault(candidate: Candidate) -> str:
    question = candidate.question
    lang = language(question)
    length = len(terms(question))
    if _fields(candidate.raw, candidate.kind) is None:
        return "not the JSON object that was asked for"
    if not question.endswith(("?", "？")) or any(mark in question[:-1] for mark in "?？"):
        return "not one question that ends with a question mark"
    if not MIN_QUESTION_TERMS[lang] <= length <= MAX_QUESTION_TERMS[lang]:
        return f"{length} words; {MIN_QUESTION_TERMS[lang]} to {MAX_QUESTION_TERMS[lang]} are accepted"
    if lang != language(candidate.passage.chunk.text):
        return "not in the language of its passage"
    if candidate.kind != "unanswerable" and not terms(candidate.answer):
        return "no answer"
    return ""


def grounded(candidate: Candidate, _context: Context) -> CheckResult:
    """Check that the answer stands in the chunk and, for a span, that it is short."""
    if stretch_of(candidate.answer, candidate.passage.chunk.text) is None:
        return CheckResult("grounded", False, "the answer does not stand in its passage")
    if candidate.kind == "span" and not is_short(candidate.answer):
        return CheckResult("grounded", False, "the answer is too long for a span")
    return CheckResult("grounded", True)


def not_leaked(candidate: Candidate, _context: Context) -> CheckResult:
    """Check that the question does not hold its own answer."""
    leaked = stretch_of(candidate.answer, candidate.question)
    return CheckResult("not_leaked", leaked is None, f'the question holds the answer "{leaked}"' if leaked else "")


def self_contained(candidate: Candidate, _context: Context) -> CheckResult:
    """Check that the question can be understood by someone who does not see its passage."""
    if pointer := points_at_source(candidate.question):
        return CheckResult("self_contained", False, f'points at its source: "{pointer}"')
    if dangling := dangling_reference(candidate.question):
        return CheckResult("self_contained", False, f"nothing to stand for: {dangling}")
    return CheckResult("self_contained", True)


def not_duplicate(candidate: Candidate, context: Context) -> CheckResult:
    """Check that no accepted question is nearly the same."""
    like = context.accepted.match(candidate.question)
    return CheckResult("not_duplicate", like is None, f"like: {like}" if like else "")


def not_same_meaning(candidate: Candidate, context: Context) -> CheckResult:
    """Check that no accepted question asks the same in other words (``retrieval.meaning``)."""
    found = context.meanings.match(candidate.question, candidate.answer) if context.meanings else None
    reason = f"means the same (cosine {found[1]:.2f}): {found[0]}" if found else ""
    return CheckResult("not_same_meaning", found is None, reason)


def uncontaminated(candidate: Candidate, context: Context) -> CheckResult:
    """Check that no evaluation question is nearly the same."""
    like = context.evaluation.match(candidate.question)
    return CheckResult("uncontaminated", like is None, "like an evaluation question" if like else "")


def no_secrets(candidate: Candidate, _context: Context) -> CheckResult:
    """Check that neither question nor answer holds a password, a key or a token."""
    found = ", ".join(found_kinds(f"{candidate.question}\n{candidate.answer}", SECRET))
    return CheckResult("no_secrets", not found, found)


def no_personal_data(candidate: Candidate, _context: Context) -> CheckResult:
    """Check that neither question nor answer holds an address or number of a person or an account."""
    found = ", ".join(found_kinds(f"{candidate.question}\n{candidate.answer}", PERSONAL))
    return CheckResult("no_personal_data", not found, found)


def within_source_cap(candidate: Candidate, context: Context) -> CheckResult:
    """Check that the document has not given its share of the set yet."""
    full = context.cap is not None and context.cap.full(candidate.passage.chunk.document_id)
    reason = f"its document has {context.cap.limit():.0f} accepted pairs" if full and context.cap else ""
    return CheckResult("within_source_cap", not full, reason)


def retrieved_again(candidate: Candidate, context: Context) -> CheckResult:
    """Check that the production retriever brings the chunk back for the question."""
    for passage in context.passages(candidate.question):
        if passage.chunk.id == candidate.passage.chunk.id:
            return CheckResult("retrieved_again", True, f"rank {passage.rank}")
    return CheckResult("retrieved_again", False, "its chunk is not among the passages retrieved for it")


def near_miss(candidate: Candidate, context: Context) -> CheckResult:
    """Check that an unanswerable question looks answerable: the best passage comes from its document."""
    found = context.passages(candidate.question)
    near = bool(found) and found[0].chunk.document_id == candidate.passage.chunk.document_id
    return CheckResult("near_miss", near, "" if near else "the best passage comes from another document")


def answered_alike(candidate: Candidate, context: Context) -> CheckResult:
    """Check that the reader, given the retrieved passages, answers as proposed (token F1 of at least 0.5)."""
    if context.read is None:
        return CheckResult("answered_alike", True, "no reader")
    said = strip_citations(context.read(candidate.question, context.passages(candidate.question)))
    score = 0.0 if abstains(said) else token_f1(said, [candidate.answer])
    return CheckResult("answered_alike", score >= MIN_READER_F1, f"the reader says: {said} (F1 {score:.2f})")


def not_answered(candidate: Candidate, context: Context) -> CheckResult:
    """Check that the reader finds no answer to an unanswerable question."""
    if context.read is None:
        return CheckResult("not_answered", True, "no reader")
    said = context.read(candidate.question, context.passages(candidate.question))
    return CheckResult("not_answered", abstains(said), f"the reader says: {said}")


ANSWERABLE_CHECKS: tuple[Check, ...] = (
    well_formed,
    grounded,
    not_leaked,
    self_contained,
    no_secrets,
    no_personal_data,
    within_source_cap,
    not_duplicate,
    uncontaminated,
    not_same_meaning,
    retrieved_again,
    answered_alike,
)
UNANSWERABLE_CHECKS: tuple[Check, ...] = (
    well_formed,
    self_contained,
    no_secrets,
    no_personal_data,
    within_source_cap,
    not_duplicate,
    uncontaminated,
    not_same_meaning,
    near_miss,
    not_answered,
)


_EDIT_CHECKS: tuple[Check, ...] = (grounded, not_leaked, self_contained, no_secrets, no_personal_data)


def check_wording(question: str, answer: str, kind: PairKind, passage: Passage | None) -> list[CheckResult]:
    """Run, for a pair that a person wrote or changed, every check that needs nothing but the pair and its passage."""
    empty = Passage(Chunk("", "", "", 0, 0), 0.0, 1, "")
    candidate = Candidate("", question, answer, kind, passage or empty)
    context = Context(lambda _question: ())
    unfit: set[Check] = {grounded, not_leaked} if kind == "unanswerable" else {grounded} if passage is None else set()
    return [run(candidate, context) for run in _EDIT_CHECKS if run not in unfit]


def brief(candidate: Candidate, _context: Context) -> CheckResult:
    """Check that a question and answer found in a document are of a length that can be asked and said."""
    lang, length = language(candidate.question), len(terms(candidate.question))
    if not 2 <= length <= MAX_QUESTION_TERMS[lang]:
        return CheckResult("brief", False, f"{length} words; 2 to {MAX_QUESTION_TERMS[lang]} are accepted")
    if len(candidate.answer) > LONGEST_ANSWER:
        return CheckResult("brief", False, f"{len(candidate.answer)} characters; at most {LONGEST_ANSWER} are accepted")
    return CheckResult("brief", True)


FAQ_CHECKS: tuple[Check, ...] = (
    brief,
    self_contained,
    no_secrets,
    no_personal_data,
    not_duplicate,
    uncontaminated,
    not_same_meaning,
    retrieved_again,
)


def check(candidate: Candidate, context: Context) -> list[CheckResult]:
    """Run the checks of the candidate's kind, cheapest first, up to the first that fails."""
    return run_checks(
        UNANSWERABLE_CHECKS if candidate.kind == "unanswerable" else ANSWERABLE_CHECKS, candidate, context
    )


def run_checks(checks: Sequence[Check], candidate: Candidate, context: Context) -> list[CheckResult]:
    """Run checks in their order, up to the first that fails."""
    results: list[CheckResult] = []
    for run in checks:
        results.append(run(candidate, context))
        if not results[-1].passed:
            break
    return results
