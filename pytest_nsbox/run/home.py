"""The ways from a test process to its controller: what it tells, what it asks, what it is told."""

from __future__ import annotations

import contextlib
import os
import select
from typing import Any, NamedTuple

from pytest_nsbox.run import wire
from pytest_nsbox.sandbox import channel

# Taken now: a test may replace them, and its process must still be heard.
_read, _poll = os.read, select.poll


class Home(NamedTuple):
    """A pipe for messages, one for answers, and memory for what no pipe can carry any more."""

    reports: wire.Writer
    answers: int
    last_words: wire.LastWords

    def tell(self, message: wire.Message, *, later: bool = False) -> list[str]:
        """Send a message; what JSON cannot say goes as its repr, and these are returned.

        ``later``: it may wait for the next one, see wire.Held.  Raises wire.Lost, wire.TooLong.
        """
        foreign: list[str] = []

        def as_repr(value: object) -> str:
            text = safe_repr(value)
            foreign.append(text)
            return text

        self.reports.write(wire.encode(message, as_repr), later=later)
        return foreign

    def answer(self) -> Any:
        """What the controller answers. Raises RuntimeError when it has gone."""
        answer = bytearray()
        while not answer.endswith(b"\n"):
            chunk = _read(self.answers, 1 << 16)
            if not chunk:
                raise RuntimeError("the controller has gone")
            answer += chunk
        return channel.decode(answer.decode())[0]

    def is_told_something(self) -> bool:
        """Whether an answer is there already."""
        poll = _poll()
        poll.register(self.answers, select.POLLIN)
        return bool(poll.poll(0))

    def tell_trouble(self, text: str) -> None:
        """Tell that this process could not do its work."""
        with contextlib.suppress(BaseException):
            try:
                self.tell({"type": "trouble", "text": text})
            except wire.Lost as lost:
                self.last_words.say(f"{lost}\n\n{text}")


def safe_repr(value: object) -> str:
    """``repr``, whatever the object's class thinks of that."""
    try:
        return repr(value)
    except BaseException as error:
        return f"<{type(value).__name__} object, whose repr raised {type(error).__name__}>"
