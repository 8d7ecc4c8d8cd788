"""The estimate comes from this training's own rows, in a process of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from data.errors import InvalidModel, NoAcceptedPairs, RecipeInvalid
from data.records import Model
from finetune.estimate import Estimate, estimate
from finetune.rows import RowSet
from service.commands.training import estimate_text
from tests.finetune.houses import QUICK, named, rows_for
from tests.finetune.tiny import save_model


@pytest.mark.slow
def test_an_estimate_is_measured_in_a_child_and_errors_come_back(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "tiny", "llama", max_position_embeddings=512)
    rows = RowSet((*rows_for(folder, 1).rows, *rows_for(folder, 6).rows))
    found = estimate(QUICK, rows, named(folder), rows)
    assert (found.steps, found.rows, found.longest_row) == (28, 7, max(map(len, rows.rows)))
    assert found.tokens == sum(map(len, rows.rows))
    assert found.seconds > found.load_seconds > 0
    assert found.fits
    assert 2**26 < found.peak_memory_bytes < found.available_bytes, "a process with torch in it"
    lengths = [tokens for tokens, _ in found.measured]
    assert lengths == sorted(lengths)
    assert set(lengths) <= {len(row) for row in rows.rows}
    assert lengths[-1] == found.longest_row
    with pytest.raises(RecipeInvalid, match="lacks layers") as caught:
        estimate(replace(QUICK, target_modules=("wq",)), rows, named(folder))
    assert "q_proj" in caught.value.wanted
    with pytest.raises(InvalidModel):
        estimate(QUICK, rows, Model("none", "", "", str(tmp_path / "none"), "sha", "llama"))


def test_nothing_to_train_on_is_nothing_to_estimate(tmp_path: Path) -> None:
    with pytest.raises(NoAcceptedPairs):
        estimate(QUICK, RowSet((), {"too_long": 2}), named(tmp_path))


def test_an_estimate_for_people_says_what_does_not_fit() -> None:
    found = Estimate(
        seconds=605.0, load_seconds=5.0, peak_memory_bytes=6 << 30, available_bytes=4 << 30, device="cpu",
        steps=50, rows=100, tokens=50_000, longest_row=900, measured=((200, 1.0), (900, 9.0)),
    )  # fmt: skip
    text = estimate_text(found)
    assert "About 10 min 05 s for 50 steps over 100 rows (50000 tokens)" in text
    assert "At most 6.0 GiB on cpu, at the longest row (900 tokens): does not fit into the 4.0 GiB" in text
