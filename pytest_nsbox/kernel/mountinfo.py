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
    # What lies on a point of a mount: the last one mounted there.
    on_top = {(mount.parent, mount.point): mount.id for mount in mounts if mount.parent != mount.id}

    def reachable(mount: Mount) -> bool:
        if (mount.id, mount.point) in on_top:
            return False  # something lies on our own root
        # Walk up: on every ancestor, nothing else may lie on the way down to us.
        while (parent := by_id.get(mount.parent)) is not None and parent is not mount:
            if on_top[mount.parent, mount.point] != mount.id:
                return False
            way = mount.point
            while way != parent.point:
                way = way.rpartition("/")[0] or "/"
                if (parent.id, way) in on_top:
                    return False
            mount = parent
        return True

    return [mount for mount in mounts if reachable(mount)]
