"""``/proc/self/mountinfo``: how a line reads, and which mounts a path can still reach."""

from __future__ import annotations

import pytest

from pytest_nsbox.kernel import mountinfo
from pytest_nsbox.kernel.mountinfo import Mount, parse, unescape, visible


def mounts(*table: tuple[int, int, str]) -> list[Mount]:
    """Mounts of which only the place in the tree matters: id, parent, mount point."""
    text = "".join(
        f"{id_} {parent} 0:{id_} / {point} rw - tmpfs none rw\n" for id_, parent, point in table
    )
    return list(parse(text))


def ids(*table: tuple[int, int, str]) -> list[int]:
    """The ids of the visible ones."""
    return [mount.id for mount in visible(mounts(*table))]


# ----------------------------------------------------------------------- lines


def test_a_line_has_all_its_fields() -> None:
    line = (
        "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root ro,errors=continue\n"
    )
    assert list(parse(line)) == [
        Mount(
            id=36,
            parent=35,
            device="98:0",
            root="/mnt1",
            point="/mnt2",
            options=frozenset({"rw", "noatime"}),
            fstype="ext3",
            source="/dev/root",
            super_options=frozenset({"ro", "errors=continue"}),
        )
    ]


def test_a_line_may_have_no_optional_fields() -> None:
    (mount,) = parse("25 1 0:5 / /dev rw - devtmpfs udev rw,size=1k\n")
    assert (mount.point, mount.fstype, mount.source) == ("/dev", "devtmpfs", "udev")


def test_a_source_may_be_empty() -> None:
    (mount,) = parse("25 1 0:5 / /x rw - tmpfs  rw,size=1k\n")
    assert mount.source == ""
    assert mount.super_options == {"rw", "size=1k"}


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"/with\040space", "/with space"),
        (r"/with\011tab", "/with\ttab"),
        (r"/with\012newline", "/with\nnewline"),
        (r"/with\134backslash", "/with\\backslash"),
        (r"/with\043hash", "/with#hash"),
        (r"/with\134040", r"/with\040"),
        (r"/\04", r"/\04"),
        ("/plain", "/plain"),
    ],
)
def test_octal_escapes_are_undone_once(escaped: str, text: str) -> None:
    assert unescape(escaped) == text


def test_every_path_of_a_line_is_unescaped() -> None:
    (mount,) = parse(r"1 0 0:1 /a\040b /c\040d rw - fuse.x\040y e\040f rw")
    assert (mount.root, mount.point, mount.fstype, mount.source) == (
        "/a b",
        "/c d",
        "fuse.x y",
        "e f",
    )


@pytest.mark.parametrize(
    ("options", "super_options", "read_only"),
    [
        ("rw", "rw", False),
        ("ro", "rw", True),
        ("rw", "ro", True),
        ("rw,relatime", "rw,ro=x", False),
    ],
)
def test_a_mount_is_read_only_by_itself_or_by_its_filesystem(
    options: str, super_options: str, read_only: bool
) -> None:
    (mount,) = parse(f"1 0 0:1 / / {options} - ext4 /dev/x {super_options}")
    assert mount.read_only is read_only


def test_this_process_has_a_root_and_a_proc() -> None:
    points = {mount.point: mount.fstype for mount in visible(mountinfo.read())}
    assert "/" in points
    assert points["/proc"] == "proc"


# ----------------------------------------------------------------------- visible


def test_mounts_beside_each_other_are_all_visible() -> None:
    assert ids((1, 0, "/"), (2, 1, "/a"), (3, 1, "/b"), (4, 2, "/a/c")) == [1, 2, 3, 4]


def test_a_mount_on_the_same_point_covers_the_earlier() -> None:
    assert ids((1, 0, "/"), (2, 1, "/a"), (3, 2, "/a")) == [1, 3]


def test_of_three_on_one_point_the_last_is_visible() -> None:
    assert ids((1, 0, "/"), (2, 1, "/a"), (3, 2, "/a"), (4, 3, "/a")) == [1, 4]


def test_a_mount_on_a_directory_above_covers_what_is_below() -> None:
    assert ids((1, 0, "/"), (2, 1, "/a/b/c"), (3, 1, "/a")) == [1, 3]


def test_a_mount_within_a_shadowed_parent_is_covered() -> None:
    assert ids((1, 0, "/"), (2, 1, "/a/b"), (3, 2, "/a/b/c"), (4, 1, "/a")) == [1, 4]


def test_a_mount_within_the_covering_one_is_visible() -> None:
    assert ids((1, 0, "/"), (2, 1, "/a"), (3, 2, "/a"), (4, 3, "/a/b")) == [1, 3, 4]


def test_a_sibling_with_the_same_beginning_covers_nothing() -> None:
    assert ids((1, 0, "/"), (2, 1, "/a/b"), (3, 1, "/a/bc"), (4, 1, "/a/b.d")) == [1, 2, 3, 4]


def test_a_parent_outside_the_namespace_is_the_top() -> None:
    assert ids((5, 4, "/"), (6, 5, "/a")) == [5, 6]


def test_the_order_of_the_file_is_kept() -> None:
    table = [(1, 0, "/"), (9, 1, "/z"), (3, 1, "/a"), (5, 9, "/z/y")]
    assert ids(*table) == [1, 9, 3, 5]
