"""What the engine and its child process say to each other: frames, and records as JSON.

A frame is a 4-byte big-endian length, that many bytes of JSON, and, where the JSON names a
``binary`` size, that many raw bytes. Knows nothing of models or of process management.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from data import errors
from data.errors import RagtuneError
from data.protocols import GenerationRequest, GenerationResult, TokenChoice, WrittenToken
from data.records import Message, Usage

_LENGTH = struct.Struct(">I")
MAX_JSON_BYTES = 64 * 2**20
MAX_BINARY_BYTES = 8 * 2**30


class ProtocolError(Exception):
    """A frame that the other end cannot have meant."""


class Channel:
    """One end of a connection. Many threads may send; one thread receives."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def send(self, message: Mapping[str, Any], binary: bytes | memoryview = b"") -> None:
        """Send one frame.

        Raises:
            OSError: the other end is gone.
            ProtocolError: the message is over the size limit.
        """
        body = json.dumps({**message, "binary": len(binary)} if binary else message).encode()
        if len(body) > MAX_JSON_BYTES:
            raise ProtocolError(f"a message of {len(body)} bytes is over the limit of {MAX_JSON_BYTES}")
        with self._sending:
            self._connection.sendall(_LENGTH.pack(len(body)) + body)
            if binary:
                self._connection.sendall(binary)

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """Wait for one frame.

        Raises:
            EOFError: the other end closed, or went away in the middle of a frame.
            TimeoutError: nothing came in the time of ``set_timeout``.
            ProtocolError: the frame is no JSON object or over the size limit.
        """
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > MAX_JSON_BYTES:
            raise ProtocolError(f"a message of {length} bytes is over the limit of {MAX_JSON_BYTES}")
        try:
            message = json.loads(self._read(length))
        except ValueError as error:
            raise ProtocolError("a frame is not JSON") from error
        if not isinstance(message, dict):
            raise ProtocolError("a frame is not a JSON object")
        size = message.pop("binary", 0)
        if not isinstance(size, int) or not 0 <= size <= MAX_BINARY_BYTES:
            raise ProtocolError(f"a binary part of {size} bytes is out of range")
        return message, self._read(size)

    def set_timeout(self, timeout_s: float) -> None:
        """Make ``receive`` raise TimeoutError after so long a silence."""
        self._connection.settimeout(timeout_s)

    def close(self) -> None:
        """Close this end; the other end's ``receive`` raises EOFError."""
        with contextlib.suppress(OSError):  # the other end closed first: nothing is left to shut down
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _read(self, size: int) -> bytes:
        received = bytearray(size)
        view = memoryview(received)
        while view:
            try:
                count = self._connection.recv_into(view)
            except TimeoutError:
                raise
            except OSError as error:
                raise EOFError from error
            if not count:
                raise EOFError
            view = view[count:]
        return bytes(received)


def messages_to_wire(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Return messages as JSON values."""
    return [{"role": message.role, "parts": list(message.parts)} for message in messages]


def messages_from_wire(values: list[dict[str, Any]]) -> tuple[Message, ...]:
    """Return the messages of ``messages_to_wire``."""
    return tuple(Message(value["role"], tuple(value["parts"])) for value in values)


def request_to_wire(request: GenerationRequest) -> dict[str, Any]:
    """Return a request as JSON values."""
    lists = {"stop": list(request.stop), "added_adapters": [list(pair) for pair in request.added_adapters]}
    bias = {str(token): value for token, value in request.logit_bias.items()}  # JSON's keys are strings
    return asdict(request) | {"messages": messages_to_wire(request.messages), "logit_bias": bias, **lists}


def request_from_wire(value: Mapping[str, Any]) -> GenerationRequest:
    """Return the request of ``request_to_wire``."""
    own = {
        "messages": messages_from_wire(value["messages"]),
        "stop": tuple(value["stop"]),
        "added_adapters": tuple((key, scale) for key, scale in value["added_adapters"]),
        "logit_bias": {int(token): bias for token, bias in value["logit_bias"].items()},
    }
    return GenerationRequest(**{**value, **own})


def result_to_wire(result: GenerationResult) -> dict[str, Any]:
    """Return a result as JSON values."""
    return asdict(result)


def result_from_wire(value: Mapping[str, Any]) -> GenerationResult:
    """Return the result of ``result_to_wire``."""
    own = {
        "usage": Usage(**value["usage"]),
        "logprobs": tuple(value["logprobs"]),
        "top_logprobs": tuple(_choices(place) for place in value["top_logprobs"]),
    }
    return GenerationResult(**{**value, **own})


def tokens_to_wire(tokens: Sequence[WrittenToken]) -> list[dict[str, Any]]:
    """Return written tokens as JSON values."""
    return [asdict(token) for token in tokens]


def tokens_from_wire(values: Sequence[Mapping[str, Any]]) -> tuple[WrittenToken, ...]:
    """Return the tokens of ``tokens_to_wire``."""
    return tuple(WrittenToken(_choice(value["choice"]), _choices(value["likeliest"])) for value in values)


def _choice(value: Mapping[str, Any]) -> TokenChoice:
    return TokenChoice(value["text"], value["logprob"], tuple(value["utf8"]))


def _choices(values: Sequence[Mapping[str, Any]]) -> tuple[TokenChoice, ...]:
    return tuple(_choice(value) for value in values)


def error_to_wire(error: RagtuneError) -> dict[str, Any]:
    """Return an error of the tree as JSON values."""
    got = None if error.got is None else str(error.got)
    return {
        "class": type(error).__name__,
        "detail": error.detail,
        "got": got,
        "wanted": error.wanted,
        "hint": error.hint,
    }


def error_from_wire(value: Mapping[str, Any]) -> RagtuneError:
    """Return the error of ``error_to_wire``; a class that is not in the tree becomes EngineError."""
    kind = getattr(errors, str(value["class"]), None)
    if not (isinstance(kind, type) and issubclass(kind, RagtuneError)):
        kind = errors.EngineError
    return kind(value["detail"], got=value["got"], wanted=value["wanted"], hint=value["hint"])
