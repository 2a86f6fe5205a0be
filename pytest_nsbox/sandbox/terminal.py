"""Who reads from the terminal, and who may not type on it.

A test process stays in the session of pytest, so that ^C, ^Z and the debugger work as they do bare.
That session's terminal is then its own, too, and before Linux 6.2 whoever has one may *type* on it
(``TIOCSTI``, see ioctl_tty(2)): a command, say, for the shell that reads from it after pytest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import termios
from collections.abc import Iterator

from pytest_nsbox.kernel.syscalls import SockFprog, set_seccomp_filter

# The numbers of ioctl(2), those of the 32-bit programs included, for they are a way around: x86_64
# has its own, i386's and x32's. Where the other number means something here (setsockopt) the second
# argument is never a terminal's request.
_IOCTL = {"x86_64": (16, 54, 0x40000202), "aarch64": (29, 54), "riscv64": (29, 54)}
_TIOCLINUX = 0x541C  # pastes on a virtual console

# linux/bpf_common.h, linux/seccomp.h
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _SECOND_ARGUMENT = 0, 24  # offsets in struct seccomp_data; the low half of the argument
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def foreground(group: int) -> None:
    """Make ``group`` the foreground process group of the controlling terminal, if there is one.

    Only when the caller's session had it in the foreground is that of use; refusals are ignored.
    """
    try:
        fd = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        # A background process that does this is sent SIGTTOU, unless it blocks it: tcsetpgrp(3).
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            with contextlib.suppress(OSError):
                os.tcsetpgrp(fd, group)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    finally:
        os.close(fd)


def can_be_typed_on() -> bool:
    """Whether the caller has a controlling terminal, and its kernel lets it type on that."""
    with contextlib.suppress(OSError):
        with open("/proc/sys/dev/tty/legacy_tiocsti", "rb") as file:
            if file.read().strip() == b"0":
                return False
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def forbid_typing() -> None:
    """Have the kernel refuse to type on any terminal, for good, as Linux 6.2 does by default: EIO.

    A kernel without seccomp filters goes on without.
    """
    with contextlib.suppress(OSError):
        set_seccomp_filter(_FILTER)


def _filter(
    ioctls: tuple[int, ...], requests: tuple[int, ...]
) -> Iterator[tuple[int, int, int, int]]:
    yield _LOAD, 0, 0, _NUMBER
    for i, number in enumerate(ioctls):
        yield _JUMP_IF_EQUAL, len(ioctls) - i, 0, number
    yield _RETURN, 0, 0, _ALLOW
    yield _LOAD, 0, 0, _SECOND_ARGUMENT
    for i, request in enumerate(requests):
        yield _JUMP_IF_EQUAL, len(requests) - i, 0, request
    yield _RETURN, 0, 0, _ALLOW
    yield _RETURN, 0, 0, _ERRNO | errno.EIO


_FILTER = SockFprog(
    list(_filter(_IOCTL.get(os.uname().machine, ()), (termios.TIOCSTI, _TIOCLINUX)))
)
