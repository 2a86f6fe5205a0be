"""Processes that broad-scoped fixtures have started, in a test process: those are its parent's children.

In its sandbox each has a stand-in (``sandbox/outsiders.py``).  wait(2) takes that for nobody's child,
which Python takes for the end of the process; here it is a child, as bare.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

#: The controller's children by their pids: how each has ended, as wait(2) says it; None: it has not.
Children = Mapping[int, int | None]
children_key = pytest.StashKey[Children]()

_WAIT_SECONDS = 0.005
_DUMPED = 0x80  # of a wait status: it has left a core

_waitpid, _kill = os.waitpid, os.kill


def look(pids: Iterable[int]) -> Children:
    """In the controller: how those children are, who stay to be waited for."""
    return {pid: _status(pid) for pid in pids}


def _status(pid: int) -> int | None:
    try:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # a thread of a fixture's has waited for it
        return 0
    if found is None:
        return None
    if found.si_code == os.CLD_EXITED:
        return found.si_status << 8
    return found.si_status | (_DUMPED if found.si_code == os.CLD_DUMPED else 0)


def adopt(children: Children) -> None:
    """Have ``os.waitpid``, ``subprocess`` and ``multiprocessing`` take those for children of ours."""
    sent: dict[int, int] = {}  # the last signal, by pid
    # Where init may not choose a pid none stands in: all that is known is that they were alive.
    absent = {pid for pid, status in children.items() if status is None and not _is_alive(pid)}

    @functools.wraps(_kill)
    def kill(pid: int, number: int, /) -> None:
        _kill(pid, number)
        if number and pid in children:
            sent[pid] = number

    @functools.wraps(_waitpid)
    def waitpid(pid: int, options: int, /) -> tuple[int, int]:
        try:
            return _waitpid(pid, options)
        except ChildProcessError:
            if pid not in children or (pid in absent and not options & os.WNOHANG):
                raise
        if (status := children[pid]) is not None:
            return pid, status
        while pid in absent or _is_alive(pid):
            if options & os.WNOHANG:
                return 0, 0
            time.sleep(_WAIT_SECONDS)
        return pid, sent.get(pid, signal.SIGKILL)

    os.kill, os.waitpid = kill, waitpid
    # Which it has taken for itself when it was imported.
    if (names := getattr(subprocess, "_del_safe", None)) is not None:  # since late 3.12
        names.waitpid = waitpid
    else:
        poll: Any = vars(subprocess.Popen)["_internal_poll"]
        poll.__defaults__ = tuple(waitpid if d is _waitpid else d for d in poll.__defaults__)
    if "multiprocessing.process" in sys.modules:
        for process in sys.modules["multiprocessing.process"]._children:
            process._parent_pid = os.getpid()


def _is_alive(pid: int) -> bool:
    try:
        _kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
