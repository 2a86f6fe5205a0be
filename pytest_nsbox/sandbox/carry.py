"""Copies what a test wrote below a path out of its upper layer, to the host; never half a file."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from pytest_nsbox.sandbox.changes import (
    is_opaque,
    is_redirect,
    is_whiteout,
    list_seen,
    lstat_or_none,
    open_seen,
)

_SENDFILE_MOST = 1 << 30  # a larger count than 2 GiB is cut by the kernel, see sendfile(2)
_NAME_MOST = 220  # bytes of a name, so that NAME_MAX (255) has room for what is put around it


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
    with copy.noting(destination):
        for name, status in list_seen(upper, os.lstat(upper)):
            target = f"{destination}/{name}"
            there = lstat_or_none(target)
            both_symlinks = there and stat.S_ISLNK(there.st_mode) and stat.S_ISLNK(status.st_mode)
            if not is_whiteout(status) and (there is None or both_symlinks):
                copy.find(f"{upper}/{name}", target, status)
        copy.make()
    return copy.failures


def carry_path(upper: str, destination: str) -> list[Failure]:
    """Do on the host to one file or directory what the test did to it in its upper layer.

    Nothing at all if the test renamed a directory of the host's: what is in that one lies not in
    the upper layer but still at its old place, and what else is to be done might destroy it there.
    """
    status = lstat_or_none(upper)
    if status is None:  # the test left it alone
        return []
    copy = _Copy()
    copy.find(upper, destination, status)
    if not copy.renamed:
        with copy.noting(destination):
            if not is_whiteout(status):
                os.makedirs(os.path.dirname(destination), exist_ok=True)
            copy.make()
    return copy.failures


class _Entry(NamedTuple):
    source: str  # in the upper layer
    target: str  # on the host
    status: os.stat_result  # of the source


class _Copy:
    """One copying of trees: first all is found, then it is made; what fails is noted."""

    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self.renamed = False  # whether a directory of the host's was
        self._entries: list[_Entry] = []  # a directory before what is in it
        self._links: dict[tuple[int, int], str] = {}  # inode -> the first of its names we made

    @contextmanager
    def noting(self, target: str) -> Iterator[None]:
        """Go on after what fails in here, but do not forget it."""
        try:
            yield
        except OSError as error:
            self.failures.append(Failure(target, error))

    def find(self, source: str, target: str, status: os.stat_result) -> None:
        """Note an entry and all below it as what ``make`` is to put at ``target``."""
        pending = [_Entry(source, target, status)]
        while pending:  # no recursion: a test may nest directories deeper than Python's stack
            source, target, status = entry = pending.pop()
            self._entries.append(entry)
            if not stat.S_ISDIR(status.st_mode):
                continue
            with self.noting(target):
                for name, found in reversed(list_seen(source, status)):
                    pending.append(_Entry(f"{source}/{name}", f"{target}/{name}", found))
                if is_redirect(source):
                    self.renamed = True
                    raise OSError(errno.EXDEV, "renamed, and its content is still the host's")

    def make(self) -> None:
        """Bring the host to what was found."""
        made: list[_Entry] = []  # directories
        lost: set[str] = set()  # what could not be made, so that in it nothing can be
        for entry in self._entries:
            source, target, status = entry
            if os.path.dirname(target) in lost:
                lost.add(target)
                continue
            with self.noting(target):
                if is_whiteout(status):
                    _remove(target)
                elif stat.S_ISDIR(status.st_mode):
                    lost.add(target)
                    _make_directory(target)
                    lost.remove(target)
                    made.append(entry)
                    if is_opaque(source):
                        for name in set(os.listdir(target)) - set(os.listdir(source)):
                            _remove(f"{target}/{name}")
                elif not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
                    self._make_file(source, target, status)
        # Last: who writes in a directory may need another mode, and sets its mtime.
        for source, target, status in made:
            with self.noting(target):
                _dress(source, target, status)

    def _make_file(self, source: str, target: str, status: os.stat_result) -> None:
        """A file of any kind but a directory, made beside the target and renamed over it."""
        directory, _, name = target.rpartition("/")
        short = os.fsdecode(os.fsencode(name)[:_NAME_MOST])
        beside = f"{directory}/.{short}.nsbox-{os.urandom(4).hex()}"
        try:
            if not self._link(status, beside):
                if stat.S_ISREG(status.st_mode):
                    _copy_data(source, beside, status)
                elif stat.S_ISLNK(status.st_mode):
                    os.symlink(os.readlink(source), beside)
                else:  # a fifo or a socket
                    os.mknod(beside, stat.S_IFMT(status.st_mode) | 0o600)
                _dress(source, beside, status)
            try:
                os.replace(beside, target)
            except IsADirectoryError:
                _remove(target)
                os.replace(beside, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(beside)
            raise
        if status.st_nlink > 1:
            self._links.setdefault((status.st_dev, status.st_ino), target)

    def _link(self, status: os.stat_result, path: str) -> bool:
        """Give what was copied before another name; False if it was not, or may not have one."""
        with suppress(KeyError, OSError):
            os.link(self._links[status.st_dev, status.st_ino], path, follow_symlinks=False)
            return True
        return False


def _make_directory(path: str) -> None:
    """Have a directory at ``path`` and not, say, a symlink that leads out of what we copy to."""
    there = lstat_or_none(path)
    if there is None or not stat.S_ISDIR(there.st_mode):
        _remove(path)
        os.mkdir(path, 0o700)


def _remove(path: str) -> None:
    """Remove a file or a tree of the host's, if it is there."""
    pending = [path]
    while pending:
        here = pending[-1]
        try:
            try:
                os.rmdir(here)
            except NotADirectoryError:
                os.unlink(here)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            pending += [f"{here}/{name}" for name in os.listdir(here)]
            continue
        pending.pop()


