"""Which processes outside a sandbox are to be there by their pids: this one, and its children.

A test's PID namespace has none of them.  But a broad-scoped fixture may have noted down its own pid
(``psutil.Process()``, a lock file), or have started a server, and a test then asks whether the process
of that pid is alive, and what it is.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from typing import NamedTuple

from pytest_nsbox.kernel import procstat

_MOST_LISTED = 8  # children: each costs every sandbox a fork


class Outsider(NamedTuple):
    """One of them."""

    pid: int
    started: int  # clock ticks after boot: by both it is this one and no other
    is_listed: bool  # whether what stands in for it is to be a process, too


class Outsiders:
    """Those that there are."""

    def __init__(self) -> None:
        # In every sandbox, and so it must be cheap: as a process it would take a fork for each.
        self._me = _outsider(os.getpid(), is_listed=False)
        self._known: dict[int, Outsider | None] = {}  # our children, by pid

    def directories(self, belongings: Collection[str], basetemp: str | None) -> tuple[str, ...]:
        """Those of the run's own that our children work in or were told of, sorted.

        They are among the belongings, or in these or in basetemp.

        What a server serves is the server's, as the tables of a database are: what a test puts there
        it serves, and what it puts there a test takes away.
        """
        pids = [pid for pid, each in self._known.items() if each is not None]
        paths = {path for pid in pids for path in procstat.paths(pid)}
        tops = [*belongings, *([basetemp] if basetemp else [])]
        found = {path for path in paths if path in belongings or _lies_in(path, tops)}
        found = {path for path in found if os.path.isdir(path)}
        return tuple(sorted(path for path in found if not _lies_in(path, found)))

    def look(self, children: Iterable[int]) -> tuple[Outsider, ...]:
        """This process and those of its children that are in no sandbox, sorted."""
        self._known = {
            pid: self._known.get(pid) or _outsider(pid, is_listed=True) for pid in children
        }
        found = [each for each in self._known.values() if each is not None]
        if len(found) > _MOST_LISTED:
            found = [each._replace(is_listed=False) for each in found]
        if self._me is not None:
            found.append(self._me)
        # Whose pids are not those of init and of the test process (pytest may be a container's init).
        return tuple(sorted(each for each in found if each.pid > 2))


def _lies_in(path: str, tops: Collection[str]) -> bool:
    return any(path.startswith(top + "/") for top in tops)


def _outsider(pid: int, *, is_listed: bool) -> Outsider | None:
    try:
        if len(procstat.pids(pid)) == 1:
            return Outsider(pid, procstat.stat(pid).started, is_listed)
    except OSError:  # gone, or a /proc that hides it
        pass
    return None
