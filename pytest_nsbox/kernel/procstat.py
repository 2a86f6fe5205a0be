"""Processes as ``/proc`` tells of them: a line of ``/proc/PID/stat``, and who is whose child."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

_TASKS = "/proc/self/task"


class Stat(NamedTuple):
    """What we ask of a line, see proc_pid_stat(5)."""

    pid: int
    parent: int
    started: int  # clock ticks after boot
    stack: int  # where it begins: random for every execve(2), kept by fork(2); 0: not to be known


def stat(pid: int | str) -> Stat:
    """The line of a process. Raises OSError where there is none, or none to be seen."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        number, _, rest = file.read().partition(b" ")
    fields = rest.rpartition(b")")[2].split()  # a name may hold anything
    return Stat(int(number), int(fields[1]), int(fields[19]), int(fields[25]))


def pids(pid: int | str) -> list[int]:
    """The pids of a process in our PID namespace and in those below, down to its own.

    Raises OSError where there is no such process, or none to be seen.
    """
    with open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"NSpid:"):
                return [int(number) for number in line.split()[1:]]
    return []


def paths(pid: int) -> set[str]:
    """Absolute paths in the arguments of a process, its working directory, and what it has open."""
    found: set[str] = set()
    with contextlib.suppress(OSError):  # gone, or somebody else's
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            arguments = os.fsdecode(file.read()).split("\0")
        # Also of --directory=/path.
        found.update(path for each in arguments for path in (each, each.partition("=")[2]))
        found.add(os.readlink(f"/proc/{pid}/cwd"))
        with os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    found.add(os.readlink(entry.path))
    return {os.path.normpath(path) for path in found if path.startswith("/")}


def children() -> set[int] | None:
    """The pids of our children; None where a kernel does not list them (CONFIG_PROC_CHILDREN)."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return set()
    found: set[int] = set()
    try:
        for task in os.listdir(_TASKS):  # a child is that of the thread that forked it
            with open(f"{_TASKS}/{task}/children", "rb") as file:
                found.update(map(int, file.read().split()))
    except OSError:
        return None
    return found
