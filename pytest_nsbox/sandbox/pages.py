"""Pages that every test writes to, copied before its turn.

A forked process has a page fault for each page of its parent's that it writes to, and in Python to use
an object is to count a reference.  A test of nothing writes to more than 1,000 pages, nearly all the
same as the test before it: so those that two tests have written to are copied for each process that
waits for its test, and in one system call: ``MADV_POPULATE_WRITE`` (Linux 5.14), see madvise(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import struct
from collections.abc import Iterable, Sequence

from pytest_nsbox.kernel import maps
from pytest_nsbox.kernel.syscalls import MADV_POPULATE_WRITE, madvise, process_madvise

_IOVEC = struct.Struct("@PN")  # sys/uio.h: an address, and a number of bytes
_MOST_RANGES = 1024  # UIO_MAXIOV
_MOST_PAGES = 4096  # 16 MiB for each process that waits


def writable() -> list[tuple[int, int]]:
    """The ranges of addresses in which a fork of this process would have copies."""
    return [(one.start, one.end) for one in maps.own() if one.permissions == "rw-p"]


def written(ranges: Sequence[tuple[int, int]]) -> list[int]:
    """The pages in these ranges that this process has written to since it was forked; may be none."""
    try:
        return maps.pages_for_itself(ranges)
    except OSError:  # no /proc, or another's
        return []


def packed(numbers: Iterable[int]) -> bytes:
    """Pages, as an array of struct iovec. Of too many, those that lie together.

    Raises TypeError, struct.error where these are no numbers of pages.
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and sum(runs[-1]) == number:
            runs[-1][1] += 1
        else:
            runs.append([number, 1])
    runs.sort(key=lambda run: -run[1])
    chosen, pages = [], 0
    for first, count in runs[:_MOST_RANGES]:
        pages += count
        if pages > _MOST_PAGES:
            break
        chosen.append((first * mmap.PAGESIZE, count * mmap.PAGESIZE))
    return b"".join(_IOVEC.pack(*one) for one in sorted(chosen))


class Pages:
    """Some of this process's memory."""

    def __init__(self, iovecs: bytes) -> None:
        """``iovecs``: as ``packed`` gives them."""
        self._iovecs = iovecs
        self._buffer = ctypes.create_string_buffer(iovecs, len(iovecs))
        self._address = ctypes.addressof(self._buffer)
        self._count = len(iovecs) // _IOVEC.size

    def populate(self) -> None:
        """In a fork of it: have copies of them. What is refused is copied when it is written to."""
        try:
            process_madvise(self._address, self._count, MADV_POPULATE_WRITE)
        except OSError:  # an older kernel, or a container's seccomp filter
            with contextlib.suppress(OSError):
                for start, length in _IOVEC.iter_unpack(self._iovecs):
                    madvise(start, length, MADV_POPULATE_WRITE)
