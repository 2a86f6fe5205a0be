"""Why this machine refuses a sandbox, and what to do about it.

Behind both ``nsbox doctor`` and the error that a run gives.  Only what was refused is explained: what
is read here (sysctls, versions, the seccomp mode) tells one cause of an errno from another.
"""

from __future__ import annotations

import errno
import os
import re
from typing import NamedTuple

from pytest_nsbox.kernel import mountinfo
from pytest_nsbox.sandbox import privileges

LINUX_MIN = (5, 12)  # mount_setattr(2)
_MOUNTING = ("mount", "umount2", "open_tree", "move_mount", "mount_setattr", "sethostname")
_LIMITS = ("user", "mnt", "pid", "ipc", "uts", "net")


class Advice(NamedTuple):
    """The likely cause of a refusal, and the way out."""

    cause: str
    remedy: str


def explain(error: Exception) -> str:
    """A refusal with its likely cause and the remedy, as a report shows it."""
    text = str(error)
    advice = advise(text, getattr(error, "errno", 0) or 0)
    if advice is None:
        return f"{text}\n`nsbox doctor` tries every step that a sandbox needs."
    return f"{text}\nLikely cause: {advice.cause}\nRemedy: {advice.remedy}"


def advise(refusal: str, number: int) -> Advice | None:
    """What probably lies behind a refused system call; None if we cannot tell.

    ``refusal`` is a SyscallError in words, ``number`` its errno.
    """
    before, _, given = refusal.partition("(")
    call = before.rpartition(" ")[2]
    if found := _about_kernel(call, number):
        return found
    if call in ("unshare", "clone", "setns"):
        return _about_namespaces(number)
    if call == "write" and given.startswith("/proc/self/"):
        return _about_id_maps()
    if call == "mount" and given.startswith("proc,"):
        return _about_proc()
    if call == "mount" and given.startswith("overlay,"):
        return _about_overlay(number)
    if call in _MOUNTING:
        return _about_mounting(number)
    if call == "mkdir" and number == errno.EIO:
        return Advice(
            "overlayfs marks a directory that is made anew by a user xattr of the upper layer, and "
            "tmpfs has these since Linux 6.6",
            "run pytest as root, or on Linux 6.6 or later; only tests that remove a directory of "
            "the host's and make it again need it",
        )
    if call == "RTM_NEWLINK":
        return Advice(
            "setting an interface up takes CAP_NET_ADMIN, which this container has not",
            "start the container with `--cap-add NET_ADMIN`, or use network='none', "
            "or let tests have the host's, `nsbox_degrade = network` in pytest's ini-file",
        )
    return None


def _about_kernel(call: str, number: int) -> Advice | None:
    """A kernel that is not Linux as we need it."""
    if not os.path.exists("/proc/self"):
        return Advice(
            "no /proc is mounted here, as in a bare chroot",
            "`mount -t proc proc /proc` as root, in the chroot",
        )
    if number == errno.ENOSYS and call == "clone":
        return Advice(
            "this package does not know how to call clone(2) on this architecture",
            "run on one that it knows, or ask for this one in an issue",
        )
    version = _read("/proc/version")
    if "Microsoft" in version and "WSL2" not in version:  # WSL2 says "microsoft"
        return Advice(
            "this is WSL1, which has no Linux kernel and no namespaces",
            "make it WSL2: `wsl --set-version DISTRIBUTION 2` in PowerShell",
        )
    if "4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016" in version:
        return Advice(
            "this is gVisor (runsc), which does not have all that a sandbox needs",
            "run the container with runc (`docker run --runtime=runc`; in Kubernetes without that "
            "`runtimeClassName`)",
        )
    found = re.match(r"Linux version (\d+)\.(\d+)", version)
    if found and number == errno.ENOSYS and (int(found[1]), int(found[2])) < LINUX_MIN:
        return Advice(
            f"this kernel is Linux {found[1]}.{found[2]}, and a sandbox needs "
            f"{LINUX_MIN[0]}.{LINUX_MIN[1]} or later",
            "run on a newer kernel (in a container it is the host's)",
        )
    if number == errno.ENOSYS and privileges.read_status("Seccomp") == "2":
        return Advice(
            "a seccomp filter that is older than this system call, as of an old Docker or podman",
            "start the container with `--security-opt seccomp=unconfined`, or update the engine",
        )
    return None


def _about_namespaces(number: int) -> Advice | None:
    closed = [name for name in _LIMITS if _sysctl(f"user/max_{name}_namespaces") == "0"]
    if number == errno.ENOSPC or closed:
        limits = [f"user.max_{name}_namespaces" for name in closed]
        remedy = " ".join(f"{limit}=15000" for limit in limits or ["user.max_user_namespaces"])
        cause = (
            f"{', '.join(limits)} is 0"
            if limits
            else "user.max_user_namespaces (or another user.max_*_namespaces) is used up, or "
            "namespaces are nested 32 deep"
        )
        advice = f"`sysctl -w {remedy}` as root, on the host if this is a container"
        if closed and {"ipc", "uts"}.issuperset(closed):
            advice += f"; or `nsbox_degrade = {' '.join(closed)}` in pytest's ini-file"
        return Advice(cause, advice)
    if number == errno.EINVAL:
        return Advice(
            "this kernel was built without user namespaces (CONFIG_USER_NS)", "run pytest as root"
        )
    if privileges.is_privileged():
        return _about_seccomp()
    if _sysctl("kernel/unprivileged_userns_clone") == "0":
        return Advice(
            "kernel.unprivileged_userns_clone is 0 (Debian's switch)",
            "`sysctl -w kernel.unprivileged_userns_clone=1` as root, or run pytest as root",
        )
    if found := _about_apparmor():
        return found
    if privileges.read_status("Seccomp") == "2" and not _in_chroot():
        return _about_seccomp()
    return Advice(
        "this process lives in a chroot, where the kernel makes no user namespaces, or a security "
        "module (SELinux) forbids them",
        "enter it with pivot_root (`systemd-nspawn`, `bwrap`) in place of chroot, or run pytest as "
        "root",
    )


