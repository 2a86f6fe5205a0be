"""A test process that runs, seen from the controller: its messages, its end."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import time

from pytest_nsbox.run import test_process as child
from pytest_nsbox.run import wire
from pytest_nsbox.sandbox.terminal import foreground

_STACKS_GRACE = 1.0  # seconds for faulthandler to write the stacks of a test that timed out


class Running:
    """A test process and our ends of its pipes."""

    def __init__(
        self,
        pid: int,
        reports: int,
        answers: int,
        stacks_fd: int,
        last_words: wire.LastWords,
        started: float,
    ) -> None:
        self.pid = pid
        try:
            self.pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self.reports = reports  # to read from
        self.answers = answers  # to write to
        self.stacks_fd = stacks_fd
        self.last_words = last_words
        self.started = started  # time.monotonic()
        self.timed_out = False
        self.was_stopped = False  # then
        self.has_terminal = False
        self._due: list[object] = []
        # How it ended, and what it had used; known when it has.
        self.is_gone = False
        self.status = 0
        self.usage: resource.struct_rusage | None = None
        self.stacks = ""
        self._fds = [self.pidfd, reports, answers, stacks_fd]
        os.set_blocking(reports, False)
        os.set_blocking(answers, False)

    def answer_later(self, value: object) -> None:
        """Answer when we wait again, and so capture again what is put out here."""
        self._due.append(value)

    def answer_now(self) -> None:
        """Give the answers that are due."""
        while self._due:
            self.answer(self._due.pop(0))

    def answer(self, value: object) -> None:
        """Answer a question of the test process, which waits for it, unless it has died."""
        left = memoryview(json.dumps(value).encode() + b"\n")
        with contextlib.suppress(OSError):
            while left:
                exited, ready, _ = select.select([self.pidfd], [self.answers], [])
                if exited:
                    return
                if ready:
                    left = left[os.write(self.answers, left) :]

    def interrupt(self) -> None:
        """Hand a ^C on: the test process is in a process group of its own."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGINT)

    def ask_for_stacks(self) -> None:
        """Have faulthandler write the stacks of all threads, and give it the time to."""
        self.was_stopped = self._is_stopped()
        if self.was_stopped:
            return  # to let it go on for that would be to let it run on
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, child.STACKS_SIGNAL)
        size, deadline = -1, time.monotonic() + _STACKS_GRACE
        while time.monotonic() < deadline:
            time.sleep(0.02)
            now = os.fstat(self.stacks_fd).st_size
            if now == size > 0:
                break
            size = now

    def _is_stopped(self) -> bool:
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
        except (OSError, IndexError):
            return False

    def _read_stacks(self) -> str:
        """What faulthandler has written, for a crash too; each stack only down to our own frames."""
        written = os.pread(self.stacks_fd, 1 << 20, 0)
        if not written:
            return ""
        ours = f'  File "{os.path.dirname(os.path.abspath(__file__))}/'
        lines, cut = [], False
        for line in written.decode(errors="backslashreplace").splitlines():
            cut = line.startswith("  ") and (cut or line.startswith(ours))
            if not cut:
                lines.append(line)
        return "\n".join(lines).strip()

    def kill(self) -> None:
        """Make sure that it is gone, whatever happened to us: its wait status and what it used."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        _, self.status, self.usage = os.wait4(self.pid, 0)
        self.is_gone = True

    def end(self) -> None:
        """Make sure that it is gone, and let go of what belongs to it."""
        if not self.is_gone:
            self.kill()
        if self.has_terminal:
            foreground(os.getpgrp())
        if self.stacks_fd in self._fds:
            self.stacks = self._read_stacks()
        self.close_fds()

    def let_end(self) -> None:
        """Hear nothing more of it, which has said all; ``end`` is to be called some time."""
        self._close(self.reports, self.answers, self.stacks_fd)

    def close_fds(self) -> None:
        """Let go of our ends: of a process that has ended, or in a forked child."""
        self._close(*self._fds)

    def _close(self, *fds: int) -> None:
        for fd in fds:
            self._fds.remove(fd)
            os.close(fd)
