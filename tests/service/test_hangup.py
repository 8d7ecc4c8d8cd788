"""Clients that are told that the service stops, whatever becomes of the others."""

from __future__ import annotations

import pytest

from data.errors import EngineUnavailable
from service.hangup import Hangups


def test_a_generation_that_cannot_be_ended_keeps_no_other_client_waiting() -> None:
    hangups, ended = Hangups(), []

    def broken() -> None:
        raise RuntimeError("no")

    there = [hangups.new() for _ in range(3)]
    for number, each in enumerate(there):
        each.then(broken if number == 1 else lambda number=number: ended.append(number))
    hangups.stop()
    assert sorted(ended) == [0, 2]
    for each in [*there, hangups.new()]:
        with pytest.raises(EngineUnavailable, match="stops"):
            each.check()
