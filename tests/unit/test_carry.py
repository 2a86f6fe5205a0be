"""Copying out of an upper layer to the host: what comes, what stays, and never half a file."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from pytest_nsbox.sandbox.carry import carry_new, carry_path


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    """What a test left in its upper layer."""
    path = tmp_path / "upper"
    path.mkdir()
    return path


@pytest.fixture
def host(tmp_path: Path) -> Path:
    path = tmp_path / "host"
    path.mkdir()
    return path


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def whiteout(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


def make_opaque(path: Path) -> None:
    try:
        os.setxattr(path, "user.overlay.opaque", b"y")
    except OSError as error:
        pytest.skip(f"cannot set an attribute on {path}: {error}")


def new(upper: Path, host: Path) -> None:
    assert carry_new(str(upper), str(host)) == []


def whole(upper: Path, host: Path) -> None:
    assert carry_path(str(upper), str(host)) == []


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path))


# ----------------------------------------------------------------------- carry_new


def test_a_new_directory_comes_with_all_that_is_in_it(upper: Path, host: Path) -> None:
    write(upper / "test_a0/deep/file", "text")
    new(upper, host)
    assert (host / "test_a0/deep/file").read_text() == "text"


def test_an_entry_that_the_host_has_stays_as_it_is(upper: Path, host: Path) -> None:
    write(upper / "shared0/file", "the test's")
    write(upper / "shared0/more", "the test's")
    write(host / "shared0/file", "the fixture's")
    new(upper, host)
    assert names(host / "shared0") == ["file"]
    assert (host / "shared0/file").read_text() == "the fixture's"


def test_a_symlink_that_the_host_has_is_made_anew(upper: Path, host: Path) -> None:
    os.symlink("test_a1", upper / "test_acurrent")
    os.symlink("test_a0", host / "test_acurrent")
    new(upper, host)
    assert os.readlink(host / "test_acurrent") == "test_a1"


def test_what_the_test_deleted_of_the_hosts_stays(upper: Path, host: Path) -> None:
    whiteout(upper / "shared0")
    write(host / "shared0/file")
    new(upper, host)
    assert names(host / "shared0") == ["file"]


def test_the_upper_layer_is_left_as_it_is(upper: Path, host: Path) -> None:
    write(upper / "test_a0/file")
    new(upper, host)
    assert names(upper / "test_a0") == ["file"]


def test_an_upper_layer_that_is_not_there_is_a_failure(tmp_path: Path, host: Path) -> None:
    (failure,) = carry_new(str(tmp_path / "missing"), str(host))
    assert failure.path == str(tmp_path / "missing")
    assert isinstance(failure.error, FileNotFoundError)


# ----------------------------------------------------------------------- carry_path: trees


def test_a_file_comes_with_the_directories_above_it(upper: Path, host: Path) -> None:
    whole(write(upper / "report.xml", "text"), host / "build/out/report.xml")
    assert (host / "build/out/report.xml").read_text() == "text"


def test_a_file_replaces_that_of_the_host(upper: Path, host: Path) -> None:
    write(host / "file", "before")
    whole(write(upper / "file", "after"), host / "file")
    assert (host / "file").read_text() == "after"


def test_a_directory_is_merged_into_that_of_the_host(upper: Path, host: Path) -> None:
    write(host / "dir/old", "old")
    write(upper / "dir/new", "new")
    whole(upper / "dir", host / "dir")
    assert names(host / "dir") == ["new", "old"]


def test_a_whiteout_deletes_a_file(upper: Path, host: Path) -> None:
    write(host / "file")
    whiteout(upper / "file")
    whole(upper / "file", host / "file")
    assert names(host) == []


def test_a_whiteout_deletes_a_tree(upper: Path, host: Path) -> None:
    write(host / "dir/deep/file")
    whiteout(upper / "dir")
    whole(upper / "dir", host / "dir")
    assert names(host) == []


def test_a_whiteout_in_a_directory_deletes_no_more_than_its_name(upper: Path, host: Path) -> None:
    write(host / "dir/gone")
    write(host / "dir/stays")
    whiteout(upper / "dir/gone")
    whole(upper / "dir", host / "dir")
    assert names(host / "dir") == ["stays"]


def test_a_whiteout_of_nothing_makes_nothing(upper: Path, host: Path) -> None:
    whiteout(upper / "file")
    whole(upper / "file", host / "missing/file")
    assert names(host) == []


def test_an_opaque_directory_replaces_that_of_the_host(upper: Path, host: Path) -> None:
    write(host / "dir/old")
    write(upper / "dir/new")
    make_opaque(upper / "dir")
    whole(upper / "dir", host / "dir")
    assert names(host / "dir") == ["new"]


def test_a_file_takes_the_place_of_a_directory(upper: Path, host: Path) -> None:
    write(host / "place/file")
    whole(write(upper / "place", "text"), host / "place")
    assert (host / "place").read_text() == "text"


def test_a_directory_takes_the_place_of_a_file(upper: Path, host: Path) -> None:
    write(host / "place")
    write(upper / "place/file", "text")
    whole(upper / "place", host / "place")
    assert (host / "place/file").read_text() == "text"


def test_a_symlink_of_the_hosts_is_replaced_and_not_written_through(
    upper: Path, host: Path
) -> None:
    write(host / "precious", "untouched")
    os.symlink("precious", host / "file")
    whole(write(upper / "file", "text"), host / "file")
    assert (host / "precious").read_text() == "untouched"
    assert not (host / "file").is_symlink()


def test_a_symlink_to_a_directory_is_not_entered(upper: Path, host: Path) -> None:
    write(host / "elsewhere/precious")
    os.symlink("elsewhere", host / "dir")
    write(upper / "dir/file")
    whole(upper / "dir", host / "dir")
    assert names(host / "elsewhere") == ["precious"]


def test_a_path_that_is_not_there_is_a_failure(upper: Path, host: Path) -> None:
    (failure,) = carry_path(str(upper / "missing"), str(host / "file"))
    assert failure.path == str(host / "file")
    assert isinstance(failure.error, FileNotFoundError)


# ----------------------------------------------------------------------- carry_path: what is kept


@pytest.mark.parametrize("mode", [0o600, 0o755, 0o444, 0o4755])
def test_a_file_keeps_its_mode(upper: Path, host: Path, mode: int) -> None:
    write(upper / "file").chmod(mode)
    whole(upper / "file", host / "file")
    assert stat.S_IMODE(os.lstat(host / "file").st_mode) == mode


def test_a_directory_that_may_not_be_written_comes_with_its_content(
    upper: Path, host: Path
) -> None:
    write(upper / "dir/file", "text")
    (upper / "dir").chmod(0o555)
    whole(upper / "dir", host / "dir")
    assert (host / "dir/file").read_text() == "text"
    assert stat.S_IMODE(os.lstat(host / "dir").st_mode) == 0o555


@pytest.mark.parametrize("name", ["dir", "dir/file", "dir/link"])
def test_times_are_kept_to_the_nanosecond(upper: Path, host: Path, name: str) -> None:
    write(upper / "dir/file")
    os.symlink("file", upper / "dir/link")
    os.utime(upper / name, ns=(1_000_000_001, 2_000_000_002), follow_symlinks=False)
    whole(upper / "dir", host / "dir")
    assert os.lstat(host / name).st_mtime_ns == 2_000_000_002


def test_an_attribute_of_the_users_is_kept(upper: Path, host: Path) -> None:
    write(upper / "file")
    try:
        os.setxattr(upper / "file", "user.comment", b"text")
    except OSError as error:
        pytest.skip(f"no user xattrs here: {error}")
    whole(upper / "file", host / "file")
    assert os.getxattr(host / "file", "user.comment") == b"text"


def test_an_attribute_of_overlayfs_stays_behind(upper: Path, host: Path) -> None:
    write(upper / "dir/file")
    make_opaque(upper / "dir")
    whole(upper / "dir", host / "dir")
    assert os.listxattr(host / "dir") == []


def test_holes_stay_holes(upper: Path, host: Path) -> None:
    size = 1 << 40  # larger than the disk, if it were written
    with open(upper / "sparse", "wb") as file:
        file.write(b"head")
        file.seek(1 << 30)
        file.write(b"middle")
        file.truncate(size)
    whole(upper / "sparse", host / "sparse")
    status = os.stat(host / "sparse")
    assert status.st_size == size
    assert status.st_blocks * 512 < 1 << 20
    with open(host / "sparse", "rb") as file:
        assert file.read(4) == b"head"
        file.seek(1 << 30)
        assert file.read(6) == b"middle"


def test_an_empty_file_comes_empty(upper: Path, host: Path) -> None:
    whole(write(upper / "file"), host / "file")
    assert os.stat(host / "file").st_size == 0


def test_hard_links_stay_one_file(upper: Path, host: Path) -> None:
    write(upper / "dir/one", "text")
    os.link(upper / "dir/one", upper / "dir/two")
    whole(upper / "dir", host / "dir")
    assert os.path.samefile(host / "dir/one", host / "dir/two")


def test_a_symlink_comes_as_it_is_though_it_leads_nowhere(upper: Path, host: Path) -> None:
    os.symlink("/nowhere/at/all", upper / "link")
    whole(upper / "link", host / "link")
    assert os.readlink(host / "link") == "/nowhere/at/all"


def test_a_fifo_comes_as_a_fifo(upper: Path, host: Path) -> None:
    os.mkfifo(upper / "pipe", 0o640)
    whole(upper / "pipe", host / "pipe")
    assert os.lstat(host / "pipe").st_mode == stat.S_IFIFO | 0o640


def test_a_socket_comes_as_a_socket(
    upper: Path, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(upper)  # the path would be too long for an address
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
    whole(upper / "s", host / "s")
    assert stat.S_ISSOCK(os.lstat(host / "s").st_mode)


def test_a_name_as_long_as_a_name_may_be_comes_too(upper: Path, host: Path) -> None:
    name = "n" * 255
    whole(write(upper / name, "text"), host / name)
    assert (host / name).read_text() == "text"


def test_a_name_that_is_no_text_comes_too(upper: Path, host: Path) -> None:
    name = os.fsdecode(b"\xff\xfe")
    write(upper / "dir" / name, "text")
    whole(upper / "dir", host / "dir")
    assert names(host / "dir") == [name]


# ----------------------------------------------------------------------- carry_path: failures


def test_a_file_that_cannot_be_written_whole_leaves_that_of_the_host(
    upper: Path, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    write(host / "file", "before")
    write(upper / "file", "after")
    monkeypatch.setattr(os, "sendfile", full)
    (failure,) = carry_path(str(upper / "file"), str(host / "file"))
    assert failure.path == str(host / "file")
    assert names(host) == ["file"]
    assert (host / "file").read_text() == "before"


def test_one_failure_does_not_keep_the_others_back(upper: Path, host: Path) -> None:
    for name in ("dir/a", "dir/b", "dir/c"):
        write(upper / name, "text")
    (host / "dir").mkdir()
    # What is beside the target is taken: nothing can be made there.
    write(host / f"dir/.nsbox-{os.getpid()}-b/file")
    failures = carry_path(str(upper / "dir"), str(host / "dir"))
    assert [failure.path for failure in failures] == [str(host / "dir/b")]
    assert (host / "dir/a").exists()
    assert (host / "dir/c").exists()
