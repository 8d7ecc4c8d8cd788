"""What every ``Generator`` promises, be it the local engine or a server of any dialect.

A backend that has no way to do something has to say so: where a feature is not among its ``features`` the test
asks for the refusal instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data import errors
from data.prompt import answer_messages
from data.protocols import GenerationRequest, GenerationResult
from data.records import Message
from tests.contract.backends import (
    FAST,
    NOISE,
    SLOW,
    Backend,
    engine_backend,
    fake_backend,
    llama_server_backend,
    noise_files,
    ragtune_backend,
    running_engine,
    starter_model,
)

CAPITAL = GenerationRequest(answer_messages("What is the capital of France?", ()), max_tokens=24)
STORY = GenerationRequest((Message("user", ("Tell a long ", "story.")),), max_tokens=24)
LONG = GenerationRequest((Message("user", ("Count from one to ten thousand.",)),), max_tokens=900)
DRAWN = replace(STORY, temperature=1.0, seed=7)


class Real:
    """The real engine and what stands on it, made when the first slow backend is."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self._folder = folder
        self._engine: Any = None

    def backend(self, name: str) -> Backend:
        if self._engine is None:
            self._files = noise_files(self._folder)
            self._model = self._stack.enter_context(starter_model(self._folder))
            self._engine = self._stack.enter_context(running_engine(self._model, self._files))
        if name == "engine":
            return engine_backend(self._engine, self._model)
        if name == "ragtune":
            return self._stack.enter_context(ragtune_backend(self._engine, self._model, self._folder))
        return self._stack.enter_context(llama_server_backend(self._engine, self._model, self._files))

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    found = Real(tmp_path_factory.mktemp("real"))
    yield found
    found.close()


