"""Become a machine that is different from this one, for one command: mounts, filters, limits.

    python machine.py WHAT [WHAT...] -- COMMAND [ARG...]

Each WHAT is a function below. It changes this process and its own mount namespace, never the host,
and then the process becomes the command.
"""

from __future__ import annotations

import os
import sys

import pytest

from pytest_nsbox.kernel.syscalls import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    MOUNT_ATTR_RDONLY,
    MS_BIND,
    MS_PRIVATE,
    MS_REC,
    mount,
    mount_setattr,
    unshare,
)
from pytest_nsbox.sandbox import network, privileges

# Where mounts may be made for the command to find: a tmpfs of this machine's.
PLACE = "/srv"
HOME = f"{PLACE}/home"  # of the command, on a machine with `own`
_STRANGER = 12345  # a uid and gid of nobody here


def command(*what: str) -> list[str]:
    """What to put before a command that is to run on such a machine."""
    return [sys.executable, __file__, *what, "--"]


def need() -> None:
    """Skip the test where no machine can be made different."""
    if not privileges.is_privileged():
        pytest.skip("to make a machine different takes CAP_SYS_ADMIN")


def scratch() -> None:
    """A tmpfs on PLACE."""
    mount("tmpfs", PLACE, "tmpfs", 0, "mode=755")


def own() -> None:
    """A network, a home, and copies-on-write of /tmp and /etc, which nobody else uses."""
    unshare(CLONE_NEWNET)
    network.bring_up_loopback()
    os.environ["HOME"] = HOME
    os.makedirs(HOME)
    for path in ("/tmp", "/etc"):
        upper, work = _directory(f"upper{path}"), _directory(f"work{path}")
        os.chmod(upper, os.stat(path).st_mode & 0o7777)
        mount("overlay", path, "overlay", 0, f"lowerdir={path},upperdir={upper},workdir={work}")


def dead_fuse() -> None:
    """A FUSE mount whose server never answers: a stat of it hangs. The command holds its fd."""
    fd = os.open("/dev/fuse", os.O_RDWR)
    os.set_inheritable(fd, True)
    data = f"fd={fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    mount("dead", _directory("dead"), "fuse", 0, data)


def autofs() -> None:
    """A direct autofs mount. The end of its pipe where a daemon would read is in $AUTOFS."""
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    os.environ["AUTOFS"] = str(reading)
    # Not our own process group, which autofs would take for the daemon's.
    data = f"fd={writing},pgrp=1,minproto=5,maxproto=5,direct"
    mount("automount", _directory("auto"), "autofs", 0, data)


def read_only() -> None:
    """A bind mount, read-only."""
    path = _file("read-only/file", "host")
    directory = os.path.dirname(path)
    mount(directory, directory, None, MS_BIND)
    mount_setattr(directory, MOUNT_ATTR_RDONLY)


def file_bind() -> None:
    """A file bound on a file."""
    mount(_file("source", "source"), _file("target", "covered"), None, MS_BIND)


def stacked() -> None:
    """Two filesystems on one another: the second is what one sees."""
    for name in ("lower", "upper"):
        mount("tmpfs", _directory("stacked"), "tmpfs")
        _file(f"stacked/{name}", name)


def covered() -> None:
    """A mount that one cannot reach, for another lies on a directory above it."""
    mount("tmpfs", _directory("covered/inner"), "tmpfs")
    mount("tmpfs", _directory("covered"), "tmpfs")
    _file("covered/file", "outer")


def closed() -> None:
    """Directories that only a capability opens: one with files, one with a mount in it."""
    for name in ("closed/file", "closed-mount/inner/file"):
        _file(name, "secret")
    inner = f"{PLACE}/closed-mount/inner"
    mount(inner, inner, None, MS_BIND)
    for name in ("closed", "closed-mount"):
        os.chown(f"{PLACE}/{name}", _STRANGER, _STRANGER)
        os.chmod(f"{PLACE}/{name}", 0o700)


def many() -> None:
    """Three hundred mounts, of two sorts."""
    for number in range(300):
        path = _directory(f"many/{number}")
        if number % 2:
            mount("tmpfs", path, "tmpfs")
        else:
            _file(f"many/source-{number}/file", str(number))
            mount(f"{PLACE}/many/source-{number}", path, None, MS_BIND)


def _directory(name: str) -> str:
    path = f"{PLACE}/{name}"
    os.makedirs(path, exist_ok=True)
    return path


def _file(name: str, text: str) -> str:
    path = f"{PLACE}/{name}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def main() -> None:
    end = sys.argv.index("--")
    what, then = sys.argv[1:end], sys.argv[end + 1 :]
    unshare(CLONE_NEWNS)
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    for name in what:
        globals()[name]()
    os.execvp(then[0], then)


if __name__ == "__main__":
    main()
