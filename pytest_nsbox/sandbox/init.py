"""PID 1 of a sandbox: makes its root filesystem, hands its namespaces out, then reaps and waits."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from typing import NoReturn

from pytest_nsbox.kernel.syscalls import (
    MNT_DETACH,
    MS_MOVE,
    SyscallError,
    mount,
    pivot_root,
    set_name,
    sethostname,
    umount,
)
from pytest_nsbox.sandbox import channel, privileges, rootfs, steps


def run(
    supervisor: socket.socket,
    plan: rootfs.Plan,
    box: steps.Box,
    hostname: str | None,
    keep_capabilities: int,
    kinds: Sequence[str],
) -> NoReturn:
    """Become the init of ``box``, whose namespaces are of those kinds; never returns.

    Sends one message to the supervisor: ``left_out`` (which of the plan's steps; see
    ``rootfs.execute``), ``notes`` and the fds of the namespaces and of ``/proc``, or ``error``.
    Lives until the supervisor closes its end, and takes every process of the sandbox along.
    """
    status = 1
    try:
        # Whatever else the supervisor has open, other sandboxes' sockets above all, must close
        # when the supervisor does.
        os.closerange(3, supervisor.fileno())
        os.closerange(supervisor.fileno() + 1, 65536)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel then reaps for us: wait(2)
        try:
            left_out, notes = rootfs.execute(plan, box)
            enter(box.root)
            if hostname is not None:
                sethostname(hostname)
        except OSError as error:
            channel.send(supervisor, {"error": str(error), "errno": error.errno})
            os._exit(1)
        fds = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in kinds]
        fds.append(os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        # Nobody may join before that: a test has what we have, and could trace us.
        privileges.drop(keep_capabilities, traceable=False)
        message = {"notes": notes, "left_out": left_out}
        channel.send(supervisor, message, fds)
        for fd in fds:
            os.close(fd)
        set_name("nsbox-init")
        supervisor.recv(1)  # end of file: the sandbox is to end
        status = 0
    finally:
        os._exit(status)


def enter(root: str) -> None:
    """Make ``root`` the root of this mount namespace, and let go of what was."""
    os.chdir(root)
    try:
        # pivot_root(2), Notes: the old root comes to lie on top of the new one, no directory needed.
        pivot_root(".", ".")
        umount(".", MNT_DETACH)
    except SyscallError as error:
        if error.syscall != "pivot_root":
            raise
        # Docker's seccomp profile never allows it, and an initramfs is no mount: switch_root(8).
        mount(".", "/", None, MS_MOVE)
        os.chroot(".")
    os.chdir("/")
