"""Namespaces that a process makes, comes into, and leaves again: all but those of users and pids."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator

from pytest_nsbox.kernel.syscalls import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUTS,
    setns,
    unshare,
)

# By their names in /proc/PID/ns.
KINDS = {"mnt": CLONE_NEWNS, "ipc": CLONE_NEWIPC, "uts": CLONE_NEWUTS, "net": CLONE_NEWNET}


class Place:
    """A mount namespace that the caller is in, to come back to. The caller must have one thread."""

    def __init__(self) -> None:
        self._namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self._root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def enter(self) -> None:
        setns(self._namespace)
        # The root of a mount namespace is not ours, where all this is in a chroot. Not for nothing:
        # podman's seccomp profile may forbid it.
        if not os.path.samestat(os.stat("/"), os.fstat(self._root)):
            os.fchdir(self._root)
            os.chroot(".")

    @contextlib.contextmanager
    def left(self) -> Iterator[None]:
        """We are here again afterwards, or end."""
        try:
            yield
        finally:
            with _or_end():
                self.enter()


class Closet:
    """A mount namespace for what would be in the way of others: each new one begins as a copy."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._home = Place()
        with self._home.left():
            unshare(CLONE_NEWNS)
            self._closet = Place()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Within, we are in there, and were where we are when it was made."""
        with self._home.left():
            self._closet.enter()
            yield


class Home:
    """Where the caller is, and is again. It must have one thread, and a mount namespace of its own."""

    def __init__(self) -> None:
        self._directory = os.open("/proc/self/ns", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._place = Place()
        self._fds: dict[str, int] = {}  # of the other namespaces, by their kinds

    def open(self, kind: str) -> int:
        """An fd of the namespace that we are in now, in whatever ``/proc`` we see."""
        return os.open(kind, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)

    @contextlib.contextmanager
    def left_for_new(self, kinds: Collection[str]) -> Iterator[None]:
        """Within, we are in new namespaces of these kinds. Raises OSError if they cannot be made."""
        others = [kind for kind in kinds if kind != "mnt"]
        for kind in others:
            if kind not in self._fds:
                # Rootless, nobody comes back into one of the host's: one of our own first, for good.
                unshare(KINDS[kind])
                self._fds[kind] = self.open(kind)
        unshare(sum(KINDS[kind] for kind in kinds))
        with self._place.left():
            try:
                yield
            finally:
                with _or_end():
                    for kind in others:
                        setns(self._fds[kind])


@contextlib.contextmanager
def _or_end() -> Iterator[None]:
    """There is no way on: what we do would be done elsewhere, and so would what callers undo."""
    try:
        yield
    except OSError as error:
        os.write(2, f"cannot come back from a sandbox: {error}".encode())
        os._exit(1)
