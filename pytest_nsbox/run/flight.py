"""A test process in flight: launched for an item, listened to, landed; and what became of the item.

One that runs a group of items is handed the next one's run when all of the one before is told.  By then
it may be ahead with that, or have died in it.

An item's run is told of in its turn.  Until then what the test process sends is kept, but for the
questions that it waits to have answered.
"""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

import pytest
from _pytest.outcomes import Exit
from _pytest.runner import CallInfo
from _pytest.warnings import catch_warnings_for_item

from pytest_nsbox.run import basetemp, fixtures, forked, screen, start, timing, verdict, wire
from pytest_nsbox.run import test_process as child
from pytest_nsbox.run.item import ItemRun
from pytest_nsbox.run.output import Output
from pytest_nsbox.run.places import current_directory
from pytest_nsbox.run.reports import is_location
from pytest_nsbox.run.running import Running
from pytest_nsbox.sandbox.client import Sandbox, SandboxError

_RERAISE = (Exit, KeyboardInterrupt)


class Flight:
    """A test process, its sandbox, and what it has sent and nobody has been told of."""

    def __init__(
        self,
        run: ItemRun,
        sandbox: Sandbox,
        running: Running,
        output: Output | None,
        held: wire.Held | None,
    ) -> None:
        self.run = run
        self.sandbox = sandbox
        self.running = running
        self.output = output
        self.held = held
        self.reader = wire.Reader(running.reports)
        self.backlog: deque[wire.Message] = deque()
        self.failure: BaseException | None = None  # the first ends the conversation
        self.has_landed = False
        self.is_ending = False  # on our demand, for which nothing needs to be told before
        self.is_parting = False  # asked to end, and what it sends until it does is of no item

    @property
    def deadline(self) -> float | None:
        """When its timeout ends, as time.monotonic() counts; None: never."""
        timeout = self.run.options.timeout
        return None if timeout is None else self.running.started + timeout

    @property
    def waits(self) -> bool:
        """Whether it has run its item, and waits for another, or is ahead with that."""
        return self.run.waits and (self.run.is_ahead or not self.has_landed)

    def hand_over(self, run: ItemRun) -> None:
        """Have it run the next item of its group."""
        assert run.group is not None
        is_ahead, self.run = self.run.is_ahead, run
        if is_ahead:
            return
        self.order(
            run=run.group.indices[run.item],
            next=run.group.index(run.nextitem),
            goes_on=run.goes_on,
            screen=screen.state(run.config),
        )

    def part(self) -> None:
        """Have it tear down what it has kept for an item that does not come, and end."""
        self.run.waits = False
        self._let_go_on()
        self.backlog.clear()
        if not self.has_landed:
            self.run.has_ended = False
            self.is_parting = True
            assert self.run.group is not None
            self.order(run=None, of=self.run.group.indices[self.run.item])

    def interrupt(self) -> None:
        """Hand a ^C on."""
        self._let_go_on()
        self.running.interrupt()

    def _let_go_on(self) -> None:
        """Answer what waits for all to be told before."""
        self.is_ending = True
        if any(message["type"] == "catch up" for message in self.backlog):
            self.running.answer(None)

    def order(self, **what: object) -> None:
        """Say what it is to do now; it may take its time from now on."""
        screen.flush(self.run.config)
        self.running.started = time.monotonic()
        what["testsfailed"] = self.run.session.testsfailed
        what["number"] = basetemp.next_number(self.run.item)
        location = self.run.item.location
        what["location"] = location if is_location(location) else None
        self.running.answer(what)

    def listen(self) -> None:
        """Take in what is in the pipe; a question is answered at once."""
        self._take(self.reader.read())

    def _take(self, messages: Iterable[wire.Message]) -> None:
        try:
            for message in messages:
                if message["type"] in ("basetemp", "changes", "terminal"):
                    self.run.receive(message, self.running, self.sandbox)
                elif message["type"] == "parting":
                    self.is_parting = False
                elif message["type"] == "catch up" and self.is_ending:
                    self.running.answer(None)
                elif not self.is_parting:
                    self.backlog.append(message)
                if message.get("ahead"):
                    self.running.started = time.monotonic()
        except wire.Garbled as error:
            self.fail(error)

    def tell(self) -> None:
        """Tell pytest what has come. Raises Exit and KeyboardInterrupt, which are the test's own."""
        run = self.run
        if not run.is_concurrent:
            self._tell()
            return
        if self.backlog or not run.is_announced:
            # Around us is another item's, if any.
            with catch_warnings_for_item(
                config=run.config, ihook=run.ihook, when="runtest", item=run.item
            ):
                if not run.is_announced:
                    run.announce()
                self._tell()

    def _tell(self) -> None:
        try:
            # Also after a failure: what came before it counts. What comes after waits is the next's.
            while self.backlog and not self.run.waits:
                self.run.receive(self.backlog.popleft(), self.running, self.sandbox)
        except _RERAISE:
            raise
        except Exception as error:
            self.backlog.clear()
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Believe nothing more of what it sends."""
        self.failure = self.failure or error
        self.land()

    def time_out(self) -> None:
        """End what is over its time."""
        self.running.timed_out = True
        self.running.ask_for_stacks()
        self.land()

    def land(self) -> None:
        """Make sure that the test process is gone, and remember how it ended."""
        if not self.has_landed:
            self.has_landed = True
            self.running.kill()
            if self.held is not None and self.failure is None:
                self.listen()
                self._take(self.reader.take(self.held.rest(self.reader.received)))
            self.running.end()

    def has_told_all(self) -> bool:
        """Whether its process has only to exit, which nobody needs to wait for."""
        run = self.run
        return (
            run.has_ended
            and "teardown" in run.reported
            and not (run.waits or run.is_waited_for() or self.running.has_terminal)
        )

    def land_alone(self) -> Running:
        """Let its process exit while we go on; whoever called sees to it that it is ended."""
        self.has_landed = True
        self.running.let_end()
        return self.running

    def verdict(self) -> None:
        """Report the end of the test process, if that has not told itself how its test ended."""
        run, running = self.run, self.running
        if run.will_be_repeated():
            return
        last_words = running.last_words.hear()
        reason = ""
        if isinstance(self.failure, wire.Garbled):
            reason = f"the test has written to the pipe that is for its reports: {self.failure}"
        elif isinstance(self.failure, SandboxError):
            reason = str(self.failure)
        if running.timed_out:
            seconds = run.options.timeout or 0
            reason = verdict.timed_out(seconds, was_stopped=running.was_stopped)
        elif self.failure is None:
            if last_words:
                reason = last_words
            elif not (run.has_ended and "teardown" in run.reported):
                reason = verdict.describe(running.status, running.usage)
        if reason or self.failure is not None:
            output = self.output.read() if self.output is not None else None
            call = CallInfo.from_call(lambda: _fail(reason, self.failure), when=run.current_phase())
            run.report_death(call, self.sandbox, running.stacks, output)

    def dispose(self) -> None:
        """Let go of the files, when all is told that is to be."""
        if self.output is not None:
            self.output.close()

    def close_fds(self) -> None:
        """In a forked child: let go of what belongs to this flight."""
        if not self.has_landed:
            self.running.close_fds()
        self.sandbox.close_fds()
        self.dispose()


def _fail(reason: str, error: BaseException | None) -> NoReturn:
    if reason:
        pytest.fail(reason, pytrace=False)
    assert error is not None
    raise error


@contextlib.contextmanager
def uninterrupted() -> Iterator[Iterable[int]]:
    """Have ^C wait, which would leave a test behind that runs already and that nobody knows of yet.

    Gives the signal mask from before, for what is forked meanwhile. Where there are other threads, one
    of them may take the signal, and it does not wait.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def launch(
    run: ItemRun,
    sandbox: Sandbox,
    board: Callable[[Flight], None],
    *,
    own_output: bool,
    in_child: Callable[[], None],
) -> None:
    """Fork the test process of an item into a sandbox, and ``board`` it.

    ``own_output``: its captured output goes into files of its own; ``in_child`` is called there first.
    Raises SandboxError if it has not come about, OSError if it had to be killed.
    """
    config = run.config
    prepare(run)
    # A thread of a broad-scoped fixture may print while we tell of a report.
    in_step = screen.is_shared(config) or threading.active_count() > 1
    cwd = current_directory()
    threads = run.share.threads()
    holds = run.group is not None and run.group.runs_ahead and not in_step

    def be_test_process() -> NoReturn:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        ends.close_pipes()
        in_child()
        forked.freeze()

        def make() -> child.TestProcess:
            return child.TestProcess(
                config, is_shared=run.is_shared, rehearses=run.rehearses, rehearsed=run.rehearsed,
                group=run.group if run.goes_on else None, in_step=in_step, threads=threads,
            )  # fmt: skip

        def act(process: child.TestProcess) -> None:
            process.run(run.item, run.nextitem, log=run.is_logged)

        beginning = start.Beginning.of(theirs, last_words, held)
        beginning.be(config, run.options, sandbox.enter, cwd, make, act)

    with uninterrupted() as mask:
        try:
            last_words, held = wire.LastWords(), wire.Held() if holds else None
            ends, theirs = start.connect(config, own_output=own_output)
        except OSError as error:
            raise SandboxError(f"cannot make pipes for the test process: {error}") from error
        try:
            pid = sandbox.fork(be_test_process)
        except BaseException:
            ends.close()
            raise
        finally:
            theirs.close_pipes()
        timing.mark(config, "fork")
        fixtures.hand_over_late_exceptions(config)
        board(Flight(run, sandbox, ends.running(pid, last_words), ends.output, held))


def prepare(run: ItemRun) -> None:
    """Make ready for another process to run the item, which is forked from this one or has been."""
    run.has_ended = False
    screen.flush(run.config)
    if run.config.pluginmanager.hasplugin("faulthandler"):
        # A watchdog is a thread, which a fork does not copy: cancelling it in the child waits
        # for it for ever, and pytest does so on every failure. The child starts its own.
        faulthandler.cancel_dump_traceback_later()
