"""The controller's side: acquire a sandbox, fork a process into it, ask about it, close it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from errno import EAGAIN, ECHILD, EMFILE, ENFILE, ENOMEM
from typing import NamedTuple, NoReturn

from pytest_nsbox.kernel.syscalls import (
    CLONE_NEWPID,
    drop_bounding,
    setns,
)
from pytest_nsbox.sandbox import channel, descriptors, privileges, terminal
from pytest_nsbox.sandbox.changes import Change
from pytest_nsbox.sandbox.forking import Forker
from pytest_nsbox.sandbox.outsiders import Outsider
from pytest_nsbox.sandbox.processes import Process, processes

_ANSWER_SECONDS = 60.0
# Where a sandbox's fds of these are among all: those of the other namespaces come before.
_USER, _PID = -3, -2
# The supervisor must not see the user's modules, nor pay for site: it needs the standard library
# and this package.
_MAIN = """\
import sys
sys.path.append({package!r})
from pytest_nsbox.sandbox.supervisor import main
main()
"""


class SandboxError(Exception):
    """A sandbox cannot be had or entered; says which system call was refused, and where."""


class Kind(NamedTuple):
    """What a sandbox is to have. Sandboxes of one kind are interchangeable, and made ahead."""

    visible: tuple[str, ...] = ()  # absolute paths to be there also where /tmp is private
    tmp_size: int | None = None  # bytes
    bind: tuple[tuple[str, str, bool], ...] = ()  # source, target, read-only
    hide: tuple[str, ...] = ()
    network: str = "host"  # or "loopback", "none"
    # Unix sockets of the host's to be reached, and a number to tell a new one at an old path.
    sockets: tuple[tuple[str, int], ...] = ()
    belongings: tuple[tuple[str, int, int], ...] = ()  # in /tmp and /dev/shm, see the module
    outsiders: tuple[Outsider, ...] = ()  # processes to be there by their pids
    hostname: str | None = None


class Client:
    """The one supervisor of this process, started when it is first needed.

    A forked child must not use it, and cannot once it has called ``forget``.
    """

    def __init__(self, degrade: Sequence[str] = ()) -> None:
        """``degrade``: parts that a sandbox may do without, see the module of that name."""
        self.degrade = tuple(degrade)
        self.privileged = privileges.is_privileged()
        # What a test process keeps; the same for init, in whom a test would find no more than that.
        self.keep_capabilities = (
            privileges.effective() & privileges.CONTAINER_ROOT_MASK if self.privileged else 0
        )
        self.other_capabilities = privileges.all_but(self.keep_capabilities)
        self._socket: socket.socket | None = None
        self._starter: subprocess.Popen[bytes] | None = None
        self._complaints: int | None = None  # a memfd: the supervisor's standard error
        self._supervisor: int | None = None  # pidfd
        self._stuck: int | None = None  # pidfd of one before it, which did not answer
        self._is_ready = False
        self.supervisors = 0  # that there have been
        self.forker: Forker | None = None
        self._told: Kind | None = None  # which the supervisor knows as the latest
        self._asked_for: Kind | None = None
        self._prefetched: tuple[Kind, Sandbox] | None = None
        self.own_pid_namespace: int | None = None
        self.is_close = False  # see come_close
        self.can_be_typed_on = False
        self.notes: dict[str, None] = {}  # what sandboxes leave out, in the order heard of

    def start(self) -> None:
        """Start the supervisor, without waiting for it to be ready. Raises SandboxError."""
        if self._socket is not None:
            return
        self._kill_stuck()
        try:
            self._start()
        except OSError as error:
            self.forget()
            raise _not_started(error) from error

    def _start(self) -> None:
        self._socket, theirs = channel.pair()
        self._socket.settimeout(_ANSWER_SECONDS)
        self._is_ready, self._told = False, None
        self.supervisors += 1
        package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        with theirs:
            self._complaints = os.memfd_create("nsbox-supervisor-stderr")
            self._starter = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _MAIN.format(package=package)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._complaints,
                cwd="/",
                start_new_session=True,  # out of the terminal's reach: ^C is for pytest
            )
        self.forker = self.forker or Forker()  # meanwhile, for it takes some milliseconds

    def _greet(self) -> None:
        """Wait until the supervisor is there, and ready. Raises SandboxError, OSError."""
        self._end_starter()
        self._supervisor = os.pidfd_open(self._answer()[0]["started"])
        self.can_be_typed_on = terminal.can_be_typed_on()
        if self.privileged:
            self.own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        setup = {
            "rootless": not self.privileged,
            "keep_capabilities": self.keep_capabilities,
            "sys_path": _directory_of("pyroute2"),
            "degrade": self.degrade,
        }
        controller = os.pidfd_open(os.getpid())
        try:
            self._send(setup, [controller])
        finally:
            os.close(controller)
        self._answer()
        self._is_ready = True

    def _end_starter(self) -> None:
        """Reap what has executed the supervisor, which is a fork of it: see supervisor.main."""
        if self._starter is not None:
            self._starter.wait()
            self._starter = None

    def pids(self) -> list[int]:
        """Of the children that we have for a while, while the supervisor starts."""
        return [] if self._starter is None else [self._starter.pid]

    def acquire(self, kind: Kind, *, ahead: int = 0) -> Sandbox:
        """A sandbox of that kind; ``ahead``: how many more the supervisor may make for later.

        Raises SandboxError.
        """
        if self._asked_for is not None:
            self._collect()
        if self._prefetched is not None:
            (found, sandbox), self._prefetched = self._prefetched, None
            if found == kind:
                return sandbox
            sandbox.close()
        self._ask_for(kind, ahead)
        return self._receive_sandbox()

    def prefetch(self, kind: Kind, *, ahead: int) -> None:
        """Ask for the sandbox that the next ``acquire`` will probably want, and do not wait."""
        if self._asked_for is None and self._prefetched is None:
            self._ask_for(kind, ahead)
            self._asked_for = kind

    def put_back(self, kind: Kind, sandbox: Sandbox) -> None:
        """Have the next ``acquire`` take a sandbox that nobody has joined."""
        self._prefetched = kind, sandbox

    def _ask_for(self, kind: Kind, ahead: int) -> None:
        self.start()
        if not self._is_ready:
            try:
                self._greet()
            except OSError as error:
                self.forget()
                raise _not_started(error) from error
        text = "" if kind is self._told else json.dumps(kind._asdict())
        self._told = kind
        self._send({"request": "acquire", "kind": text, "ahead": ahead})

    def _collect(self) -> None:
        """Take in the answer to a prefetch, which comes before any other."""
        kind, self._asked_for = self._asked_for, None
        if kind is not None:
            with contextlib.suppress(Refused):  # whoever acquires one will be told
                self._prefetched = kind, self._receive_sandbox()

    def _receive_sandbox(self) -> Sandbox:
        answer, fds = self._answer()
        self.notes.update(dict.fromkeys(answer["notes"]))
        return Sandbox(self, answer["sandbox"], answer["kinds"], fds, answer["lacks"])

    def changes(self, number: int, left_out: Sequence[str]) -> list[Change]:
        self._collect()
        self._send({"request": "changes", "sandbox": number, "except": list(left_out)})
        return [Change(*change) for change in self._answer()[0]["changes"]]

    def close(self, number: int, carry: Iterable[tuple[str, bool]], *, wait: bool) -> list[str]:
        if wait:
            self._collect()
        self._send({"request": "close", "sandbox": number, "carry": list(carry), "answer": wait})
        return list(self._answer()[0]["failures"]) if wait else []

    def settle(self) -> list[str]:
        """Wait until everything asked before is done; what could not be copied out meanwhile."""
        if self._socket is None or not self._is_ready:
            return []
        self._collect()
        self._send({"request": "settle"})
        return list(self._answer()[0]["failures"])

    def stop(self) -> None:
        """Let the supervisor go, which ends it and every sandbox; harmless when there is none."""
        self.forget()
        self._kill_stuck()

    def _kill_stuck(self) -> None:
        if self._stuck is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._stuck, signal.SIGKILL)
            os.close(self._stuck)
            self._stuck = None

    def forget(self) -> None:
        """Close all that is open; in a forked child that is copies, the supervisor its parent's."""
        self._drop_prefetched()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._end_starter()
        for fd in (self._complaints, self.own_pid_namespace, self._supervisor):
            if fd is not None:
                os.close(fd)
        self._complaints = self.own_pid_namespace = self._supervisor = None

    def come_close(self, fds: Sequence[int]) -> None:
        """Be for good as near to the sandboxes as one can be who forks into several of them.

        In their user namespace, which all sandboxes of one supervisor share, if they have one, and
        without what no test process keeps in its bounding set, which a new user namespace fills.
        ``fds``: those of a sandbox, or at their end.
        """
        if not self.privileged:
            with privileges.kept_dumpable():
                setns(fds[_USER])
        drop_bounding(self.other_capabilities)
        self.other_capabilities = ()
        self.is_close = True

    def fork_sibling(self, fds: Sequence[int], run: Callable[[], NoReturn]) -> int:
        """A child of the caller's parent that does ``run`` in the PID namespace of a sandbox.

        One fork for rootless, too: the caller has come close, and keeps the PID namespace for that of
        its children.  In the child, call ``Sandbox.begin`` first.  Raises OSError.
        ``fds``: those of the sandbox, or at their end.
        """
        assert self.forker is not None
        setns(fds[_PID], CLONE_NEWPID)
        return self.forker.fork_sibling(run)

    def prefetched_fds(self) -> Collection[int]:
        """What is open of the sandbox that waits for the next test, if one does."""
        return self._prefetched[1].fds() if self._prefetched is not None else ()

    def _drop_prefetched(self) -> None:
        self._asked_for = None
        if self._prefetched is not None:
            self._prefetched[1].close_fds()
            self._prefetched = None

    def _send(self, message: channel.Message, fds: Sequence[int] = ()) -> None:
        if self._socket is None:
            raise SandboxError("the supervisor has been stopped")
        try:
            channel.send(self._socket, message, fds)
        except OSError as error:
            raise self._lost(error) from error

    def _answer(self) -> tuple[channel.Message, list[int]]:
        assert self._socket is not None
        try:
            answer, fds = channel.receive(self._socket)
        except (EOFError, OSError) as error:
            raise self._lost(error) from error
        if "error" in answer:
            raise Refused(answer["error"], answer["errno"])
        return answer, fds

    def _lost(self, error: Exception) -> SandboxError:
        text = ""
        if self._complaints is not None:
            text = os.pread(self._complaints, 10_000, 0).decode(errors="replace").strip()
        if isinstance(error, TimeoutError):
            # To be killed when its last sandbox is no longer needed: they would die with it.
            self._stuck, self._supervisor = self._supervisor, None
            self.forget()
            return Unanswered(
                f"the supervisor of the sandboxes has not answered for {_ANSWER_SECONDS:g} s"
            )
        self.forget()
        if text or isinstance(error, (EOFError, BrokenPipeError)):
            why = f"it said:\n{text}" if text else str(error)
            return SandboxError(f"the supervisor of the sandboxes has died: {why}")
        return SandboxError(f"cannot talk to the supervisor of the sandboxes: {error}")


