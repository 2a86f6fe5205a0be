"""/proc/PID/maps and /proc/PID/pagemap: what memory a process has, and which pages are its alone."""

from __future__ import annotations

import mmap
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

# Documentation/admin-guide/mm/pagemap.rst: 64 bits a page, of which 63 says that it is present, 61 that
# it is of a file or shared, 56 that nobody else maps it. The highest byte has them all.
_ENTRY = 8  # bytes
_HIGHEST = slice(_ENTRY - 1 if sys.byteorder == "little" else 0, None, _ENTRY)
_OWN = re.compile(rb"\x81+")

# Taken now: a test or a fixture may replace them.
_open_text, _open, _pread, _close = open, os.open, os.pread, os.close


class Mapping(NamedTuple):
    """A line of ``maps``."""

    start: int
    end: int
    permissions: str  # like "rw-p"
    inode: int  # 0: of no file
    name: str  # a path, or like "[heap]", or ""


def read(maps: Iterable[str]) -> Iterator[Mapping]:
    """The mappings of the lines of a ``/proc/PID/maps``."""
    for line in maps:
        addresses, permissions, _, _, inode, *name = line.split(None, 5)
        start, end = (int(address, 16) for address in addresses.split("-"))
        yield Mapping(start, end, permissions, int(inode), name[0].strip() if name else "")


def own() -> list[Mapping]:
    """The mappings of this process."""
    with _open_text("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        return list(read(file))


def pages_for_itself(ranges: Sequence[tuple[int, int]]) -> list[int]:
    """The pages, by number, of these ranges of addresses that this process shares with no other.

    In a fork those are the pages of private memory that it has written to. Raises OSError.
    """
    found: list[int] = []
    fd = _open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for start, end in ranges:
            first, after = start // mmap.PAGESIZE, end // mmap.PAGESIZE
            entries = _pread(fd, (after - first) * _ENTRY, first * _ENTRY)
            for run in _OWN.finditer(entries[_HIGHEST]):
                found += range(first + run.start(), first + run.end())
    finally:
        _close(fd)
    return found