def _about_seccomp() -> Advice:
    return Advice(
        "a seccomp filter forbids new namespaces: the default profile of Docker, containerd "
        "and Kubernetes does",
        "start the container with `--cap-add SYS_ADMIN` and run pytest as root in it; or, to run it "
        "as any user, with `--security-opt seccomp=unconfined --security-opt systempaths=unconfined`; "
        "in Kubernetes `seccompProfile: {type: Unconfined}`",
    )


def _about_id_maps() -> Advice:
    if found := _about_apparmor():
        return found
    if os.geteuid() == 0 and not privileges.effective() >> privileges.CAP_SETFCAP & 1:
        return Advice(
            "uid 0 without CAP_SETFCAP may not map itself into a user namespace "
            "(Linux 5.12 and later, user_namespaces(7))",
            "run pytest as an ordinary user, or let root keep CAP_SETFCAP "
            "(`setpriv --bounding-set=-all,+setfcap`, `docker run --cap-add SETFCAP`)",
        )
    return Advice(
        "the ids of a user namespace may not be mapped here: /proc may be mounted with hidepid, or "
        "a policy forbids it",
        "run pytest as root with CAP_SYS_ADMIN, or mount /proc without hidepid",
    )


def _about_proc() -> Advice:
    covered = sorted(m.point for m in mountinfo.read() if m.point.startswith("/proc/"))
    which = f" ({', '.join(covered[:3])}{', ...' if len(covered) > 3 else ''})" if covered else ""
    return Advice(
        f"parts of this /proc are covered{which}, as container engines do; the kernel then gives a "
        "user namespace no new one",
        "start the container with `--security-opt systempaths=unconfined` (Docker), "
        "`--security-opt unmask=ALL` (podman) or `procMount: Unmasked` (Kubernetes); "
        "or let tests see the machine's, `nsbox_degrade = proc` in pytest's ini-file",
    )


def _about_overlay(number: int) -> Advice:
    if number in (errno.EPERM, errno.EACCES):
        return _about_apparmor() or Advice(
            "this kernel lets only root mount overlayfs (before Linux 5.11, and hardened ones), or a "
            "security module forbids it",
            "run pytest as root",
        )
    if number == errno.ENODEV:
        return Advice("the overlay module is not loaded", "`modprobe overlay` as root")
    root = next((m for m in reversed(mountinfo.read()) if m.point == "/"), None)
    if root is not None and root.fstype == "overlay":
        return Advice(
            "the root here is an overlay already, as in a container, and the kernel stacks no more "
            "than two; `dmesg` says whether this is it",
            "run pytest in a container that is not itself inside one, or whose root is on another "
            "storage driver (a volume, `vfs`, `btrfs`)",
        )
    return Advice(
        f"overlayfs takes no {root.fstype if root else 'such filesystem'} as a lower layer; `dmesg` "
        "says why",
        "run pytest on another filesystem (in a container: on a volume)",
    )


def _about_mounting(number: int) -> Advice | None:
    if number == errno.EINVAL and not any(m.point == "/" for m in mountinfo.read()):
        return Advice(
            "this process lives in a chroot into a directory that is no mount point",
            "bind the directory on itself before the chroot (`mount --rbind DIR DIR`), or enter it "
            "with `systemd-nspawn` or `bwrap`",
        )
    if number not in (errno.EPERM, errno.EACCES):
        return None
    return _about_apparmor() or Advice(
        "a security module (AppArmor's docker-default, SELinux) or a seccomp filter forbids mounting",
        "start the container with `--security-opt apparmor=unconfined --security-opt "
        "seccomp=unconfined`, or relax that policy for this process",
    )


def _about_apparmor() -> Advice | None:
    restricted = _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1"
    if not restricted or privileges.is_privileged():
        return None
    return Advice(
        "AppArmor takes every capability from unprivileged user namespaces "
        "(the default since Ubuntu 24.04, GitHub's runners among them)",
        "`sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or run pytest with "
        "sudo, or give the interpreter an AppArmor profile with `userns,`",
    )


def _sysctl(name: str) -> str:
    return _read(f"/proc/sys/{name}")


def _read(path: str) -> str:
    """What a file says, "" where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _in_chroot() -> bool:
    """Whether our root is not the root of our mount namespace; False where we may not look."""
    try:
        outside = os.stat("/proc/1/root/.")
        inside = os.stat("/")
    except OSError:
        return False
    return (outside.st_dev, outside.st_ino) != (inside.st_dev, inside.st_ino)
