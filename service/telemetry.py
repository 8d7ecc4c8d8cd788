"""The serving engine's counts as Prometheus series, read from ``Engine.statistics`` when ``/metrics`` is asked for.

To ask starts no engine, and an engine that is down costs its series, never the scrape. Knows nothing of how the
counts come about; one that is missing there is missing here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from data.errors import RagtuneError

_PREFIX = "ragtune_engine_"

_GAUGES = (
    ("waiting", "waiting_requests", "Requests that wait for a stream of the serving engine."),
    ("running", "running_requests", "Requests that are read or written now."),
    ("streams", "streams", "Requests that can run together."),
    ("adapters_loaded", "loaded_adapters", "Adapters in memory."),
)
_COUNTERS = (
    ("requests", "requests_started", "Requests that began to run."),
    ("cancelled", "requests_cancelled", "Requests whose client left or that were taken back."),
    ("failed", "requests_failed", "Requests that ended in an error, those over their time included."),
    ("prompt_tokens", "prompt_tokens", "Tokens of prompts, those that were cached included."),
    ("cached_tokens", "cached_prompt_tokens", "Tokens of prompts that were not computed again."),
    ("read_tokens", "prefill_tokens", "Tokens of prompts that were computed."),
    ("read_s", "prefill_seconds", "Time spent on that."),
    ("written_tokens", "decode_tokens", "Tokens written."),
    ("write_s", "decode_seconds", "Time spent on that."),
    ("write_steps", "decode_steps", "Steps that wrote: decode_tokens per step are the requests written together."),
    ("adapter_swaps", "adapter_swaps", "Changes of the adapters that the model decodes with."),
    ("guessed_tokens", "guessed_tokens", "Draft tokens: guessed ahead of a text."),
    ("guessed_right", "accepted_tokens", "Draft tokens that proved right."),
    ("restarts", "restarts", "Times the engine's process died or hung and was replaced."),
    ("resumed", "resumed_requests", "Answers that another server went on with because theirs was lost."),
)
_KV_COUNTERS = (
    ("lookups", "kv_lookups", "Blocks of keys and values that were looked up."),
    ("damaged", "kv_damaged_blocks", "Blocks on disk that could not be read."),
)
_TIERS = ("memory", "disk")
_REPLICAS: tuple[tuple[str, str, str, type[CounterMetricFamily | GaugeMetricFamily]], ...] = (
    ("up", "up", "Whether the server answered when it was last asked.", GaugeMetricFamily),
    ("running", "running_requests", "Requests under way there.", GaugeMetricFamily),
    ("requests", "requests", "Requests sent there.", CounterMetricFamily),
    ("failures", "failures", "Requests that found the server gone, or lost it.", CounterMetricFamily),
    ("prefix_blocks", "prefix_blocks", "Blocks of prompts sent there.", CounterMetricFamily),
    (
        "prefix_blocks_matched",
        "prefix_blocks_matched",
        "Of these, blocks that it had read before.",
        CounterMetricFamily,
    ),
)


class EngineCollector(Collector):
    """Collects the series of one engine.

    Args:
        generator: returns what generates now, None before it was started. What has no ``statistics`` has no series.
    """

    def __init__(self, generator: Callable[[], object | None]) -> None:
        self._generator = generator

    def collect(self) -> Iterator[Metric]:
        """Yield what the engine says of itself now."""
        statistics = getattr(self._generator(), "statistics", None)
        if statistics is None:
            return
        try:
            found = statistics()
        except RagtuneError:  # it is down or too busy to say
            found = {}
        up = float("running" in found)
        yield GaugeMetricFamily(f"{_PREFIX}up", "Whether the engine's process runs and answers.", value=up)
        yield from _plain(found, _GAUGES, GaugeMetricFamily)
        yield from _plain(found, _COUNTERS, CounterMetricFamily)
        if found.get("streams"):
            share = found.get("running", 0) / found["streams"]
            yield GaugeMetricFamily(f"{_PREFIX}batch_occupancy_ratio", "Streams in use, 0 to 1.", value=share)
        yield from _of_replicas(found.get("replicas", ()))
        kv = found.get("kv", {})
        yield from _plain(kv, _KV_COUNTERS, CounterMetricFamily)
        yield from _by_tier(kv, "hits", CounterMetricFamily(f"{_PREFIX}kv_hits", "Blocks found.", labels=("tier",)))
        yield from _by_tier(kv, "bytes", GaugeMetricFamily(f"{_PREFIX}kv_bytes", "Bytes of blocks.", labels=("tier",)))


def _plain(
    found: Mapping[str, Any], names: tuple[tuple[str, str, str], ...], family: Callable[..., Metric]
) -> Iterator[Metric]:
    for key, name, text in names:
        if key in found:
            yield family(_PREFIX + name, text, value=float(found[key]))


def _of_replicas(each: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    """Yield the series of several servers, by their addresses."""
    for key, name, text, family in _REPLICAS:
        series = family(f"ragtune_replica_{name}", text, labels=("url",))
        for one in each:
            series.add_metric((str(one["url"]),), float(one[key]))
        if series.samples:
            yield series


def _by_tier(
    kv: Mapping[str, Any], what: str, family: CounterMetricFamily | GaugeMetricFamily
) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
    for tier in _TIERS:
        if f"{tier}_{what}" in kv:
            family.add_metric((tier,), float(kv[f"{tier}_{what}"]))
    if family.samples:
        yield family
