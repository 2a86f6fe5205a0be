"""Copies what a test wrote below a path out of its upper layer, to the host; never half a file."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import NamedTuple

from pytest_nsbox.sandbox.changes import is_opaque, is_redirect, is_whiteout, open_seen

_SET_ID = stat.S_ISUID | stat.S_ISGID


class Failure(NamedTuple):
    """A path of the host's that is not as the test had it, and why."""

    path: str
    error: OSError


def carry_new(upper: str, destination: str) -> list[Failure]:
    """Copy the entries of the directory ``upper`` that ``destination`` does not have.

    For pytest's basetemp: the test's own tmp_path is new; what broad fixtures made there stays
    pristine.  Symlinks are made anew: pytest has a ``NAMEcurrent`` beside its numbered directories.
    """
    copy = _Copy()
    try:
        with os.scandir(upper) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                status = entry.stat(follow_symlinks=False)
                target = f"{destination}/{entry.name}"
                there = _lstat(target)
                if is_whiteout(status):
                    continue
                if there is None or stat.S_ISLNK(status.st_mode) and stat.S_ISLNK(there.st_mode):
                    copy.add(entry.path, target, status)
    except OSError as error:
        copy.failures.append(Failure(destination, error))
    return copy.run()


def carry_path(upper: str, destination: str) -> list[Failure]:
    """Do on the host to one file or directory what the test did to it in its upper layer."""
    copy = _Copy()
    try:
        status = os.lstat(upper)
        if not is_whiteout(status):
            os.makedirs(os.path.dirname(destination), exist_ok=True)
        copy.add(upper, destination, status)
    except FileNotFoundError:
        pass  # nothing was done to it
    except OSError as error:
        return [Failure(destination, error)]
    return copy.run()


class _Copy:
    """One copying of trees, in three passes: what is there, what is not, and the directories' faces.

    Deleting comes second, and only if no directory was renamed: what lies in that one is not in the
    upper layer but still where the host has it, and deleting it there would lose it.  Modes and
    times of directories come last, as writing in a directory needs the one and changes the other.
    """

    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self._pending: list[tuple[str, str, os.stat_result]] = []
        self._deleted: list[str] = []
        self._directories: list[tuple[str, str, os.stat_result]] = []
        self._links: dict[tuple[int, int], str] = {}
        self._renamed = False

    def add(self, source: str, target: str, status: os.stat_result) -> None:
        """Have an entry copied over ``target``, whatever that is then."""
        self._pending.append((source, target, status))

    def run(self) -> list[Failure]:
        while self._pending:  # no recursion: a test may nest directories deeper than Python's stack
            source, target, status = self._pending.pop()
            with self._noting(target):
                if is_whiteout(status):
                    self._deleted.append(target)
                elif stat.S_ISDIR(status.st_mode):
                    self._directory(source, target, status)
                elif not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
                    self._file(source, target, status)
        for target in [] if self._renamed else self._deleted:
            with self._noting(target):
                _remove(target)
        for source, target, status in reversed(self._directories):  # children before parents
            with self._noting(target):
                _dress(source, target, status)
        return self.failures
