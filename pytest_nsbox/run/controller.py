"""Runs items in sandboxes: which kind each needs, when to ask for one, what to do without.

A controller is whatever process sets broad fixtures up and forks tests: pytest's, or under xdist a
worker.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar

import pytest

from pytest_nsbox.options import OptionError, SandboxOptions
from pytest_nsbox.run import adapters, fixtures, screen, timing
from pytest_nsbox.run import test_process as child
from pytest_nsbox.run.attempts import Seam
from pytest_nsbox.run.basetemp import basetemp_of, directories_of, make_basetemp, uses_basetemp
from pytest_nsbox.run.fleet import Fleet
from pytest_nsbox.run.flight import Flight, launch
from pytest_nsbox.run.group import Group, group_of, may_run_ahead, scope_node
from pytest_nsbox.run.item import ItemRun, Share, runs_bare
from pytest_nsbox.run.owners import Heard
from pytest_nsbox.run.places import Places
from pytest_nsbox.run.stock import Stock
from pytest_nsbox.run.surroundings import Surroundings
from pytest_nsbox.sandbox import heap
from pytest_nsbox.sandbox.belongings import Belongings
from pytest_nsbox.sandbox.client import Client, Kind, Refused, SandboxError, Unanswered

T = TypeVar("T")

_REPLACEMENTS = 2  # of a supervisor, for one sandbox
_HEARD = (
    "one job, not several, for tests of which a conftest hears in pytest's process "
    "(pytest_runtest_logreport and the like)"
)


class Controller:
    """Runs items in sandboxes that it gets from one client."""

    def __init__(
        self,
        config: pytest.Config,
        client: Client,
        options: Callable[[pytest.Item], SandboxOptions | OptionError | None],
        unavailable: str,
        belongings: Belongings,
        jobs: int = 1,
        huge_pages: str = "auto",
        fork_ahead: str = "auto",
    ) -> None:
        self.huge_pages = huge_pages
        self.config = config
        self.problems: list[str] = []  # with options and with other plugins
        if jobs > 1 and screen.is_shared(config):
            self.problems.append(
                "one job, not several, since tests write on the terminal "
                "(-s, --capture=tee-sys, --log-cli-level, --setup-show, --pdb or --trace)"
            )
            jobs = 1
        self.fleet = Fleet(config, jobs, self.conclude, self.close)
        self.options = options
        self.unavailable = unavailable
        self.pid = os.getpid()
        self.client = client
        self.belongings = belongings
        self.is_heard = Heard(config)  # who comes after such an item is to begin after it
        self.stock = Stock(
            config,
            client,
            options,
            jobs,
            self.is_heard,
            self.close_fds,
            may_be_used=fork_ahead == "auto",
            collapses=huge_pages != "never",
        )
        self.share = Share(fixtures.shared_hooks(config), self.reap, belongings, self.threads)
        self.remaining = 0
        self.places = Places(config)
        self._refusal: str | None = None
        self.surroundings = Surroundings(config, self.places, belongings)
        self._death: tuple[object, str] = (None, "")  # of the last: its group's node, its item
        self._filters: list[Any] = []
        self._threads: list[threading.Thread] = []  # from before the first test
        self._runs_ahead = False  # a group's test process
        self.not_copied: list[str] = []
        self._has_forked = False
        self._seam = Seam(config, self.runtestprotocol)

    def start(self) -> None:
        """Have other plugins take part."""
        self.config.pluginmanager.register(child.Relay(), "nsbox-relay")
        self.problems += adapters.register(self.config)

    def begin(self) -> None:
        """Note what a group's test process is to have around each of its tests, as is here."""
        self._threads = threading.enumerate()
        self._filters = list(warnings.filters)
        self._runs_ahead = may_run_ahead(self.config)
        session = self.config.pluginmanager.getplugin("session")
        self.stock.begin(session, self._filters, self._runs_ahead)

    def settle(self, error: BaseException | None = None) -> None:
        """Wait for what is in flight, and for what is still being copied out.

        After an error what is in flight is ended and not told of.
        """
        if isinstance(error, KeyboardInterrupt):
            self.fleet.interrupt()
        self.stock.end()
        if error is None:
            self.end_group()
            self.fleet.drain()
            self.fleet.reap()
        else:
            self.fleet.part()
            self.fleet.abandon()
        with contextlib.suppress(SandboxError):
            self.not_copied += self.client.settle()

    def stop(self) -> None:
        self.stock.end()
        self._seam.close()

    def reap(self) -> None:
        """Have no child of ours left that has only to exit, or waits for an item."""
        self.fleet.reap()
        self.stock.end()

    def threads(self) -> list[str]:
        """The names of those that broad-scoped fixtures have started, which a fork does not copy."""
        return [thread.name for thread in threading.enumerate() if thread not in self._threads]

    def close_fds(self) -> None:
        """In a forked child: let go of what is ours."""
        self.fleet.close_fds()
        self.stock.close_fds()

    def notes(self) -> list[str]:
        """What of the host the sandboxes left out, and what was not copied back, and why."""
        lost = [f"not copied out: {failure}" for failure in self.not_copied]
        return [*self.problems, *self.client.notes, *self.stock.problems, *lost]

    def protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Literal[True] | None:
        """pytest_runtest_protocol; None leaves it to another, who may want several attempts."""
        timing.mark(self.config, "between tests")
        options = self.options(item)
        is_ours = False
        if isinstance(options, SandboxOptions) and not self._seam.is_for(item):
            is_ours = True
            if self.may_be_concurrent(item, options):
                self.start_concurrent(item, nextitem, options)
                if item.session.shouldfail or item.session.shouldstop:
                    self.fleet.drain()  # of the one that has caused it not all may be told
                return True
        self.fleet.drain()
        if self.fleet.waiting is not None and not (is_ours and self.is_next(item)):
            self.end_group()  # this is not whom it waits for
        if item.session.shouldfail or item.session.shouldstop:
            return True  # by one that was in flight; the loop ends now
        if not is_ours:
            self.reap()  # one that runs here is to find no child that is not its own
            self.belongings.begin()  # by its broad-scoped fixtures
            return None
        ihook = item.ihook
        ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        if self.group is not None:
            assert isinstance(options, SandboxOptions)
            self.go_on(item, nextitem, options)
        else:
            self.runtestprotocol(item, nextitem=nextitem, driven=False)
        ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def is_next(self, item: pytest.Item) -> bool:
        """Whether the test process of the group goes on with the item."""
        waiting, group = self.fleet.waiting, self.group
        return group is not None and waiting is not None and group.follows(item, waiting.run.item)

    @property
    def group(self) -> Group | None:
        """The one whose test process waits for its next item, if any does."""
        return None if self.fleet.waiting is None else self.fleet.waiting.run.group

    def may_be_concurrent(self, item: pytest.Item, options: SandboxOptions) -> bool:
        """Whether the item may run beside others."""
        return (
            self.fleet.jobs > 1
            and not options.serial
            and scope_node(item, options.scope) is None
            and not runs_bare(item)
            and not self.refusal()
            and not fixtures.hooks_may_prevent_setup(item)
            and not self.is_noted_as_heard(item)
        )

    def is_noted_as_heard(self, item: pytest.Item) -> bool:
        """Whether the item must be alone for who hears of it, which the summary says then."""
        is_heard = self.is_heard(item)
        if is_heard and _HEARD not in self.problems:
            self.problems.append(_HEARD)
        return is_heard

    def start_concurrent(
        self, item: pytest.Item, nextitem: pytest.Item | None, options: SandboxOptions
    ) -> None:
        """Start the item as soon as it may; its reports come in its turn."""
        session = item.session
        names = directories_of(item)
        self.fleet.make_room(lambda flight: not names.isdisjoint(directories_of(flight.run.item)))
        if session.shouldfail or session.shouldstop:
            return
        self.remaining = max(0, self.remaining - 1)
        run = ItemRun(item, nextitem, options, self.share, concurrent=True)
        self.prepare_basetemp(item)
        records = self.config.pluginmanager.hasplugin("warnings")
        with warnings.catch_warnings(record=True) if records else contextlib.nullcontext() as log:
            is_set_up = run.set_up_broad()
        run.warned += log or ()
        refusal = self.start_run(run) if is_set_up else ""
        if refusal or run.broad_failed:
            self.fleet.drain()  # its turn
            if not (session.shouldfail or session.shouldstop):
                run.announce()
                if refusal:
                    run.refuse(refusal, skip=False)
                else:
                    run.report_setup()
                run.tear_down_broad()
            run.close()
        elif fixtures.tears_down(session, nextitem):
            self.fleet.drain()
        else:
            run.leave()

    def go_on(
        self, item: pytest.Item, nextitem: pytest.Item | None, options: SandboxOptions
    ) -> None:
        """Run the item in the test process that waits for it."""
        self.remaining = max(0, self.remaining - 1)
        runs_bare(item)  # for what it notes down
        run = ItemRun(item, nextitem, options, self.share, group=self.group)
        run.ihook.pytest_nsbox_fork(item=item)
        if self.config.pluginmanager.hasplugin("faulthandler"):
            faulthandler.cancel_dump_traceback_later()  # it has its own
        try:
            self.fleet.go_on(lambda flight: flight.hand_over(run))
            self.finish(run)
        finally:
            run.close()

    def finish(self, run: ItemRun) -> None:
        """Tear down what the next item does not share, and have its test process wait for that."""
        session = run.session
        if self.group is not None:
            if session.shouldfail or session.shouldstop:
                self.end_group()
            elif not fixtures.tears_down(session, run.nextitem):
                run.leave()
        self._death = (
            run.group.node if run.group else None,
            run.item.nodeid if run.has_died else "",
        )
        run.tear_down_broad()
        run.is_over = True

    def end_group(self) -> None:
        """End the test process that waits for an item; what it then tells is of its last item."""
        if self.fleet.waiting is None:
            return
        run = self.fleet.waiting.run
        if run.is_over:
            run.teardown, run.carried = None, []
        self.fleet.go_on(Flight.part)
        if run.is_over and run.carried:
            run.apply_late()
        if run.is_over and run.teardown is not None and run.teardown.failed:
            run.log(run.teardown)

    def runtestprotocol(
        self,
        item: pytest.Item,
        log: bool = True,
        nextitem: pytest.Item | None = None,
        driven: bool = True,
    ) -> list[pytest.TestReport]:
        """pytest's function of that name, in a sandbox where the item is to have one.

        ``driven``: another plugin has called it, perhaps for one attempt of several; else it may be
        one of a group, which begins with it.
        """
        if item.config is not self.config:  # a pytest in a test, in its process
            return self._seam.theirs(item, log=log, nextitem=nextitem)
        self.end_group()
        options = self.options(item)
        if not isinstance(options, SandboxOptions):
            return self._seam.theirs(item, log=log, nextitem=nextitem)
        self.remaining = max(0, self.remaining - 1)
        if runs_bare(item):
            return self._seam.theirs(item, log=log, nextitem=nextitem)
        refusal = self.refusal()
        if refusal and self.unavailable == "run":
            item.warn(pytest.PytestWarning(f"nsbox: runs WITHOUT a sandbox: {refusal}"))
            item.user_properties.append(("nsbox", "ran WITHOUT a sandbox"))
            return self._seam.theirs(item, log=log, nextitem=nextitem)
        group = None
        if not driven:
            group = group_of(item, options, self.options_here, self._filters, self._runs_ahead)
        run = ItemRun(
            item, nextitem, options, self.share,
            log=log, driven=driven, group=group,
        )  # fmt: skip
        if group is not None and self._death[0] is group.node and self._death[1]:
            run.note = f"a new sandbox: the test process has died in {self._death[1]}"
        try:
            if refusal:
                run.refuse(refusal, skip=self.unavailable == "skip")
            else:
                for each in group.indices if group else [item]:
                    self.prepare_basetemp(each)
                if fixtures.hooks_may_prevent_setup(item, group.node if group else None):
                    run.rehearses = True
                    self.run_alone(run)
                if not run.rehearses:
                    if run.set_up_broad():
                        self.run_alone(run)
                    else:
                        run.report_setup()
            self.finish(run)
        finally:
            run.close()
        return run.reports

    def options_here(self, item: pytest.Item) -> object:
        """The item's options, None where another plugin is to run it."""
        return None if self._seam.is_for(item) else self.options(item)

    def refusal(self) -> str:
        """Why this machine gives us no sandbox, "" if it does; tried once, for real."""
        if os.getpid() != self.pid:
            return (
                "another plugin has forked pytest to run this test, and sandboxes belong to the "
                "process that asked for them; leave its option out (--forked and the like)"
            )
        if self._refusal is None:
            kind = self.look_around()(SandboxOptions())
            try:
                self.client.put_back(kind, self.retried(lambda: self.client.acquire(kind)))
                self._refusal = ""
            except SandboxError as error:
                reason = explain(error)
                lasts = isinstance(error, Refused) and not error.is_of_a_moment()
                if lasts or isinstance(error, Unanswered):
                    self._refusal = reason
                return reason
        return self._refusal

    def run_alone(self, run: ItemRun) -> None:
        """Run the item's test process from start to end."""
        with self.fleet.interrupted_gently():
            if refusal := self.start_run(run):
                run.refuse(refusal, skip=False)
            else:
                self.fleet.drain()

    def start_run(self, run: ItemRun) -> str:
        """Start the test process of the item, whose broad fixtures are set up; else say why not."""
        run.ihook.pytest_nsbox_fork(item=run.item)
        if not self._has_forked:
            self._has_forked = True
            if self.huge_pages == "always" or (
                self.huge_pages == "auto" and heap.pays(self.remaining)
            ):
                heap.collapse()
                self.stock.collapses = False
        later = self.remaining - (len(run.group.others) if run.group else 0)
        try:
            self._start(run, later)
        except SandboxError as error:
            return explain(error)
        except OSError as error:
            return f"cannot start the test process: {error}"
        return ""

    def _start(self, run: ItemRun, later: int) -> None:
        """Start it, and prepare what comes after it. Raises SandboxError, OSError.

        ``later``: how many test processes will be wanted after this one.
        """
        ahead = max(0, min(later, self.fleet.jobs + 1))
        kind_for = self.look_around()
        kind = kind_for(run.options)
        if not self.stock.take(run, kind, self.surroundings.generation, self.fleet.board):
            self.retried(lambda: self.launch(run, kind, ahead))
        self.fleet.see_off()
        if later > 0:

            def key_of(item: pytest.Item) -> tuple[SandboxOptions, Kind] | None:
                options = self.options_here(item)
                if not isinstance(options, SandboxOptions):
                    return None
                return options, kind_for(options)

            acquire = partial(self.client.acquire, ahead=ahead)
            generation = self.surroundings.generation
            kind = self.stock.refill(run, kind, generation, key_of, acquire)
            with contextlib.suppress(SandboxError):  # whoever acquires one will be told
                self.client.prefetch(kind, ahead=ahead)
        self.fleet.reap()  # now that the next ones are on their way: an exit takes a millisecond

    def launch(self, run: ItemRun, kind: Kind, ahead: int) -> None:
        """Start it in a new sandbox. Raises SandboxError, and nothing of the test has run then."""
        sandbox = self.client.acquire(kind, ahead=ahead)
        timing.mark(self.config, "acquire")
        if sandbox.lacks:
            lacks = ("nsbox", f"in a sandbox WITHOUT its own {', '.join(sandbox.lacks)}")
            for item in run.group.indices if run.group else [run.item]:
                if lacks not in item.user_properties:
                    item.user_properties.append(lacks)
        try:
            # Two processes that write into one file, and empty it, are not to do so at once.
            own_output = self.fleet.jobs > 1 or bool(run.group and run.group.runs_ahead)
            launch(run, sandbox, self.fleet.board, own_output=own_output, in_child=self.close_fds)
        except BaseException:
            if not self.fleet.has(run):  # with a ^C, which has waited for that
                with contextlib.suppress(SandboxError):
                    sandbox.close()
            raise

    def conclude(self, flight: Flight) -> None:
        """The end of an item whose test process has ended, and is told of."""
        run = flight.run
        timing.mark(self.config, "wait")
        flight.verdict()
        self.close(flight)
        timing.mark(self.config, "verdict, close")
        if run.is_concurrent:
            if run.session.shouldfail or run.session.shouldstop:
                self.fleet.abandon()  # what they use is torn down now
                run.tear_down_later_ones()
            run.tear_down_broad()
            run.close()

    def close(self, flight: Flight) -> None:
        """Close the sandbox, after what is to be kept is copied out."""
        run, basetemp = flight.run, basetemp_of(self.config)
        keep = self.places.kept(run.options)
        carry = [(basetemp, False)] if basetemp else []
        carry += [(path, True) for path in keep]
        if run.will_be_repeated():
            carry = []
        try:
            self.not_copied += flight.sandbox.close(carry, wait=run.is_waited_for())
        except SandboxError as error:
            self.not_copied.append(f"what {run.item.nodeid} has written: {error}")

    def look_around(self) -> Callable[[SandboxOptions], Kind]:
        """The kind of sandbox, by a test's options, that there is to be now."""
        # Test processes of before would know of other children than there are.
        ours = [*self.fleet.pids(), *self.stock.pids(), *self.client.pids()]
        return self.surroundings.look(ours, self.stock.end)

    def retried(self, attempt: Callable[[], T]) -> T:
        """The attempt's result, of another one where it has failed, with a new supervisor.

        A supervisor may die, with all that it has made ahead (an out-of-memory killer, an operator).
        """
        for _ in range(_REPLACEMENTS):
            try:
                return attempt()
            except SandboxError as error:
                if isinstance(error, Refused) and not error.is_of_a_moment():
                    raise
                self.fleet.drain()  # a new supervisor knows nothing of their sandboxes
                self.stock.end()
                self.client.stop()
                if isinstance(error, Unanswered):  # to wait for that once is long enough
                    break
        # Not above: what is raised in the test process would have our error for its context.
        return attempt()

    def prepare_basetemp(self, item: pytest.Item) -> None:
        """Have basetemp made by us before the sandbox, which then shows it."""
        if uses_basetemp(item):
            make_basetemp(self.config)


def explain(error: SandboxError) -> str:
    """The refusal, its likely cause and the remedy."""
    from pytest_nsbox.sandbox import advice

    return advice.explain(error)