def _not_started(error: OSError) -> SandboxError:
    return SandboxError(f"cannot start the supervisor of the sandboxes: {error}")


class Unanswered(SandboxError):
    """The supervisor is there, but says nothing."""


class Refused(SandboxError):
    """The kernel refused a step that a sandbox needs."""

    def __init__(self, text: str, errno: int) -> None:
        super().__init__(text)
        self.errno = errno

    def is_of_a_moment(self) -> bool:
        """Whether it may work next time, when others use less of the machine, or kill less."""
        return self.errno in (EAGAIN, ECHILD, EMFILE, ENFILE, ENOMEM)


class Sandbox:
    """Namespaces, a root filesystem and an init, for one test process to join."""

    def __init__(
        self,
        client: Client,
        number: int,
        kinds: Sequence[str],
        fds: list[int],
        lacks: Sequence[str] = (),
    ) -> None:
        self._client = client
        self._supervisor = client.supervisors  # which one has made it: another knows nothing of it
        self.number = number
        self.kinds = kinds  # of the namespaces that its fds lead to
        self.lacks = lacks  # parts that the machine refuses, see ``degrade``
        *namespaces, self._proc = fds
        self._namespaces = dict(zip(kinds, namespaces, strict=True))
        self._inherited: Sequence[descriptors.Inherited] = ()
        self._is_joined = False

    def fork(self, run: Callable[[], NoReturn]) -> int:
        """A child that does ``run`` in the sandbox, as PID 2; its pid as seen here.

        One fork as root: the caller enters the PID namespace for its children, forks, and goes back.
        Rootless the way back is barred (EPERM), so that a process between goes in, see ``forking``.
        ``run`` must call ``enter`` first, and exit if that raises.  Raises SandboxError.
        """
        try:
            return self._fork(run)
        except OSError as error:
            # ENOMEM: its init has died, and so its PID namespace takes no more processes.
            raise SandboxError(f"cannot fork into the sandbox: {error}") from error

    def _fork(self, run: Callable[[], NoReturn]) -> int:
        forker = self._client.forker
        assert forker is not None
        self._inherited = descriptors.inherited({*self.fds(), *self._client.prefetched_fds()})
        own = self._client.own_pid_namespace
        if own is None:
            self._is_joined = True
            return forker.fork_behind(self._join_all, run)
        setns(self._namespaces["pid"], CLONE_NEWPID)
        try:
            return forker.fork(run)
        finally:
            setns(own, CLONE_NEWPID)

    def begin(self, inherited: Sequence[descriptors.Inherited]) -> None:
        """In a child that ``Client.fork_sibling`` made: be as if ``fork`` had made it.

        ``inherited``: what the caller has open of the host's.
        """
        self._inherited = inherited
        user = self._namespaces.pop("user", None)  # in which we are
        if user is not None:
            os.close(user)

    def _join_all(self) -> None:
        self._join()
        setns(self._namespaces["pid"], CLONE_NEWPID)

    def _join(self) -> None:
        # The user namespace first: it is what allows the others.
        for kind in ("user", "ipc", "uts", "net", "mnt"):
            if kind in self._namespaces:
                setns(self._namespaces[kind])

    def enter(self, cwd: str) -> None:
        """In the child that ``fork`` made: join the rest of the sandbox and give up privileges.

        What the caller has open of the host's is then the sandbox's, see ``descriptors``.
        ``cwd``: "" for one that has been removed. Raises OSError, also when it is not there.
        """
        client = self._client
        if not self._is_joined:
            self._join()
        client.forget()
        self.close_fds()
        descriptors.reopen(self._inherited)
        os.setpgid(0, 0)  # else kill(0, …) would reach pytest's own group, outside
        if client.can_be_typed_on:
            terminal.forbid_typing()
        privileges.drop(client.keep_capabilities, client.other_capabilities)
        if cwd:
            os.chdir(cwd)
        else:
            _be_nowhere()

    def changes(self, left_out: Sequence[str] = ()) -> list[Change]:
        """What is different in there from the host, outside ``/tmp`` and the paths ``left_out``."""
        self._assert_known()
        return self._client.changes(self.number, left_out)

    def processes(self) -> list[Process]:
        """What is alive in there beside init."""
        return [process for process in processes(self._proc) if process.pid != 1]

    def close(self, carry: Iterable[tuple[str, bool]] = (), *, wait: bool = False) -> list[str]:
        """Kill what is left in there, and let the supervisor take the rest away.

        ``carry``: paths to copy to the host first, each whole (True) or only what is new in that
        directory (False); the last name may have wildcards.  With ``wait``, returns when that is
        done, and what could not be copied; ``Client.settle`` says it of those without.
        The caller must have reaped its test process, or do so soon.
        """
        self.close_fds()
        self._assert_known()
        return self._client.close(self.number, carry, wait=wait)

    def _assert_known(self) -> None:
        if self._supervisor != self._client.supervisors:
            raise SandboxError("the supervisor of this sandbox has died, and the sandbox with it")

    def fds(self) -> Collection[int]:
        return (*self._namespaces.values(), self._proc)

    def close_fds(self) -> None:
        for fd in self.fds():
            try:  # noqa: SIM105 - three calls for each of six, in every test process
                os.close(fd)
            except OSError:
                pass
        self._namespaces.clear()


def _directory_of(package: str) -> list[str]:
    """Where a package would be imported from, without importing it."""
    spec = importlib.util.find_spec(package)
    origin = spec.origin if spec else None
    return [os.path.dirname(os.path.dirname(origin))] if origin else []


def _be_nowhere() -> None:
    """Have a current directory that has been removed. Not the host's: its parent would be outside."""
    path = tempfile.mkdtemp(dir="/tmp")
    os.chdir(path)
    os.rmdir(path)
