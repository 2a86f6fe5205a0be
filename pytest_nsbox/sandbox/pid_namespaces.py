"""PID namespaces, each with an init and a ``/proc``: one sandbox after the other has one for its own.

To make one takes a fork, and as much time as all the rest of a sandbox.  One in which nobody but its
init is left, and whose next process will be PID 2, is as good as new: it holds nothing but processes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
from collections import deque
from collections.abc import Iterable

from pytest_nsbox.kernel.syscalls import (
    AT_RECURSIVE,
    CLONE_NEWNS,
    CLONE_NEWPID,
    OPEN_TREE_CLONE,
    fork,
    move_mount,
    open_tree,
    umount,
)
from pytest_nsbox.sandbox import channel, init, steps
from pytest_nsbox.sandbox.namespaces import Closet
from pytest_nsbox.sandbox.outsiders import Outsider

_ANSWER_SECONDS = 30  # that an init may take for what is a matter of microseconds
_MOST_LEFT = 8  # namespaces that wait to be empty
_PROC_OF_ALL = f"{steps.TEMPLATES}/proc"  # the machine's, where a namespace has none of its own
# What a stand-in shows of the process that it stands for. Nothing that leads to its files or memory:
# one may look into a process that has no more privileges than oneself, see ptrace(2).
_SHOWN = ("stat", "status", "statm", "cmdline", "comm")


class BuildError(OSError):
    """What could not be done to make a sandbox, in words."""

    def __str__(self) -> str:
        return str(self.args[1])


class PidNamespace:
    """One, from the supervisor's side."""

    def __init__(self, closet: Closet) -> None:
        """``closet``: where its ``/proc`` is mounted. Raises OSError."""
        self._closet = closet
        self._socket, self._its_socket = channel.pair()
        self._socket.settimeout(_ANSWER_SECONDS)
        self._asked = 0  # questions that init has not answered
        self.fd = -1
        self.pid = 0  # of its init
        self._proc = _PROC_OF_ALL  # what its sandboxes have as their /proc
        self.stand_ins: set[Outsider] = set()

    def make(self, number: int, keep_capabilities: int, *, own_proc: bool) -> None:
        """Raises OSError, which names the system call that was refused."""
        with self._its_socket:
            self.pid = fork(CLONE_NEWPID | CLONE_NEWNS)
            if self.pid == 0:
                init.run(self._its_socket, keep_capabilities, own_proc=own_proc)
        try:
            message, fds = channel.receive(self._socket)
        except TimeoutError as error:
            text = f"the init of a sandbox was not ready after {_ANSWER_SECONDS} s"
            raise BuildError(errno.ETIMEDOUT, text) from error
        except EOFError as error:
            text = "the init of a sandbox has died while it made it"
            raise BuildError(errno.ECHILD, text) from error
        if "error" in message:
            raise BuildError(message["errno"] or 0, message["error"])
        self.fd, *trees = fds
        for tree in trees:
            self._take_proc(tree, f"{steps.TEMPLATES}/proc-{number}")

    def _take_proc(self, tree: int, path: str) -> None:
        """Mount its /proc where every sandbox can have a copy of it."""
        try:
            os.mkdir(path)
            self._proc = path
            with self._closet.entered():
                move_mount(tree, path)
                if os.geteuid() != 0:
                    # In a user namespace of his own one may mount a /proc only where there is one on
                    # which nothing is mounted, as it is for a stand-in. Not uid 0: see protect_proc.
                    steps.attach(path, f"{path}/1/ns", read_only=False, recursive=False)
        finally:
            os.close(tree)

    def open_proc(self) -> int:
        """An fd of a new copy of its ``/proc``, a detached tree. Raises OSError."""
        with self._closet.entered():
            return open_tree(self._proc, OPEN_TREE_CLONE | AT_RECURSIVE)

    def is_alive(self) -> bool:
        """Whether it still takes processes: that its init has not gone."""
        poll = select.poll()
        poll.register(self._socket, 0)  # which tells of a hangup
        return not poll.poll(0)

    def vacate(self) -> None:
        """Have all processes in there killed."""
        with contextlib.suppress(OSError):  # it has gone, and they with it
            self._socket.send(init.VACATE)
            self._asked += 1

    def is_vacated(self) -> bool:
        """Whether nobody is in there; for whoever is gets killed."""
        self.vacate()
        answer = b""
        try:
            while self._asked:
                answer = self._socket.recv(1)
                self._asked -= 1
        except OSError:
            return False
        # Stand-ins that are processes have been killed, too.
        self.stand_ins = {each for each in self.stand_ins if not each.is_listed}
        return answer == init.DONE

    def stand_in(self, outsider: Outsider) -> None:
        """Have the pid of a process outside be that of its stand-in, if that can be."""
        self.stand_ins.add(outsider)
        if self._proc == _PROC_OF_ALL:
            return
        pid = outsider.pid
        how = init.AS_PROCESS if outsider.is_listed else init.AS_THREAD
        with contextlib.suppress(OSError):  # it has gone, or we may not
            os.stat(f"{steps.HOST}/proc/{pid}")
            self._socket.send(how + b"%d" % pid)
            if self._socket.recv(1) == init.DONE:
                source, target = f"{steps.HOST}/proc/{pid}", f"{self._proc}/{pid}"
                with self._closet.entered():
                    for name in _SHOWN:
                        steps.attach(
                            f"{source}/{name}", f"{target}/{name}", read_only=True, recursive=False
                        )

    def end(self) -> None:
        """Kill its init, and with it whoever is in there; it is to be reaped."""
        self._socket.close()
        if self.pid:
            with contextlib.suppress(ProcessLookupError):  # it may have been reaped before
                os.kill(self.pid, signal.SIGKILL)
        if self.fd >= 0:
            os.close(self.fd)
        if self._proc != _PROC_OF_ALL:
            with contextlib.suppress(OSError), self._closet.entered():  # what could not be mounted
                umount(self._proc)
            os.rmdir(self._proc)


