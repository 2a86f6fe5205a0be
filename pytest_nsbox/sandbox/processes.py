"""The processes in a sandbox, as its own ``/proc`` shows them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple


class Process(NamedTuple):
    """A process in a sandbox: its pid in there, and its command line."""

    pid: int
    command: str


def processes(proc: int | str = "/proc") -> Iterator[Process]:
    """The processes that the procfs ``proc`` (of ours, or an fd of a sandbox's) shows, zombies left out.

    None at all where it is not the sandbox's own.
    """
    at = proc if isinstance(proc, int) else os.open(proc, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _shows_others(at, from_outside=at is proc):
            return
        own = os.fstat(at).st_dev
        for pid in sorted(int(name) for name in os.listdir(at) if name.isdigit()):
            try:
                if os.stat(f"{pid}/stat", dir_fd=at).st_dev != own:
                    continue  # it stands in for one outside, see ``outsiders``
                status = _read(f"{pid}/stat", at)
                name, _, rest = status.partition("(")[2].rpartition(")")
                if rest.split()[0] in "ZX":
                    continue
                command = _read(f"{pid}/cmdline", at).replace("\0", " ").strip()
            except OSError:  # gone meanwhile
                continue
            yield Process(pid, command or f"[{name}]")
    finally:
        if at is not proc:
            os.close(at)


def _shows_others(proc: int, *, from_outside: bool) -> bool:
    """Whether a procfs is not that of the sandbox but the machine's, see ``degrade``."""
    try:
        shown = os.readlink("self", dir_fd=proc)
    except OSError:  # we are not in its PID namespace
        shown = ""
    return bool(shown) if from_outside else shown != str(os.getpid())


def _read(path: str, dir_fd: int) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    with open(fd, errors="backslashreplace") as file:
        return file.read()
