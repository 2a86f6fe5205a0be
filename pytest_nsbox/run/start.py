"""How a test process begins: what it shares with its controller, its fork, its way into the sandbox."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from posix import _exit  # not os._exit: a test may replace that, coverage saves its data in it
from typing import NamedTuple, NoReturn

import pytest

from pytest_nsbox.options import SandboxOptions
from pytest_nsbox.run import forked, timing, wire
from pytest_nsbox.run import test_process as child
from pytest_nsbox.run.home import Home
from pytest_nsbox.run.output import Output
from pytest_nsbox.run.running import Running


class Ends(NamedTuple):
    """The controller's ends of what it shares with a test process."""

    reports: int  # to read from
    answers: int  # to write to
    stacks: int  # a memfd, for faulthandler
    output: Output | None  # its captured output, where that is not in the controller's files

    def running(self, pid: int, last_words: wire.LastWords) -> Running:
        """The test process, which starts now. Raises OSError, and then it is killed, and all closed."""
        ends = self.reports, self.answers, self.stacks
        try:
            return Running(pid, *ends, last_words, time.monotonic())
        except OSError:
            self.close()
            raise

    def fds(self) -> list[int]:
        files = self.output.files if self.output is not None else ()
        return [self.reports, self.answers, self.stacks, *(file.fileno() for file in files)]

    @classmethod
    def received(cls, config: pytest.Config, fds: Sequence[int]) -> Ends:
        """Of the fds that another process has passed."""
        output = Output(config, fds[3:]) if fds[3:] else None
        return cls(fds[0], fds[1], fds[2], output)

    def close(self) -> None:
        if self.output is not None:
            self.output.close()
        for fd in self[:3]:
            os.close(fd)


class Beginning(NamedTuple):
    """What a test process begins with."""

    home: Home
    stacks: int
    output: Output | None

    def be(
        self,
        config: pytest.Config,
        options: SandboxOptions,
        enter: Callable[[str], None],
        cwd: str,
        make: Callable[[], child.TestProcess],
        act: Callable[[child.TestProcess], None],
    ) -> NoReturn:
        """Be a test process that does ``act`` in the sandbox that ``enter`` leads to. Never raises."""
        status = 1
        try:
            if (spent := timing.of(config)) is not None:
                spent.begin_child()
            if self.output is not None:
                self.output.use()
            enter(cwd)
            timing.mark(config, "enter")
            forked.adopt(config, options)
            if options.timeout:
                faulthandler.register(child.STACKS_SIGNAL, self.stacks, all_threads=True)
            if faulthandler.is_enabled():  # a crash goes into its report, not on the terminal
                faulthandler.enable(self.stacks)
            process = make()
            process.begin(options, self.home)
            timing.mark(config, "adopt")
            act(process)
            status = 0
        except BaseException:
            if child.current is None or not child.current.is_copy():
                self.home.tell_trouble(traceback.format_exc())
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(BaseException):
                    stream.flush()
            _exit(status)


def fork(
    config: pytest.Config,
    fork_into: Callable[[Callable[[], NoReturn]], int],
    be: Callable[[Beginning], NoReturn],
    last_words: wire.LastWords,
    *,
    own_output: bool,
    held: wire.Held | None = None,
) -> tuple[int, Ends]:
    """Fork a test process that does ``be``: its pid, and what leads to it. Raises OSError.

    ``fork_into`` forks a child that is about to be in a sandbox.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        # Pipes and not a socket pair: a test may list its process' connections.
        reports, send_reports = os.pipe()
        ours.callback(os.close, reports)
        theirs.callback(os.close, send_reports)
        read_answers, answers = os.pipe()
        ours.callback(os.close, answers)
        theirs.callback(os.close, read_answers)
        stacks = os.memfd_create("nsbox-stacks")
        ours.callback(os.close, stacks)
        output = None
        if own_output:
            output = Output(config)
            ours.callback(output.close)

        def begin() -> NoReturn:
            os.close(reports)
            os.close(answers)
            home = Home(wire.Writer(send_reports, held), read_answers, last_words)
            be(Beginning(home, stacks, output))

        pid = fork_into(begin)
        ours.pop_all()
    return pid, Ends(reports, answers, stacks, output)
