"""Who reads from the terminal."""

from __future__ import annotations

import contextlib
import os
import signal


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
