"""Messages between a client and its supervisor: one JSON object, and fds, over a SEQPACKET socket."""

from __future__ import annotations

import _socket
import array
import errno
import json
import os
import socket
from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]

_INLINE = 32_000  # bytes; a packet must fit into the socket's buffer (net.core.wmem_default)
_MAX_FDS = 32

# On the path of every test, where json.loads makes twelve calls of it.
decode = json.JSONDecoder().raw_decode

# Taken now: pytest-socket replaces the class, for tests that are not to have sockets.
_Socket = socket.socket


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a channel."""
    kind = socket.AF_UNIX, socket.SOCK_SEQPACKET, 0
    one, other = _socket.socketpair(*kind)
    return _Socket(*kind, one.detach()), _Socket(*kind, other.detach())


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send ``message`` and duplicates of ``fds``; one too long for a packet travels as a memfd."""
    data = json.dumps(message).encode("utf-8", "surrogatepass")
    if len(data) <= _INLINE:
        _send(sock, b"j" + data, fds)
        return
    memfd = os.memfd_create("nsbox-message")
    try:
        with open(memfd, "wb", closefd=False) as file:
            file.write(data)
        _send(sock, b"m", [*fds, memfd])
    finally:
        os.close(memfd)


def _send(sock: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], ancillary)


def receive(sock: socket.socket) -> tuple[Message, list[int]]:
    """The next message and its fds (close-on-exec). Raises as ``take``."""
    return read(*take(sock))


def take(sock: socket.socket) -> tuple[bytes, list[int]]:
    """The next packet, of which ``read`` makes a message, and its fds (close-on-exec).

    Raises EOFError when the other side has gone, TimeoutError as the socket's timeout says, OSError
    where there is no room for the fds.
    """
    fds: array.array[int] = array.array("i")
    try:
        # MSG_CMSG_CLOEXEC: the fds must not leak into what another thread executes meanwhile.
        data, ancillary, flags, _ = sock.recvmsg(
            _INLINE + 1, socket.CMSG_SPACE(_MAX_FDS * fds.itemsize), socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        data, ancillary, flags = b"", [], 0
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    if flags & socket.MSG_CTRUNC:
        for fd in fds:
            os.close(fd)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    if not data:
        raise EOFError("the other side of the channel has gone")
    return data, list(fds)


def read(packet: bytes, fds: list[int]) -> tuple[Message, list[int]]:
    """The message of a packet, and its own fds."""
    body = packet[1:]
    if packet[:1] == b"m":
        with open(fds.pop(), "rb") as file:
            file.seek(0)
            body = file.read()
    message: Message = decode(body.decode("utf-8", "surrogatepass"))[0]
    return message, fds
