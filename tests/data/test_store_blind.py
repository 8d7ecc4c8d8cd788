from __future__ import annotations

import pytest

from data.access import Access, acting
from data.errors import Conflict, InvalidRequest, UnknownTrial

ARMS = {"A": {"arm": "rag", "adapter": None, "model": "m"}, "B": {"arm": "base", "adapter": None, "model": "m"}}
ANSWERS = {"A": {"text": "1842"}, "B": {"text": "1843"}, "sources": []}


def test_a_trial_keeps_its_first_vote_and_who_gave_it(store):
    made = store.blind.add("default", "When?", ARMS, ANSWERS)
    assert store.blind.get(made.id) == made
    assert (made.vote, store.blind.open("default"), store.blind.votes("default")) == (None, 1, [])
    with acting(Access("Ada", frozenset({"query"}))):
        voted = store.blind.vote(made.id, "B")
    assert (voted.vote, voted.voter, voted.answers) == ("B", "Ada", ANSWERS)
    assert (store.blind.open("default"), store.blind.votes("default")) == (0, [(ARMS, "B")])
    with pytest.raises(Conflict):
        store.blind.vote(made.id, "A")
    assert store.blind.get(made.id).vote == "B"


def test_what_is_no_vote_and_what_is_no_trial(store):
    made = store.blind.add("default", "When?", ARMS, ANSWERS)
    with pytest.raises(InvalidRequest, match="A, B, tie"):
        store.blind.vote(made.id, "C")
    with pytest.raises(UnknownTrial):
        store.blind.vote("none", "A")
    with acting(Access("other", frozenset({"query"}), frozenset({"elsewhere"}))), pytest.raises(UnknownTrial):
        store.blind.get(made.id)
    assert store.blind.open("default") == 1
