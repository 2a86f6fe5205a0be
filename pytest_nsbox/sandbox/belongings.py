"""What of the host's ``/tmp`` and ``/dev/shm`` is ours: made while pytest set something up for tests.

A sandbox has these places for itself.  What a conftest, a test module or a broad-scoped fixture has
put there (``tempfile.mkdtemp()`` in a ``setUpClass``) is nevertheless what its tests are about, and
so is there, too.  Who made an entry the kernel does not tell: ours is what appears in the time in
which we set something up, with us for its owner.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time

PLACES = ("/tmp", "/dev/shm")

#: Path, inode, and time of the last change in ns, 0 for what is not copied (directories).
Belonging = tuple[str, int, int]

# Basetemp is shown in any case, and those of other sessions beside it are not ours.
_PYTESTS = "pytest-of-"
# Of timestamps: a tick of the kernel's, 10 ms at most, and another one for the clock's own.
_COARSENESS = 20_000_000  # ns


class Belongings:
    """Tells what we make from what others do, by looking before and after."""

    def __init__(self) -> None:
        self._looked: dict[str, tuple[int, int, list[str]]] = {}  # at its mtime, when, what
        self._others: set[str] | None = None  # what was there when we began, and was not ours
        self._ours: set[str] = set()

    def begin(self) -> None:
        """From now on we set something up."""
        self._others = self._look() - self._ours

    def end(self) -> None:
        """What we were to set up is there."""
        if self._others is not None:
            self._ours |= {path for path in self._look() - self._others if _may_be_ours(path)}
            self._others = None

    def look(self) -> tuple[Belonging, ...]:
        """What is there of ours now, sorted by path."""
        found = []
        for path in sorted(self._ours):
            try:
                status = os.lstat(path)
            except OSError:
                self._ours.discard(path)  # what comes there later may be another's
                continue
            is_directory = stat.S_ISDIR(status.st_mode)
            found.append((path, status.st_ino, 0 if is_directory else status.st_ctime_ns))
        return tuple(found)

    def _look(self) -> set[str]:
        return {path for place in PLACES for path in self._entries(place)}

    def _entries(self, place: str) -> list[str]:
        """The paths of what is in a place, which is read again only where it may have changed."""
        try:
            mtime = os.stat(place).st_mtime_ns
            known = self._looked.get(place)
            if known is None or known[0] != mtime or known[1] - mtime < _COARSENESS:
                now = time.time_ns()
                paths = [f"{place}/{name}" for name in os.listdir(place)]
                known = self._looked[place] = mtime, now, paths
            return known[2]
        except OSError:
            return []


def _may_be_ours(path: str) -> bool:
    """Whether it is the caller's; a socket is not asked for, since ``sockets`` knows that better."""
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        is_pytests = os.path.basename(path).startswith(_PYTESTS)
        is_socket = stat.S_ISSOCK(status.st_mode)
        return status.st_uid == os.geteuid() and not (is_socket or is_pytests)
    return False
