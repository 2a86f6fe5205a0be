"""Directories with so many mounts that they are shown as one."""

from __future__ import annotations

import pytest

from pytest_nsbox.kernel.mountinfo import Mount
from pytest_nsbox.sandbox.farms import farms, is_used_itself

SPECIAL = ("/proc", "/sys", "/dev", "/tmp")


def mounts(*points: str) -> list[Mount]:
    none = frozenset[str]()
    return [Mount(0, 0, "0:0", "/", point, none, "tmpfs", "tmpfs", none) for point in points]


def many(directory: str, number: int = 33) -> list[str]:
    return [f"{directory}/{n}" for n in range(number)]


@pytest.mark.parametrize(
    ("points", "found"),
    [
        (many("/snap"), ["/snap"]),
        (many("/snap", 32), []),
        (many(""), []),
        (many("/tmp/x"), []),
        ([*many("/snap"), *many("/snap/3/inner")], ["/snap"]),
        ([*many("/snap"), *many("/srv")], ["/snap", "/srv"]),
        ([*many("/snap"), *many("/snapshots")], ["/snap", "/snapshots"]),
    ],
)
def test_more_than_32_right_below_a_directory_are_a_farm(
    points: list[str], found: list[str]
) -> None:
    assert farms(mounts(*points), SPECIAL, ()) == found


def test_one_with_a_mount_that_is_not_to_be_touched_is_none() -> None:
    assert farms(mounts(*many("/home")), SPECIAL, ["/home/7"]) == []


@pytest.mark.parametrize(
    ("used", "itself"),
    [
        ("/home", True),
        ("/home/plain", True),
        ("/home/3", False),
        ("/home/3/src", False),
        ("/", False),
    ],
)
def test_a_path_may_use_the_directory_or_one_of_its_mounts(used: str, itself: bool) -> None:
    assert is_used_itself("/home", mounts("/home", *many("/home")), [used]) is itself
