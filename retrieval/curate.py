"""The checks that decide whether a proposed question-answer pair is kept: small functions, cheapest first.

A check sees the candidate and its ``Context`` (``retrieval.candidates``). It knows nothing of the store,
nor of how the proposal was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from data.prompt import abstains, language, strip_citations
from data.records import Chunk, PairKind, Passage
from data.scoring import token_f1
from retrieval.asking import FREE_WORDS
from retrieval.candidates import Candidate, CheckResult, Context, reply_fields
from retrieval.claims import superfluous, unsupported
from retrieval.fitting import cut_off, misfit, unspoken
from retrieval.privacy import PERSONAL, SECRET, found_kinds
from retrieval.stated.sentences import plain
from retrieval.wording import dangling_reference, is_short, points_at_source, stretch_of, terms

MIN_QUESTION_TERMS = {"en": 3, "zh": 5}
MAX_QUESTION_TERMS = {"en": 40, "zh": 80}
MIN_READER_F1 = 0.5
LONGEST_ANSWER = 2000
"""Characters of an answer found in a document; what is longer is a chapter."""

Check = Callable[[Candidate, Context], CheckResult]


def well_formed(candidate: Candidate, _context: Context) -> CheckResult:
    """Check the JSON, its keys, the question mark, the lengths and the language."""
    return CheckResult("well_formed", not (reason := _form_fault(candidate)), reason)


def _form_fault(candidate: Candidate) -> str:
    question = candidate.question
    lang = language(question)
    length = len(terms(question))
    if reply_fields(candidate.raw, candidate.kind) is None:
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


def claims_grounded(candidate: Candidate, _context: Context) -> CheckResult:
    """Check that one of its passages bears out each claim of an answer in free words (``retrieval.claims``)."""
    missing = unsupported(candidate.answer, candidate.texts)
    return CheckResult("claims_grounded", not missing, f"no passage says: {missing[0]}" if missing else "")


def needs_each_passage(candidate: Candidate, _context: Context) -> CheckResult:
    """Check that an answer about two passages needs both: without either, a claim is not borne out any more."""
    spare = superfluous(candidate.answer, candidate.texts)
    reason = f"passage {spare + 1} of {len(candidate.texts)} adds nothing" if spare is not None else ""
    return CheckResult("needs_each_passage", spare is None, reason)


def preferred_terms(candidate: Candidate, context: Context) -> CheckResult:
    """Check that words of the generator's own are the glossary's preferred ones; a span is the passage's words."""
    own = candidate.answer if candidate.kind in FREE_WORDS else ""
    avoided = context.glossary.avoided(f"{candidate.question}\n{own}")
    return CheckResult("preferred_terms", avoided is None, f'"{avoided[0]}" for "{avoided[1]}"' if avoided else "")


def not_cut_off(candidate: Candidate, _context: Context) -> CheckResult:
    """Check that a span does not begin or end in the middle of a phrase, as far as its words show."""
    return CheckResult("not_cut_off", not (reason := cut_off(candidate.answer)), reason)


def fits_question(candidate: Candidate, _context: Context) -> CheckResult:
    """Check that the answer is of the sort that the question's word asks for: a time for "when", and so on."""
    return CheckResult("fits_question", not (reason := misfit(candidate.question, candidate.answer)), reason)


def spoken_of(candidate: Candidate, _context: Context) -> CheckResult:
    """Check that the passage speaks of what is asked: it has three tenths of the question's words."""
    missing = ", ".join(unspoken(candidate.question, "\n".join(candidate.texts)))
    return CheckResult("spoken_of", not missing, f"its passage says nothing of: {missing}" if missing else "")


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
    full = context.cap is not None and any(context.cap.full(p.chunk.document_id) for p in candidate.passages)
    reason = f"its document has {context.cap.limit():.0f} accepted pairs" if full and context.cap else ""
    return CheckResult("within_source_cap", not full, reason)


def retrieved_again(candidate: Candidate, context: Context) -> CheckResult:
    """Check that the production retriever brings the chunk back for the question, every one that it needs."""
    ranks = {passage.chunk.id: str(passage.rank) for passage in context.passages(candidate.question)}
    found = [ranks.get(passage.chunk.id, "") for passage in candidate.passages]
    if all(found):
        return CheckResult("retrieved_again", True, f"rank {', '.join(found)}")
    return CheckResult("retrieved_again", False, "its chunk is not among the passages retrieved for it")


def near_miss(candidate: Candidate, context: Context) -> CheckResult:
    """Check that an unanswerable question looks answerable: the best passage comes from its document."""
    found = context.passages(candidate.question)
    near = bool(found) and found[0].chunk.document_id == candidate.passage.chunk.document_id
    return CheckResult("near_miss", near, "" if near else "the best passage comes from another document")


