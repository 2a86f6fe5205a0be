"""Mount farms: directories with so many mounts that these are shown as one, for a copy of each is dear.

Container engines, snaps and automounted homes make hundreds.  An overlay takes 0.1 ms; to bind the whole
directory takes a microsecond for each mount, but leaves them read-only.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable

from pytest_nsbox.kernel.mountinfo import Mount
from pytest_nsbox.sandbox.steps import within

_MANY = 32  # mounts right below one directory, where a machine has some 20 in all


def farms(mounts: Iterable[Mount], special: Collection[str], unusable: Iterable[str]) -> list[str]:
    """The outermost such directories.

    None in a ``special`` place, nor with an ``unusable`` mount, which is to be left out.
    """
    points = [mounted.point for mounted in mounts if not within(mounted.point, special)]
    many = Counter(map(os.path.dirname, points))
    found: list[str] = []
    for directory in sorted(directory for directory, number in many.items() if number > _MANY):
        if directory != "/" and not within(directory, found):
            found.append(directory)
    return [farm for farm in found if not any(within(path, (farm,)) for path in unusable)]


def mounts_of(farm: str, mounts: Iterable[Mount]) -> list[Mount]:
    return [mounted for mounted in mounts if within(mounted.point, (farm,))]


def is_used_itself(farm: str, mounts: Iterable[Mount], used: Iterable[str]) -> bool:
    """Whether one of the paths lies in there, and on none of its mounts."""
    tops = [mounted.point for mounted in mounts_of(farm, mounts) if mounted.point != farm]
    return any(within(path, (farm,)) and not within(path, tops) for path in used)
