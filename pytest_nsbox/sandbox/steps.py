"""The steps of a plan: each one mount, as data that says what it does, and does it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from pytest_nsbox.kernel.syscalls import (
    AT_RECURSIVE,
    MOUNT_ATTR_RDONLY,
    MS_NODEV,
    MS_NOSUID,
    OPEN_TREE_CLONE,
    SyscallError,
    mount,
    mount_setattr,
    move_mount,
    open_tree,
)
from pytest_nsbox.sandbox.carry import carry_path

# Directories of the staging area (see supervisor.py); names no host has in its "/".
HOST = "/.nsbox-host"
BOXES = "/.nsbox-boxes"
TEMPLATES = "/.nsbox-templates"
INIT = "/.nsbox-init"

# Of each tmpfs that a test may write to. The kernel's own default is half of the memory, and a
# sandbox has three of them: a test that fills all of them must leave the machine something.
TMPFS_SIZE = "size=25%"

_MOST_COPIED = 64 << 20  # bytes of one file


class Box(NamedTuple):
    """The directories of one sandbox in the staging area."""

    path: str
    proc: int  # fd of the detached tree that is to be its /proc

    @property
    def root(self) -> str:
        return self.path + "/root"

    @property
    def tmp(self) -> str:
        return self.path + "/tmp"

    def upper(self, layer: int) -> str:
        return os.path.join(self.path, "upper", str(layer))

    def work(self, layer: int) -> str:
        return os.path.join(self.path, "work", str(layer))


class Step(Protocol):
    """One mount, or a directory to mount something on."""

    @property
    def target(self) -> str: ...

    def describe(self) -> str: ...
    def execute(self, box: Box) -> None: ...


class Overlay(NamedTuple):
    """A copy-on-write view of a directory of the staging area; layers are listed, never stacked."""

    target: str  # in the sandbox
    lower: tuple[str, ...]  # topmost first
    layer: int  # the number of its upper directory
    flags: int
    mode: int  # of the top directory, which comes from the upper layer
    owner: tuple[int, int] | None
    options: str
    of_root: bool = False  # one of several that stand for the host's root filesystem

    def describe(self) -> str:
        return f"overlay {self.target} (lowerdir {':'.join(self.lower)})"

    def execute(self, box: Box) -> None:
        upper, work = box.upper(self.layer), box.work(self.layer)
        os.mkdir(upper)
        os.mkdir(work)
        if self.owner:
            os.chown(upper, *self.owner)
        if self.mode != 0o755:  # as it is by the supervisor's umask, mostly
            os.chmod(upper, self.mode)
        lower = ":".join(_escape(path) for path in self.lower)
        data = f"lowerdir={lower},upperdir={upper},workdir={work},{self.options}"
        mount("overlay", box.root + self.target, "overlay", self.flags, data)


class ReadOnlyBind(NamedTuple):
    """The host's own mount, read-only, with its other flags."""

    target: str
    source: str
    recursive: bool

    def describe(self) -> str:
        return f"read-only bind {self.target}"

    def execute(self, box: Box) -> None:
        attach(self.source, box.root + self.target, read_only=True, recursive=self.recursive)


class Bind(NamedTuple):
    """A path that the user lets through to the host; made where the sandbox has no such path."""

    target: str
    source: str
    read_only: bool

    def describe(self) -> str:
        return f"bind {self.source.removeprefix(HOST)} on {self.target}"

    def execute(self, box: Box) -> None:
        target = box.root + self.target
        make_mount_point(target, is_directory=os.path.isdir(self.source))
        attach(self.source, target, read_only=self.read_only, recursive=True)


class Socket(NamedTuple):
    """A unix socket of the host's, for an overlay of its file leads to nobody; if it is still there.

    Read-only, which lets one connect, and keeps a chmod in here.
    """

    target: str

    def describe(self) -> str:
        return f"socket {self.target}"

    def execute(self, box: Box) -> None:
        source, target = HOST + self.target, box.root + self.target
        try:
            if not stat.S_ISSOCK(os.lstat(source).st_mode):
                return
        except OSError:  # its server has taken it away
            return
        make_mount_point(target, is_directory=False)
        attach(source, target, read_only=True, recursive=False)


