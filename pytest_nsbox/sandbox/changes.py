"""What an upper layer holds that its lower does not."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_LEFT_OUT = {"__pycache__"}


class Change(NamedTuple):
    """A path as the sandbox has it, and what happened to it: "added", "modified" or "deleted"."""

    path: str
    kind: str


def is_whiteout(status: os.stat_result) -> bool:
    """Whether overlayfs says by this entry of an upper layer that there is none."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: str) -> bool:
    """Whether nothing of the lower shines through this directory of an upper layer."""
    for name in _OPAQUE:
        try:
            if os.getxattr(path, name, follow_symlinks=False) == b"y":
                return True
        except OSError:
            continue
    return False


def changes(upper: str, lower: str, mountpoint: str) -> Iterator[Change]:
    """Compare an upper directory with its lower one; paths are below ``mountpoint``.

    The sandbox may be alive: what vanishes meanwhile, or is not to be read, is passed over.  Nothing
    in the upper layer is followed, for symlinks there are the test's.
    """
    pending = [("", True)]  # relative path, whether the lower has that directory
    while pending:
        here, has_lower = pending.pop()
        directory = upper + here
        for entry in _entries(directory):
            path = f"{here}/{entry.name}"
            shown = mountpoint.rstrip("/") + path
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            before = _lstat(lower + path) if has_lower else None
            if is_whiteout(status):
                if before is not None:
                    yield Change(shown, "deleted")
            elif stat.S_ISDIR(status.st_mode):
                was_directory = before is not None and stat.S_ISDIR(before.st_mode)
                if before is None:
                    yield Change(shown, "added")
                elif not was_directory or _attributes(before) != _attributes(status):
                    yield Change(shown, "modified")
                pending.append((path, was_directory))
            elif before is None:
                yield Change(shown, "added")
            elif _differs(lower + path, before, upper + path, status):
                yield Change(shown, "modified")
        if has_lower and here and is_opaque(directory):
            for entry in _entries(lower + here):
                if not os.path.lexists(f"{directory}/{entry.name}"):
                    yield Change(f"{mountpoint.rstrip('/')}{here}/{entry.name}", "deleted")


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted((e for e in entries if e.name not in _LEFT_OUT), key=lambda e: e.name)
    except OSError:
        return []


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _attributes(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mode, status.st_uid, status.st_gid


def _differs(lower: str, before: os.stat_result, upper: str, after: os.stat_result) -> bool:
    """Whether a copied-up file is another than it was; opening it for writing copies it up, too."""
    if _attributes(before) != _attributes(after) or before.st_size != after.st_size:
        return True
    if before.st_mtime_ns != after.st_mtime_ns:
        return True
    if stat.S_ISLNK(after.st_mode):
        return os.readlink(lower) != os.readlink(upper)
    return stat.S_ISREG(after.st_mode) and not _same_content(lower, upper)


def _same_content(one: str, other: str) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with open(os.open(one, flags), "rb") as a, open(os.open(other, flags), "rb") as b:
            while True:
                chunk = a.read(1 << 20)
                if chunk != b.read(1 << 20):
                    return False
                if not chunk:
                    return True
    except OSError:
        return False
