"""The framing between a test process and its controller: what arrives, and what is refused."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_nsbox.run import wire


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The writer's end, and the reader's, which does not block."""
    writing, reading = socket.socketpair()
    reading.setblocking(False)
    with writing, reading:
        yield writing, reading


Ends = tuple[socket.socket, socket.socket]


def read_all(ends: Ends) -> list[wire.Message]:
    """What the reader makes of all that was written."""
    writing, reading = ends
    writing.shutdown(socket.SHUT_WR)
    return list(wire.Reader(reading.fileno()).read())


def test_a_message_arrives_as_it_was_sent(ends: Ends) -> None:
    message = {"type": "report", "data": {"number": 1, "none": None, "list": [1.5, "ä\n\0"]}}
    wire.write(ends[0].fileno(), wire.encode(message))
    assert read_all(ends) == [message]


def test_messages_arrive_in_their_order(ends: Ends) -> None:
    for number in range(20):
        wire.write(ends[0].fileno(), wire.encode({"type": "n", "number": number}))
    assert [message["number"] for message in read_all(ends)] == list(range(20))


def test_a_lone_surrogate_survives(ends: Ends) -> None:
    wire.write(ends[0].fileno(), wire.encode({"type": "\udcff"}))
    assert read_all(ends) == [{"type": "\udcff"}]


def test_a_message_in_pieces_arrives_once_it_is_whole(ends: Ends) -> None:
    writing, reading = ends
    reader = wire.Reader(reading.fileno())
    *first, last = wire.encode({"type": "end"})
    for byte in first:
        writing.send(bytes([byte]))
        assert list(reader.read()) == []
    writing.send(bytes([last]))
    assert list(reader.read()) == [{"type": "end"}]


def test_a_message_larger_than_any_buffer_arrives_whole(ends: Ends) -> None:
    message = {"type": "report", "text": "x" * (8 << 20)}
    writing, reading = ends
    reading.setblocking(True)

    def write() -> None:
        wire.write(writing.fileno(), wire.encode(message))
        writing.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert list(wire.Reader(reading.fileno()).read()) == [message]
    finally:
        thread.join()


def test_a_value_that_json_has_no_word_for_arrives_as_its_repr(ends: Ends) -> None:
    wire.write(ends[0].fileno(), wire.encode({"type": "report", "value": [1j]}))
    assert read_all(ends) == [{"type": "report", "value": ["1j"]}]


@pytest.mark.parametrize(
    "value",
    [
        (1, [(2,)], ()),
        {1: "one", "two": (2,)},
        {"!": "tuple", "of": [1]},
        {1, (2, 3)},
        frozenset({"x"}),
        b"\x00\xff",
        Path("/some/where"),
        [None, True, 1.5, {"nested": {"deep": b""}}],
    ],
    ids=repr,
)
def test_a_value_of_pythons_own_types_arrives_as_it_is(ends: Ends, value: object) -> None:
    wire.write(ends[0].fileno(), wire.encode({"type": "report", "value": value}))
    (message,) = read_all(ends)
    assert (message["value"], type(message["value"])) == (value, type(value))


def test_a_value_that_holds_itself_is_cut_off(ends: Ends) -> None:
    value: list[object] = []
    value.append(value)
    wire.write(ends[0].fileno(), wire.encode({"type": "report", "value": value}))
    assert "[[...]]" in str(read_all(ends))


def test_who_sends_may_choose_what_stands_in_for_a_foreign_value() -> None:
    seen: list[object] = []

    def stand_in(value: object) -> str:
        seen.append(value)
        return "stand-in"

    frame = wire.encode({"type": "report", "value": 1j}, stand_in)
    assert json.loads(frame[8:])["value"] == "stand-in"
    assert seen == [1j]


def test_nothing_to_read_is_not_the_end(ends: Ends) -> None:
    reader = wire.Reader(ends[1].fileno())
    assert list(reader.read()) == []
    assert not reader.at_end


def test_a_closed_writer_is_the_end(ends: Ends) -> None:
    ends[0].close()
    reader = wire.Reader(ends[1].fileno())
    assert list(reader.read()) == []
    assert reader.at_end


def test_a_writer_that_died_with_data_unread_is_the_end(ends: Ends) -> None:
    writing, reading = ends
    reading.send(b"never read")
    writing.close()  # makes the next read fail with ECONNRESET
    reader = wire.Reader(reading.fileno())
    assert list(reader.read()) == []
    assert reader.at_end


def test_half_a_message_before_the_end_is_no_message(ends: Ends) -> None:
    writing, _ = ends
    writing.send(wire.encode({"type": "end"})[:-1])
    assert read_all(ends) == []


def frame(payload: bytes, magic: bytes = b"nsbx") -> bytes:
    return struct.pack("!4sI", magic, len(payload)) + payload


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n",
        b"\0" * 40,
        frame(b'{"type": "end"}', magic=b"nsbX"),
        struct.pack("!4sI", b"nsbx", (1 << 30) + 1),
        frame(b""),
        frame(b"not JSON"),
        frame(b'{"type": "end", "x": {"!": "nothing", "of": 1}}'),
        frame(b'{"type": "end", "x": {"!": "tuple"}}'),
        frame(b'{"type": "end", "x": {"!": "set", "of": [[]]}}'),
        frame(b'{"type": "end", "x": {"!": "bytes", "of": 1}}'),
        frame(b"\xff\xfe\xfd"),
        frame(b"[]"),
        frame(b"{}"),
        frame(b'{"type": 1}'),
        frame(b'"type"'),
    ],
    ids=[
        "other protocol",
        "zeros",
        "bad magic",
        "too long",
        "empty",
        "no JSON",
        "unknown tag",
        "tag alone",
        "unhashable in a set",
        "bytes of a number",
        "no UTF-8",
        "a list",
        "no type",
        "type is a number",
        "a string",
    ],
)
def test_garbage_is_refused_and_shown(ends: Ends, garbage: bytes) -> None:
    ends[0].send(garbage)
    with pytest.raises(wire.Garbled, match=r"^not a message: b"):
        read_all(ends)


