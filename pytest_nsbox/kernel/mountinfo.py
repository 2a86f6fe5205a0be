"""What ``/proc/self/mountinfo`` says, see proc_pid_mountinfo(5)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line: a mount, not a filesystem (a bind mount has the same ``device`` as its source)."""

    id: int
    parent: int
    device: str  # "major:minor"
    root: str  # the directory of the filesystem that is mounted
    point: str  # where, as seen from the reader's root
    options: frozenset[str]  # of the mount: "ro", "nosuid", "noexec" ...
    fstype: str
    source: str
    super_options: frozenset[str]  # of the filesystem

    @property
    def read_only(self) -> bool:
        return "ro" in self.options or "ro" in self.super_options


def parse(text: str) -> Iterator[Mount]:
    """The mounts of a mountinfo file, in its order (a parent comes before its children)."""
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        id_, parent, device, root, point, options, *_ = left.split(" ")
        fstype, source, super_options = (*right.split(" "), "", "")[:3]
        yield Mount(
            int(id_),
            int(parent),
            device,
            unescape(root),
            unescape(point),
            frozenset(options.split(",")),
            unescape(fstype),
            unescape(source),
            frozenset(super_options.split(",")),
        )


def unescape(text: str) -> str:
    r"""The kernel writes space, tab, newline and backslash as ``\040`` and the like."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def read() -> list[Mount]:
    """The mounts of the caller's mount namespace."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return list(parse(file.read()))


def visible(mounts: Iterable[Mount]) -> list[Mount]:
    """The mounts that a path can reach: not those that a later mount covers, wholly or above them.

    A later mount on the same point, or on a directory above it, hides an earlier one, unless it is
    the earlier one's parent.
    """
    mounts = list(mounts)
    by_id = {mount.id: mount for mount in mounts}
    covered_by: dict[tuple[int, str], int] = {}
    for mount in mounts:
        covered_by[mount.parent, mount.point] = mount.id

    def reachable(mount: Mount) -> bool:
        # Walk up: at every ancestor, nothing else may be mounted on the way down to us.
        if (mount.id, mount.point) in covered_by:
            return False  # something is mounted on top of our own root
        while True:
            parent = by_id.get(mount.parent)
            if parent is None or parent is mount:
                return True
            if covered_by[mount.parent, mount.point] != mount.id:
                return False
            way = mount.point
            while len(way) > len(parent.point) and way != "/":
                way = way.rpartition("/")[0] or "/"
                if way != parent.point and (parent.id, way) in covered_by:
                    return False
            mount = parent

    return [mount for mount in mounts if reachable(mount)]
