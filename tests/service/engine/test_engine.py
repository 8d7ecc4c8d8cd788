"""The engine with the packaged starter model: what it generates, shares, refuses and survives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data import errors
from data.prompt import answer_messages
from data.protocols import GenerationRequest
from data.records import Message, Model
from service.engine import Engine
from tests.service.engine.gguf_files import write_lora

pytestmark = pytest.mark.slow

CAPITAL = GenerationRequest(answer_messages("What is the capital of France?", ()), max_tokens=24)
LONG = GenerationRequest((Message("user", ("Count from one to ten thousand.",)),), max_tokens=900)
FILLER = "The keeper of the lighthouse wrote down the wind, the tide and the names of the ships. "


def long_prompt(question: str, repeat: int = 18) -> GenerationRequest:
    return GenerationRequest((Message("user", (FILLER * repeat, question)),), max_tokens=12)


def test_it_answers_greedily_and_reuses_the_whole_prompt_the_second_time(engine: Engine) -> None:
    cold, warm = engine.generate(CAPITAL), engine.generate(CAPITAL)
    assert "Paris" in cold.text
    assert cold.finish_reason == "stop"
    assert cold.usage.cached_tokens < cold.usage.prompt_tokens
    assert warm.usage.cached_tokens == warm.usage.prompt_tokens
    assert (warm.text, warm.logprobs) == (cold.text, cold.logprobs)
    assert len(cold.logprobs) == cold.usage.completion_tokens
    assert all(value <= 0 for value in cold.logprobs)


def test_a_stream_adds_up_to_the_result(engine: Engine) -> None:
    deltas = list(engine.stream(CAPITAL))
    result = deltas[-1].result
    assert result is not None
    assert "".join(delta.text for delta in deltas) == result.text == engine.generate(CAPITAL).text
    assert len(deltas) > 3


def test_a_warm_prefix_gives_bit_for_bit_what_a_cold_run_gives(engine: Engine, starter: Model) -> None:
    engine.generate(long_prompt("Who wrote?"))
    warm = engine.generate(long_prompt("What was written down, besides the tide?"))
    assert warm.usage.cached_tokens >= 256
    with Engine(starter, n_threads=2, n_ctx=1024, sequences=2) as fresh:
        cold = fresh.generate(long_prompt("What was written down, besides the tide?"))
    assert cold.usage.cached_tokens == 0
    assert (warm.text, warm.logprobs) == (cold.text, cold.logprobs)


def test_the_next_question_of_a_chat_is_all_that_is_read_of_it(engine: Engine) -> None:
    first = engine.generate(CAPITAL)
    history = (Message("user", ("What is the capital of France?",)), Message("assistant", (first.text,)))
    second = engine.generate(GenerationRequest(answer_messages("And of Italy?", (), history), max_tokens=24))
    assert second.usage.cached_tokens > first.usage.prompt_tokens


def test_sampling_repeats_with_a_seed_and_varies_without(engine: Engine) -> None:
    request = replace(
        CAPITAL, messages=(Message("user", ("Tell a story.",)),), temperature=1.0, top_p=0.95, top_k=50, seed=7
    )
    assert engine.generate(request).text == engine.generate(request).text
    assert engine.generate(request).text != engine.generate(replace(request, seed=8)).text


def test_stop_strings_and_limits_end_a_generation(engine: Engine) -> None:
    whole = engine.generate(CAPITAL).text
    stopped = engine.generate(replace(CAPITAL, stop=("France",)))
    assert stopped.text == whole.partition("France")[0]
    assert stopped.finish_reason == "stop"
    limited = engine.generate(replace(CAPITAL, max_tokens=2))
    assert limited.finish_reason == "length"
    assert limited.usage.completion_tokens == 2


def test_a_grammar_is_kept_greedily_and_sampled(engine: Engine) -> None:
    grammar = r'root ::= "{\"city\": \"" [A-Z] [a-z]+ "\"}"'
    for request in (replace(CAPITAL, grammar=grammar), replace(CAPITAL, grammar=grammar, temperature=1.0, seed=1)):
        text = engine.generate(request).text
        assert text.startswith('{"city": "')
        assert text.endswith('"}')
    with pytest.raises(errors.InvalidRequest, match="grammar"):
        engine.generate(replace(CAPITAL, grammar="root ::= (((("))


def test_text_cannot_forge_chat_markup(engine: Engine) -> None:
    assert engine.info()["end_of_turn"] not in engine.tokenize("<|im_end|>")


def test_scores_are_what_generation_saw(engine: Engine) -> None:
    answer = engine.generate(CAPITAL)
    scores = engine.score(CAPITAL.messages, answer.text)
    info = engine.info()
    assert scores.logits.shape == (len(scores.completion_ids), info["n_vocab"])
    assert scores.completion_ids[-1] == info["end_of_turn"]
    assert len(scores.prompt_ids) == answer.usage.prompt_tokens
    assert list(scores.completion_ids) == list(scores.logits.argmax(1))
    rows = scores.logits.astype(np.float64)
    logprobs = rows - np.log(np.exp(rows).sum(1, keepdims=True))
    picked = logprobs[np.arange(len(rows)), list(scores.completion_ids)][:-1]
    assert picked == pytest.approx(answer.logprobs, abs=0.05)


def test_too_long_a_prompt_is_refused(engine: Engine) -> None:
    with pytest.raises(errors.ContextOverflow) as caught:
        engine.generate(long_prompt("?", repeat=80))
    assert "1024" in caught.value.wanted
    with pytest.raises(errors.ContextOverflow):
        engine.generate(replace(CAPITAL, max_tokens=1024))


def test_a_deadline_ends_a_generation(engine: Engine) -> None:
    with pytest.raises(errors.EngineTimeout):
        engine.generate(replace(LONG, timeout_s=0.001))
    assert "Paris" in engine.generate(CAPITAL).text


def test_closing_a_stream_frees_the_engine(engine: Engine) -> None:
    stream = engine.stream(LONG)
    next(stream)
    closed = time.monotonic()
    stream.close()
    assert "Paris" in engine.generate(CAPITAL).text
    assert time.monotonic() - closed < 20  # the 900 tokens would take longer than that
    with pytest.raises(StopIteration):
        next(stream)


def test_a_full_queue_refuses_at_once(engine: Engine) -> None:
    streams = [engine.stream(LONG) for _ in range(4)]  # two run, two wait
    with pytest.raises(errors.EngineBusy):
        engine.stream(CAPITAL)
    with pytest.raises(errors.EngineBusy):
        engine.generate(CAPITAL)
    for stream in streams:
        stream.close()
    done = threading.Event()

    def retry() -> None:
        while not done.is_set():
            try:
                engine.generate(CAPITAL)
            except errors.EngineBusy:
                done.wait(0.05)
            else:
                done.set()

    thread = threading.Thread(target=retry)
    thread.start()
    thread.join(30)
    assert done.is_set()


def test_a_killed_child_fails_what_runs_and_comes_back_with_its_adapters(
    engine: Engine, starter: Model, tmp_path: Path
) -> None:
    engine.add_adapter("kept@1", write_lora(tmp_path / "kept.gguf", 0.2), starter.sha256)
    tuned = engine.generate(replace(CAPITAL, adapter="kept@1"))
    stream = engine.stream(LONG)
    next(stream)
    pid = engine.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(errors.EngineUnavailable) as caught:
        list(stream)
    assert "SIGKILL" in str(caught.value)
    again = engine.generate(replace(CAPITAL, adapter="kept@1"))
    assert (again.text, again.logprobs) == (tuned.text, tuned.logprobs)
    assert engine.pid != pid
    engine.remove_adapter("kept@1")


def test_threads_get_their_own_answers(starter: Model) -> None:
    words = ["apple", "river", "candle", "window", "copper", "saddle"]
    got: dict[str, str] = {}

    def ask(word: str) -> None:
        grammar = f'root ::= "{word} " [a-z]+'
        request = GenerationRequest((Message("user", (f"Say {word}.",)),), max_tokens=4, grammar=grammar)
        got[word] = engine.generate(request).text

    with Engine(starter, n_threads=2, n_ctx=256, sequences=2) as engine:
        threads = [threading.Thread(target=ask, args=(word,)) for word in words]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(got[word].startswith(word) for word in words)


def test_a_closed_engine_says_so(starter: Model) -> None:
    engine = Engine(starter, n_threads=1, n_ctx=256, sequences=1)
    engine.start()
    pid = engine.pid
    assert pid is not None
    engine.close()
    engine.close()
    with pytest.raises(errors.EngineUnavailable):
        engine.generate(CAPITAL)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_child_dies_with_its_parent(starter: Model) -> None:
    code = (
        "import json, os, sys\n"
        "from data.records import Model\n"
        "from service.engine import Engine\n"
        f"engine = Engine(Model('m', 'm', {starter.gguf!r}, '', '', 'llama'), n_threads=1, n_ctx=256)\n"
        "engine.start()\n"
        "print(engine.pid, flush=True)\n"
        "os._exit(1)\n"
    )
    root = Path(__file__).resolve().parents[3]
    output = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    pid, ended = int(output.stdout), time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").exists() and time.monotonic() < ended:
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            break  # dead, and not yet collected by init
    else:
        assert not Path(f"/proc/{pid}").exists()


def test_a_damaged_model_kills_only_the_child(starter: Model, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(Path(starter.gguf).read_bytes()[: 20 * 2**20])
    with pytest.raises(errors.InvalidModel) as caught:
        Engine(replace(starter, gguf=str(cut))).start()
    assert "cut.gguf" in str(caught.value)


def test_text_that_is_no_unicode_fails_alone(engine: Engine) -> None:
    half = GenerationRequest((Message("user", ("half \ud800",)),), max_tokens=2)
    with pytest.raises(errors.InvalidRequest):
        engine.generate(half)
    assert engine.tokenize("whole")


def test_a_long_prompt_does_not_stop_the_others(engine: Engine) -> None:
    """Between two tokens of a stream at most one stretch of another prompt is read."""
    stream = engine.stream(replace(LONG, max_tokens=200))
    next(stream)
    before = engine.statistics()
    other = engine.stream(replace(long_prompt("Who?", repeat=36), max_tokens=1))
    result = next(delta.result for delta in other if delta.result is not None)
    after = engine.statistics()
    stream.close()
    assert result.usage.prompt_tokens > 600
    assert after["written_tokens"] - before["written_tokens"] >= 5


def test_top_logprobs_and_bias(engine: Engine) -> None:
    result = engine.generate(replace(CAPITAL, top_logprobs=3))
    assert len(result.top_logprobs) == len(result.logprobs)
    for chosen, (first, *rest) in zip(result.logprobs, result.top_logprobs, strict=True):
        assert first.logprob == pytest.approx(chosen)
        assert all(other.logprob <= first.logprob for other in rest)
    assert "".join(place[0].text for place in result.top_logprobs) == result.text
    ends = {engine.info()["end_of_turn"]: -np.inf, 0: -np.inf}
    endless = engine.generate(replace(CAPITAL, logit_bias={k: float(v) for k, v in ends.items()}, max_tokens=24))
    assert (endless.finish_reason, endless.usage.completion_tokens) == ("length", 24)


def test_a_stream_tells_its_tokens(engine: Engine) -> None:
    request = replace(CAPITAL, logprobs=True, top_logprobs=2, stop=("never there",))
    deltas = list(engine.stream(request))
    result = deltas[-1].result
    assert result is not None
    tokens = [token for delta in deltas for token in delta.tokens]
    assert bytes(byte for token in tokens for byte in token.choice.utf8).decode() == result.text
    assert tuple(token.choice.logprob for token in tokens) == pytest.approx(result.logprobs)
    assert tuple(token.likeliest for token in tokens) == result.top_logprobs
    assert not any(delta.tokens for delta in engine.stream(CAPITAL))


def test_a_character_of_several_tokens_is_known_by_their_bytes(engine: Engine) -> None:
    request = replace(CAPITAL, logprobs=True, grammar='root ::= "\U0001f9ed" "." ')
    deltas = list(engine.stream(request))
    tokens = [token.choice for delta in deltas for token in delta.tokens]
    assert len(tokens) > 2
    assert bytes(byte for token in tokens for byte in token.utf8).decode() == "\U0001f9ed."
    assert "".join(delta.text for delta in deltas) == "\U0001f9ed."


def test_a_stream_can_be_cancelled_while_another_thread_waits_for_it(engine: Engine) -> None:
    endless = replace(LONG, grammar='root ::= "one " root')
    stream = engine.stream(endless)
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        rest = pool.submit(list, stream)
        stream.cancel()
        result = rest.result(60)[-1].result
    assert result is not None
    assert result.finish_reason == "cancelled"
    assert result.usage.completion_tokens < LONG.max_tokens
    stream.cancel()  # too late, and no harm


def test_a_grammar_without_a_way_on_is_an_error_and_fails_alone(engine: Engine) -> None:
    other = engine.stream(replace(LONG, max_tokens=20))
    for grammar in (r"root ::= [^\x00-\U0010FFFF]", r'root ::= "so " [^\x00-\U0010FFFF]'):
        with pytest.raises(errors.InvalidRequest, match="dead end"):
            engine.generate(replace(CAPITAL, grammar=grammar))
    assert list(other)[-1].result is not None


def ambiguous(start: str) -> str:
    """Return a grammar of 2 ** 22 ways to read the same letters, from its first token on or after a word."""
    rules = [f"r{n} ::= r{n + 1}? r{n + 1}?" for n in range(22)]
    return "\n".join([f'root ::= {start} r0 "."', *rules, 'r22 ::= "a"'])


@pytest.mark.parametrize("start", ["", '"so "'])
def test_a_grammar_that_llama_cpp_cannot_follow_fails_its_own_request(starter: Model, start: str) -> None:
    with Engine(starter, n_threads=1, n_ctx=256, sequences=1) as engine:
        with pytest.raises(errors.InvalidRequest, match="ambiguous"):
            engine.generate(replace(CAPITAL, grammar=ambiguous(start)))
        while engine.pid is not None:  # the process has said so with its last breath
            time.sleep(0.01)
        assert engine.generate(CAPITAL).text
        assert engine.statistics()["restarts"] == 1


@pytest.mark.parametrize(
    "grammar",
    ["root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000, 'root ::= "a"\0', " ", 'root ::= "' + "a" * 70_000 + '"'],
)
def test_a_grammar_that_is_too_much_is_refused(engine: Engine, grammar: str) -> None:
    pid = engine.pid
    with pytest.raises(errors.InvalidRequest, match="grammar"):
        engine.generate(replace(CAPITAL, grammar=grammar))
    assert engine.pid == pid


def test_statistics_start_nothing_and_count_the_dead(starter: Model) -> None:
    with Engine(starter, n_threads=1, n_ctx=256, sequences=1) as engine:
        assert engine.statistics()["restarts"] == 0
        first = engine.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        while engine.pid is not None:
            time.sleep(0.01)
        assert engine.statistics() == {"restarts": 0}
        assert engine.pid is None
        engine.generate(replace(CAPITAL, max_tokens=1))
        statistics = engine.statistics()
        assert (statistics["restarts"], statistics["requests"]) == (1, 1)
    assert engine.statistics() == {"restarts": 1}


def test_a_json_schema_is_kept(engine: Engine) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    result = engine.generate(replace(CAPITAL, json_schema=json.dumps(schema)))
    assert json.loads(result.text)["city"] in {"Paris", "Rome"}
    with pytest.raises(errors.InvalidRequest, match="schema"):
        engine.generate(replace(CAPITAL, json_schema='{"$ref": "#/nowhere"}'))
    with pytest.raises(errors.InvalidRequest, match="or a JSON schema"):
        engine.generate(replace(CAPITAL, json_schema="{}", grammar='root ::= "a"'))


def test_guesses_change_no_text(starter: Model) -> None:
    repeat = GenerationRequest(
        (Message("user", (FILLER * 6 + "Repeat the text above, word by word.",)),), max_tokens=60
    )
    with Engine(starter, n_threads=2, n_ctx=1024, sequences=1) as plain:
        wanted = plain.generate(repeat).text
    with Engine(starter, n_threads=2, n_ctx=1024, sequences=1, drafts=6, flash_attention=True) as guessing:
        guessed = guessing.generate(repeat).text
        statistics = guessing.statistics()
    with Engine(starter, n_threads=2, n_ctx=1024, sequences=1, flash_attention=True) as flash:
        assert guessed == flash.generate(repeat).text
    assert statistics["guessed_tokens"] > 0
    assert wanted


def test_a_stopped_child_is_noticed_and_replaced(engine: Engine) -> None:
    stream = engine.stream(LONG)
    next(stream)
    pid = engine.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(errors.EngineUnavailable, match="silent"):
        list(stream)
    assert "Paris" in engine.generate(CAPITAL).text
    assert engine.pid != pid
