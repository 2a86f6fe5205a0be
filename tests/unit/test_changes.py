"""What an upper layer holds that its lower does not; the layers are made by hand."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from pytest_nsbox.sandbox.changes import changes, is_opaque, is_whiteout


class Layers:
    """A lower directory, and the upper one that overlayfs would have left above it."""

    def __init__(self, path: Path) -> None:
        self.lower = path / "lower"
        self.upper = path / "upper"
        self.lower.mkdir()
        self.upper.mkdir()

    def was(self, name: str, text: str = "") -> Path:
        """A file of the host's."""
        return write(self.lower / name, text)

    def copy_up(self, name: str) -> Path:
        """A file or directory as the kernel copies it up, with those above it."""
        source, target = self.lower / name, self.upper / name
        if target.parent != self.upper and not target.parent.exists():
            self.copy_up(str(Path(name).parent))
        if source.is_dir() and not source.is_symlink():
            target.mkdir()
            shutil.copystat(source, target)
        else:
            shutil.copy2(source, target, follow_symlinks=False)
        return target

    def whiteout(self, name: str) -> None:
        path = self.upper / name
        path.parent.mkdir(parents=True, exist_ok=True)
        whiteout(path)

    def found(self, mountpoint: str = "/") -> list[tuple[str, str]]:
        found = changes(str(self.upper), str(self.lower), mountpoint)
        return sorted((change.path, change.kind) for change in found)


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


def make_opaque(path: Path, name: str = "user.overlay.opaque", value: bytes = b"y") -> None:
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        pytest.skip(f"cannot set {name} on {path}: {error}")


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    return Layers(tmp_path)


# ----------------------------------------------------------------------- marks of overlayfs


def test_a_whiteout_is_a_character_device_of_no_number(tmp_path: Path) -> None:
    whiteout(tmp_path / "gone")
    assert is_whiteout(os.lstat(tmp_path / "gone"))


def test_another_device_is_no_whiteout() -> None:
    assert not is_whiteout(os.lstat("/dev/null"))


def test_a_file_is_no_whiteout(tmp_path: Path) -> None:
    assert not is_whiteout(os.lstat(write(tmp_path / "file")))


@pytest.mark.parametrize("name", ["trusted.overlay.opaque", "user.overlay.opaque"])
def test_an_opaque_directory_is_marked_by_an_attribute(tmp_path: Path, name: str) -> None:
    make_opaque(tmp_path, name)
    assert is_opaque(str(tmp_path))


def test_a_directory_marked_otherwise_is_not_opaque(tmp_path: Path) -> None:
    make_opaque(tmp_path, value=b"x")  # "holds whiteouts that are files"
    assert not is_opaque(str(tmp_path))


def test_a_path_that_is_not_there_is_not_opaque(tmp_path: Path) -> None:
    assert not is_opaque(str(tmp_path / "missing"))


# ----------------------------------------------------------------------- added


def test_an_untouched_tree_has_no_changes(layers: Layers) -> None:
    layers.was("etc/hosts", "x")
    assert layers.found() == []


def test_a_new_file_is_added(layers: Layers) -> None:
    write(layers.upper / "new")
    assert layers.found() == [("/new", "added")]


def test_a_new_directory_is_added_with_all_that_is_in_it(layers: Layers) -> None:
    write(layers.upper / "a/b/c")
    assert layers.found() == [("/a", "added"), ("/a/b", "added"), ("/a/b/c", "added")]


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK])
def test_a_new_special_file_is_added(layers: Layers, kind: int) -> None:
    os.mknod(layers.upper / "special", kind | 0o600)
    assert layers.found() == [("/special", "added")]


def test_a_new_symlink_is_added_and_not_followed(layers: Layers) -> None:
    os.symlink("/etc", layers.upper / "link")
    assert layers.found() == [("/link", "added")]


def test_paths_are_below_the_mountpoint(layers: Layers) -> None:
    write(layers.upper / "new")
    assert layers.found("/mnt/data") == [("/mnt/data/new", "added")]


# ----------------------------------------------------------------------- modified


def test_other_content_is_modified(layers: Layers) -> None:
    layers.was("etc/hosts", "before")
    layers.copy_up("etc/hosts").write_text("behind")
    assert layers.found() == [("/etc/hosts", "modified")]


