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
    """The controller's ends of what it shares with a test process, or the test process's.

    Those of the pipes are different ones, the files are the same.
    """

    reports: int  # which the test process writes
    answers: int  # which it reads
    stacks: int  # a memfd, for faulthandler
    output: Output | None  # its captured output, where that is not in the controller's files

    def running(self, pid: int, last_words: wire.LastWords) -> Running:
        """The test process, which starts now. Raises OSError, and then it is killed, and all closed."""
        try:
            return Running(pid, *self[:3], last_words, time.monotonic())
        except OSError:
            self.close()
            raise

    def fds(self) -> list[int]:
        files = self.output.files if self.output is not None else ()
        return [*self[:3], *(file.fileno() for file in files)]

    @classmethod
    def received(cls, config: pytest.Config, fds: Sequence[int]) -> Ends:
        """Of the fds that another process has passed."""
        output = Output(config, fds[3:]) if fds[3:] else None
        return cls(fds[0], fds[1], fds[2], output)

    def close_pipes(self) -> None:
        os.close(self.reports)
        os.close(self.answers)

    def close(self) -> None:
        self.close_pipes()
        os.close(self.stacks)
        if self.output is not None:
            self.output.close()


def connect(config: pytest.Config, *, own_output: bool) -> tuple[Ends, Ends]:
    """What a controller and a test process are to share: its ends, and those of the test process.

    ``own_output``: its captured output is to have files of its own.  Raises OSError.
    """
    with contextlib.ExitStack() as undo:
        # Pipes and not a socket pair: a test may list its process' connections.
        reports, send_reports = os.pipe()
        undo.callback(os.close, reports)
        undo.callback(os.close, send_reports)
        read_answers, answers = os.pipe()
        undo.callback(os.close, read_answers)
        undo.callback(os.close, answers)
        stacks = os.memfd_create("nsbox-stacks")
        undo.callback(os.close, stacks)
        output = Output(config) if own_output else None
        undo.pop_all()
    both = stacks, output
    return Ends(reports, answers, *both), Ends(send_reports, read_answers, *both)


class Beginning(NamedTuple):
    """What a test process begins with."""

    ends: Ends
    home: Home

    @classmethod
    def of(cls, ends: Ends, last_words: wire.LastWords, held: wire.Held | None = None) -> Beginning:
        """``last_words``, ``held``: memory that it shares with its controller."""
        writer = wire.Writer(ends.reports, held)
        return cls(ends, Home(writer, ends.answers, last_words))

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
            if self.ends.output is not None:
                self.ends.output.use()
            enter(cwd)
            timing.mark(config, "enter")
            forked.adopt(config, options)
            if options.timeout:
                faulthandler.register(child.STACKS_SIGNAL, self.ends.stacks, all_threads=True)
            if faulthandler.is_enabled():  # a crash goes into its report, not on the terminal
                faulthandler.enable(self.ends.stacks)
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