def test_what_came_before_the_garbage_still_counts(ends: Ends) -> None:
    writing, reading = ends
    writing.send(wire.encode({"type": "end"}) + b"garbage, garbage")
    messages = wire.Reader(reading.fileno()).read()
    assert next(messages) == {"type": "end"}
    with pytest.raises(wire.Garbled):
        next(messages)


def test_a_test_that_replaces_os_write_still_gets_its_report_home(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> int:
        raise OSError("mocked")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", broken)
        patch.setattr(json, "dumps", broken)
        wire.write(ends[0].fileno(), wire.encode({"type": "end"}))
    assert read_all(ends) == [{"type": "end"}]


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"type": "hello"}, "its type is 'hello'"),
        ({"type": "report"}, "'report' with data=None"),
        (
            {"type": "end", "screen": None, "shouldfail": False, "shouldstop": 3},
            "'end' with shouldstop=3",
        ),
        (
            {"type": "exit", "reason": "x", "returncode": "1", "added": []},
            "'exit' with returncode='1'",
        ),
    ],
    ids=["unknown type", "nothing in it", "wrong type of a value", "a text for a number"],
)
def test_a_message_that_no_test_process_sends_is_refused(message: wire.Message, told: str) -> None:
    with pytest.raises(wire.Garbled, match=f"^not a message: .*{told}"):
        wire.completed(message)


def test_a_message_that_is_too_long_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_MAX_FRAME", 100)
    with pytest.raises(wire.TooLong, match=r"a message of \d+ bytes; the most is 100"):
        wire.encode({"type": "trouble", "text": "x" * 100})


def test_a_full_pipe_is_waited_for_also_by_an_fd_that_does_not_block(ends: Ends) -> None:
    writing, _ = ends
    writing.setblocking(False)
    message = {"type": "trouble", "text": "x" * 1_000_000}
    thread = threading.Thread(
        target=wire.write, args=(writing.fileno(), wire.encode(message)), daemon=True
    )
    thread.start()
    assert next(_messages(ends)) == message
    thread.join(10)


def _messages(ends: Ends) -> Iterator[wire.Message]:
    reader = wire.Reader(ends[1].fileno())
    while True:
        select.select([ends[1]], [], [], 10)
        yield from reader.read()


@pytest.mark.parametrize("how", ["close", "dup2"])
def test_a_pipe_that_is_no_longer_there_is_told(how: str) -> None:
    reading, writing = os.pipe()
    writer = wire.Writer(writing)
    other = os.open(os.devnull, os.O_WRONLY)
    if how == "dup2":
        os.dup2(other, writing)
    else:
        os.close(writing)
    with pytest.raises(wire.Lost, match="the test has closed the pipe"):
        writer.write(wire.encode({"type": "end"}))
    for fd in {reading, other} | ({writing} if how == "dup2" else set()):
        os.close(fd)


@pytest.mark.parametrize("text", ["", "ä \udcff", "x" * 100_000], ids=["none", "any", "long"])
def test_last_words_are_heard(text: str) -> None:
    words = wire.LastWords()
    words.say(text)
    heard = words.hear()
    assert heard == text.encode("utf-8", "backslashreplace").decode()[: (1 << 16) - 1]


def messages(reader: wire.Reader) -> list[object]:
    return [message["n"] for message in reader.read()]


def held_pipe() -> tuple[wire.Reader, wire.Writer, wire.Held]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    held = wire.Held()
    return wire.Reader(reading), wire.Writer(writing, held), held


def numbered(n: int) -> bytes:
    return wire.encode({"type": "x", "n": n})


def test_held_frames_come_before_the_next_that_is_not() -> None:
    reader, writer, held = held_pipe()
    writer.write(numbered(1), later=True)
    writer.write(numbered(2), later=True)
    assert messages(reader) == []
    writer.write(numbered(3))
    assert messages(reader) == [1, 2, 3]
    assert held.rest(reader.received) == b""
    os.close(reader.fd)
    os.close(writer.fd)


def test_held_frames_outlive_their_process() -> None:
    reader, writer, held = held_pipe()
    pid = os.fork()
    if pid == 0:
        writer.write(numbered(1))
        writer.write(numbered(2), later=True)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert messages(reader) == [1]
    assert [m["n"] for m in reader.take(held.rest(reader.received))] == [2]
    os.close(reader.fd)
    os.close(writer.fd)


@pytest.mark.parametrize("come", [0, 5, 1000])
def test_of_held_frames_that_were_being_sent_nothing_comes_twice(come: int) -> None:
    reader, writer, held = held_pipe()
    writer.write(numbered(1), later=True)
    sent = held.frames()
    os.write(writer.fd, sent[:come])  # and then it died
    come_out = messages(reader)
    rest = [m["n"] for m in reader.take(held.rest(reader.received))]
    assert come_out + rest == [1]
    os.close(reader.fd)
    os.close(writer.fd)


def test_a_frame_for_which_there_is_no_room_is_sent_at_once() -> None:
    reader, writer, _ = held_pipe()
    writer.write(numbered(1), later=True)
    long = wire.encode({"type": "x", "n": 2, "text": "x" * (1 << 16)})
    sender = threading.Thread(target=writer.write, args=(long,), kwargs={"later": True})
    sender.start()
    found: list[object] = []
    while len(found) < 2:
        found += messages(reader)
    sender.join()
    assert found == [1, 2]
    os.close(reader.fd)
    os.close(writer.fd)
