"""How the command line talks to the daemon: one JSON object each way over a unix socket."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from larder.config import SOCKET_FILE

Message = dict[str, Any]


class Unreachable(Exception):
    """Nobody listens on the socket."""


class Refused(Exception):
    """The daemon could not do what it was asked for; the text is its reason."""


def read_message(stream: BufferedIOBase) -> Message:
    line = stream.readline()
    if not line:
        raise Unreachable("the daemon closed the connection without an answer")
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError(f"not an object: {line!r}")
    return message


def write_message(stream: BufferedIOBase, message: Mapping[str, Any]) -> None:
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def call(op: str, *, path: Path = SOCKET_FILE, timeout: float = 30.0, **arguments: Any) -> Message:
    """Ask the daemon to do `op`, and return its answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise Unreachable(f"no daemon listens on {path}") from error
        with connection.makefile("rwb") as stream:
            try:
                write_message(stream, {"op": op, **arguments})
                answer = read_message(stream)
            except ConnectionError as error:
                raise Unreachable(f"the daemon went away: {error}") from error
    if "error" in answer:
        raise Refused(answer["error"])
    return answer
