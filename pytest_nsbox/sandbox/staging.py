"""The staging area: the supervisor's own mount namespace, where sandboxes are made, and no test comes.

A tmpfs as root, the host's mounts below ``steps.HOST``, and symlinks beside it, so that every path of
the host's still works in here.  Rootless, the supervisor also lives in a user namespace, which every
sandbox shares.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from pytest_nsbox.kernel import mountinfo
from pytest_nsbox.kernel.syscalls import (
    CLONE_NEWNS,
    CLONE_NEWUSER,
    MS_BIND,
    MS_MOVE,
    MS_NODEV,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    SyscallError,
    in_words,
    mount,
    pivot_root,
    umount,
    unshare,
)
from pytest_nsbox.sandbox import devices, rootfs, steps

_PROBE_SECONDS = 1.0  # for all suspicious mounts together


def stage(*, rootless: bool) -> rootfs.Planner:
    """Enter the staging area; a planner that knows the host's mounts as they were."""
    if rootless:
        enter_user_namespace()
    else:
        unshare(CLONE_NEWNS)
    # Mounts of ours must not appear on the host, nor the host's come and go in a sandbox.
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mounts = mountinfo.visible(mountinfo.read())
    unusable = probe_mounts(mounts)
    place = next(path for path in ("/tmp", "/run", "/mnt", "/var") if os.path.isdir(path))
    names = {name: link_or_directory(name) for name in os.listdir("/")}
    mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    os.mkdir(place + steps.HOST)
    os.chdir(place)
    try:
        pivot_root(".", "." + steps.HOST)
    except SyscallError:  # Docker's seccomp profile: see init.enter
        umount(place)
        mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
        os.mkdir(place + steps.HOST)
        mount("/", place + steps.HOST, None, MS_BIND | MS_REC)
        umount(place + steps.HOST + place)
        os.chdir(place)
        mount(".", "/", None, MS_MOVE)
        os.chroot(".")
    os.chdir("/")
    for name, target in names.items():
        os.symlink(target, f"/{name}")
    os.mkdir(steps.BOXES)
    os.mkdir(steps.INIT)
    devices.make_templates(rootless=rootless)
    return rootfs.Planner(mounts, rootless=rootless, unusable=unusable)


def link_or_directory(name: str) -> str:
    """What a symlink in the staging area's root has to say to stand for the host's ``/name``."""
    path = "/" + name
    if os.path.islink(path) and not os.readlink(path).startswith("/"):
        return os.readlink(path)
    return steps.HOST[1:] + path


def enter_user_namespace() -> None:
    """A user namespace in which the caller is who it was, and has every capability."""
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | CLONE_NEWNS)
    # user_namespaces(7): without CAP_SETGID outside, setgroups must be denied before gid_map.
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        path = f"/proc/self/{name}"
        try:
            fd = os.open(path, os.O_WRONLY)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except FileNotFoundError:
            if name != "setgroups":  # Linux < 3.19
                raise
        except OSError as error:
            raise SyscallError(error.errno or 0, "write", f"{path}, {text!r}") from error
    # One of its own is what a test would mount the cgroup filesystem with, and that one writable.
    # Where /proc is read-only, as in a container, so are the cgroups.
    with contextlib.suppress(OSError), open("/proc/sys/user/max_cgroup_namespaces", "w") as file:
        file.write("0")


def probe_mounts(mounts: list[mountinfo.Mount]) -> dict[str, str]:
    """The mounts that must be left alone, and why: a dead server hangs whoever asks.

    Each suspicious one is asked by a process of its own, all at once, for a second.
    """
    unusable: dict[str, str] = {}
    asked: dict[int, str] = {}
    for mounted in mounts:
        if mounted.fstype == "autofs":
            unusable[mounted.point] = "autofs mounts on demand, which a look would trigger"
        elif mounted.fstype in rootfs.REMOTE or mounted.fstype.startswith("fuse"):
            pid = os.fork()
            if pid == 0:
                status = 0
                try:
                    os.stat(mounted.point)
                    os.statvfs(mounted.point)
                except OSError as error:
                    status = error.errno or 255
                finally:
                    os._exit(status)
            asked[pid] = mounted.point
    deadline = time.monotonic() + _PROBE_SECONDS
    while asked:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            if code:
                unusable[asked[pid]] = f"stat: {in_words(code)}"
            del asked[pid]
        elif time.monotonic() > deadline:
            break
        else:
            time.sleep(0.005)
    for pid, point in asked.items():
        unusable[point] = f"it did not answer stat within {_PROBE_SECONDS:g} s"
        os.kill(pid, signal.SIGKILL)
    return unusable
