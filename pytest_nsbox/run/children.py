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
from collections.abc import Set
from typing import Any

import pytest

#: The pids of the controller's children.
children_key = pytest.StashKey[Set[int]]()

_WAIT_SECONDS = 0.005

_waitpid, _kill = os.waitpid, os.kill


def adopt(children: Set[int]) -> None:
    """Have ``os.waitpid``, ``subprocess`` and ``multiprocessing`` take those for children of ours."""
    sent: dict[int, int] = {}  # the last signal, by pid

    @functools.wraps(_kill)
    def kill(pid: int, signal: int, /) -> None:
        _kill(pid, signal)
        if signal and pid in children:
            sent[pid] = signal

    @functools.wraps(_waitpid)
    def waitpid(pid: int, options: int, /) -> tuple[int, int]:
        try:
            return _waitpid(pid, options)
        except ChildProcessError:
            if pid not in children:
                raise
        while _is_alive(pid):
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
