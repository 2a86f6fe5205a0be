"""Changes and carrying out, of upper layers that overlayfs itself wrote."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pytest_nsbox.sandbox.carry import carry_path
from pytest_nsbox.sandbox.changes import changes


class Layers:
    """A lower and an upper directory, and a shell that sees the one over the other.

    The overlay is in a mount namespace that ends with the shell; what it wrote stays.
    """

    def __init__(self, top: Path, unshare: list[str], options: str) -> None:
        self.lower, self.upper, self.work = top / "lower", top / "upper", top / "work"
        self.merged = top / "merged"
        for path in self.lower, self.upper, self.work, self.merged:
            path.mkdir()
        self._unshare = ["unshare", "--mount", *unshare]
        self._options = f"lowerdir={self.lower},upperdir={self.upper},workdir={self.work},{options}"

    def run(self, script: str, options: str = "") -> None:
        mount = f"mount -t overlay overlay -o '{self._options}{options}' '{self.merged}'"
        command = [*self._unshare, "sh", "-c", f"{mount} || exit 77; cd '{self.merged}'; {script}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 77 or "unshare" in done.stderr:
            pytest.skip(f"no overlay to be had here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr

    def changes(self) -> list[tuple[str, str]]:
        found = changes(str(self.upper), str(self.lower), "/")
        return [(change.path, change.kind) for change in found]


@pytest.fixture(params=["root", "rootless"])
def layers(request: pytest.FixtureRequest, tmp_path: Path) -> Layers:
    if request.param == "rootless":
        return Layers(tmp_path, ["--user", "--map-root-user"], "index=off,metacopy=off,userxattr")
    if os.geteuid() != 0:
        pytest.skip("only root mounts without a user namespace")
    return Layers(tmp_path, [], "index=off,metacopy=off")


def test_what_was_only_opened_for_writing_is_no_change(layers: Layers) -> None:
    (layers.lower / "sub").mkdir()
    (layers.lower / "sub/file").write_text("same")
    layers.run("exec 3>>sub/file")
    assert (layers.upper / "sub/file").exists()
    assert layers.changes() == []


def test_what_was_appended_to_is_modified(layers: Layers) -> None:
    (layers.lower / "file").write_text("before")
    layers.run("echo more >>file")
    assert layers.changes() == [("/file", "modified")]


def test_what_was_removed_is_deleted(layers: Layers) -> None:
    (layers.lower / "sub").mkdir()
    (layers.lower / "sub/file").touch()
    (layers.lower / "other").touch()
    layers.run("rm -r sub other")
    assert layers.changes() == [("/other", "deleted"), ("/sub", "deleted")]


def test_a_directory_made_anew_hides_what_was_in_it(layers: Layers) -> None:
    (layers.lower / "sub").mkdir()
    (layers.lower / "sub/old").touch()
    layers.run("rm -r sub; mkdir sub; touch sub/new")
    assert layers.changes() == [("/sub/new", "added"), ("/sub/old", "deleted")]


def test_what_came_and_went_is_no_change(layers: Layers) -> None:
    (layers.lower / "sub").mkdir()
    layers.run("mkdir new; touch sub/new; rm -r new sub/new")
    assert layers.changes() == []


def test_a_renamed_file_is_deleted_here_and_added_there(layers: Layers) -> None:
    (layers.lower / "before").touch()
    layers.run("mv before after")
    assert layers.changes() == [("/after", "added"), ("/before", "deleted")]


def test_a_renamed_directory_is_deleted_here_and_added_there(
    layers: Layers, request: pytest.FixtureRequest
) -> None:
    if "rootless" in request.node.callspec.params.values():
        pytest.skip("userxattr excludes redirect_dir")
    (layers.lower / "before").mkdir()
    (layers.lower / "before/file").touch()
    layers.run("mv before after", options=",redirect_dir=on")
    assert layers.changes() == [("/after", "added"), ("/before", "deleted")]


def test_carried_out_the_host_is_as_the_sandbox_was(layers: Layers) -> None:
    for name in "kept", "changed", "removed", "again/old", "closed/file", "entry":
        (layers.lower / name).parent.mkdir(exist_ok=True)
        (layers.lower / name).write_text("before")
    listing = "find . -printf '%P %y %m %s %n %l %T@\\n' | sort"
    layers.run(
        "echo after >changed; rm removed; rm -r again; mkdir again; echo new >again/new;"
        "ln again/new again/name; ln -s again/new link; mkfifo fifo; chmod 751 closed;"
        f"rm entry; mkdir -p entry/sub; chmod 1777 entry/sub; ({listing}) >../seen"
    )
    assert carry_path(str(layers.upper), str(layers.lower)) == []
    host = subprocess.run(
        ["sh", "-c", listing], cwd=layers.lower, capture_output=True, text=True, check=True
    )
    assert without_sizes_of_directories(host.stdout) == without_sizes_of_directories(
        (layers.lower.parent / "seen").read_text()
    )


def without_sizes_of_directories(listing: str) -> list[list[str]]:
    """Nor their link counts: a filesystem's own business, both of them."""
    lines = [line.split(" ") for line in listing.splitlines()]
    return [line[:3] + line[5:] if line[1] == "d" else line for line in lines]