class PidNamespaces:
    """Those of one supervisor."""

    def __init__(self, keep_capabilities: int, *, own_proc: bool) -> None:
        self._keep_capabilities = keep_capabilities
        self._own_proc = own_proc
        self._number = 0
        self._left: deque[PidNamespace] = deque()  # by their sandboxes; maybe not empty yet
        self._zombies: set[int] = set()
        self._closet = Closet()
        if not own_proc:
            os.mkdir(_PROC_OF_ALL)
            with self._closet.entered():
                steps.attach(f"{steps.HOST}/proc", _PROC_OF_ALL, read_only=False, recursive=True)
                init.protect_proc(_PROC_OF_ALL)

    def take(self, outsiders: Iterable[Outsider] = ()) -> PidNamespace:
        """One with nobody in it but its init, which stands in for those. Raises OSError."""
        wanted = set(outsiders)
        found = self._vacated(wanted) or self._new()
        for outsider in sorted(wanted - found.stand_ins):
            found.stand_in(outsider)
        return found

    def _vacated(self, wanted: set[Outsider]) -> PidNamespace | None:
        """One that a sandbox has left, and that stands in for nobody else."""
        for _ in range(len(self._left)):
            found = self._left.popleft()
            is_vacated = found.is_vacated()
            if is_vacated and found.stand_ins <= wanted:
                return found
            if not is_vacated and found.is_alive():
                self._left.append(found)
            else:
                self._end(found)
        return None

    def _new(self) -> PidNamespace:
        self._number += 1
        new = PidNamespace(self._closet)
        try:
            new.make(self._number, self._keep_capabilities, own_proc=self._own_proc)
        except BaseException:
            self._end(new)
            raise
        return new

    def give_back(self, left: PidNamespace) -> None:
        """Have all processes in there killed, and it used again when they are gone."""
        left.vacate()
        self._left.append(left)
        while len(self._left) > _MOST_LEFT:
            self._end(self._left.popleft())

    def _end(self, left: PidNamespace) -> None:
        left.end()
        if left.pid:
            self._zombies.add(left.pid)

    def reap(self) -> bool:
        """Forget the inits that have gone; whether there are more to come."""
        # Not waited for: an init is gone only when the client has reaped its test process.
        while self._zombies:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return True
            self._zombies.discard(pid)
        return False
