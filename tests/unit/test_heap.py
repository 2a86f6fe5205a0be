"""Which memory is put into huge pages, and when."""

from __future__ import annotations

import errno
import mmap
import os

import pytest

from pytest_nsbox.kernel import maps
from pytest_nsbox.sandbox import heap

HUGE = 2 << 20
MAPS = """\
00400000-00600000 rw-p 00000000 00:00 0
55d000000000-55d000a00000 rw-p 00000000 00:00 0                          [heap]
7f0000001000-7f0000700000 rw-p 00000000 00:00 0
7f1000000000-7f1000001000 rw-p 00000000 00:00 0
7f2000000000-7f2000800000 r--p 00000000 00:00 0
7f3000000000-7f3000800000 rw-p 00000000 fe:01 1234                       /usr/lib/libc.so
7f4000000000-7f4000800000 rw-p 00000000 00:00 0                          [stack]
"""


def test_only_private_memory_with_room_for_a_huge_page_is_meant() -> None:
    assert [
        (hex(start), hex(end)) for start, end in heap.private_memory(maps.read(MAPS.splitlines()))
    ] == [
        ("0x400000", "0x600000"),
        ("0x55d000000000", "0x55d000a00000"),
        ("0x7f0000200000", "0x7f0000600000"),
    ]


@pytest.mark.parametrize(
    ("forks", "size", "expected"),
    [
        (99, "900000 kB", False),
        (100, "900000 kB", True),
        (1000, "1000 kB", False),
        (100, "", False),
    ],
)
def test_it_pays_for_many_forks_of_a_big_process(
    forks: int, size: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heap, "read_status", lambda field: size)
    assert heap.pays(forks) is expected


@pytest.mark.parametrize(
    ("number", "tries"), [(errno.EAGAIN, [0, HUGE, HUGE]), (errno.EINVAL, [0, HUGE])]
)
def test_what_is_refused_for_the_moment_is_tried_again(
    number: int, tries: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def refuse_once(start: int, length: int, advice: int) -> None:
        asked.append(start)
        if asked == [0, HUGE]:
            raise OSError(number, os.strerror(number))

    two = [maps.Mapping(start, start + HUGE, "rw-p", 0, "") for start in (0, HUGE)]
    monkeypatch.setattr(maps, "own", lambda: two)
    monkeypatch.setattr(heap, "madvise", refuse_once)
    heap.collapse()
    assert asked == tries


def test_memory_is_what_it_was_afterwards() -> None:
    with mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[:5] = memory[-5:] = b"12345"
        heap.collapse()
        assert memory[:5] == memory[-5:] == b"12345"
