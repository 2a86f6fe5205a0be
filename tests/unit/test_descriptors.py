"""What is inherited open gets a twin: which descriptors, and what of each stays as it was."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_nsbox.sandbox.descriptors import Inherited, inherited, reopen

Open = Callable[..., int]


@pytest.fixture
def opened() -> Iterator[Open]:
    """os.open, undone at the end."""
    fds: list[int] = []

    def open_(path: str | Path, flags: int) -> int:
        fds.append(os.open(path, flags))
        return fds[-1]

    yield open_
    for fd in fds:
        os.close(fd)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "file").write_text("content")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    return tmp_path


def of(fd: int) -> list[Inherited]:
    return [one for one in inherited() if one.fd == fd]


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("sub", os.O_RDONLY),
        ("sub", os.O_PATH),
        ("file", os.O_RDONLY),
        ("file", os.O_PATH),
        ("fifo", os.O_PATH),
        ("socket", os.O_PATH),
    ],
)
def test_what_leads_to_the_host_is_found(
    name: str, flags: int, directory: Path, opened: Open
) -> None:
    fd = opened(directory / name, flags)
    assert [one.path for one in of(fd)] == [str(directory / name)]


@pytest.mark.parametrize(
    ("name", "flags"),
    [("file", os.O_WRONLY), ("file", os.O_RDWR), ("fifo", os.O_RDWR), ("/dev/null", os.O_RDONLY)],
)
def test_what_is_meant_to_be_used_is_left_alone(
    name: str, flags: int, directory: Path, opened: Open
) -> None:
    assert of(opened(directory / name, flags)) == []


def test_pipes_and_namespaces_are_left_alone(opened: Open) -> None:
    fds = [*os.pipe(), opened("/proc/self/ns/mnt", os.O_RDONLY)]
    try:
        assert [one for one in inherited() if one.fd in fds] == []
    finally:
        os.close(fds[0])
        os.close(fds[1])


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_PATH, os.O_RDONLY | os.O_NONBLOCK])
@pytest.mark.parametrize("inheritable", [True, False])
def test_a_twin_has_the_number_and_the_flags(
    flags: int, inheritable: bool, directory: Path, opened: Open
) -> None:
    fd = opened(directory / "file", flags)
    os.set_inheritable(fd, inheritable)
    before = fcntl.fcntl(fd, fcntl.F_GETFL), os.fstat(fd)
    reopen(of(fd))
    assert (fcntl.fcntl(fd, fcntl.F_GETFL), os.fstat(fd)) == before
    assert os.get_inheritable(fd) is inheritable


def test_a_twin_of_a_file_reads_on_where_it_was_and_for_itself(
    directory: Path, opened: Open
) -> None:
    fd = opened(directory / "file", os.O_RDONLY)
    assert os.read(fd, 3) == b"con"
    shared = os.dup(fd)
    try:
        reopen(of(fd))
        assert os.read(fd, 3) == b"ten"
        assert os.lseek(shared, 0, os.SEEK_CUR) == 3
    finally:
        os.close(shared)


def test_a_file_that_was_deleted_stays_readable(directory: Path, opened: Open) -> None:
    fd = opened(directory / "file", os.O_RDONLY)
    (directory / "file").unlink()
    reopen(of(fd))
    assert os.read(fd, 100) == b"content"


def test_a_file_that_was_replaced_stays_the_one_it_was(directory: Path, opened: Open) -> None:
    fd = opened(directory / "file", os.O_RDONLY)
    (directory / "new").write_text("other")
    (directory / "new").rename(directory / "file")
    reopen(of(fd))
    assert os.read(fd, 100) == b"content"


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_PATH])
def test_in_a_directory_that_is_gone_nothing_is_found(
    flags: int, directory: Path, opened: Open
) -> None:
    fd = opened(directory / "sub", flags)
    found = of(fd)
    (directory / "sub").rmdir()
    reopen(found)
    with pytest.raises(NotADirectoryError):
        os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)


def test_a_number_that_means_something_else_by_now_is_left_alone(
    directory: Path, opened: Open
) -> None:
    fd = opened(directory / "sub", os.O_RDONLY)
    found = of(fd)
    other = os.open(directory / "file", os.O_RDWR)
    os.dup2(other, fd)
    os.close(other)
    reopen(found)
    assert os.read(fd, 100) == b"content"
