"""Become a machine that is different from this one, for one command: mounts, filters, limits.

Each is a function below. It changes the process that calls it and that process' mount namespace,
never the host; then the process becomes the command.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import sys

import pytest

from helpers import seccomp
from pytest_nsbox.kernel.syscalls import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    MNT_DETACH,
    MOUNT_ATTR_RDONLY,
    MS_BIND,
    MS_PRIVATE,
    MS_REC,
    PR_SET_PDEATHSIG,
    mount,
    mount_setattr,
    pivot_root,
    prctl,
    umount,
    unshare,
)
from pytest_nsbox.sandbox import network, privileges
from pytest_nsbox.sandbox.staging import enter_user_namespace

# Where mounts may be made for the command to find: a tmpfs of this machine's.
PLACE = "/srv"
HOME = f"{PLACE}/home"  # of the command, on a machine with `own`
_TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_MAIN = f"import sys; sys.path.insert(0, {_TESTS!r}); from helpers.machine import main; main()"
_PER_LINUX32 = 8  # linux/personality.h
_STRANGER = 12345  # a uid and gid of nobody here


def command(*what: str) -> list[str]:
    """What to put before a command that is to run on such a machine."""
    return [sys.executable, "-c", _MAIN, *what, "--"]


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


def layered() -> None:
    """An overlay on an overlay: the kernel has no third one on it."""
    lower = os.path.dirname(_file("layers/0/file", "lowest"))
    for number in (1, 2):
        upper, work = _directory(f"layers/upper{number}"), _directory(f"layers/work{number}")
        target = _directory(f"layers/{number}")
        mount("overlay", target, "overlay", 0, f"lowerdir={lower},upperdir={upper},workdir={work}")
        lower = target


def many() -> None:
    """Three hundred mounts, of two sorts."""
    for number in range(300):
        path = _directory(f"many/{number}")
        if number % 2:
            mount("tmpfs", path, "tmpfs")
        else:
            _file(f"many/source-{number}/file", str(number))
            mount(f"{PLACE}/many/source-{number}", path, None, MS_BIND)


def docker() -> None:
    """Docker's seccomp profile for a process without CAP_SYS_ADMIN."""
    seccomp.install(*seccomp.DOCKER)


def docker_sys_admin() -> None:
    """The same after `--cap-add SYS_ADMIN`: pivot_root(2) stays refused."""
    seccomp.install(*seccomp.DOCKER_SYS_ADMIN)


def old_filter() -> None:
    """A filter that does not know the calls of later kernels."""
    seccomp.install(seccomp.Rule("mount_setattr", errno.ENOSYS))


def old_kernel() -> None:
    """A kernel before Linux 5.12."""
    _cover("/proc/version", "Linux version 5.4.0-200-generic (buildd@lcy02) #220-Ubuntu SMP")
    old_filter()


def wsl1() -> None:
    """Windows without Linux."""
    _cover("/proc/version", "Linux version 4.4.0-19041-Microsoft (Microsoft@Microsoft.com)")
    seccomp.install(seccomp.Rule("unshare", errno.EINVAL))


def gvisor() -> None:
    """The kernel that is none."""
    _cover("/proc/version", "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016")
    seccomp.install(seccomp.Rule("unshare"))


def debian() -> None:
    """Debian's switch, off."""
    _cover_sysctls("unprivileged_userns_clone", "0")
    seccomp.install(seccomp.Rule("unshare", bits=seccomp.NEW_USER))


def apparmor() -> None:
    """Ubuntu's restriction: a user namespace there is, and in it no mounting."""
    _cover_sysctls("apparmor_restrict_unprivileged_userns", "1")
    seccomp.install(seccomp.Rule("mount", errno.EACCES))


def no_mounting() -> None:
    """A security module that forbids mounts."""
    seccomp.install(seccomp.Rule("mount", errno.EACCES))


def user_namespace() -> None:
    """A user namespace in which one has every capability, as of rootless podman or `unshare -r`."""
    enter_user_namespace()


def no_proc() -> None:
    """A bare chroot."""
    umount("/proc", MNT_DETACH)


