"""A test process that runs, seen from the controller: its messages, its end."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import time
from collections.abc import Iterator

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
        self.has_terminal = False
        os.set_blocking(reports, False)
        os.set_blocking(answers, False)

    def messages(self, deadline: float | None) -> Iterator[wire.Message]:
        """What the test process sends, until it has *exited* or the deadline has passed.

        Not until end of file: whatever it has forked may hold its end for ever.
        Raises wire.Garbled.
        """
        reader = wire.Reader(self.reports)
        poll = select.poll()
        poll.register(self.reports, select.POLLIN)
        poll.register(self.pidfd, select.POLLIN)
        while True:
            wait = None if deadline is None else max(0, deadline - time.monotonic()) * 1000
            ready = dict(poll.poll(wait))
            if not ready:
                self.timed_out = True
                return
            if self.reports in ready:
                yield from reader.read()
                if reader.at_end:
                    poll.unregister(self.reports)
            elif self.pidfd in ready:
                return

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
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, child.STACKS_SIGNAL)
        size, deadline = -1, time.monotonic() + _STACKS_GRACE
        while time.monotonic() < deadline:
            time.sleep(0.02)
            now = os.fstat(self.stacks_fd).st_size
            if now == size > 0:
                break
            size = now

    def stacks(self) -> str:
        """What faulthandler has written, for a crash too; each stack only down to our own frames."""
        text = os.pread(self.stacks_fd, 1 << 20, 0).decode(errors="backslashreplace")
        os.close(self.stacks_fd)
        ours = f'  File "{os.path.dirname(os.path.abspath(__file__))}/'
        lines, cut = [], False
        for line in text.splitlines():
            cut = line.startswith("  ") and (cut or line.startswith(ours))
            if not cut:
                lines.append(line)
        return "\n".join(lines).strip()

    def end(self) -> tuple[int, resource.struct_rusage]:
        """Make sure that it is gone, whatever happened to us: its wait status and what it used."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        if self.has_terminal:
            foreground(os.getpgrp())
        os.close(self.pidfd)
        os.close(self.reports)
        os.close(self.answers)
        return status, usage
