from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from data.errors import EngineTimeout, EngineUnavailable
from tests.service.conftest import open_client
from tests.service.parts import ScriptedGenerator

COUNTS = {
    "requests": 9, "cancelled": 1, "failed": 2, "prompt_tokens": 1000, "cached_tokens": 400, "read_tokens": 600,
    "read_s": 1.5, "written_tokens": 90, "write_steps": 30, "write_s": 0.75, "llama_write_s": 0.7, "adapter_swaps": 4,
    "guessed_tokens": 12, "guessed_right": 8, "waiting": 3, "running": 6, "streams": 8, "adapters_loaded": 2,
    "step_ms": {"1": 9.5}, "restarts": 1,
    "kv": {"lookups": 20, "memory_hits": 11, "disk_hits": 5, "damaged": 1, "memory_bytes": 4096, "disk_bytes": 8192},
}  # fmt: skip


class Counting(ScriptedGenerator):
    """A scripted generator that tells what it does."""

    counts = COUNTS

    def statistics(self):
        if isinstance(self.counts, Exception):
            raise self.counts
        return self.counts


@pytest.fixture
def generator():
    return Counting()


def engine_series(client):
    """Return the values of the engine's series, by name and label."""
    response = client.get("/metrics")
    assert response.status_code == 200
    return {
        (sample.name.removeprefix("ragtune_engine_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
        if sample.name.startswith("ragtune_engine_")
    }


def test_a_scrape_shows_what_the_engine_does(client):
    assert engine_series(client) == {
        ("up",): 1, ("waiting_requests",): 3, ("running_requests",): 6, ("streams",): 8,
        ("batch_occupancy_ratio",): 0.75, ("loaded_adapters",): 2, ("requests_started_total",): 9,
        ("requests_cancelled_total",): 1, ("requests_failed_total",): 2, ("prompt_tokens_total",): 1000,
        ("cached_prompt_tokens_total",): 400, ("prefill_tokens_total",): 600, ("prefill_seconds_total",): 1.5,
        ("decode_tokens_total",): 90, ("decode_seconds_total",): 0.75, ("decode_steps_total",): 30,
        ("adapter_swaps_total",): 4, ("guessed_tokens_total",): 12, ("accepted_tokens_total",): 8,
        ("restarts_total",): 1, ("kv_lookups_total",): 20, ("kv_damaged_blocks_total",): 1,
        ("kv_hits_total", "memory"): 11, ("kv_hits_total", "disk"): 5,
        ("kv_bytes", "memory"): 4096, ("kv_bytes", "disk"): 8192,
    }  # fmt: skip


def test_each_scrape_reads_the_counts_anew(client, generator):
    before = engine_series(client)
    generator.counts = {**COUNTS, "written_tokens": 100}
    after = engine_series(client)
    assert after[("decode_tokens_total",)] - before[("decode_tokens_total",)] == 10


def test_an_engine_without_a_process_is_down(client, generator):
    generator.counts = {"restarts": 2}
    assert engine_series(client) == {("up",): 0, ("restarts_total",): 2}


@pytest.mark.parametrize("error", [EngineUnavailable("died"), EngineTimeout("slow")])
def test_an_engine_that_cannot_say_does_not_fail_the_scrape(client, generator, error):
    generator.counts = error
    assert engine_series(client) == {("up",): 0}


def test_a_generator_without_statistics_has_no_series(indexed):
    indexed._generator = ScriptedGenerator()
    with open_client(indexed) as client:
        assert engine_series(client) == {}


def test_a_scrape_starts_no_engine(indexed, monkeypatch):
    indexed._generator = None
    monkeypatch.setattr(indexed, "new_engine", lambda: pytest.fail("a scrape started the engine"))
    with open_client(indexed) as client:
        assert engine_series(client) == {}
