"""Pages that are copied before a test writes to them."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Sequence

import pytest

from pytest_nsbox.kernel import maps
from pytest_nsbox.sandbox import pages

PAGE = mmap.PAGESIZE


@pytest.fixture
def start() -> Iterator[int]:
    """Where there are 16 pages, all of them written to."""
    memory = mmap.mmap(-1, 16 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = b"x" * len(memory)
    yield ctypes.addressof(ctypes.c_char.from_buffer(memory))
    memory.close()


def unpacked(iovecs: bytes) -> list[tuple[int, int]]:
    return [(first // PAGE, size // PAGE) for first, size in struct.iter_unpack("@PN", iovecs)]


def own_after(act: Callable[[], object], start: int) -> list[int]:
    """The pages from there that a fork has for itself after it has done that."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            act()
            found = pages.written([(start, start + 16 * PAGE)])
            os.write(writing, bytes(number - start // PAGE for number in found))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        found = list(file.read())
    os.waitpid(pid, 0)
    return found


def some(start: int) -> pages.Pages:
    return pages.Pages(pages.packed(start // PAGE + number for number in (2, 5, 6, 7)))


def test_they_are_copies_of_the_fork_then_and_no_others(start: int) -> None:
    chosen = some(start)
    assert own_after(lambda: None, start) == []
    assert own_after(chosen.populate, start) == [2, 5, 6, 7]


def test_their_content_is_what_it_was(start: int) -> None:
    chosen = some(start)

    def act() -> None:
        chosen.populate()
        assert ctypes.string_at(start, 16 * PAGE) == b"x" * 16 * PAGE

    assert own_after(act, start) == [2, 5, 6, 7]  # an error would leave nothing to be read


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EBADF, errno.EPERM, errno.ENOSYS])
def test_where_process_madvise_is_refused_each_range_is_advised(
    start: int, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(pages, "process_madvise", refused)
    assert own_after(some(start).populate, start) == [2, 5, 6, 7]


def test_where_all_of_it_is_refused_nothing_happens(
    start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(pages, "process_madvise", refused)
    monkeypatch.setattr(pages, "madvise", refused)
    assert own_after(some(start).populate, start) == []


def test_what_is_no_memory_stops_it_and_raises_nothing(start: int) -> None:
    chosen = pages.Pages(pages.packed([1]))  # where nothing is ever mapped: vm.mmap_min_addr
    assert own_after(chosen.populate, start) == []


def test_pages_in_a_row_are_one_range() -> None:
    assert unpacked(pages.packed([9, 3, 5, 4, 20, 21])) == [(3, 3), (9, 1), (20, 2)]


def test_there_are_no_more_ranges_than_the_system_call_takes() -> None:
    assert len(unpacked(pages.packed(range(0, 10_000, 2)))) == 1024


def test_there_are_no_more_pages_than_a_process_may_have_for_nothing() -> None:
    found = unpacked(pages.packed([*range(4000), *range(5000, 5090), *range(6000, 6010)]))
    assert found == [(0, 4000), (5000, 90)]


@pytest.mark.parametrize("numbers", [["a"], [1, "a"], [None], [1 << 70], [1.5]])
def test_what_is_no_number_of_a_page_is_refused(numbers: Sequence[int]) -> None:
    with pytest.raises((TypeError, struct.error)):
        pages.packed(numbers)


def test_without_a_pagemap_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object) -> None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(maps, "_open", refused)
    assert pages.written([(0, PAGE)]) == []
