"""Framing between a test process and its controller: JSON objects, never pickle.

A test may do anything, with our end of the pipe too.  So the receiver believes nothing: a frame
that is not one of ours ends the conversation (``Garbled``), it does not end the run.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

Message = dict[str, Any]

_HEADER = struct.Struct("!4sI")
_MAGIC = b"nsbx"
_MAX_FRAME = 1 << 30  # bytes; a report with all of a test's output is far below
_CHUNK = 1 << 18


class Garbled(Exception):
    """Something else than our messages came out of the pipe."""


# Taken now: a test may replace them, and its report must still get home.
_write, _dumps = os.write, json.dumps


def encode(message: Message, on_foreign: Callable[[object], str] = repr) -> bytes:
    """A frame. ``on_foreign`` stands in for a value that JSON cannot express."""
    payload = _dumps(message, default=on_foreign).encode("ascii")
    return _HEADER.pack(_MAGIC, len(payload)) + payload


def write(fd: int, frame: bytes) -> None:
    """All of the frame, to a blocking fd."""
    view = memoryview(frame)
    while view:
        view = view[_write(fd, view) :]


class Reader:
    """Cuts what comes out of a non-blocking fd into messages."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.at_end = False
        self._buffer = bytearray()

    def read(self) -> Iterator[Message]:
        """The messages that are there now. Raises Garbled."""
        while not self.at_end:
            try:
                chunk = os.read(self.fd, _CHUNK)
            except BlockingIOError:
                break
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                self.at_end = True
                break
            self._buffer += chunk
            yield from self._frames()

    def _frames(self) -> Iterator[Message]:
        while len(self._buffer) >= _HEADER.size:
            magic, size = _HEADER.unpack_from(self._buffer)
            if magic != _MAGIC or size > _MAX_FRAME:
                raise Garbled(f"not a message: {bytes(self._buffer[:40])!r}")
            end = _HEADER.size + size
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            try:
                message = json.loads(payload)
            except ValueError as error:
                raise Garbled(f"not a message: {payload[:40]!r}") from error
            if not isinstance(message, dict) or not isinstance(message.get("type"), str):
                raise Garbled(f"not a message: {payload[:40]!r}")
            yield message