def answered_alike(candidate: Candidate, context: Context) -> CheckResult:
    """Check that the reader, given the retrieved passages, answers as proposed (token F1 of at least 0.5)."""
    if not context.reads:
        return CheckResult("answered_alike", True, "no reader")
    said = strip_citations(context.read(candidate.question))
    score = 0.0 if abstains(said) else token_f1(said, [candidate.answer])
    return CheckResult("answered_alike", score >= MIN_READER_F1, f"the reader says: {said} (F1 {score:.2f})")


def not_answered(candidate: Candidate, context: Context) -> CheckResult:
    """Check that the reader finds no answer to an unanswerable question."""
    if not context.reads:
        return CheckResult("not_answered", True, "no reader")
    said = context.read(candidate.question)
    return CheckResult("not_answered", abstains(said), f"the reader says: {said}")


ANSWERABLE_CHECKS: tuple[Check, ...] = (
    well_formed,
    grounded,
    not_cut_off,
    not_leaked,
    self_contained,
    preferred_terms,
    no_secrets,
    no_personal_data,
    fits_question,
    spoken_of,
    within_source_cap,
    not_duplicate,
    uncontaminated,
    not_same_meaning,
    retrieved_again,
    answered_alike,
)
FREE_CHECKS: tuple[Check, ...] = (
    well_formed,
    claims_grounded,
    not_leaked,
    self_contained,
    preferred_terms,
    no_secrets,
    no_personal_data,
    spoken_of,
    within_source_cap,
    not_duplicate,
    uncontaminated,
    not_same_meaning,
    retrieved_again,
)
MULTI_CHECKS: tuple[Check, ...] = (*FREE_CHECKS[:2], needs_each_passage, *FREE_CHECKS[2:])
UNANSWERABLE_CHECKS: tuple[Check, ...] = (
    well_formed,
    self_contained,
    preferred_terms,
    no_secrets,
    no_personal_data,
    within_source_cap,
    not_duplicate,
    uncontaminated,
    not_same_meaning,
    near_miss,
    not_answered,
)


CHECKS_OF: Mapping[PairKind, tuple[Check, ...]] = {
    "span": ANSWERABLE_CHECKS,
    "free": FREE_CHECKS,
    "multi": MULTI_CHECKS,
    "unanswerable": UNANSWERABLE_CHECKS,
}

READING_CHECKS: frozenset[Check] = frozenset((answered_alike, not_answered))
"""Those for which the reader answers."""

_EDIT_CHECKS: tuple[Check, ...] = (not_leaked, self_contained, no_secrets, no_personal_data)


def check_wording(question: str, answer: str, kind: PairKind, passages: Sequence[Passage]) -> list[CheckResult]:
    """Run, for a pair that a person wrote or changed, every check that needs nothing but the pair and its passages."""
    first, *others = passages or [Passage(Chunk("", "", "", 0, 0), 0.0, 1, "")]
    candidate = Candidate("", question, answer, kind, first, tuple(others))
    context = Context(lambda _question: ())
    held: Check = claims_grounded if kind in FREE_WORDS else grounded
    unfit: set[Check] = {held, not_leaked} if kind == "unanswerable" else {held} if not passages else set()
    return [run(candidate, context) for run in (held, *_EDIT_CHECKS) if run not in unfit]


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


def said(candidate: Candidate, _context: Context) -> CheckResult:
    """Check that the passage says the answer, its markup or that around it aside."""
    text = candidate.passage.chunk.text
    found = stretch_of(candidate.answer, text) or stretch_of(candidate.answer, plain(text))
    return CheckResult("said", found is not None, "" if found else "the answer does not stand in its passage")


# No answered_alike: the passage states the answer, and the packaged reader finds six of ten right answers.
STATED_CHECKS: tuple[Check, ...] = (
    brief,
    said,
    not_leaked,
    self_contained,
    no_secrets,
    no_personal_data,
    fits_question,
    within_source_cap,
    not_duplicate,
    uncontaminated,
    not_same_meaning,
    retrieved_again,
)


def check(candidate: Candidate, context: Context) -> list[CheckResult]:
    """Run the checks of the candidate's kind, cheapest first, up to the first that fails."""
    return run_checks(CHECKS_OF.get(candidate.kind, ANSWERABLE_CHECKS), candidate, context)


def run_checks(checks: Sequence[Check], candidate: Candidate, context: Context) -> list[CheckResult]:
    """Run checks in their order, up to the first that fails."""
    results: list[CheckResult] = []
    for run in checks:
        results.append(run(candidate, context))
        if not results[-1].passed:
            break
    return results
