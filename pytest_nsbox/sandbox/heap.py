"""A big process forks in the time of a small one if its memory is in huge pages.

A fork copies page tables: an entry for each 4 KiB, or one for 2 MiB.  The kernel joins small pages by
itself, but late; ``MADV_COLLAPSE`` (Linux 6.1) has it done now.  See "Explicit collapse" in
Documentation/admin-guide/mm/transhuge.rst.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from time import sleep

from pytest_nsbox.kernel import maps
from pytest_nsbox.kernel.syscalls import MADV_COLLAPSE, madvise
from pytest_nsbox.sandbox.privileges import read_status

_HUGE = 2 << 20  # bytes of a huge page, where pages have 4 KiB
# Measured on 2-core virtual machines, Linux 6.18: to collapse costs 0.3 ms a MiB, once, or 3.5 where a
# hypervisor must find the memory first; each fork then saves 0.02 ms a MiB. So it pays after 15 to 175
# forks; and below 128 MiB it saves less than anybody sees, unless it costs nobody's time.
FORKS = 100
_KIB = 128 << 10
_PAUSES = (0.0, 0.003, 0.006, 0.012)  # seconds before each try; a scheduler's slice is 3 ms


def pays(forks: int) -> bool:
    """Whether this process is so big, and will fork so often, that collapsing pays."""
    if forks < FORKS:
        return False
    size = read_status("RssAnon").partition(" ")[0]
    return size.isdecimal() and int(size) >= _KIB


def collapse() -> None:
    """Have the kernel put our anonymous memory into huge pages.

    What it cannot do (an old kernel, a fragmented memory) stays as it is.
    """
    left = list(private_memory(maps.own()))
    for pause in _PAUSES:
        sleep(pause)
        left = [(start, end) for start, end in left if not _try(start, end)]
        if not left:
            break


def _try(start: int, end: int) -> bool:
    """Collapse a range; False if another try may succeed.

    One that exits has unmapped its pages before it lets go of them, a moment apart, and more where it
    has no processor: until then those that it shares with us count as in use elsewhere.
    """
    try:
        madvise(start, end - start, MADV_COLLAPSE)
    except OSError as error:
        return error.errno != errno.EAGAIN
    return True


def private_memory(mappings: Iterable[maps.Mapping]) -> Iterator[tuple[int, int]]:
    """The ranges in which whole huge pages of our own have room."""
    for one in mappings:
        if not one.permissions.startswith("rw") or one.inode or one.name not in ("", "[heap]"):
            continue
        start, end = -(-one.start // _HUGE) * _HUGE, one.end // _HUGE * _HUGE
        if start < end:
            yield start, end
