"""The messages between ``retrieval.child`` and the child program: a JSON header, then bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import IO, Any

_SIZES = struct.Struct(">IQ")
_LARGEST_HEADER = 64 * 2**20


def write_frame(stream: IO[bytes], header: Mapping[str, Any], payload: bytes = b"") -> None:
    """Write one message."""
    head = json.dumps(header).encode()
    stream.write(_SIZES.pack(len(head), len(payload)) + head)
    stream.write(payload)
    stream.flush()


def read_frame(stream: IO[bytes], max_payload: int) -> tuple[dict[str, Any], bytes] | None:
    """Read one message, None where the stream ends.

    Raises:
        ValueError: the message is larger than allowed.
    """
    sizes = stream.read(_SIZES.size)
    if len(sizes) < _SIZES.size:
        return None
    head_size, payload_size = _SIZES.unpack(sizes)
    if head_size > _LARGEST_HEADER or payload_size > max_payload:
        raise ValueError(f"a message of {head_size} + {payload_size} bytes")
    head, payload = stream.read(head_size), stream.read(payload_size)
    if len(head) < head_size or len(payload) < payload_size:
        return None
    header: dict[str, Any] = json.loads(head)
    return header, payload