def i686() -> None:
    """An architecture that we do not know."""
    ctypes.CDLL(None).personality(_PER_LINUX32)


def used_up() -> None:
    """One user namespace is allowed, and there is one."""
    _limit("user", 1)
    reading, writing = os.pipe()
    if os.fork() == 0:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # it ends with the command
        unshare(CLONE_NEWUSER)
        os.write(writing, b".")
        signal.pause()
    os.read(reading, 1)


def no_user_namespaces() -> None:
    """user.max_user_namespaces is 0: of a user namespace that we have come to live in."""
    _limit("user")


def no_mount_namespaces() -> None:
    """user.max_mnt_namespaces is 0."""
    _limit("mnt")


def no_ipc_namespaces() -> None:
    """user.max_ipc_namespaces is 0."""
    _limit("ipc")


def no_uts_namespaces() -> None:
    """user.max_uts_namespaces is 0."""
    _limit("uts")


def no_net_namespaces() -> None:
    """user.max_net_namespaces is 0."""
    _limit("net")


def masked_proc() -> None:
    """What container engines put over parts of /proc."""
    for name in ("/proc/kcore", "/proc/keys", "/proc/timer_list"):
        if os.path.exists(name):
            mount("/dev/null", name, None, MS_BIND)
    mount("tmpfs", "/proc/fs", "tmpfs", 0, "size=0")
    mount("/proc/sys", "/proc/sys", None, MS_BIND)
    mount_setattr("/proc/sys", MOUNT_ATTR_RDONLY)


def hidepid() -> None:
    """A /proc that shows a user his own processes only."""
    mount("proc", "/proc", "proc", 0, "hidepid=2")


def chroot() -> None:
    """A root that is a mount point, and not the root of the mount namespace."""
    mount("/", _directory("root"), None, MS_BIND | MS_REC)
    cwd = os.getcwd()
    os.chroot(f"{PLACE}/root")
    os.chdir(cwd)


def chroot_to_directory() -> None:
    """A root that is no mount point, as debootstrap leaves one."""
    for name in os.listdir("/"):
        path = f"{PLACE}/root/{name}"
        if os.path.islink(f"/{name}"):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.symlink(os.readlink(f"/{name}"), path)
        elif os.path.isdir(f"/{name}"):
            os.makedirs(path)
            mount(f"/{name}", path, None, MS_BIND | MS_REC)
    cwd = os.getcwd()
    os.chroot(f"{PLACE}/root")
    os.chdir(cwd)


def deep() -> None:
    """A root that is an overlay of an overlay, in a container in a container."""
    lower = "/"
    for number in (1, 2):
        merged = _directory(f"deep{number}")
        upper, work = _directory(f"upper{number}"), _directory(f"work{number}")
        data = f"lowerdir={lower},upperdir={upper},workdir={work},index=off"
        mount("overlay", merged, "overlay", 0, data)
        lower = merged
    for name in ("proc", "sys", "dev", "tmp"):
        mount(f"/{name}", f"{merged}/{name}", None, MS_BIND | MS_REC)
    cwd = os.getcwd()
    os.chdir(merged)
    pivot_root(".", ".")
    umount(".", MNT_DETACH)
    os.chdir(cwd)


def _limit(kind: str, limit: int = 0) -> None:
    """Live in a user namespace that allows no more of these namespaces."""
    enter_user_namespace()
    with open(f"/proc/sys/user/max_{kind}_namespaces", "w", encoding="ascii") as file:
        file.write(str(limit))


def _cover(path: str, text: str) -> None:
    """Another text in a file of /proc."""
    name = f"covers-{os.path.basename(path)}"
    mount(_file(name, text + "\n"), path, None, MS_BIND)


def _cover_sysctls(name: str, text: str) -> None:
    """A sysctl of kernel.* that this kernel may not have: copies of all, and it."""
    covers = _directory("kernel")
    for entry in os.scandir("/proc/sys/kernel"):
        with contextlib.suppress(OSError), open(entry.path, encoding="utf-8") as file:
            _file(f"kernel/{entry.name}", file.read())
    _file(f"kernel/{name}", text + "\n")
    mount(covers, "/proc/sys/kernel", None, MS_BIND)


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
