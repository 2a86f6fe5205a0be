"""Changes: what the entries of an upper layer mean beside those of its lower."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.deep import little_stack, nest

from pytest_nsbox.sandbox import changes as module
from pytest_nsbox.sandbox.changes import Change, changes, is_opaque, is_redirect, is_whiteout

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do this")


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    path = tmp_path / "upper"
    path.mkdir()
    return path


@pytest.fixture
def lower(tmp_path: Path) -> Path:
    path = tmp_path / "lower"
    path.mkdir()
    return path


def make_whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


def make_opaque(path: Path) -> None:
    try:
        os.setxattr(path, "user.overlay.opaque", b"y")
    except OSError as error:
        pytest.skip(f"no user xattrs in {path}: {error}")


def copy_up(path: Path, upper: Path) -> Path:
    """A file as overlayfs copies it up when it is only opened for writing."""
    return Path(shutil.copy2(path, upper / path.name))


def found(upper: Path, lower: Path, mountpoint: str = "/") -> list[tuple[str, str]]:
    return [(change.path, change.kind) for change in changes(str(upper), str(lower), mountpoint)]


# ------------------------------------------------------------------------- files


def test_a_file_that_only_the_upper_has_is_added(upper: Path, lower: Path) -> None:
    (upper / "new").touch()
    assert found(upper, lower) == [("/new", "added")]


def test_a_file_of_another_size_is_modified(upper: Path, lower: Path) -> None:
    (lower / "file").write_text("before")
    copy_up(lower / "file", upper).write_text("before and after")
    assert found(upper, lower) == [("/file", "modified")]


def test_a_file_that_was_opened_for_writing_and_left_alone_is_no_change(
    upper: Path, lower: Path
) -> None:
    (lower / "file").write_text("same")
    copy_up(lower / "file", upper)
    assert found(upper, lower) == []


def test_other_content_is_seen_though_the_times_were_set_back(upper: Path, lower: Path) -> None:
    (lower / "file").write_text("one")
    copy_up(lower / "file", upper).write_text("two")
    shutil.copystat(lower / "file", upper / "file")
    assert found(upper, lower) == [("/file", "modified")]


def test_a_touched_file_is_modified(upper: Path, lower: Path) -> None:
    (lower / "file").touch()
    os.utime(copy_up(lower / "file", upper), ns=(0, 1))
    assert found(upper, lower) == [("/file", "modified")]


def test_a_file_of_another_mode_is_modified(upper: Path, lower: Path) -> None:
    (lower / "file").touch(0o644)
    copy_up(lower / "file", upper).chmod(0o600)
    assert found(upper, lower) == [("/file", "modified")]


@as_root
def test_a_file_of_another_owner_is_modified(upper: Path, lower: Path) -> None:
    (lower / "file").touch()
    os.chown(copy_up(lower / "file", upper), 1, 1)
    assert found(upper, lower) == [("/file", "modified")]


def test_a_symlink_that_leads_elsewhere_is_modified(upper: Path, lower: Path) -> None:
    for top, target in (lower, "one"), (upper, "two"):
        (top / "link").symlink_to(target)
        os.utime(top / "link", ns=(0, 0), follow_symlinks=False)
    assert found(upper, lower) == [("/link", "modified")]


def test_a_copied_up_symlink_is_no_change(upper: Path, lower: Path) -> None:
    (lower / "link").symlink_to("nowhere")
    shutil.copy2(lower / "link", upper / "link", follow_symlinks=False)
    assert found(upper, lower) == []


def test_another_type_is_a_modification(upper: Path, lower: Path) -> None:
    (lower / "entry").touch()
    (upper / "entry").symlink_to("file")
    assert found(upper, lower) == [("/entry", "modified")]


def test_a_file_in_place_of_a_directory_is_one_modification(upper: Path, lower: Path) -> None:
    (lower / "entry/below").mkdir(parents=True)
    (upper / "entry").touch()
    assert found(upper, lower) == [("/entry", "modified")]


def test_a_fifo_of_both_is_not_waited_for(upper: Path, lower: Path) -> None:
    for top in lower, upper:
        os.mkfifo(top / "fifo")
        os.utime(top / "fifo", ns=(0, 0))
    assert found(upper, lower) == []


def test_fifos_and_sockets_are_added_like_files(
    upper: Path, lower: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(upper / "fifo")
    monkeypatch.chdir(upper)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    assert found(upper, lower) == [("/fifo", "added"), ("/socket", "added")]


@as_root
def test_another_device_of_the_same_name_is_modified(upper: Path, lower: Path) -> None:
    for top, minor in (lower, 3), (upper, 5):
        os.mknod(top / "device", stat.S_IFCHR, os.makedev(1, minor))
        os.utime(top / "device", ns=(0, 0))
    assert found(upper, lower) == [("/device", "modified")]


# -------------------------------------------------------------------- whiteouts


def test_a_whiteout_is_a_deletion(upper: Path, lower: Path) -> None:
    (lower / "gone").touch()
    make_whiteout(upper / "gone")
    assert found(upper, lower) == [("/gone", "deleted")]


def test_a_deleted_directory_is_one_change(upper: Path, lower: Path) -> None:
    (lower / "gone/below").mkdir(parents=True)
    make_whiteout(upper / "gone")
    assert found(upper, lower) == [("/gone", "deleted")]


def test_a_whiteout_of_nothing_is_no_change(upper: Path, lower: Path) -> None:
    make_whiteout(upper / "never")
    assert found(upper, lower) == []


def test_a_file_is_no_whiteout(upper: Path) -> None:
    assert not is_whiteout(upper.stat())


@as_root
def test_a_device_is_no_whiteout(upper: Path, lower: Path) -> None:
    os.mknod(upper / "null", stat.S_IFCHR, os.makedev(1, 3))
    assert found(upper, lower) == [("/null", "added")]


# ------------------------------------------------------------------ directories


def test_all_that_a_new_directory_holds_is_added(upper: Path, lower: Path) -> None:
    (upper / "new/sub").mkdir(parents=True)
    (upper / "new/sub/file").touch()
    assert found(upper, lower) == [
        ("/new", "added"),
        ("/new/sub", "added"),
        ("/new/sub/file", "added"),
    ]


def test_a_directory_of_both_is_no_change_by_itself(upper: Path, lower: Path) -> None:
    (lower / "both").mkdir()
    (upper / "both").mkdir()
    (upper / "both/new").touch()
    assert found(upper, lower) == [("/both/new", "added")]


def test_a_directory_of_another_mode_is_modified(upper: Path, lower: Path) -> None:
    (lower / "both").mkdir(0o755)
    (upper / "both").mkdir(0o700)
    assert found(upper, lower) == [("/both", "modified")]


def test_the_top_directory_is_no_change(upper: Path, lower: Path) -> None:
    upper.chmod(0o700)
    lower.chmod(0o755)
    assert found(upper, lower) == []


def test_a_directory_in_place_of_a_file_is_modified_and_its_content_added(
    upper: Path, lower: Path
) -> None:
    (lower / "entry").touch()
    (upper / "entry").mkdir()
    (upper / "entry/file").touch()
    assert found(upper, lower) == [("/entry", "modified"), ("/entry/file", "added")]


def test_a_directory_in_place_of_a_symlink_is_not_compared_with_where_that_led(
    upper: Path, lower: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").touch()
    (tmp_path / "elsewhere/other").touch()
    (lower / "entry").symlink_to(tmp_path / "elsewhere")
    (upper / "entry").mkdir()
    make_opaque(upper / "entry")  # as overlayfs does
    (upper / "entry/file").touch()
    assert found(upper, lower) == [("/entry", "modified"), ("/entry/file", "added")]


def test_what_an_opaque_directory_hides_is_deleted(upper: Path, lower: Path) -> None:
    for top in lower, upper:
        (top / "again").mkdir()
    make_opaque(upper / "again")
    (lower / "again/old").touch()
    (upper / "again/new").touch()
    assert found(upper, lower) == [("/again/new", "added"), ("/again/old", "deleted")]


def test_a_file_made_anew_in_an_opaque_directory_is_modified(upper: Path, lower: Path) -> None:
    for top in lower, upper:
        (top / "again").mkdir()
        (top / "again/file").write_text(top.name * 2)
    make_opaque(upper / "again")
    assert found(upper, lower) == [("/again/file", "modified")]


def test_a_new_directory_that_is_opaque_is_only_added(upper: Path, lower: Path) -> None:
    (upper / "new").mkdir()
    make_opaque(upper / "new")
    assert found(upper, lower) == [("/new", "added")]


def test_other_values_of_the_opaque_xattr_do_not_count(upper: Path) -> None:
    make_opaque(upper)  # or skip
    os.setxattr(upper, "user.overlay.opaque", b"x")  # only means: look for xattr whiteouts
    assert not is_opaque(str(upper))


@as_root
def test_roots_overlays_have_trusted_xattrs(upper: Path) -> None:
    os.setxattr(upper, "trusted.overlay.opaque", b"y")
    os.setxattr(upper, "trusted.overlay.redirect", b"/before")
    assert is_opaque(str(upper))
    assert is_redirect(str(upper))


def test_bytecode_is_left_out_at_any_depth(upper: Path, lower: Path) -> None:
    for top in upper, upper / "new":
        (top / "__pycache__/deep").mkdir(parents=True)
        (top / "__pycache__/module.pyc").touch()
    (upper / "again").mkdir()
    (lower / "again/__pycache__").mkdir(parents=True)
    make_opaque(upper / "again")
    assert found(upper, lower) == [("/new", "added")]


def test_deleted_bytecode_is_left_out(upper: Path, lower: Path) -> None:
    (lower / "__pycache__").mkdir()
    make_whiteout(upper / "__pycache__")
    assert found(upper, lower) == []


# ------------------------------------------------------------- paths and order


def test_paths_are_those_below_the_mount_point(upper: Path, lower: Path) -> None:
    (upper / "new").touch()
    assert found(upper, lower, "/srv/data") == [("/srv/data/new", "added")]


def test_a_directory_comes_before_what_is_in_it_and_that_before_its_siblings(
    upper: Path, lower: Path
) -> None:
    for name in "b", "a-file", "c":
        (upper / name).touch()
    (upper / "a").mkdir()
    (upper / "a/z").touch()
    assert [path for path, _ in found(upper, lower)] == ["/a", "/a/z", "/a-file", "/b", "/c"]


def test_a_name_that_is_not_utf8_survives(upper: Path, lower: Path) -> None:
    Path(os.fsdecode(os.fsencode(upper) + b"/\xff")).touch()
    assert found(upper, lower) == [("/\udcff", "added")]


# --------------------------------------------------------------- a live sandbox


def test_an_upper_layer_that_is_gone_holds_no_changes(tmp_path: Path, lower: Path) -> None:
    assert found(tmp_path / "gone", lower) == []


def test_a_directory_that_vanishes_meanwhile_is_passed_over(upper: Path, lower: Path) -> None:
    (upper / "a").touch()
    (upper / "b/deep").mkdir(parents=True)
    walk = changes(str(upper), str(lower), "/")
    assert next(walk) == Change("/a", "added")
    shutil.rmtree(upper / "b")
    assert list(walk) == [Change("/b", "added")]


@pytest.mark.parametrize("moment", ["/a", "/a/b"])
def test_a_directory_that_becomes_a_symlink_meanwhile_leads_nowhere(
    upper: Path, lower: Path, tmp_path: Path, moment: str
) -> None:
    (tmp_path / "secret/b").mkdir(parents=True)
    (tmp_path / "secret/b/key").touch()
    (upper / "a/b").mkdir(parents=True)
    seen = []
    for change in changes(str(upper), str(lower), "/"):
        seen.append(change.path)
        if change.path == moment:
            (upper / "a").rename(tmp_path / "moved")
            (upper / "a").symlink_to(tmp_path / "secret")
    assert seen[-1] == moment


def test_a_symlink_is_never_followed(upper: Path, lower: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").touch()
    (lower / "link").mkdir()
    (upper / "link").symlink_to(tmp_path / "secret")
    assert found(upper, lower) == [("/link", "modified")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_is_not_to_be_read_is_passed_over(upper: Path, lower: Path) -> None:
    (upper / "closed").mkdir(0)
    (upper / "open").touch()
    try:
        assert found(upper, lower) == [("/closed", "added"), ("/open", "added")]
    finally:
        (upper / "closed").chmod(0o700)


def test_directories_may_be_nested_deeper_than_python_recurses(upper: Path, lower: Path) -> None:
    nest(upper, "d", 300)
    (upper / "z").touch()
    with little_stack():
        paths = [path for path, _ in found(upper, lower)]
    assert paths[-2:] == ["/d" * 300, "/z"]


def test_directories_nested_deeper_than_a_path_can_say_are_passed_over(
    upper: Path, lower: Path
) -> None:
    nest(upper, "d" * 200, 50)
    (upper / "z").touch()
    paths = [path for path, _ in found(upper, lower)]
    assert 10 < len(paths) < 50
    assert paths[-1] == "/z"


# ---------------------------------------------------------------------- imports


def test_the_supervisor_imports_it_without_pytest_and_other_weights() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(module.__file__).parents[2])!r})\n"
        "import pytest_nsbox.sandbox.changes, pytest_nsbox.sandbox.carry\n"
        "print({'pytest', 'shutil', 'tempfile', 'inspect', 'subprocess'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
