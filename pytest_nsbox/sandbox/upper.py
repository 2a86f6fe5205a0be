"""Where the upper layers of a sandbox keep what a test has written."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import stat
from collections.abc import Collection, Iterator

from pytest_nsbox.sandbox.rootfs import Plan
from pytest_nsbox.sandbox.steps import Bind, Box, Hide, ReadOnlyBind, Socket, within


def written(plan: Plan, box: Box, pattern: str) -> Iterator[tuple[str, str]]:
    """Where the upper layer keeps what a test wrote to a path, or to those that match one.

    Pairs of its place, seen from the staging area, and the path.  Wildcards (fnmatch) count in the
    last name of ``pattern`` only; a path of that very name comes first.
    """
    covered = _covered_in_tmp(plan)
    place = locate(plan, box, pattern)
    if place is not None and os.path.lexists(place) and not _touch(pattern, covered):
        yield place, pattern
    directory, _, name = pattern.rpartition("/")
    if not any(wildcard in name for wildcard in "*?["):
        return
    above = locate(plan, box, directory or "/")
    with contextlib.suppress(OSError):
        for found in sorted(fnmatch.filter(os.listdir(above), name) if above else ()):
            if not _touch(f"{directory}/{found}", covered):
                yield f"{above}/{found}", f"{directory}/{found}"


def _covered_in_tmp(plan: Plan) -> list[str]:
    """What lies in the private /tmp below a mount: of the sandbox's own filesystem it is empty."""
    targets = [s.target for s in plan.steps if isinstance(s, (ReadOnlyBind, Bind, Socket, Hide))]
    return [target for target in targets if within(target, ("/tmp",))]


def _touch(path: str, others: Collection[str]) -> bool:
    """Whether the path lies in one of the others, or one of them in it."""
    return within(path, others) or any(within(other, (path,)) for other in others)


def locate(plan: Plan, box: Box, path: str) -> str | None:
    """Where the upper layer keeps ``path`` of the sandbox, seen from the staging area.

    None where no upper layer covers it, or where the test put something else in place of a
    directory on the way: a symlink of the test's must not lead us elsewhere.
    """
    covering = {s.target: box.upper(s.layer) for s in plan.overlays() if within(path, (s.target,))}
    if within(path, ("/tmp",)):
        covering.setdefault("/tmp", box.tmp)  # where /tmp is private
    if not covering:
        return None
    top = max(covering, key=len)
    upper = covering[top]
    rest = path[len(top.rstrip("/")) :].strip("/")
    place = upper
    for name in rest.split("/")[:-1] if rest else ():
        place += "/" + name
        try:
            if not stat.S_ISDIR(os.lstat(place).st_mode):
                return None
        except OSError:
            return None
    return f"{upper}/{rest}" if rest else upper
