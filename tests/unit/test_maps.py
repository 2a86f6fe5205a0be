"""What memory a process has, and which pages of it are its alone."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import pytest

from pytest_nsbox.kernel import maps

PAGE = mmap.PAGESIZE


def test_a_line_of_maps_is_taken_apart() -> None:
    lines = [
        "7f10-7f20 rw-p 00000000 00:00 0 \n",
        "7f20-7f30 r-xp 00001000 fe:01 1234                 /usr/lib/a name with blanks.so\n",
        "7f30-7f40 rw-p 00000000 00:00 0                    [heap]\n",
    ]
    assert list(maps.read(lines)) == [
        maps.Mapping(0x7F10, 0x7F20, "rw-p", 0, ""),
        maps.Mapping(0x7F20, 0x7F30, "r-xp", 1234, "/usr/lib/a name with blanks.so"),
        maps.Mapping(0x7F30, 0x7F40, "rw-p", 0, "[heap]"),
    ]


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    """Some pages, all of them written to."""
    with mmap.mmap(-1, 16 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[:] = b"x" * len(memory)
        yield memory


def test_in_a_fork_the_pages_that_it_has_written_to_are_its_alone(memory: mmap.mmap) -> None:
    import ctypes

    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    ranges = [(start, start + len(memory))]
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            memory[3 * PAGE] = memory[4 * PAGE] = memory[9 * PAGE] = 1
            found = [number - start // PAGE for number in maps.pages_for_itself(ranges)]
            os.write(writing, repr(found).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reading, 1000).decode() == "[3, 4, 9]"
    os.close(reading)
    os.close(writing)