def _copy_data(source: str, target: str, status: os.stat_result) -> None:
    """Copy a regular file, its holes as holes: a sparse one may be larger than any disk."""
    with (
        open(open_seen(source, status), "rb", 0) as reading,
        open(target, "xb", 0, opener=lambda path, flags: os.open(path, flags, 0o600)) as writing,
    ):
        size = status.st_size
        writing.truncate(size)
        start = 0
        while start < size:
            try:
                start = reading.seek(start, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # what is left is a hole
                    return
                raise
            end = reading.seek(start, os.SEEK_HOLE)
            writing.seek(start)
            while start < end:
                count = min(end - start, _SENDFILE_MOST)
                sent = os.sendfile(writing.fileno(), reading.fileno(), start, count)
                if not sent:  # it was truncated meanwhile
                    return
                start += sent


def _dress(source: str, target: str, status: os.stat_result) -> None:
    """Owner, xattrs, mode and times, in the order in which none undoes another.

    The owner and the xattrs as far as we may; a file that could not be given away must not run as
    its new owner, either.
    """
    there = os.lstat(target)
    mode = stat.S_IMODE(status.st_mode)
    if (there.st_uid, there.st_gid) != (status.st_uid, status.st_gid):
        try:
            os.lchown(target, status.st_uid, status.st_gid)
        except OSError:
            mode &= ~(stat.S_ISUID | stat.S_ISGID)
    if not stat.S_ISLNK(status.st_mode):
        _copy_xattrs(source, target)
        # Not for nothing: chmod takes S_ISGID away from a directory whose group is not ours.
        if stat.S_IMODE(there.st_mode) != mode:
            os.chmod(target, mode)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def _copy_xattrs(source: str, target: str) -> None:
    with suppress(OSError):
        for name in os.listxattr(source, follow_symlinks=False):
            if name.startswith("user.") and not name.startswith("user.overlay."):
                with suppress(OSError):
                    value = os.getxattr(source, name, follow_symlinks=False)
                    os.setxattr(target, name, value, follow_symlinks=False)
