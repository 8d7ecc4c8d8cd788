"""Several servers as one: where requests go, and what the loss of a server costs."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from data.errors import EngineBusy, EngineUnavailable, UnknownAdapter
from data.protocols import GenerationRequest
from data.records import Message
from service.engine.fleet import FIRST_PAUSE_S, Broken, Fleet
from service.engine.openai import OpenAIGenerator
from service.engine.routing import BLOCK_CHARS, REQUEST_CHARS, Seat, order, prefix_blocks
from service.serving import open_server
from service.settings import Settings
from service.telemetry import EngineCollector
from tests.contract.backends import BASE_SHA256, free_port, peft_folder
from tests.service.engine.fake_server import MODEL, FakeServer, Refused, _error

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
SLOW_SERVER = """
import sys, time
from tests.service.engine.fake_server import FakeServer

class Slow(FakeServer):
    def post(self, path, body):
        for event in super().post(path, body):
            time.sleep(0.05)
            yield event

with Slow("vllm") as server:
    print(server.url, flush=True)
    time.sleep(600)
"""


def asked(text="hello", **options):
    return GenerationRequest((Message("user", (text,)),), max_tokens=12, **options)


@contextmanager
def servers(count=2, **options):
    """Yield toy vLLM servers and a fleet over them, whose clock the test turns."""
    opened = [FakeServer("vllm", **options) for _ in range(count)]
    clock = SimpleNamespace(now=100.0)
    for server in opened:
        server.__enter__()
    with Fleet([OpenAIGenerator(server.url, "", MODEL, base_sha256=BASE_SHA256) for server in opened],
               lambda: clock.now) as fleet:  # fmt: skip
        yield opened, fleet, clock
    for server in opened:
        server.__exit__(None, None, None)


def prompts(server):
    return [body["messages"][0]["content"] for path, body in server.seen if path == "/v1/chat/completions"]


@pytest.fixture
def slow():
    """A toy server in a process of its own, which a test can kill."""
    with subprocess.Popen([sys.executable, "-c", SLOW_SERVER], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        yield process, process.stdout.readline().strip()
        process.kill()


# Where requests go


def test_a_prompt_that_begins_as_one_before_goes_where_that_was_read():
    with servers(3) as (opened, fleet, _):
        shared = {name: f"{name} " * 400 for name in ("apples", "pears", "trains", "ships")}
        for turn in range(4):
            for text in shared.values():
                fleet.generate(asked(f"{text} question {turn}"))
        for text in shared.values():
            counts = [sum(prompt.startswith(text) for prompt in prompts(server)) for server in opened]
            assert sorted(counts) == [0, 0, 4]
        each = fleet.statistics()["replicas"]
        matched = sum(one["prefix_blocks_matched"] for one in each)
        assert 0.6 < matched / sum(one["prefix_blocks"] for one in each) < 0.8  # three of four turns


def test_prompts_without_a_common_beginning_are_spread():
    with servers(2) as (opened, fleet, _):
        for number in range(20):
            fleet.generate(asked(f"{number} question " * 60))
        assert all(len(prompts(server)) >= 4 for server in opened)


def test_short_prompts_take_turns():
    with servers(2) as (opened, fleet, _):
        for _turn in range(6):
            fleet.generate(asked("hi"))
        assert [len(prompts(server)) for server in opened] == [3, 3]


def test_a_busy_replica_is_passed_by_although_it_has_read_the_prompt():
    text = "apples " * 200
    blocks = prefix_blocks(asked(text).messages)
    reader, idle = Seat(), Seat()
    reader.note(blocks)
    reader.running = 0
    assert order([idle, reader], blocks, 0.0)[0] == 1
    reader.running = 1 + len(blocks) * BLOCK_CHARS // REQUEST_CHARS
    assert order([idle, reader], blocks, 0.0)[0] == 0


def test_a_replica_that_has_read_the_passages_may_have_one_request_more_under_way():
    blocks = prefix_blocks(asked("apples " * 300).messages)
    reader, idle = Seat(), Seat()
    reader.note(blocks)
    assert reader.running == 1
    assert order([idle, reader], blocks, 0.0)[0] == 1


def test_an_adapter_is_part_of_the_prefix():
    messages = asked("apples " * 200).messages
    assert prefix_blocks(messages, ["house@1"])[0] != prefix_blocks(messages)[0]


def test_routers_without_a_common_memory_agree():
    blocks = [prefix_blocks(asked(f"{number} " * 200).messages) for number in range(30)]
    first, second = ([order([Seat(), Seat(), Seat()], one, 0.0)[0] for one in blocks] for _ in range(2))
    assert first == second
    assert set(first) == {0, 1, 2}


# Loss


def test_a_server_that_is_down_costs_no_answer_and_is_asked_again_later():
    with servers(2) as (opened, fleet, clock):
        whole = fleet.generate(asked()).text
        dead = OpenAIGenerator(f"http://127.0.0.1:{free_port()}/v1", "", MODEL)
        with Fleet([dead, *fleet._replicas], lambda: clock.now) as larger:
            assert [larger.generate(asked()).text for _ in range(6)] == [whole] * 6
            down = larger.statistics()["replicas"][0]
            assert (down["up"], down["failures"]) == (0.0, 1)
            clock.now += FIRST_PAUSE_S
            assert larger.generate(asked()).text == whole
            assert larger.statistics()["replicas"][0]["failures"] == 2
            assert len(prompts(opened[0])) + len(prompts(opened[1])) == 8


def test_a_busy_server_is_passed_by_and_all_busy_is_busy():
    def busy(_body):
        raise Refused(429, _error("too many requests", 429))

    with servers(2) as (opened, fleet, _):
        opened[0].reply = busy
        assert [fleet.generate(asked()).text for _ in range(4)]
        opened[1].reply = busy
        with pytest.raises(EngineBusy):
            fleet.generate(asked())
        assert all(one["up"] for one in fleet.statistics()["replicas"])


def test_no_server_at_all_is_unavailable():
    with Fleet([OpenAIGenerator(f"http://127.0.0.1:{free_port()}/v1", "", MODEL) for _ in range(2)]) as fleet:
        with pytest.raises(EngineUnavailable):
            fleet.generate(asked())
        with pytest.raises(EngineUnavailable):
            fleet.check()


@pytest.mark.parametrize("options", [{}, {"temperature": 0.9, "seed": 5}])
def test_a_text_whose_server_is_killed_is_written_to_its_end_by_another(slow, options):
    process, url = slow
    request = asked("a long story", **options)
    with FakeServer("vllm") as other:
        whole = OpenAIGenerator(other.url, "", MODEL).generate(request).text
        fleet = Fleet([OpenAIGenerator(url, "", MODEL), OpenAIGenerator(other.url, "", MODEL)])
        fleet._seats[1].running = 1  # so that the slow one is asked first
        pieces = []
        for number, delta in enumerate(fleet.stream(request)):
            pieces.append(delta.text)
            if number == 2:
                process.send_signal(signal.SIGKILL)
        assert "".join(pieces) == delta.result.text == whole
        assert fleet.statistics()["resumed"] == 1
        fleet.close()


def test_a_text_that_was_drawn_ends_in_an_error_when_its_server_is_killed(slow):
    process, url = slow
    with FakeServer("vllm") as other:
        fleet = Fleet([OpenAIGenerator(url, "", MODEL), OpenAIGenerator(other.url, "", MODEL)])
        fleet._seats[1].running = 1
        stream = fleet.stream(asked("a long story", temperature=0.9))
        assert next(stream).text
        process.send_signal(signal.SIGKILL)
        with pytest.raises(EngineUnavailable):
            list(stream)
        assert other.seen == [] or all(path != "/v1/chat/completions" for path, _ in other.seen)
        fleet.close()


def test_another_text_is_no_continuation(slow):
    process, url = slow
    with FakeServer("vllm") as other:
        other.reply = lambda _body: "something else altogether"
        fleet = Fleet([OpenAIGenerator(url, "", MODEL), OpenAIGenerator(other.url, "", MODEL)])
        fleet._seats[1].running = 1
        stream = fleet.stream(asked("a long story"))
        assert next(stream).text
        process.send_signal(signal.SIGKILL)
        with pytest.raises(Broken, match="otherwise"):
            list(stream)
        fleet.close()


def test_many_requests_while_a_server_is_killed_all_end(slow):
    process, url = slow
    with FakeServer("vllm") as other:
        fleet = Fleet([OpenAIGenerator(url, "", MODEL), OpenAIGenerator(other.url, "", MODEL)])
        wanted = OpenAIGenerator(other.url, "", MODEL)
        texts = {}
        threads = [threading.Thread(target=lambda n=n: texts.update({n: fleet.generate(asked(f"q{n}")).text}))
                   for n in range(12)]  # fmt: skip
        for thread in threads:
            thread.start()
        process.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join()
        assert texts == {number: wanted.generate(asked(f"q{number}")).text for number in range(12)}
        assert all(one["running"] == 0 for one in fleet.statistics()["replicas"])
        fleet.close()


# Adapters


def test_an_adapter_is_given_to_a_server_that_was_down_when_it_is_back(tmp_path):
    gguf = peft_folder(tmp_path, "house@1")
    with servers(1) as (opened, _fleet, _clock), FakeServer("vllm") as late:
        port_of = late.url
        fleet = Fleet([OpenAIGenerator(url, "", MODEL, base_sha256=BASE_SHA256)
                       for url in (opened[0].url, port_of)])  # fmt: skip
        late.loads = False  # as a server that cannot load now
        with pytest.raises(UnknownAdapter):
            fleet.add_adapter("house@1", gguf, BASE_SHA256)
        late.loads = True
        fleet.add_adapter("house@1", gguf, BASE_SHA256)
        for server in (opened[0], late):
            assert list(server.adapters) == ["house@1"]
        late.adapters.clear()  # it was started anew
        fleet._seats[0].running = 9
        assert fleet.generate(asked(adapter="house@1")).text
        assert list(late.adapters) == ["house@1"]
        fleet.remove_adapter("house@1")
        assert not opened[0].adapters
        assert not late.adapters
        fleet.close()


def test_an_adapter_that_was_not_given_is_unknown():
    with servers(2) as (_, fleet, _clock), pytest.raises(UnknownAdapter):
        fleet.generate(asked(adapter="nosuch@1"))


# Around it


def test_several_addresses_make_a_fleet_and_its_series():
    with servers(2) as (opened, _, _clock):
        urls = f"{opened[0].url}, {opened[1].url}"
        fleet = open_server(Settings.load(engine_url=urls, engine_model=MODEL), None)
        assert isinstance(fleet, Fleet)
        assert fleet.check().models == (MODEL,)
        fleet.generate(asked())
        registry = CollectorRegistry()
        registry.register(EngineCollector(lambda: fleet))
        text = generate_latest(registry).decode()
        assert "ragtune_engine_up 1.0" in text
        for server in opened:
            assert f'ragtune_replica_up{{url="{server.url}"}} 1.0' in text
        sent = [line for line in text.splitlines() if line.startswith("ragtune_replica_requests_total")]
        assert sorted(float(line.rpartition(" ")[2]) for line in sent) == [0.0, 1.0]
        fleet.close()
        single = open_server(Settings.load(engine_url=opened[0].url), None)
        assert isinstance(single, OpenAIGenerator)
        single.close()
