"""Parts that a sandbox may do without where the machine refuses them, and only if the user says so."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from pytest_nsbox.kernel.syscalls import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    fork,
    mount,
    unshare,
)

# Each with what a test has instead.
PARTS = {
    "proc": "the machine's /proc, with its processes",
    "ipc": "the machine's System V IPC and message queues",
    "uts": "the machine's host name",
    "network": "the machine's network, whatever its `network` says",
}
_TEXT_MOST = 4000  # bytes: what a pipe takes at once


def refused(parts: Iterable[str], place: str) -> dict[str, str]:
    """Those of the parts that this machine refuses, each with the system call that was, in words.

    Tried for real, each by a process that was forked for it.  ``place``: a directory to mount on.
    """
    attempts: dict[str, Callable[[], None]] = {
        "proc": lambda: mount("proc", place, "proc"),
        "ipc": lambda: unshare(CLONE_NEWIPC),
        "uts": lambda: unshare(CLONE_NEWUTS),
        "network": _network,
    }
    told = {part: _try(attempts[part], part) for part in parts}
    return {part: refusal for part, refusal in told.items() if refusal}


def note(part: str, refusal: str) -> str:
    """What a run is to be told of it."""
    return f"a sandbox has {PARTS[part]} (nsbox_degrade), since {refusal}"


def _network() -> None:
    from pytest_nsbox.sandbox import network

    unshare(CLONE_NEWNET)
    network.bring_up_loopback()


def _try(attempt: Callable[[], None], part: str) -> str:
    """What was refused, "" if nothing."""
    reading, writing = os.pipe()
    try:
        # Its own mounts, which go with it; and the first process of a PID namespace may mount /proc.
        pid = fork(CLONE_NEWNS | CLONE_NEWPID if part == "proc" else 0)
        if pid == 0:
            try:
                attempt()
            except OSError as error:
                os.write(writing, str(error).encode()[:_TEXT_MOST])
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        os.set_blocking(reading, False)
        try:
            return os.read(reading, _TEXT_MOST).decode(errors="replace")
        except BlockingIOError:
            return ""
    finally:
        os.close(reading)
        os.close(writing)
