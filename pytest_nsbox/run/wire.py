"""Framing between a test process and its controller: JSON objects, never pickle.

What JSON has no word for and reports do hold (tuples above all) travels as an object with a tag.

A test may do anything, with our end of the pipe too.  So the receiver believes nothing: a frame
that is not one of ours ends the conversation (``Garbled``), it does not end the run.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

Message = dict[str, Any]

# What each type of message holds.
_FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "report": {
        "data": dict,
        "whole": bool,
        "rendered": (list, type(None)),
        "xml": (dict, type(None)),
        "screen": (dict, type(None)),
        "waits": bool,
    },
    "warning": {
        "text": str,
        "module": str,
        "name": str,
        "filename": str,
        "lineno": int,
        "line": (str, type(None)),
        "has_source": bool,
    },
    "changes": {},
    "terminal": {},
    "carried": {"data": dict},
    "parting": {},
    "basetemp": {},
    "catch up": {},
    "go on": {"output": list, "screen": (dict, type(None))},
    "end": {
        "screen": (dict, type(None)),
        "shouldfail": (bool, str),
        "shouldstop": (bool, str),
        "added": list,
        "timing": (dict, type(None)),
        "goes_on": bool,
        "ahead": bool,
        "basetemp": bool,
        "number": int,
        "pages": list,
    },
    "exit": {"reason": str, "returncode": (int, type(None)), "added": list},
    "interrupt": {"text": list, "frames": list},
    "trouble": {"text": str},
}

# What a message holds of which nothing is said, as a rule; on the path of every test that passes.
_USUAL: dict[str, dict[str, Any]] = {
    "report": {"whole": False, "rendered": None, "xml": None, "screen": None, "waits": False},
    "end": {
        "screen": None,
        "shouldfail": False,
        "shouldstop": False,
        "added": [],
        "timing": None,
        "ahead": False,
        "basetemp": False,
        "number": 0,
        "pages": [],
    },
}

_HEADER = struct.Struct("!4sI")
_MAGIC = b"nsbx"
_MAX_FRAME = 1 << 30  # bytes; a report with all of a test's output is far below
_CHUNK = 1 << 18


class Garbled(Exception):
    """Something else than our messages came out of the pipe."""


class TooLong(Exception):
    """A message is longer than its receiver would take."""


class Lost(Exception):
    """The pipe is no longer there."""

    def __init__(self) -> None:
        super().__init__(
            "the test has closed the pipe to pytest, or put something else in its place"
        )


# Taken now: a test may replace them, and its report must still get home.
_write, _fstat, _poll = os.write, os.fstat, select.poll
_encode = json.JSONEncoder().encode


def brief(message: Message) -> Message:
    """The message without what is as usual, for ``completed``."""
    usual = _USUAL.get(message["type"], {})
    return {
        name: value for name, value in message.items() if name not in usual or value != usual[name]
    }


def completed(message: Message) -> Message:
    """The message, with what is as usual. Raises Garbled unless it is one that a test process sends."""
    kind = message["type"]
    fields = _FIELDS.get(kind)
    if fields is None:
        raise Garbled(f"not a message: its type is {kind!r}")
    usual = _USUAL.get(kind, {})
    for name, types in fields.items():
        if name in message:
            if isinstance(message[name], types):
                continue
        elif name in usual:
            continue
        raise Garbled(f"not a message: {kind!r} with {name}={message.get(name)!r}")
    return {**usual, **message}


_TAG = "!"
_STR = frozenset({str})
_PLAIN = frozenset({str, int, float, bool, type(None)})
_DEEP = 100  # then something refers to itself, most likely
_MAKE: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
    "bytes": lambda text: text.encode("latin-1"),
    "path": Path,
}


def encode(message: Message, on_foreign: Callable[[object], str] = repr) -> bytes:
    """A frame. ``on_foreign`` stands in for a value that we cannot express.

    Raises TooLong.
    """
    payload = _encode(_pack(message, on_foreign, 0)).encode("ascii")
    if len(payload) > _MAX_FRAME:
        raise TooLong(f"a message of {len(payload)} bytes; the most is {_MAX_FRAME}")
    return _HEADER.pack(_MAGIC, len(payload)) + payload


def _pack(value: Any, on_foreign: Callable[[object], str], depth: int) -> Any:
    """The value in JSON's types, and objects with a tag; on the path of every report."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if depth > _DEEP:
        return on_foreign(value)
    if kind is dict and _TAG not in value and _STR.issuperset(map(type, value)):
        return {
            key: one if type(one) in _PLAIN else _pack(one, on_foreign, depth + 1)
            for key, one in value.items()
        }

    def pack(values: Iterable[Any]) -> list[Any]:
        return [_pack(value, on_foreign, depth + 1) for value in values]

    if isinstance(value, list):
        return pack(value)
    if isinstance(value, dict):
        return {_TAG: "dict", "of": pack(value.items())}
    for container in (tuple, set, frozenset):
        if isinstance(value, container):
            return {_TAG: container.__name__, "of": pack(value)}
    if isinstance(value, bytes):
        return {_TAG: "bytes", "of": value.decode("latin-1")}
    if isinstance(value, Path):
        return {_TAG: "path", "of": str(value)}
    if isinstance(value, (str, int, float)):  # of a class of the test's own
        return value
    return on_foreign(value)


