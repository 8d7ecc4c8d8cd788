"""docs/scale.md is what the model prints, and the model stands on figures of bench/RESULTS.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import scale_model, serving_simulation

ROOT = Path(__file__).parents[2]
SCALE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "bench" / "RESULTS.md").read_text(encoding="utf-8")


def section(name):
    start = RESULTS.index(f"## {name}\n")
    end = RESULTS.find("\n## ", start + 1)
    return RESULTS[start:end]


@pytest.mark.parametrize("name", scale_model.POINTS)
def test_each_point_stands_in_its_section_of_the_results(name):
    point = scale_model.POINTS[name]
    assert point.words in section(point.section)
    digits = re.sub(r"[,*]", "", point.words)
    assert f"{point.value:g}" in digits


@pytest.mark.parametrize("table", [scale_model.corpora, scale_model.tenants, scale_model.answers])
def test_the_tables_are_those_that_the_model_prints(table):
    assert "\n".join(table()) in SCALE


def test_the_table_of_prices_is_that_of_the_prices_named():
    assert "\n".join(scale_model.money(0.04, 0.1, 4.0)) in SCALE


def test_the_model_gives_back_the_points_it_is_fitted_to():
    million = scale_model.corpus(1e6)
    assert million.store_gb == pytest.approx(3.7)
    assert million.index_gb == pytest.approx(0.65)
    assert million.memory_gb == pytest.approx(0.736)
    assert million.rebuild_s == pytest.approx(2.03)
    assert million.search_ms == pytest.approx(18.4)


def test_the_figures_put_into_the_simulation_are_measured_ones():
    text = section("Serving: many people at once, passages known and unknown")
    for cell in ("1.20 / 1.03", "1.03 / 1.36", "1.15 / 0.93", "0.105 / 1.23", "0.096 / 1.20", "0.101 / 1.07"):
        assert cell.split(" / ")[0] in text, cell


def test_the_simulation_is_as_far_from_the_measured_machine_as_the_page_says():
    rows = serving_simulation.check(serving_simulation.fitted())
    for row in rows:
        shown = re.search(rf"^\| {row['cell']} \| (.+) \|$", SCALE, re.M)[1].split(" | ")
        for cell, error in zip(shown, row["error %"], strict=True):
            assert cell.endswith(f"{error:+.0f} %"), row["cell"]
    tokens = [row["error %"][0] for row in rows]
    assert 0 < min(tokens) <= max(tokens) < 21
    assert max(abs(row["error %"][2]) for row in rows) < 17.5
    first = sorted(abs(row["error %"][1]) for row in rows)
    assert first[-1] < 39
    assert first[-2] < 18


def test_routing_by_prefix_pays_in_the_simulation():
    by_prefix, to_least = (
        serving_simulation.simulate(
            serving_simulation.Setting(2, 8, topics=40, memory=25, route=route, seconds=60), serving_simulation.fitted()
        )
        for route in ("affinity", "least")
    )
    assert by_prefix["total tokens/s"] > 1.1 * to_least["total tokens/s"]
