"""PID 1 of a sandbox: mounts its /proc, then reaps, and waits to be told to be alone."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import NoReturn

from pytest_nsbox.kernel.syscalls import (
    AT_RECURSIVE,
    MNT_DETACH,
    MS_MOVE,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    OPEN_TREE_CLONE,
    SyscallError,
    mount,
    open_tree,
    pivot_root,
    set_name,
    umount,
)
from pytest_nsbox.sandbox import channel, privileges, steps

# What it is told, and answers.
VACATE = b"v"
AS_THREAD, AS_PROCESS = b"t", b"p"  # and a pid, to be that of something that stands in for another
DONE, NOT_DONE = b"1", b"0"

# A pid is free only a moment after its process can be seen no more: release_task() in kernel/exit.c.
_TRIES, _FREED_SECONDS = 20, 0.0005

# What of /proc is the machine's and not a process', and may have files to write to: bubblewrap's
# list, and what else there is in fs/proc and drivers/ of the kernel.
_PROC_OF_THE_HOST = (
    *("sys", "sysrq-trigger", "irq", "bus", "acpi", "fs"),
    *("asound", "driver", "dynamic_debug", "latency_stats", "mtrr", "scsi"),
)


def run(supervisor: socket.socket, keep_capabilities: int, *, own_proc: bool) -> NoReturn:
    """Be the init of a new PID namespace, in a mount namespace that is new, too; never returns.

    Sends one message to the supervisor: the fds of the PID namespace and, with ``own_proc``, of a
    detached tree that is its ``/proc``; or ``error``.  Lives until the supervisor closes its end, and
    takes every process of the namespace along.
    """
    status = 1
    try:
        # Whatever else the supervisor has open must close when the supervisor does.
        os.closerange(3, supervisor.fileno())
        os.closerange(supervisor.fileno() + 1, 65536)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel then reaps for us: wait(2)
        try:
            fds, last_pid = _settle(own_proc=own_proc)
        except OSError as error:
            channel.send(supervisor, {"error": str(error), "errno": error.errno})
            os._exit(1)
        # Nobody may join before that: a test has what we have, and could trace us.
        privileges.drop(keep_capabilities, traceable=False)
        channel.send(supervisor, {}, fds)
        for fd in fds:
            os.close(fd)
        set_name("nsbox-init")
        while request := supervisor.recv(32):  # at the end of file the namespace is to end
            if request == VACATE:
                is_done = _is_alone() and _set_last_pid(last_pid, 1)
            else:
                start = {AS_THREAD: _stand_as_thread, AS_PROCESS: _stand_as_process}[request[:1]]
                is_done = _stand_in(last_pid, int(request[1:]), start)
            supervisor.send(DONE if is_done else NOT_DONE)
        status = 0
    finally:
        os._exit(status)


def _settle(*, own_proc: bool) -> tuple[list[int], int]:
    """Have an own root with nothing in it but /proc; what leads to the namespace, and its pids' file."""
    place = steps.INIT
    mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=4k")
    fds = [os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)]
    proc = "/proc"
    if own_proc:
        proc = f"{place}/proc"
        os.mkdir(proc)
        mount("proc", proc, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    last_pid = -1
    with contextlib.suppress(OSError):  # CONFIG_CHECKPOINT_RESTORE; a read-only /proc
        last_pid = os.open(f"{proc}/sys/kernel/ns_last_pid", os.O_WRONLY | os.O_CLOEXEC)
    if own_proc:
        protect_proc(proc)
        fds.append(open_tree(proc, OPEN_TREE_CLONE | AT_RECURSIVE))
    enter(place)
    return fds, last_pid


def protect_proc(proc: str) -> None:
    """Make read-only what of a ``/proc`` acts on the host: the uid 0 needs no capability to write it."""
    if os.geteuid() == 0:
        for name in _PROC_OF_THE_HOST:
            path = f"{proc}/{name}"
            if os.path.exists(path):
                steps.attach(path, path, read_only=True, recursive=False)


def _is_alone() -> bool:
    """Whether nobody else is in our PID namespace; whoever is gets killed.

    No process can slip through: kill(2) to all and fork(2) exclude each other, and one that is killed
    forks no more.
    """
    if os.getpid() != 1:  # or this would be for everyone on the machine
        return False
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return True
    except OSError:  # somebody whom we may not kill
        pass
    return False


def _set_last_pid(last_pid: int, pid: int) -> bool:
    """Whether the next process here will have the pid after that: pid_namespaces(7), ns_last_pid."""
    try:
        os.pwrite(last_pid, b"%d" % pid, 0)
    except OSError:  # no such file; no CAP_CHECKPOINT_RESTORE
        return False
    return True


def _stand_in(last_pid: int, pid: int, start: Callable[[int], bool]) -> bool:
    """Whether there is now something with that pid, which is then no other's here."""
    for _ in range(_TRIES):
        if not _set_last_pid(last_pid, pid - 1):
            return False
        try:
            if start(pid):
                return True
        except (OSError, RuntimeError):  # no more processes, or threads
            return False
        finally:
            _set_last_pid(last_pid, 1)  # which it could be a moment ago
        time.sleep(_FREED_SECONDS)
    return False


def _stand_as_thread(pid: int) -> bool:
    """Whether a thread of ours that has just been started, and does nothing, has that id.

    kill(2) takes it for a process, which no signal harms; ``/proc`` has it, but does not list it.
    """
    found: SimpleQueue[int] = SimpleQueue()

    def stand() -> None:
        tid = _thread.get_native_id()
        found.put(tid)
        if tid == pid:
            forever = _thread.allocate_lock()
            forever.acquire()
            forever.acquire()

    _thread.start_new_thread(stand, ())
    return found.get() == pid


def _stand_as_process(pid: int) -> bool:
    """Whether a process that has just been forked, and does nothing, has that pid; it ends as any."""
    forked = os.fork()
    if forked == 0:
        try:
            os.closerange(0, 65536)
            set_name("nsbox-outside")
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            while True:
                signal.pause()
        finally:
            os._exit(0)
    if forked != pid:
        os.kill(forked, signal.SIGKILL)
    return forked == pid


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
