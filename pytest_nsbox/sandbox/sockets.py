"""Which unix sockets of the host are ours: a process that we have started listens on them.

The kernel finds a unix socket by the inode of its file, which an overlay has of its own: through one
every path of the host's is ECONNREFUSED.  That keeps strangers out of reach, and what broad fixtures
have started, too, unless its file itself is mounted in the sandbox.  This module says which; the
mounts are a plan's (``rootfs.Planner.reach``).

*Ours* is what this process has open, its descendants, and the daemons among them, which have left
their parents for an ancestor of ours (init, or a subreaper): there we ask what fork(2) and execve(2)
hand down, the memory layout and the environment.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping

from pytest_nsbox.kernel import netunix, procstat
from pytest_nsbox.kernel.procstat import Stat

Environment = Mapping[str, str]
#: Path and socket inode, which tells a new server at an old path from its predecessor.
Socket = tuple[str, int]


class Sockets:
    """Looks for the sockets, where something may have changed since it last did."""

    def __init__(self, is_ours: Callable[[Environment], bool]) -> None:
        self.is_ours = is_ours  # by the environment that a daemon was executed with
        self._threads = threading.active_count()
        self._table = b""
        self._paths: dict[int, str | None] = {}  # by socket inode; None where it is not ours
        self._found: tuple[Socket, ...] = ()

    def look(self, *, anew: bool) -> tuple[Socket, ...]:
        """The sockets of ours, sorted by path; as long as nobody may serve a new one, as before.

        ``anew``: somebody may.  For the table of a busy host takes a millisecond to read.
        """
        if anew or threading.active_count() > self._threads:
            try:
                table = netunix.read()
            except OSError:  # there are containers that hide what they can of /proc
                return self._found
            if table != self._table:
                self._table = table
                self._update(netunix.servers(table))
        return self._found

    def _update(self, servers: list[netunix.Server]) -> None:
        # What was renamed or removed is looked for again.
        known = {n: path for n, path in self._paths.items() if path is None or _is_socket(path)}
        new = [server for server in servers if server.inode not in known]
        self._paths = {server.inode: known.get(server.inode) for server in servers}
        # What has no file here belongs to another mount namespace, a sandbox's for one.
        if any(not s.path.startswith("/") or _beside(s.path) for s in new):
            self._paths |= _locate(new, self.is_ours)
        self._found = tuple(sorted((path, n) for n, path in self._paths.items() if path))


def _locate(
    servers: list[netunix.Server], is_ours: Callable[[Environment], bool]
) -> dict[int, str]:
    """The files of those sockets that a process of ours has open, by the socket's inode."""
    sought = {server.inode: server.path for server in servers}
    found: dict[int, str] = {}
    own = os.stat("/proc/self/ns/mnt")
    for pid in _family(is_ours):
        try:
            if not os.path.samestat(os.stat(f"/proc/{pid}/ns/mnt"), own):
                continue  # its paths mean something else
            inodes = set(_open_sockets(pid))
        except OSError:  # gone, or not ours to look into
            continue
        for inode in inodes & sought.keys():
            path = _file(os.path.join(f"/proc/{pid}/cwd", sought.pop(inode)), inode)
            if path is not None:
                found[inode] = os.path.realpath(path)
    return found


def _file(path: str, inode: int) -> str | None:
    """Where the file is of the socket that was bound to the path.

    Some servers (haproxy, supervisord) bind beside and rename, when all is ready.
    """
    if _is_socket(path):
        return path
    beside = _beside(path)
    sought = netunix.file_inode(inode) if beside else None
    return next((p for p in beside if _inode(p) == sought), None)


def _beside(path: str) -> list[str]:
    """The sockets in the directory of the path."""
    try:
        with os.scandir(os.path.dirname(path)) as entries:
            # What an entry is not, the directory itself tells, on most filesystems.
            return [
                entry.path
                for entry in entries
                if not (entry.is_symlink() or entry.is_dir() or entry.is_file())
                and _is_socket(entry.path)
            ]
    except OSError:
        return []


def _open_sockets(pid: int) -> Iterator[int]:
    directory = f"/proc/{pid}/fd"
    for fd in os.listdir(directory):
        try:
            target = os.readlink(f"{directory}/{fd}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            yield int(target[len("socket:[") : -1])


# ------------------------------------------------------------------ our processes


def _family(is_ours: Callable[[Environment], bool]) -> list[int]:
    """This process, its descendants, and the daemons that they were, with their descendants."""
    me = procstat.stat("self")
    processes = {process.pid: process for process in _processes()} | {me.pid: me}
    ancestors = set()
    above = me.parent
    while above and above not in ancestors:
        ancestors.add(above)
        above = processes[above].parent if above in processes else 0
    found = [me.pid]
    for process in processes.values():
        # Whose parent is not there has lost it just now.
        is_orphan = process.parent in ancestors or process.parent not in processes
        is_later = process.started >= me.started and process.pid != me.pid
        if is_orphan and is_later and _is_daemon(process, me, is_ours):
            found.append(process.pid)
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    for pid in found:  # which grows
        found += (child for child in children.get(pid, ()) if child not in found)
    return found


def _is_daemon(process: Stat, me: Stat, is_ours: Callable[[Environment], bool]) -> bool:
    if process.stack and process.stack == me.stack:
        return True  # a fork of ours that has executed nothing
    try:
        with open(f"/proc/{process.pid}/environ", "rb") as file:
            entries = os.fsdecode(file.read()).split("\0")
    except OSError:
        return False
    return is_ours(dict(entry.split("=", 1) for entry in entries if "=" in entry))


def _processes() -> Iterator[Stat]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):  # gone meanwhile
                yield procstat.stat(name)


def _inode(path: str) -> int:
    with contextlib.suppress(OSError):
        return os.stat(path).st_ino & 0xFFFFFFFF
    return 0


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