def _unpack(found: dict[str, Any]) -> Any:
    return _MAKE[found[_TAG]](found["of"]) if _TAG in found else found


_decode = json.JSONDecoder(object_hook=_unpack).decode


def write(fd: int, frame: bytes) -> None:
    """All of the frame, whether the fd blocks or not: a test may change that."""
    view = memoryview(frame)
    while view:
        try:
            view = view[_write(fd, view) :]
        except BlockingIOError:
            poll = _poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()


class Writer:
    """Puts frames into a pipe, as long as its fd is that pipe: a test may close it, or dup2 over it."""

    def __init__(self, fd: int, held: Held | None = None) -> None:
        self.fd = fd
        self.held = held
        self._pipe = self._found()

    def write(self, frame: bytes, *, later: bool = False) -> None:
        """Send it, ``later`` with the next one if there is where to hold it. Raises Lost."""
        if later and self.held is not None and self.held.add(frame):
            return
        if self._found() != self._pipe:
            raise Lost
        if self.held is None:
            write(self.fd, frame)
        else:
            frame = self.held.frames() + frame
            write(self.fd, frame)
            self.held.sent(len(frame))

    def _found(self) -> tuple[int, int] | None:
        try:
            status = _fstat(self.fd)
        except OSError:
            return None
        return status.st_dev, status.st_ino


_HELD = struct.Struct("=I4xQ")


class Held:
    """Frames that wait to be sent together, in memory of both processes: a death loses none of them.

    A process that writes each frame of a passing test wakes its reader four times for it.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1 << 16)
        self.reset()

    def reset(self) -> None:
        """Hold nothing, and be another process's."""
        self._size = 0  # bytes held
        self._sent = 0  # bytes of the stream before them
        self._note()

    def add(self, frame: bytes) -> bool:
        """Hold it; False if there is no room."""
        start = _HELD.size + self._size
        if start + len(frame) > len(self._memory):
            return False
        self._memory[start : start + len(frame)] = frame
        self._size += len(frame)
        self._note()
        return True

    def frames(self) -> bytes:
        return self._memory[_HELD.size : _HELD.size + self._size]

    def sent(self, size: int) -> None:
        """So many bytes are in the pipe, with what was held before them."""
        self._size = 0
        self._note()  # in two steps, for we may be killed between any two
        self._sent += size
        self._note()

    def _note(self) -> None:
        _HELD.pack_into(self._memory, 0, self._size, self._sent)

    def rest(self, received: int) -> bytes:
        """In the other process, after the death: what has not come out of the pipe."""
        size, sent = _HELD.unpack_from(self._memory)
        start = min(max(received - sent, 0), size)
        return self._memory[_HELD.size + start : _HELD.size + size]


class LastWords:
    """Memory of both processes, for what cannot be said on the pipe: it has no fd to be closed."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1 << 16)
        self.is_heard = False

    def reset(self) -> None:
        """Be another process's."""
        self._memory[0] = 0
        self.is_heard = False

    def say(self, text: str) -> None:
        data = text.replace("\0", "").encode("utf-8", "backslashreplace")[: len(self._memory) - 1]
        self._memory[: len(data) + 1] = data + b"\0"

    def hear(self) -> str:
        """What has been said, "" for nothing."""
        self.is_heard = True
        data = self._memory[: self._memory.find(b"\0")]
        return data.decode("utf-8", "replace")


class Reader:
    """Cuts what comes out of a non-blocking fd into messages."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.at_end = False
        self.received = 0  # bytes
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
            yield from self.take(chunk)

    def take(self, chunk: bytes) -> Iterator[Message]:
        """The messages that this completes. Raises Garbled."""
        self.received += len(chunk)
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
            with memoryview(self._buffer) as view:
                payload = bytes(view[_HEADER.size : end])
            del self._buffer[:end]
            try:
                message = _decode(payload.decode("ascii"))
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
                raise Garbled(f"not a message: {payload[:40]!r}") from error
            if not isinstance(message, dict) or not isinstance(message.get("type"), str):
                raise Garbled(f"not a message: {payload[:40]!r}")
            yield message
