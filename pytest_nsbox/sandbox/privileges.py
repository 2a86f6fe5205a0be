"""What a process in a sandbox may do: its capabilities, see capabilities(7)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pytest_nsbox.kernel.syscalls import (
    PR_GET_DUMPABLE,
    PR_SET_DUMPABLE,
    capset,
    drop_bounding,
    prctl,
)

# linux/capability.h
CAP_NET_ADMIN = 12
CAP_SYS_ADMIN = 21
CAP_SETFCAP = 31
CAP_CHECKPOINT_RESTORE = 40  # since Linux 5.9
# What Docker leaves the root of a container, see moby's profiles and "Runtime privilege and Linux
# capabilities" in its documentation.
CONTAINER_ROOT = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_BIND_SERVICE": 10,
    "NET_RAW": 13,
    "SYS_CHROOT": 18,
    "MKNOD": 27,
    "AUDIT_WRITE": 29,
    "SETFCAP": 31,
}
CONTAINER_ROOT_MASK = sum(1 << bit for bit in CONTAINER_ROOT.values())
# Without a user namespace of its own a sandbox takes mounts, and besides: a root filesystem owned as
# the host's, overlayfs' work directory of mode 0, giving capabilities up, and setns(2).
_TO_BUILD = 1 << CAP_SYS_ADMIN | sum(
    1 << CONTAINER_ROOT[name]
    for name in ("CHOWN", "DAC_OVERRIDE", "FOWNER", "SETPCAP", "SYS_CHROOT")
)


def read_status(field: str, pid: str = "self") -> str:
    """A field of ``/proc/PID/status``, "" where there is none."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == field:
                return value.strip()
    return ""


def effective() -> int:
    """The effective capabilities of the caller, a mask of ``1 << CAP_*``; 0 without a ``/proc``."""
    try:
        return int(read_status("CapEff"), 16)
    except FileNotFoundError:
        return 0


def is_privileged() -> bool:
    """Whether the caller may make a sandbox without a user namespace of its own.

    CAP_SYS_ADMIN alone is not enough, which is what `podman run --user 1000 --cap-add SYS_ADMIN` gives.
    Nor is any in another user namespace (rootless podman, ``unshare -r``): overlayfs keeps its trusted
    xattrs, and the kernel whole mount trees, to the initial one.
    """
    return effective() & _TO_BUILD == _TO_BUILD and in_initial_user_namespace()


def in_initial_user_namespace() -> bool:
    """Whether every uid is mapped to itself, which nobody can have in another one."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return file.read().split() == ["0", "0", str((1 << 32) - 1)]
    except FileNotFoundError:  # a kernel without user namespaces
        return True


def all_but(keep: int) -> tuple[int, ...]:
    """The capabilities of this kernel that are not in the mask ``keep``; none without a ``/proc``."""
    try:
        with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
            last = int(file.read())
    except FileNotFoundError:
        return ()
    return tuple(bit for bit in range(last + 1) if not keep >> bit & 1)


@contextlib.contextmanager
def kept_dumpable() -> Iterator[None]:
    """What is done within, such as joining a user namespace, leaves the caller as dumpable as it was."""
    before = prctl(PR_GET_DUMPABLE)
    yield
    if before == 1:  # 2 cannot be set, see prctl(2)
        prctl(PR_SET_DUMPABLE, 1)


def drop(keep: int, others: tuple[int, ...] = (), *, traceable: bool = True) -> None:
    """Keep only the capabilities of the mask ``keep``, for good; ``others`` is ``all_but(keep)``.

    ``keep`` must not name one that the caller does not have.  The bounding set bounds what the
    uid 0 gets back from execve(2); nobody need name ``others`` who has lost them in there already.
    Who is not ``traceable`` has a ``/proc/PID`` that is closed to its equals, too: no ``root``, no
    ``fd``, no ``mem``.
    """
    drop_bounding(others)
    capset(keep, keep, 0)
    # Joining a user namespace made us undumpable, and /proc/self root's: PR_SET_DUMPABLE, prctl(2).
    prctl(PR_SET_DUMPABLE, int(traceable))
