"""What a forked process has inherited open: what is the host's is opened anew in its sandbox.

A descriptor keeps the mount that its path was opened on: what is opened relative to a directory, or
once more through ``/proc/self/fd``, goes past every overlay.  Hence each that was not opened for
writing gets a twin of the sandbox's, under its number.  What was opened for writing stays as it is:
a log file, say, which is meant to be written to.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Collection, Iterable
from typing import NamedTuple

_O_ACCMODE = os.O_RDONLY | os.O_WRONLY | os.O_RDWR


class Inherited(NamedTuple):
    """A descriptor that leads to the host, as it was before the fork."""

    fd: int
    flags: int  # as F_GETFL gives them
    path: str
    status: os.stat_result
    is_there: bool  # whether its path leads to it: it may have been deleted, or replaced


def inherited(but: Collection[int] = ()) -> list[Inherited]:
    """Those of the caller's descriptors by which a child would reach past its sandbox.

    ``but``: without these, which the child closes at once.

    On the path of every test: of the usual 15 none or one is looked at twice.
    """
    found = []
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd in but:
            continue
        try:
            one = _look(fd)
        except OSError:  # the listing's own, or another thread's, and now closed
            continue
        if one is not None:
            found.append(one)
    return found


def _look(fd: int) -> Inherited | None:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if flags & _O_ACCMODE:  # opened for writing; for O_PATH this is 0, too
        return None
    status = os.fstat(fd)
    if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode) or flags & os.O_PATH):
        return None
    path = os.readlink(f"/proc/self/fd/{fd}")
    if not path.startswith("/"):  # a namespace, see nsfs in namespaces(7)
        return None
    try:
        is_there = os.path.samestat(os.lstat(path), status)
    except OSError:
        is_there = False
    return Inherited(fd, flags, path, status, is_there)


def reopen(found: Iterable[Inherited]) -> None:
    """In the sandbox: have each descriptor stand for what its path means in here.

    What is not there becomes something in which nothing is found (ENOTDIR), but for a regular file,
    which stays readable: a broad-scoped fixture's temporary file, which is deleted or in its /tmp.
    """
    for one in found:
        with contextlib.suppress(OSError):
            if not os.path.samestat(os.fstat(one.fd), one.status):
                continue  # it was one of ours
            twin = _twin(one)
            if twin is not None:
                os.dup2(twin, one.fd, os.get_inheritable(one.fd))
                os.close(twin)


def _twin(one: Inherited) -> int | None:
    is_file = stat.S_ISREG(one.status.st_mode) and not one.flags & os.O_PATH
    try:
        if not one.is_there:
            raise FileNotFoundError
        twin = os.open(one.path, one.flags | os.O_CLOEXEC)
    except OSError:
        kept = one.flags & os.O_PATH
        return None if is_file else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC | kept)
    if is_file:
        os.lseek(twin, os.lseek(one.fd, 0, os.SEEK_CUR), os.SEEK_SET)
    return twin
