"""What ``/proc/net/unix`` says, see proc_net_unix(5)."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

# Num: RefCount Protocol Flags Type St Inode Path. Flags are 00010000 (__SO_ACCEPTCON) where the
# socket listens; Type 0002 is SOCK_DGRAM, which does not. An abstract name begins with "@".
_SERVER = re.compile(
    rb"^\S+ \S+ \S+ (?:00010000 \S+|\S+ 0002) \S+ +(\d+) ([^@\n].*)$", re.MULTILINE
)


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