@pytest.fixture(scope="module", params=[*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def backend(request: pytest.FixtureRequest, real: Real, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    if request.param in SLOW:
        yield real.backend(request.param)
        return
    with fake_backend(request.param, tmp_path_factory.mktemp(request.param)) as found:
        yield found


def has(backend: Backend, feature: str, request: GenerationRequest) -> bool:
    """Tell whether a backend has a feature; where it has not, see that it refuses a request for it."""
    if feature in backend.features:
        return True
    with pytest.raises((errors.InvalidRequest, errors.UnknownAdapter)):
        backend.generator.generate(request)
    return False


def test_it_names_its_model(backend: Backend) -> None:
    assert backend.generator.model


def test_greedy_text_is_the_same_each_time_and_its_tokens_are_counted(backend: Backend) -> None:
    first, second = backend.generator.generate(CAPITAL), backend.generator.generate(CAPITAL)
    assert first.text == second.text != ""
    assert first.usage.prompt_tokens > 0
    assert 0 < first.usage.completion_tokens <= CAPITAL.max_tokens
    assert 0 <= second.usage.cached_tokens <= second.usage.prompt_tokens
    assert min(first.prefill_ms, first.generate_ms, first.queued_ms) >= 0


def test_the_pieces_of_a_stream_add_up_to_its_result(backend: Backend) -> None:
    deltas = list(backend.generator.stream(STORY))
    results = [delta.result for delta in deltas if delta.result is not None]
    assert len(results) == 1
    assert deltas[-1].result is results[0]
    assert len([delta for delta in deltas if delta.text]) > 3
    assert "".join(delta.text for delta in deltas) == results[0].text == backend.generator.generate(STORY).text


def test_max_tokens_ends_a_text(backend: Backend) -> None:
    result = backend.generator.generate(replace(STORY, max_tokens=5))
    assert (result.finish_reason, result.usage.completion_tokens) == ("length", 5)
    assert backend.generator.generate(STORY).text.startswith(result.text)


def test_a_text_that_ends_by_itself_stops(backend: Backend) -> None:
    assert backend.generator.generate(replace(CAPITAL, max_tokens=200)).finish_reason == "stop"


def test_a_stop_string_ends_a_text_and_is_cut_off(backend: Backend) -> None:
    whole = backend.generator.generate(STORY).text
    stop = whole[len(whole) // 2 :][:4]  # from within a word, over a border of tokens
    stopped = backend.generator.generate(replace(STORY, stop=("\x00 never", stop)))
    assert stopped.text == whole.partition(stop)[0]
    assert stopped.finish_reason == "stop"


def test_a_seed_repeats_a_drawn_text(backend: Backend) -> None:
    first = backend.generator.generate(DRAWN).text
    assert first == backend.generator.generate(DRAWN).text
    assert first != backend.generator.generate(replace(DRAWN, seed=8)).text


def test_a_narrow_choice_is_the_greedy_one(backend: Backend) -> None:
    greedy = backend.generator.generate(STORY).text
    assert backend.generator.generate(replace(DRAWN, top_p=1e-6)).text == greedy
    for feature, request in (("top_k", replace(DRAWN, top_k=1)), ("min_p", replace(DRAWN, min_p=1.0))):
        if has(backend, feature, request):
            assert backend.generator.generate(request).text == greedy


def test_what_only_narrows_a_draw_is_no_matter_where_nothing_is_drawn(backend: Backend) -> None:
    narrow = replace(STORY, top_k=3, min_p=0.5, top_p=0.5, seed=-1)
    assert backend.generator.generate(narrow).text == backend.generator.generate(STORY).text


def test_penalties_change_what_is_written(backend: Backend) -> None:
    request = replace(STORY, max_tokens=60)
    plain = backend.generator.generate(request).text
    both = replace(request, presence_penalty=1.5, frequency_penalty=1.5)
    for feature, penalized in (("penalties", both), ("repeat_penalty", replace(request, repeat_penalty=1.8))):
        if has(backend, feature, penalized):
            assert backend.generator.generate(penalized).text != plain


def test_a_bias_decides_which_token_comes(backend: Backend) -> None:
    token, word = backend.word
    request = replace(STORY, max_tokens=4, logit_bias={token: 100.0})
    if has(backend, "logit_bias", request):
        assert backend.generator.generate(request).text.split() == [word.strip()] * 4
        banned = backend.generator.generate(replace(request, logit_bias={token: -100.0}, max_tokens=24))
        assert word.strip() not in banned.text.split()


def test_log_probabilities_are_those_of_the_tokens(backend: Backend) -> None:
    request = replace(STORY, max_tokens=6, top_logprobs=3)
    if not has(backend, "logprobs", request):
        return
    result = backend.generator.generate(request)
    assert len(result.logprobs) == len(result.top_logprobs) == result.usage.completion_tokens == 6
    assert all(value <= 0 for value in result.logprobs)
    for logprob, likeliest in zip(result.logprobs, result.top_logprobs, strict=True):
        assert len(likeliest) == 3
        assert [one.logprob for one in likeliest] == sorted((one.logprob for one in likeliest), reverse=True)
        assert likeliest[0].logprob == pytest.approx(logprob, abs=1e-4)  # greedy: the likeliest was written
    assert "".join(places[0].text for places in result.top_logprobs).strip() == result.text.strip()


def test_a_stream_gives_its_tokens_where_they_are_wanted(backend: Backend) -> None:
    request = replace(STORY, max_tokens=6, logprobs=True, top_logprobs=2)
    if not has(backend, "logprobs", request):
        return
    deltas = list(backend.generator.stream(request))
    result = deltas[-1].result
    assert result is not None
    tokens = [token for delta in deltas for token in delta.tokens]
    assert tuple(token.choice.logprob for token in tokens) == result.logprobs
    assert tuple(token.likeliest for token in tokens) == result.top_logprobs
    assert not any(delta.tokens for delta in backend.generator.stream(replace(request, logprobs=False)))


def test_a_text_fits_its_schema(backend: Backend) -> None:
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 12},
            "size": {"enum": ["small", "large"]},
            "rank": {"type": "integer"},
        },
        "required": ["city", "size", "rank"],
        "additionalProperties": False,
    }
    request = replace(CAPITAL, max_tokens=80, json_schema=json.dumps(schema))
    if has(backend, "json_schema", request):
        found = json.loads(backend.generator.generate(request).text)
        assert set(found) == {"city", "size", "rank"}
        assert isinstance(found["city"], str)
        assert found["size"] in ("small", "large")
        assert isinstance(found["rank"], int)


def test_a_text_fits_its_grammar_and_a_bad_one_is_refused(backend: Backend) -> None:
    request = replace(CAPITAL, grammar='root ::= "lighthouse"')
    if has(backend, "grammar", request):
        assert backend.generator.generate(request).text == "lighthouse"
    with pytest.raises(errors.InvalidRequest, match="rammar"):
        backend.generator.generate(replace(CAPITAL, grammar="root ::= (((("))


@pytest.mark.parametrize(
    "request_", [replace(CAPITAL, grammar='root ::= "a"', json_schema="{}"), replace(CAPITAL, json_schema="{")]
)
def test_a_form_that_is_none_is_refused(backend: Backend, request_: GenerationRequest) -> None:
    with pytest.raises(errors.InvalidRequest):
        backend.generator.generate(request_)


def test_an_adapter_changes_a_text_and_leaves_the_base_as_it_was(backend: Backend) -> None:
    tuned = replace(STORY, adapter=NOISE[0])
    if not has(backend, "adapters", tuned):
        return
    base, other = backend.generator.generate(STORY), replace(STORY, adapter=NOISE[1])
    results = [backend.generator.generate(request) for request in (tuned, other, STORY, tuned)]
    texts = [base.text, *(result.text for result in results)]
    assert texts[3] == base.text
    assert texts[4] == texts[1]
    assert len(set(texts)) == 3


def test_adapters_are_scaled_and_summed(backend: Backend) -> None:
    def text(**changes: Any) -> str:
        return backend.generator.generate(replace(STORY, **changes)).text

    summed = {"adapter": NOISE[0], "adapter_scale": 0.5, "added_adapters": ((NOISE[1], 2.0),)}
    if has(backend, "scales", replace(STORY, **summed)):
        assert text(adapter=NOISE[0], adapter_scale=0.0) == text()
        assert len({text(), text(**summed), text(adapter=NOISE[0]), text(adapter=NOISE[1], adapter_scale=2.0)}) == 4
    with pytest.raises((errors.InvalidRequest, errors.UnknownAdapter)):
        backend.generator.generate(replace(STORY, adapter=NOISE[0], added_adapters=(("nobody@1", 1.0),)))


def test_an_unknown_adapter_is_named(backend: Backend) -> None:
    with pytest.raises(errors.UnknownAdapter, match="nobody@7"):
        backend.generator.generate(replace(STORY, adapter="nobody@7"))


def test_a_prompt_that_is_too_long_is_refused(backend: Backend) -> None:
    long = replace(STORY, messages=(Message("user", ("The wind and the tide. " * 900,)),))
    with pytest.raises(errors.ContextOverflow):
        backend.generator.generate(long)
    with pytest.raises(errors.ContextOverflow):
        list(backend.generator.stream(long))
    assert backend.generator.generate(STORY).text


@pytest.mark.parametrize("timeout_s", [0.05, 0.0])
def test_a_request_ends_with_its_time(backend: Backend, timeout_s: float) -> None:
    with pytest.raises(errors.EngineTimeout):
        backend.generator.generate(replace(LONG, timeout_s=timeout_s))
    assert backend.generator.generate(STORY).text


def test_closing_a_stream_gives_the_request_up(backend: Backend) -> None:
    stream = backend.generator.stream(LONG)
    assert next(stream).text
    stream.close()  # type: ignore[attr-defined]
    assert backend.hung_up()
    assert backend.generator.generate(STORY).text
    assert list(stream) == []


def test_nobody_there_is_told(backend: Backend) -> None:
    down = backend.down()
    for answer in (down.generate, lambda request: list(down.stream(request))):
        with pytest.raises(errors.EngineUnavailable):
            answer(STORY)


def test_many_ask_at_once_and_each_gets_what_it_gets_alone(backend: Backend) -> None:
    from concurrent.futures import ThreadPoolExecutor

    requests = [CAPITAL, STORY, replace(STORY, max_tokens=9), DRAWN]
    alone = [backend.generator.generate(request) for request in requests]

    def shown(result: GenerationResult) -> tuple[str, str, int]:
        return result.text, result.finish_reason, result.usage.completion_tokens

    with ThreadPoolExecutor(len(requests)) as pool:
        together = list(pool.map(backend.generator.generate, requests))
    assert [shown(result) for result in together] == [shown(result) for result in alone]