def test_other_content_of_the_same_size_and_time_is_modified(layers: Layers) -> None:
    before = layers.was("file", "one").stat()
    file = layers.copy_up("file")
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert layers.found() == [("/file", "modified")]


def test_another_size_is_modified(layers: Layers) -> None:
    layers.was("file", "before")
    layers.copy_up("file").write_text("longer than before")
    assert layers.found() == [("/file", "modified")]


def test_another_mode_is_modified(layers: Layers) -> None:
    layers.was("file").chmod(0o644)
    layers.copy_up("file").chmod(0o600)
    assert layers.found() == [("/file", "modified")]


def test_another_time_is_modified(layers: Layers) -> None:
    layers.was("file")
    os.utime(layers.copy_up("file"), (1, 1))
    assert layers.found() == [("/file", "modified")]


def test_another_mode_of_a_directory_is_modified(layers: Layers) -> None:
    layers.was("etc/hosts").parent.chmod(0o755)
    layers.copy_up("etc").chmod(0o700)
    assert layers.found() == [("/etc", "modified")]


def test_a_symlink_that_leads_elsewhere_is_modified(layers: Layers) -> None:
    os.symlink("one", layers.lower / "link")
    os.symlink("two", layers.upper / "link")
    times = os.lstat(layers.lower / "link")
    os.utime(
        layers.upper / "link", ns=(times.st_atime_ns, times.st_mtime_ns), follow_symlinks=False
    )
    assert layers.found() == [("/link", "modified")]


def test_a_file_in_place_of_a_directory_is_modified(layers: Layers) -> None:
    layers.was("place/file")
    write(layers.upper / "place")
    assert layers.found() == [("/place", "modified")]


def test_a_directory_in_place_of_a_file_is_modified_and_its_content_added(layers: Layers) -> None:
    layers.was("place")
    write(layers.upper / "place/file")
    assert layers.found() == [("/place", "modified"), ("/place/file", "added")]


@pytest.mark.parametrize("name", ["etc/hosts", "etc", "a/b/c/d"])
def test_what_was_copied_up_and_not_touched_is_no_change(layers: Layers, name: str) -> None:
    layers.was("etc/hosts", "content")
    layers.was("a/b/c/d", "content")
    layers.copy_up(name)
    assert layers.found() == []


# ----------------------------------------------------------------------- deleted


def test_a_whiteout_is_a_deletion(layers: Layers) -> None:
    layers.was("etc/hosts")
    layers.copy_up("etc")
    layers.whiteout("etc/hosts")
    assert layers.found() == [("/etc/hosts", "deleted")]


def test_a_whiteout_of_nothing_is_no_change(layers: Layers) -> None:
    layers.whiteout("made-and-removed")
    assert layers.found() == []


def test_an_opaque_directory_deletes_what_was_in_it(layers: Layers) -> None:
    layers.was("dir/gone")
    layers.was("dir/again", "same")
    make_opaque(layers.copy_up("dir"))
    layers.copy_up("dir/again")
    write(layers.upper / "dir/new")
    assert layers.found() == [("/dir/gone", "deleted"), ("/dir/new", "added")]


def test_a_new_directory_that_is_opaque_is_only_added(layers: Layers) -> None:
    (layers.upper / "new").mkdir()
    make_opaque(layers.upper / "new")
    assert layers.found() == [("/new", "added")]


# ----------------------------------------------------------------------- left out


@pytest.mark.parametrize("name", ["__pycache__", "package/__pycache__"])
def test_the_cache_of_bytecode_is_left_out(layers: Layers, name: str) -> None:
    (layers.lower / "package").mkdir()
    if "/" in name:
        layers.copy_up("package")
    write(layers.upper / name / "module.pyc")
    assert layers.found() == []


def test_a_deleted_cache_of_bytecode_is_left_out(layers: Layers) -> None:
    layers.was("__pycache__/module.pyc")
    layers.whiteout("__pycache__")
    assert layers.found() == []


def test_a_fifo_in_both_layers_is_not_waited_for(layers: Layers) -> None:
    os.mkfifo(layers.lower / "pipe")
    os.mkfifo(layers.upper / "pipe")
    shutil.copystat(layers.lower / "pipe", layers.upper / "pipe")
    assert layers.found() == []
