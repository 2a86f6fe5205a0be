"""What an upper layer holds that its lower does not, and how overlayfs writes it down there."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import Literal, NamedTuple

Kind = Literal["added", "modified", "deleted"]

# Root's overlays keep their marks in trusted xattrs, a user namespace's (userxattr) in user ones.
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")

# Python writes these wherever it imports from: they would drown what the test itself did.
_LEFT_OUT = frozenset({"__pycache__"})


class Change(NamedTuple):
    """A path as the sandbox has it, and what happened to it."""

    path: str
    kind: Kind


def changes(upper: str, lower: str, mountpoint: str) -> Iterator[Change]:
    """Compare an upper directory with its lower one; paths are below ``mountpoint``.

    Depth first, by name.  What is deleted or renamed as a whole (redirect_dir) is one change, not
    one for everything in it.  The sandbox may be alive: what vanishes meanwhile, is not to be read,
    or lies deeper than a path can say (PATH_MAX) is passed over.
    """
    below = mountpoint.rstrip("/")
    top = lstat_or_none(upper)
    pending = [] if top is None else [_Found("", None, top, merged=True)]
    while pending:  # no recursion: a test may nest directories deeper than Python's stack
        found = pending.pop()
        if found.kind is not None:
            yield Change(below + found.path, found.kind)
        if found.directory is not None:
            entries = _entries(upper, lower, found, found.directory)
            pending += sorted(entries, key=lambda entry: entry.path, reverse=True)


def is_whiteout(status: os.stat_result) -> bool:
    """Whether overlayfs says by this entry of an upper layer that there is none."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: str) -> bool:
    """Whether nothing of the lower shines through this directory of an upper layer."""
    return any(_getxattr(path, name) == b"y" for name in _OPAQUE)


def is_redirect(path: str) -> bool:
    """Whether this directory of an upper layer shows a lower one of another place: it was renamed.

    See "redirect_dir" in Documentation/filesystems/overlayfs.rst; userxattr excludes it.
    """
    return _getxattr(path, "trusted.overlay.redirect") is not None


def lstat_or_none(path: str) -> os.stat_result | None:
    """What is at a path; None where there is nothing, or nothing that we may know of."""
    try:
        return os.lstat(path)
    except OSError:
        return None


def open_seen(path: str, seen: os.stat_result, flags: int = 0) -> int:
    """Open for reading what lstat saw at a path of an upper layer, and nothing else.

    The test owns every name there: O_NOFOLLOW guards the last one, and that it is still the same
    inode guards the ones before, which may be symlinks out of the layer by now.
    """
    # O_NONBLOCK: to open a fifo waits for who writes into it.
    flags |= os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags)
    if not os.path.samestat(os.fstat(fd), seen):
        os.close(fd)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
    return fd


def list_seen(path: str, seen: os.stat_result) -> list[tuple[str, os.stat_result]]:
    """The entries of a directory of an upper layer that lstat saw, by name; not what vanishes."""
    entries = []
    fd = open_seen(path, seen, os.O_DIRECTORY)
    try:
        for name in sorted(os.listdir(fd)):
            try:
                entries.append((name, os.stat(name, dir_fd=fd, follow_symlinks=False)))
            except OSError:
                continue
    finally:
        os.close(fd)
    return entries


class _Found(NamedTuple):
    path: str  # below the top, with a slash before it
    kind: Kind | None
    directory: os.stat_result | None = None  # of the upper's, still to be looked into
    merged: bool = False  # the lower has a directory of that path, too


def _entries(upper: str, lower: str, inside: _Found, directory: os.stat_result) -> Iterator[_Found]:
    try:
        entries = list_seen(upper + inside.path, directory)
    except OSError:
        return
    for name, after in entries:
        if name in _LEFT_OUT:
            continue
        path = f"{inside.path}/{name}"
        before = lstat_or_none(lower + path) if inside.merged else None
        try:
            kind = _compare(lower + path, before, upper + path, after)
        except OSError:  # to tell them apart, one had to be read
            continue
        if stat.S_ISDIR(after.st_mode):
            merged = before is not None and stat.S_ISDIR(before.st_mode)
            yield _Found(path, kind, after, merged)
        elif kind is not None:
            yield _Found(path, kind)
    if inside.merged and is_opaque(upper + inside.path):
        for name in _names(lower + inside.path) - {name for name, _ in entries} - _LEFT_OUT:
            yield _Found(f"{inside.path}/{name}", "deleted")


def _compare(
    lower: str, before: os.stat_result | None, upper: str, after: os.stat_result
) -> Kind | None:
    if is_whiteout(after):
        return None if before is None else "deleted"
    if before is None:
        return "added"
    return "modified" if _differs(lower, before, upper, after) else None


def _differs(lower: str, before: os.stat_result, upper: str, after: os.stat_result) -> bool:
    """Whether an entry is another than it was: only to open it for writing copies it up, too."""
    if (before.st_mode, before.st_uid, before.st_gid) != (
        after.st_mode,
        after.st_uid,
        after.st_gid,
    ):
        return True
    if stat.S_ISDIR(after.st_mode):  # its size and times say only that something in it changed
        return False
    if (before.st_size, before.st_mtime_ns, before.st_rdev) != (
        after.st_size,
        after.st_mtime_ns,
        after.st_rdev,
    ):
        return True
    if stat.S_ISLNK(after.st_mode):
        return os.readlink(lower) != os.readlink(upper)
    return stat.S_ISREG(after.st_mode) and not _same_content(lower, before, upper, after)


def _same_content(lower: str, before: os.stat_result, upper: str, after: os.stat_result) -> bool:
    with open(open_seen(lower, before), "rb") as one:
        with open(open_seen(upper, after), "rb") as other:
            while (chunk := one.read(1 << 20)) == other.read(1 << 20):
                if not chunk:
                    return True
    return False


def _names(directory: str) -> set[str]:
    try:
        return set(os.listdir(directory))
    except OSError:
        return set()


def _getxattr(path: str, name: str) -> bytes | None:
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError:
        return None
