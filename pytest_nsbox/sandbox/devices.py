"""What every sandbox's /dev, /sys and hidden files are copies of, in the staging area."""

from __future__ import annotations

import contextlib
import os
import stat

from pytest_nsbox.kernel.syscalls import (
    MOUNT_ATTR_RDONLY,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    mount,
    mount_setattr,
)
from pytest_nsbox.sandbox.steps import HOST, TEMPLATES, attach

_DEV_NODES = ("null", "zero", "full", "random", "urandom", "tty")
_DEV_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}


def make_templates(*, rootless: bool) -> None:
    """Make what every sandbox has copies of; called once, when staging."""
    os.mkdir(TEMPLATES)
    os.close(os.open(f"{TEMPLATES}/empty", os.O_CREAT | os.O_WRONLY, 0o444))
    dev, sys_ = f"{TEMPLATES}/dev", f"{TEMPLATES}/sys"
    os.mkdir(dev)
    os.mkdir(sys_)
    # The mode is crucial, mkosi found: with tmpfs' own 1777, opening /dev/null is EACCES
    # (fs.protected_regular).
    mount("tmpfs", dev, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755")
    for name in _DEV_NODES:
        if os.path.exists(f"{HOST}/dev/{name}"):
            os.close(os.open(f"{dev}/{name}", os.O_CREAT | os.O_WRONLY))
            attach(f"{HOST}/dev/{name}", f"{dev}/{name}", read_only=False, recursive=False)
    for name, to in _DEV_LINKS.items():
        os.symlink(to, f"{dev}/{name}")
    for name in ("pts", "shm"):
        os.mkdir(f"{dev}/{name}")
    if not rootless:  # else mknod(2) is EPERM
        show_block_devices(dev)
    mount_setattr(dev, MOUNT_ATTR_RDONLY)
    attach(f"{HOST}/sys", sys_, read_only=True, recursive=True)


def show_block_devices(dev: str) -> None:
    """Have those of the host there to be seen, on a filesystem whose devices nobody can open."""
    with os.scandir(f"{HOST}/dev") as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISBLK(status.st_mode):
                with contextlib.suppress(OSError):  # no CAP_MKNOD
                    os.mknod(f"{dev}/{entry.name}", status.st_mode, status.st_rdev)
