"""The unix sockets of a network namespace: ``/proc/net/unix``, and sock_diag(7) for one of them."""

from __future__ import annotations

import os
import re
import socket
import struct
from typing import NamedTuple

# Num: RefCount Protocol Flags Type St Inode Path. Flags are 00010000 (__SO_ACCEPTCON) where the
# socket listens; Type 0002 is SOCK_DGRAM, which does not. An abstract name begins with "@".
_SERVER = re.compile(
    rb"^\S+ \S+ \S+ (?:00010000 \S+|\S+ 0002) \S+ +(\d+) ([^@\n].*)$", re.MULTILINE
)

# linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h; Python has no name for the first.
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_UDIAG_SHOW_VFS = 2
_UNIX_DIAG_VFS = 1
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBHIIIII")  # unix_diag_req: family, ..., inode, show, no cookie
_ANSWER = struct.Struct("=BBBBIII")  # unix_diag_msg
_ATTRIBUTE = struct.Struct("=HHII")  # nlattr: length, type; unix_diag_vfs: inode, device


class Server(NamedTuple):
    """A socket with a path that others may connect or send to."""

    inode: int  # of the socket, as in /proc/PID/fd; not of the file
    path: str  # as it was given to bind(2): it may be relative


def read() -> bytes:
    """The table of the caller's network namespace."""
    with open("/proc/net/unix", "rb", buffering=0) as file:
        return file.read()


def servers(table: bytes) -> list[Server]:
    """What of the table is bound to a path and takes connections, or datagrams."""
    return [Server(int(inode), os.fsdecode(path)) for inode, path in _SERVER.findall(table)]


def file_inode(inode: int) -> int | None:
    """The lower 32 bits of the inode of the file of a socket; None if the kernel does not tell.

    The table has a path as it was given to bind(2), and does not learn of a rename(2).
    """
    no_cookie = 0xFFFFFFFF
    body = _REQUEST.pack(socket.AF_UNIX, 0, 0, 0, inode, _UDIAG_SHOW_VFS, no_cookie, no_cookie)
    length = _HEADER.size + len(body)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as diag:
            diag.send(_HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0) + body)
            answer = diag.recv(4096)
    except OSError:
        return None
    if _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:  # an error
        return None
    place = _HEADER.size + _ANSWER.size
    while place + _ATTRIBUTE.size <= len(answer):
        size, kind, found, _ = _ATTRIBUTE.unpack_from(answer, place)
        if kind == _UNIX_DIAG_VFS:
            return int(found)
        place += max(size + 3 & ~3, 4)
    return None
