"""The test processes in flight: all are waited for at once, and told of in the order of their items.

With one job that is one test process, whose reports are told of as they come.  With more, what the
oldest sends is told of as it comes, and what the others send waits for their turn.  So a run has the
same reports in the same order whatever the number of jobs, and where it stops early (``-x``) the tests
after that have not been.
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import pytest
from _pytest.outcomes import Exit

from pytest_nsbox.run.flight import Flight
from pytest_nsbox.run.item import ItemRun
from pytest_nsbox.run.running import Running
from pytest_nsbox.sandbox.client import SandboxError

_INTERRUPT_GRACE = 10.0  # seconds for test processes to tear down after ^C, unless ^C comes again
_MOST_WAITING = 64  # flights that have landed and wait for their turn


class Fleet:
    """All flights, in the order of their items."""

    def __init__(
        self,
        config: pytest.Config,
        jobs: int,
        conclude: Callable[[Flight], None],
        close: Callable[[Flight], None],
    ) -> None:
        """``conclude``: called when a flight has landed and all that it has sent is told.

        ``close``: closes its sandbox, after what is to be kept is copied out.
        """
        self._capture = config.pluginmanager.getplugin("capturemanager")
        self.jobs = jobs
        self.conclude = conclude
        self.close = close
        self.flights: deque[Flight] = deque()
        self.exiting: list[Running] = []  # test processes that have told all
        self.waiting: Flight | None = None  # for the next item of its group; no other flies then

    @property
    def in_the_air(self) -> list[Flight]:
        return [flight for flight in self.flights if not flight.has_landed]

    def pids(self) -> list[int]:
        """Of all test processes that there are."""
        flights = [*self.in_the_air, *([self.waiting] if self.waiting is not None else [])]
        return [running.pid for running in (*self.exiting, *(f.running for f in flights))]

    def board(self, flight: Flight) -> None:
        """Have one more, which nobody is told of before ``see_off``."""
        self.flights.append(flight)

    def has(self, run: ItemRun) -> bool:
        return any(flight.run is run for flight in self.flights)

    def see_off(self) -> None:
        """Tell of the one that has come last, if that is its turn."""
        if len(self.flights) == 1:
            self._tell()
        if self.jobs == 1 and self._capture is not None and threading.active_count() > 1:
            self._capture.resume_global_capture()  # at once, and not only when we wait

    def go_on(self, order: Callable[[Flight], None]) -> None:
        """Give the waiting one its order, and wait for what comes of it."""
        flight, self.waiting = self.waiting, None
        assert flight is not None
        self.flights.append(flight)  # first, for ^C may come
        with self.interrupted_gently():
            order(flight)
            self._tell()  # which it may have begun with
            self.drain()

    def make_room(self, is_in_the_way: Callable[[Flight], bool]) -> None:
        """Wait until one more may start. Raises what telling raises: Exit, KeyboardInterrupt."""
        while (
            len(self.in_the_air) >= self.jobs
            or len(self.flights) >= self.jobs + _MOST_WAITING
            or any(map(is_in_the_way, self.flights))
        ):
            self._wait()

    def drain(self) -> None:
        """Wait until all have landed and are told of. Raises what telling raises."""
        while self.flights:
            self._wait()

    def abandon(self) -> None:
        """End whatever is in flight; nobody is told."""
        self.reap()
        if self.waiting is not None:
            self.flights.append(self.waiting)
            self.waiting = None
        while self.flights:
            flight = self.flights.popleft()
            flight.land()
            flight.dispose()
            with contextlib.suppress(SandboxError):
                flight.sandbox.close()

    def close_fds(self) -> None:
        """In a forked child: let go of what belongs to the flights there are."""
        for flight in self.flights:
            flight.close_fds()
        for running in self.exiting:
            running.close_fds()

    def reap(self) -> None:
        """Make sure that the processes are gone which had only to exit."""
        while self.exiting:
            self.exiting.pop().end()

    def _wait(self) -> None:
        """Wait for something to happen, and tell what can be told."""
        with self.interrupted_gently():
            self._poll_captured()
            self._tell()

    def _tell(self) -> None:
        while self.flights:
            head = self.flights[0]
            try:
                head.tell()
            except BaseException as error:  # the end of the session
                # Not for a ^C of the user's, which is not one that the test has raised.
                if not isinstance(error, KeyboardInterrupt) or head.run.has_ended:
                    self._let_go()
                raise
            if head.waits:
                self.waiting = self.flights.popleft()
                return
            if not head.has_landed:
                if not head.has_told_all():
                    return
                self.exiting.append(head.land_alone())
            self.flights.popleft()
            self.conclude(head)
            head.dispose()
            session = head.run.session
            if session.shouldfail or session.shouldstop:
                self.abandon()

    def _poll(self, until: float | None) -> None:
        """One round: hear what has come, land what has ended or is over its time."""
        by_fd = {}
        poll = select.poll()
        for flight in self.in_the_air:
            flight.running.answer_now()
            by_fd[flight.running.pidfd] = flight
            if not flight.reader.at_end:
                by_fd[flight.running.reports] = flight
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        ends = [end for flight in self.in_the_air if (end := flight.deadline) is not None]
        ends += [until] if until is not None else []
        wait = max(0.0, min(ends) - time.monotonic()) * 1000 if ends else None
        ready = {fd for fd, _ in poll.poll(wait)} if by_fd else set()
        for fd in ready:
            flight = by_fd[fd]
            # Not by the end of file: whatever it has forked may hold its end for ever. And what it
            # has sent before it ended is not to be lost by that.
            if fd == flight.running.reports:
                flight.listen()
            elif flight.running.reports not in ready:
                flight.land()
        now = time.monotonic()
        for flight in self.in_the_air:
            if flight.deadline is not None and flight.deadline <= now:
                flight.time_out()

    def _poll_captured(self) -> None:
        """What a broad-scoped fixture's thread puts out while we wait belongs to the test, as bare."""
        if self._capture is None or threading.active_count() == 1:
            self._poll(None)
            return
        self._capture.resume_global_capture()
        try:
            self._poll(None)
        finally:
            self._capture.suspend_global_capture(in_=False)

    def interrupt(self) -> None:
        """After ^C: let the tests tear down, for as long as the user lets them."""
        if self.flights:  # else one may wait, who is not to be killed
            self._end_gently(Flight.interrupt)

    @contextlib.contextmanager
    def interrupted_gently(self) -> Iterator[None]:
        """Hand a ^C on at once, before anything else is torn down."""
        try:
            yield
        except KeyboardInterrupt:
            self.interrupt()
            raise

    def part(self) -> None:
        """Let the waiting one tear down; nobody is told how that went."""
        if self.waiting is not None:
            self.flights.append(self.waiting)
            self.waiting = None
            self._end_gently(Flight.part)

    def _end_gently(self, ask: Callable[[Flight], None]) -> None:
        until = time.monotonic() + _INTERRUPT_GRACE
        try:
            for flight in self.in_the_air:
                ask(flight)
            while self.in_the_air and time.monotonic() < until:
                self._poll(until)
                with contextlib.suppress(Exit, KeyboardInterrupt):
                    self.flights[0].tell()
        finally:
            if self.flights:
                self._let_go()
            self.abandon()

    def _let_go(self) -> None:
        """Of the head nothing more is told."""
        head = self.flights.popleft()
        head.land()
        head.dispose()
        self.close(head)
