"""Frames and records between the engine and its child."""

from __future__ import annotations

import inspect
import json
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from data import errors
from data.protocols import GenerationRequest, GenerationResult, TokenChoice
from data.records import Message, Usage
from service.engine.protocol import (
    Channel,
    ProtocolError,
    error_from_wire,
    error_to_wire,
    request_from_wire,
    request_to_wire,
    result_from_wire,
    result_to_wire,
)

REQUEST = GenerationRequest(
    (Message("system", ("Be short.",)), Message("user", ("[1]\n", "中文 😀", "?"))),
    adapter="style@2",
    temperature=0.7,
    seed=3,
    stop=("\n", "###"),
    grammar='root ::= "a"',
    added_adapters=(("tone@1", 0.5),),
    logit_bias={7: -1.5},
    top_logprobs=2,
)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    yield channel, theirs
    channel.close()
    theirs.close()


def test_a_frame_arrives_whole_with_its_binary_part() -> None:
    left, right = (Channel(end) for end in socket.socketpair())
    blob = bytes(range(256)) * 40_000  # ten megabytes: far over what a socket buffers
    sender = threading.Thread(target=left.send, args=({"op": "score", "text": "é中😀"}, blob))
    sender.start()
    assert right.receive() == ({"op": "score", "text": "é中😀"}, blob)
    sender.join()
    left.send({"op": "next"})
    assert right.receive() == ({"op": "next"}, b"")
    left.close()
    right.close()


def test_threads_may_send_at_once() -> None:
    left, right = (Channel(end) for end in socket.socketpair())
    senders = [
        threading.Thread(target=lambda n=n: [left.send({"n": n, "i": i}, b"x" * 5000) for i in range(20)])
        for n in range(4)
    ]
    for sender in senders:
        sender.start()
    received = [right.receive()[0] for _ in range(80)]
    for sender in senders:
        sender.join()
    for n in range(4):
        assert [message["i"] for message in received if message["n"] == n] == list(range(20))
    left.close()
    right.close()


@pytest.mark.parametrize("cut", [0, 2, 4, 9, -1])
def test_the_other_end_going_away_is_an_end_of_file(ends: tuple[Channel, socket.socket], cut: int) -> None:
    channel, other = ends
    body = json.dumps({"binary": 3}).encode()
    frame = struct.pack(">I", len(body)) + body + b"abc"
    other.sendall(frame[:cut])
    other.close()
    with pytest.raises(EOFError):
        channel.receive()


@pytest.mark.parametrize(
    "body",
    [b"not json", b"[1]", b'{"binary": -1}', b'{"binary": "x"}', b'{"binary": 99999999999999}'],
)
def test_a_wrong_frame_is_refused(ends: tuple[Channel, socket.socket], body: bytes) -> None:
    channel, other = ends
    other.sendall(struct.pack(">I", len(body)) + body)
    with pytest.raises(ProtocolError):
        channel.receive()


def test_an_endless_frame_is_refused_before_it_is_read(ends: tuple[Channel, socket.socket]) -> None:
    channel, other = ends
    other.sendall(struct.pack(">I", 2**32 - 1))
    with pytest.raises(ProtocolError, match="limit"):
        channel.receive()


def test_silence_ends_in_a_timeout(ends: tuple[Channel, socket.socket]) -> None:
    channel, _ = ends
    channel.set_timeout(0.01)
    with pytest.raises(TimeoutError):
        channel.receive()


def test_a_request_survives_the_wire() -> None:
    assert request_from_wire(json.loads(json.dumps(request_to_wire(REQUEST)))) == REQUEST


def test_a_result_survives_the_wire() -> None:
    result = GenerationResult(
        "ok", "length", Usage(7, 3, 2), 1.5, 2.5, (-0.1, -2.0), 3.5, ((TokenChoice("o", -0.1),), ())
    )
    assert result_from_wire(json.loads(json.dumps(result_to_wire(result)))) == result


@pytest.mark.parametrize(
    "kind",
    [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.RagtuneError)],
)
def test_every_error_survives_the_wire(kind: type[errors.RagtuneError]) -> None:
    sent = kind("what went wrong", got=7, wanted="8", hint="Try 8.")
    back = error_from_wire(json.loads(json.dumps(error_to_wire(sent))))
    assert type(back) is kind
    assert (back.detail, back.got, back.wanted, back.hint) == ("what went wrong", "7", "8", "Try 8.")


def test_an_unknown_error_class_is_an_engine_error() -> None:
    wire = error_to_wire(errors.EngineError("x")) | {"class": "annotations"}
    assert type(error_from_wire(wire)) is errors.EngineError
