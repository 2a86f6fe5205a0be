"""Copies what a test wrote below a path out of its upper layer, to the host; never half a file."""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from pytest_nsbox.sandbox.changes import is_opaque, is_whiteout

_CHUNK = 1 << 30


class Failure(NamedTuple):
    """A path of the host's that could not be written, and why."""

    path: str
    error: OSError


def carry_new(upper: str, destination: str) -> list[Failure]:
    """Copy the entries of the directory ``upper`` that ``destination`` does not have.

    For pytest's basetemp: the test's own tmp_path is new; what broad fixtures made there stays
    pristine.  A symlink is made anew: pytest keeps a ``NAMEcurrent`` beside its numbered directories.
    """
    copy = _Copy()
    for name in copy.names(upper):
        source, target = f"{upper}/{name}", f"{destination}/{name}"
        status = os.lstat(source)
        if is_whiteout(status):
            continue
        if stat.S_ISLNK(status.st_mode) or not os.path.lexists(target):
            copy.entry(source, target, status)
    return copy.failures


def carry_path(upper: str, destination: str) -> list[Failure]:
    """Do on the host to one file or directory what the test did to it in its upper layer."""
    copy = _Copy()
    try:
        status = os.lstat(upper)
        if not is_whiteout(status):
            os.makedirs(os.path.dirname(destination), exist_ok=True)
    except OSError as error:
        return [Failure(destination, error)]
    copy.entry(upper, destination, status)
    return copy.failures


class _Copy:
    """One copying of a tree: what failed in it, and which hard links it has seen."""

    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self.links: dict[tuple[int, int], str] = {}

    def names(self, directory: str) -> list[str]:
        try:
            return sorted(os.listdir(directory))
        except OSError as error:
            self.failures.append(Failure(directory, error))
            return []

    def entry(self, source: str, target: str, status: os.stat_result) -> None:
        """Copy an entry over ``target``, whatever that is now."""
        try:
            if is_whiteout(status):
                self.remove(target)
            elif stat.S_ISDIR(status.st_mode):
                self.directory(source, target, status)
            elif not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
                self.file(source, target, status)
        except OSError as error:
            self.failures.append(Failure(target, error))

    def directory(self, source: str, target: str, status: os.stat_result) -> None:
        before = _lstat(target)
        if before is None or not stat.S_ISDIR(before.st_mode):
            self.remove(target)
            os.mkdir(target, 0o700)  # its final mode comes last, so that we can write into it
        names = self.names(source)
        if before is not None and is_opaque(source):
            for name in set(os.listdir(target)) - set(names):
                self.remove(f"{target}/{name}")
        for name in names:
            path = f"{source}/{name}"
            self.entry(path, f"{target}/{name}", os.lstat(path))
        _dress(source, target, status)

    def file(self, source: str, target: str, status: os.stat_result) -> None:
        """A file of any kind but a directory, made beside the target and renamed over it."""
        directory, _, name = target.rpartition("/")
        beside = f"{directory}/.nsbox-{os.getpid()}-{name[:200]}"
        first = self.links.get((status.st_dev, status.st_ino))
        try:
            if first is not None:
                os.link(first, beside)
            elif stat.S_ISLNK(status.st_mode):
                os.symlink(os.readlink(source), beside)
            elif stat.S_ISREG(status.st_mode):
                _copy_data(source, beside, status.st_size)
            else:  # a fifo or a socket
                os.mknod(beside, status.st_mode)
            if first is None:
                _dress(source, beside, status)
            before = _lstat(target)
            if before is not None and stat.S_ISDIR(before.st_mode):
                self.remove(target)
            os.rename(beside, target)
        except BaseException:
            _unlink(beside)
            raise
        if status.st_nlink > 1:
            self.links[status.st_dev, status.st_ino] = target

    def remove(self, path: str) -> None:
        """Remove a file or a tree of the host's, if it is there."""
        status = _lstat(path)
        if status is None:
            return
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(path)
            return
        for name in os.listdir(path):
            self.remove(f"{path}/{name}")
        os.rmdir(path)


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _copy_data(source: str, target: str, size: int) -> None:
    """Copy a regular file, its holes as holes: a sparse one may be larger than any disk."""
    reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(writing, size)
            start = 0
            while start < size:
                try:
                    start = os.lseek(reading, start, os.SEEK_DATA)
                except OSError as error:
                    if error.errno == errno.ENXIO:  # only a hole is left
                        break
                    raise
                end = os.lseek(reading, start, os.SEEK_HOLE)
                os.lseek(writing, start, os.SEEK_SET)
                while start < end:
                    sent = os.sendfile(writing, reading, start, min(end - start, _CHUNK))
                    if not sent:
                        return  # truncated meanwhile
                    start += sent
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _dress(source: str, target: str, status: os.stat_result) -> None:
    """Owner, mode, user xattrs and times, in the order in which one leaves the others alone."""
    if os.geteuid() == 0:
        try:
            os.lchown(target, status.st_uid, status.st_gid)
        except OSError:  # rootless uid 0: the id has no mapping
            pass
    if not stat.S_ISLNK(status.st_mode):
        try:
            for name in os.listxattr(source, follow_symlinks=False):
                if name.startswith("user.") and not name.startswith("user.overlay."):
                    value = os.getxattr(source, name, follow_symlinks=False)
                    os.setxattr(target, name, value, follow_symlinks=False)
        except OSError:  # not every filesystem has them
            pass
        os.chmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
