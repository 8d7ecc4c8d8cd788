"""Who is preferred to whom: wins, losses and ties of two sides, with what they show.

Shared by people's votes and a judge's verdicts. Knows nothing of where either comes from.
"""

from __future__ import annotations

from typing import Any

from service.compare.statistics import CONFIDENCE, FEWEST_QUESTIONS, sign_test, wilson_interval


def preference(wins: int, losses: int, ties: int) -> dict[str, Any]:
    """Return what so many verdicts show about the first side.

    ``win_rate`` (0-1) is of the verdicts that are no tie, with its Wilson 95 % interval; None where there is none.
    ``p`` is of the exact sign test. ``decisive`` wants as many verdicts as other comparisons do, too.
    """
    decided = wins + losses
    p = sign_test(wins, losses)
    return {
        "n": decided + ties,
        "wins": wins,
        "losses": losses,
        "ties": ties,
        "win_rate": wins / decided if decided else None,
        "win_rate_ci": list(wilson_interval(wins, decided)) if decided else None,
        "p": p,
        "decisive": decided >= FEWEST_QUESTIONS and p <= 1 - CONFIDENCE,
    }


def preference_line(first: str, second: str, found: dict[str, Any]) -> str:
    """Return a preference in one line for people."""
    counted = f"{first} against {second}: {found['wins']} won, {found['losses']} lost, {found['ties']} even"
    if found["win_rate"] is None:
        return counted
    low, high = found["win_rate_ci"]
    return (
        f"{counted}; wins {100 * found['win_rate']:.0f} % ({100 * low:.0f} to {100 * high:.0f}), p {found['p']:.2g}, "
        f"{'decisive' if found['decisive'] else 'not decisive'}"
    )