class Copy(NamedTuple):
    """A file of the host's in a filesystem of the sandbox's own: no overlay is mounted on a file."""

    target: str

    def describe(self) -> str:
        return f"copy {self.target}"

    def execute(self, box: Box) -> None:
        source, target = HOST + self.target, box.root + self.target
        try:
            status = os.lstat(source)
        except OSError:  # whoever made it has taken it away
            return
        if status.st_size > _MOST_COPIED:  # a read-only one is better than to wait for a copy
            make_mount_point(target, is_directory=False)
            attach(source, target, read_only=True, recursive=False)
            return
        for failure in carry_path(source, target):
            raise SyscallError(failure.error.errno or errno.EIO, "copy", failure.path)


class Hide(NamedTuple):
    """Something empty over a path of the host's."""

    target: str

    def describe(self) -> str:
        return f"hide {self.target}"

    def execute(self, box: Box) -> None:
        target = box.root + self.target
        if os.path.isdir(target):
            mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, f"mode=755,{TMPFS_SIZE}")
        elif os.path.exists(target):
            attach(f"{TEMPLATES}/empty", target, read_only=True, recursive=False)


class Directory(NamedTuple):
    """An empty directory on the way to a mount."""

    target: str
    mode: int
    owner: tuple[int, int] | None

    def describe(self) -> str:
        return f"directory {self.target}"

    def execute(self, box: Box) -> None:
        path = box.root + self.target
        try:
            os.mkdir(path)
        except FileExistsError:
            return
        if self.owner:
            os.chown(path, *self.owner)
        os.chmod(path, self.mode)


class Private(NamedTuple):
    """A filesystem of the sandbox's own."""

    target: str
    fstype: str
    flags: int
    data: str

    def describe(self) -> str:
        return f"{self.fstype} {self.target} ({self.data})"

    def execute(self, box: Box) -> None:
        mount(self.fstype, box.root + self.target, self.fstype, self.flags, self.data)


class Template(NamedTuple):
    """A copy of a tree that was mounted once in the staging area."""

    target: str
    source: str

    def describe(self) -> str:
        return f"template {self.target}"

    def execute(self, box: Box) -> None:
        attach(self.source, box.root + self.target, read_only=False, recursive=True)


class PrivateTmp(NamedTuple):
    """The sandbox's tmpfs, mounted by the supervisor, who can thus look into it."""

    target: str

    def describe(self) -> str:
        return f"tmpfs {self.target}"

    def execute(self, box: Box) -> None:
        attach(box.tmp, box.root + self.target, read_only=False, recursive=False)


class Proc(NamedTuple):
    """The ``/proc`` of the sandbox's PID namespace, see ``init``."""

    target: str

    def describe(self) -> str:
        return f"proc {self.target}"

    def execute(self, box: Box) -> None:
        move_mount(box.proc, box.root + self.target)


def attach(source: str, target: str, *, read_only: bool, recursive: bool) -> None:
    """Bind ``source`` on ``target``.

    mount(2) cannot bind read-only in one step, nor recursively in any: hence the new calls, which
    leave the other flags of each mount as they are.
    """
    fd = open_tree(source, OPEN_TREE_CLONE | (AT_RECURSIVE if recursive else 0))
    try:
        if read_only:
            mount_setattr("", MOUNT_ATTR_RDONLY, fd=fd, recursive=recursive)
        move_mount(fd, target)
    finally:
        os.close(fd)


def make_mount_point(path: str, *, is_directory: bool) -> None:
    """An empty directory or file at ``path``, with parents, unless something is there."""
    if os.path.lexists(path):
        return
    parent = os.path.dirname(path)
    try:
        os.makedirs(parent, exist_ok=True)
        if is_directory:
            os.mkdir(path)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    except OSError as error:
        raise SyscallError(error.errno or errno.EIO, "mkdir", error.filename or path) from error


def within(path: str, tops: Iterable[str]) -> bool:
    """Whether the path is one of those, or lies below one."""
    return any(path == top or path.startswith(top.rstrip("/") + "/") for top in tops)


def _escape(path: str) -> str:
    """A path as overlayfs wants it in ``lowerdir=``."""
    for char in "\\:,":
        path = path.replace(char, "\\" + char)
    return path
