"""Carrying out: what the host has after what a test wrote was copied there."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest
from helpers.deep import little_stack, nest

from pytest_nsbox.sandbox.carry import Failure, carry_new, carry_path
from pytest_nsbox.sandbox.changes import open_seen

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do this")
rootless = pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    path = tmp_path / "upper"
    path.mkdir()
    return path


@pytest.fixture
def host(tmp_path: Path) -> Path:
    path = tmp_path / "host"
    path.mkdir()
    return path


def make_whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


def set_xattr(path: Path, name: str, value: bytes) -> None:
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        pytest.skip(f"no such xattrs in {path}: {error}")


def tree(top: Path) -> list[str]:
    """Everything below a directory; hidden leftovers of copying would show here, too."""
    return sorted(str(path.relative_to(top)) for path in top.rglob("*"))


# -------------------------------------------------------------------- carry_new


def test_a_new_directory_is_copied_whole(upper: Path, host: Path) -> None:
    (upper / "test_a0/sub").mkdir(parents=True)
    (upper / "test_a0/sub/file").write_text("written")
    assert carry_new(str(upper), str(host)) == []
    assert (host / "test_a0/sub/file").read_text() == "written"
    assert tree(host) == ["test_a0", "test_a0/sub", "test_a0/sub/file"]


def test_what_broad_fixtures_made_stays_pristine(upper: Path, host: Path) -> None:
    for top, text in (upper, "spoilt"), (host, "pristine"):
        (top / "shared").mkdir()
        (top / "shared/file").write_text(text)
        (top / "file").write_text(text)
    (upper / "shared/new").touch()
    assert carry_new(str(upper), str(host)) == []
    assert tree(host) == ["file", "shared", "shared/file"]
    assert (host / "file").read_text() == (host / "shared/file").read_text() == "pristine"


def test_what_the_test_deleted_stays_on_the_host(upper: Path, host: Path) -> None:
    (host / "shared").mkdir()
    make_whiteout(upper / "shared")
    make_whiteout(upper / "never")
    assert carry_new(str(upper), str(host)) == []
    assert tree(host) == ["shared"]


def test_a_symlink_replaces_the_one_of_the_host(upper: Path, host: Path) -> None:
    (host / "current").symlink_to("test_a0")
    (upper / "current").symlink_to("test_a1")
    assert carry_new(str(upper), str(host)) == []
    assert os.readlink(host / "current") == "test_a1"


def test_a_symlink_does_not_replace_a_directory(upper: Path, host: Path) -> None:
    (host / "current/kept").mkdir(parents=True)
    (upper / "current").symlink_to("test_a1")
    assert carry_new(str(upper), str(host)) == []
    assert tree(host) == ["current", "current/kept"]


def test_a_directory_does_not_replace_a_symlink(upper: Path, host: Path) -> None:
    (host / "link").symlink_to("nowhere")
    (upper / "link").mkdir()
    assert carry_new(str(upper), str(host)) == []
    assert os.readlink(host / "link") == "nowhere"


def test_the_upper_layer_is_left_as_it_is(upper: Path, host: Path) -> None:
    (upper / "test_a0").mkdir()
    (upper / "test_a0/file").touch()
    assert carry_new(str(upper), str(host)) == []
    assert tree(upper) == ["test_a0", "test_a0/file"]


def test_the_directory_itself_is_left_as_it_is(upper: Path, host: Path) -> None:
    upper.chmod(0o755)
    host.chmod(0o700)
    assert carry_new(str(upper), str(host)) == []
    assert stat.S_IMODE(host.stat().st_mode) == 0o700


def test_an_upper_layer_that_is_gone_is_a_failure(tmp_path: Path, host: Path) -> None:
    [failure] = carry_new(str(tmp_path / "gone"), str(host))
    assert failure.path == str(host)
    assert isinstance(failure.error, FileNotFoundError)


@as_root
def test_of_a_directory_moved_to_there_what_is_missing_is_told(upper: Path, host: Path) -> None:
    (upper / "moved").mkdir()
    (upper / "moved/new").touch()
    set_xattr(upper / "moved", "trusted.overlay.redirect", b"/srv/before")
    [failure] = carry_new(str(upper), str(host))
    assert (failure.path, failure.error.errno) == (str(host / "moved"), errno.EXDEV)
    assert tree(host) == ["moved", "moved/new"]


# ------------------------------------------------------------------- carry_path


def test_a_file_is_copied_over_the_one_of_the_host(upper: Path, host: Path) -> None:
    (host / "file").write_text("before")
    (upper / "file").write_text("after")
    assert carry_path(str(upper / "file"), str(host / "file")) == []
    assert (host / "file").read_text() == "after"
    assert tree(host) == ["file"]


def test_who_has_the_old_file_open_reads_it_to_its_end(upper: Path, host: Path) -> None:
    (host / "file").write_text("before")
    (upper / "file").write_text("after")
    with open(host / "file") as reader:
        carry_path(str(upper / "file"), str(host / "file"))
        assert reader.read() == "before"


def test_what_the_test_left_alone_is_left_alone(upper: Path, host: Path) -> None:
    (host / "file").write_text("before")
    assert carry_path(str(upper / "file"), str(host / "file")) == []
    assert (host / "file").read_text() == "before"


def test_missing_parents_are_made(upper: Path, host: Path) -> None:
    (upper / "file").touch()
    assert carry_path(str(upper / "file"), str(host / "a/b/file")) == []
    assert tree(host) == ["a", "a/b", "a/b/file"]


def test_a_parent_may_be_a_symlink_of_the_hosts(upper: Path, host: Path) -> None:
    (host / "real").mkdir()
    (host / "link").symlink_to("real")
    (upper / "file").touch()
    assert carry_path(str(upper / "file"), str(host / "link/file")) == []
    assert (host / "link").is_symlink()
    assert (host / "real/file").exists()


def test_a_directory_is_merged_with_the_one_of_the_host(upper: Path, host: Path) -> None:
    (host / "sub").mkdir()
    (host / "sub/kept").touch()
    (upper / "sub").mkdir()
    (upper / "sub/new").touch()
    assert carry_path(str(upper), str(host)) == []
    assert tree(host) == ["sub", "sub/kept", "sub/new"]


def test_a_whiteout_deletes_a_file(upper: Path, host: Path) -> None:
    (host / "gone").touch()
    make_whiteout(upper / "gone")
    assert carry_path(str(upper), str(host)) == []
    assert tree(host) == []


def test_a_whiteout_deletes_a_tree_but_not_where_its_symlinks_lead(
    upper: Path, host: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").touch()
    (host / "gone/sub").mkdir(parents=True)
    (host / "gone/sub/file").touch()
    (host / "gone/link").symlink_to(tmp_path / "elsewhere")
    make_whiteout(upper / "gone")
    assert carry_path(str(upper), str(host)) == []
    assert tree(host) == []
    assert (tmp_path / "elsewhere/file").exists()


def test_a_whiteout_deletes_no_more_than_its_name(upper: Path, host: Path) -> None:
    for name in "sub/gone", "sub/gone-not":
        (host / name).mkdir(parents=True)
    (upper / "sub").mkdir()
    make_whiteout(upper / "sub/gone")
    assert carry_path(str(upper), str(host)) == []
    assert tree(host) == ["sub", "sub/gone-not"]


def test_a_path_that_the_test_deleted_is_deleted(upper: Path, host: Path) -> None:
    (host / "gone").mkdir()
    make_whiteout(upper / "gone")
    assert carry_path(str(upper / "gone"), str(host / "gone")) == []
    assert tree(host) == []


def test_a_whiteout_makes_no_parents(upper: Path, host: Path) -> None:
    make_whiteout(upper / "gone")
    assert carry_path(str(upper / "gone"), str(host / "a/gone")) == []
    assert tree(host) == []


def test_an_opaque_directory_hides_what_the_host_had_in_it(upper: Path, host: Path) -> None:
    (host / "again/old/sub").mkdir(parents=True)
    (upper / "again").mkdir()
    (upper / "again/new").touch()
    set_xattr(upper / "again", "user.overlay.opaque", b"y")
    assert carry_path(str(upper), str(host)) == []
    assert tree(host) == ["again", "again/new"]


def test_a_file_replaces_a_tree(upper: Path, host: Path) -> None:
    (host / "entry/sub").mkdir(parents=True)
    (upper / "entry").write_text("file")
    assert carry_path(str(upper), str(host)) == []
    assert (host / "entry").read_text() == "file"


def test_a_directory_replaces_a_file(upper: Path, host: Path) -> None:
    (host / "entry").touch()
    (upper / "entry").mkdir()
    assert carry_path(str(upper), str(host)) == []
    assert (host / "entry").is_dir()


def test_a_directory_replaces_a_symlink_and_is_not_written_through_it(
    upper: Path, host: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (host / "entry").symlink_to(tmp_path / "elsewhere")
    (upper / "entry").mkdir()
    (upper / "entry/file").touch()
    assert carry_path(str(upper), str(host)) == []
    assert tree(host) == ["entry", "entry/file"]
    assert tree(tmp_path / "elsewhere") == []


def test_a_file_replaces_a_symlink_and_is_not_written_through_it(upper: Path, host: Path) -> None:
    (host / "real").write_text("kept")
    (host / "entry").symlink_to("real")
    (upper / "entry").write_text("new")
    assert carry_path(str(upper), str(host)) == []
    assert (host / "real").read_text() == "kept"
    assert (host / "entry").read_text() == "new"


def test_a_symlink_of_the_tests_is_not_followed(upper: Path, host: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    (upper / "link").symlink_to(tmp_path / "secret")
    assert carry_path(str(upper), str(host)) == []
    assert os.readlink(host / "link") == str(tmp_path / "secret")


@as_root
def test_nothing_is_done_where_a_directory_was_renamed(upper: Path, host: Path) -> None:
    (host / "before").mkdir()
    (host / "before/file").write_text("would be lost")
    make_whiteout(upper / "before")
    (upper / "after").mkdir()
    set_xattr(upper / "after", "trusted.overlay.redirect", b"before")
    [failure] = carry_path(str(upper), str(host))
    assert (failure.path, failure.error.errno) == (str(host / "after"), errno.EXDEV)
    assert tree(host) == ["before", "before/file"]


# ------------------------------------------------------------- what is kept


@pytest.mark.parametrize("mode", [0o400, 0o640, 0o755, 0o4755, 0o2755])
def test_a_file_keeps_its_mode(upper: Path, host: Path, mode: int) -> None:
    (upper / "file").touch()
    (upper / "file").chmod(mode)
    assert carry_path(str(upper), str(host)) == []
    assert stat.S_IMODE((host / "file").stat().st_mode) == mode


@pytest.mark.parametrize("mode", [0o500, 0o755, 0o1777, 0o2750])
def test_a_directory_keeps_its_mode_and_its_content(upper: Path, host: Path, mode: int) -> None:
    (upper / "sub").mkdir()
    (upper / "sub/file").touch()
    (upper / "sub").chmod(mode)
    assert carry_path(str(upper), str(host)) == []
    assert stat.S_IMODE((host / "sub").stat().st_mode) == mode
    assert (host / "sub/file").exists()


@as_root
def test_a_directory_that_nobody_may_read_is_copied_nonetheless(upper: Path, host: Path) -> None:
    (upper / "closed").mkdir()
    (upper / "closed/file").touch()
    (upper / "closed").chmod(0)
    assert carry_path(str(upper), str(host)) == []
    assert stat.S_IMODE((host / "closed").stat().st_mode) == 0
    assert (host / "closed/file").exists()


def test_times_are_kept_to_the_nanosecond(upper: Path, host: Path) -> None:
    (upper / "sub").mkdir()
    (upper / "sub/file").write_text("read by copying it")
    (upper / "sub/link").symlink_to("file")
    paths = ["sub/file", "sub/link", "sub"]
    for number, path in enumerate(paths, start=1):
        os.utime(upper / path, ns=(number, 10**18 + number), follow_symlinks=False)
    assert carry_path(str(upper), str(host)) == []
    kept = [os.lstat(host / path) for path in paths]
    assert [(s.st_atime_ns, s.st_mtime_ns) for s in kept] == [
        (number, 10**18 + number) for number in (1, 2, 3)
    ]


@as_root
def test_owners_are_kept(upper: Path, host: Path) -> None:
    (upper / "file").touch()
    (upper / "link").symlink_to("file")
    for name in "file", "link":
        os.lchown(upper / name, 1, 2)
    assert carry_path(str(upper), str(host)) == []
    for name in "file", "link":
        status = os.lstat(host / name)
        assert (status.st_uid, status.st_gid) == (1, 2)


@as_root
def test_a_program_that_cannot_be_given_to_its_owner_does_not_run_as_another(
    upper: Path, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, uid: int, gid: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)

    (upper / "program").touch()
    os.chown(upper / "program", 1, 1)
    (upper / "program").chmod(0o6755)
    monkeypatch.setattr(os, "lchown", refuse)
    assert carry_path(str(upper), str(host)) == []
    assert stat.S_IMODE((host / "program").stat().st_mode) == 0o755


def test_xattrs_of_users_are_kept_but_not_those_of_overlayfs(upper: Path, host: Path) -> None:
    (upper / "file").touch()
    set_xattr(upper, "user.origin", b"test")
    set_xattr(upper / "file", "user.origin", b"test")
    set_xattr(upper / "file", "user.overlay.origin", b"inode")
    (upper / "file").chmod(0o400)
    assert carry_path(str(upper), str(host)) == []
    for path in host, host / "file":
        assert os.listxattr(path) == ["user.origin"]
        assert os.getxattr(path, "user.origin") == b"test"


def test_holes_stay_holes(upper: Path, host: Path) -> None:
    with open(upper / "sparse", "wb") as file:
        file.truncate(100 << 30)
        file.seek(50 << 30)
        file.write(b"in the middle")
    assert carry_path(str(upper), str(host)) == []
    status = (host / "sparse").stat()
    assert status.st_size == 100 << 30
    assert status.st_blocks * 512 < 1 << 20
    with open(host / "sparse", "rb") as file:
        file.seek(50 << 30)
        assert file.read(14) == b"in the middle\0"


def test_data_around_holes_is_copied_exactly(upper: Path, host: Path) -> None:
    data = os.urandom(200_000) + bytes(1 << 20) + os.urandom(70_001)
    with open(upper / "file", "wb") as file:
        file.write(data[:200_000])
        file.seek(200_000 + (1 << 20))
        file.write(data[200_000 + (1 << 20) :])
    assert carry_path(str(upper), str(host)) == []
    assert (host / "file").read_bytes() == data


def test_an_empty_file_is_carried(upper: Path, host: Path) -> None:
    (upper / "empty").touch()
    assert carry_path(str(upper), str(host)) == []
    assert (host / "empty").stat().st_size == 0


def test_names_of_one_file_stay_names_of_one_file(upper: Path, host: Path) -> None:
    (upper / "sub").mkdir()
    (upper / "one").write_text("shared")
    os.link(upper / "one", upper / "sub/two")
    assert carry_new(str(upper), str(host)) == []
    assert (host / "one").samefile(host / "sub/two")


def test_where_a_file_cannot_have_two_names_it_is_copied_twice(
    upper: Path, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError

    (upper / "one").write_text("shared")
    os.link(upper / "one", upper / "two")
    monkeypatch.setattr(os, "link", refuse)
    assert carry_new(str(upper), str(host)) == []
    assert (host / "one").read_text() == (host / "two").read_text() == "shared"


def test_fifos_and_sockets_are_made_anew(
    upper: Path, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(upper / "fifo", 0o640)
    monkeypatch.chdir(upper)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    assert carry_path(str(upper), str(host)) == []
    assert (host / "fifo").is_fifo()
    assert (host / "fifo").stat().st_mode == (upper / "fifo").stat().st_mode
    assert (host / "socket").is_socket()


@as_root
def test_devices_are_not_carried(upper: Path, host: Path) -> None:
    os.mknod(upper / "zero", stat.S_IFCHR, os.makedev(1, 5))
    os.mknod(upper / "disk", stat.S_IFBLK, os.makedev(7, 0))
    assert carry_path(str(upper), str(host)) == []
    assert tree(host) == []


@pytest.mark.parametrize("name", [b"\xff", b"x" * 255, "\N{SNOWMAN}".encode() * 85])
def test_every_name_that_linux_allows_is_carried(upper: Path, host: Path, name: bytes) -> None:
    Path(os.fsdecode(os.fsencode(upper) + b"/" + name)).touch()
    assert carry_path(str(upper), str(host)) == []
    assert os.listdir(os.fsencode(host)) == [name]


# --------------------------------------------------------------------- failures


def test_what_fails_is_told_and_the_others_carried(
    upper: Path, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    sendfile = os.sendfile

    def until_full(out: int, source: int, offset: int, count: int) -> int:
        if count == 3:
            raise full
        return sendfile(out, source, offset, count)

    for name, text in ("a", "1"), ("b", "333"), ("c", "1"):
        (upper / name).write_text(text)
    (host / "b").write_text("before")
    monkeypatch.setattr(os, "sendfile", until_full)
    assert carry_path(str(upper), str(host)) == [Failure(str(host / "b"), full)]
    assert tree(host) == ["a", "b", "c"]
    assert (host / "b").read_text() == "before"


@rootless
def test_what_is_not_to_be_read_is_told_and_the_others_carried(upper: Path, host: Path) -> None:
    (upper / "closed").mkdir(0)
    (upper / "secret").touch(0)
    (upper / "open").touch()
    failures = carry_path(str(upper), str(host))
    (upper / "closed").chmod(0o700)
    (host / "closed").chmod(0o700)
    assert sorted(f.path for f in failures) == [str(host / "closed"), str(host / "secret")]
    assert {type(f.error) for f in failures} == {PermissionError}
    assert tree(host) == ["closed", "open"]


def test_of_a_directory_that_cannot_be_made_only_itself_is_told(
    upper: Path, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def refuse(path: str, mode: int = 0o777) -> None:
        if path.endswith("bad"):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
        mkdir(path, mode)

    (upper / "bad/sub").mkdir(parents=True)
    (upper / "bad/sub/file").touch()
    (upper / "good").mkdir()
    monkeypatch.setattr(os, "mkdir", refuse)
    assert [f.path for f in carry_path(str(upper), str(host))] == [str(host / "bad")]
    assert tree(host) == ["good"]


def test_a_parent_that_is_a_file_is_a_failure(upper: Path, host: Path) -> None:
    (host / "parent").touch()
    (upper / "file").touch()
    [failure] = carry_path(str(upper / "file"), str(host / "parent/file"))
    assert failure.path == str(host / "parent/file")
    assert isinstance(failure.error, FileExistsError)


def test_a_file_swapped_for_a_symlink_meanwhile_is_not_followed(
    upper: Path, host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("key")
    (upper / "file").touch()

    def swap(path: str, seen: os.stat_result) -> int:
        os.unlink(path)
        os.symlink(tmp_path / "secret", path)
        return open_seen(path, seen)

    monkeypatch.setattr("pytest_nsbox.sandbox.carry.open_seen", swap)
    [failure] = carry_path(str(upper), str(host))
    assert failure.error.errno == errno.ELOOP
    assert tree(host) == []


# ------------------------------------------------------------------- deep trees


def test_directories_may_be_nested_deeper_than_python_recurses(upper: Path, host: Path) -> None:
    nest(upper, "d", 300)
    with little_stack():
        failures = carry_path(str(upper), str(host))
    assert failures == []
    assert os.path.isdir(f"{host}{'/d' * 300}")


def test_directories_nested_deeper_than_a_path_can_say_fail_where_it_ends(
    upper: Path, host: Path
) -> None:
    nest(upper, "d" * 200, 50)
    (upper / "z").touch()
    failures = carry_path(str(upper), str(host))
    assert {f.error.errno for f in failures} == {errno.ENAMETOOLONG}
    assert (host / "z").exists()


def test_a_deep_tree_of_the_hosts_is_deleted(upper: Path, host: Path) -> None:
    nest(host, "d", 300)
    make_whiteout(upper / "d")
    with little_stack():
        failures = carry_path(str(upper), str(host))
    assert failures == []
    assert tree(host) == []
