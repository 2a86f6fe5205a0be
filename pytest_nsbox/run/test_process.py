"""The test process: the ordinary runtestprotocol in a sandbox, its reports sent home.

Everything here runs after the fork and ends in ``os._exit``: a test process must never unwind into
the session that it has a copy of.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from posix import _exit  # not os._exit: a test may replace that, coverage saves its data in it
from typing import Any, Literal

import pytest
from _pytest.logging import caplog_records_key
from _pytest.outcomes import Exit
from _pytest.runner import runtestprotocol

from pytest_nsbox.options import SandboxOptions
from pytest_nsbox.run import basetemp, fixtures, forked, junit, leftovers, screen, timing, wire
from pytest_nsbox.run.group import Group, location_after, scope_node
from pytest_nsbox.run.home import Home
from pytest_nsbox.run.inherited import Inherited
from pytest_nsbox.run.owners import is_of
from pytest_nsbox.run.reports import (
    Said,
    count_subtests,
    forget_our_frames,
    frames_of,
    render,
    shorten,
    warning_to_send,
)
from pytest_nsbox.sandbox import pages
from pytest_nsbox.sandbox.processes import Process, processes
from pytest_nsbox.sandbox.terminal import foreground

# By which the controller asks for the stacks of all threads before it kills a test that has timed
# out. faulthandler's handler is C and needs no GIL; real-time signals are rarely anybody's.
STACKS_SIGNAL = signal.SIGRTMAX - 1

# Taken now: a test may replace them, and its process must still know itself, and end.
_getpid = os.getpid


class Relay:
    """The plugin by which a test process hears of reports and its next item; deaf in the controller.

    Registered there, once, since that costs a millisecond.
    """

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Literal[True] | None:
        if current is None or current.item is not item:
            return None
        current.run_next(nextitem)
        return True

    # Not a wrapper of the setup, which would be a frame of its tracebacks.
    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> None:
        if call.excinfo is not None:
            forget_our_frames(call.excinfo.value)
        if current is not None and call.when == "setup":
            current.inherited.complete()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if current is not None:
            current.relay(report)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_enter_pdb(self) -> Generator[None, object, object]:
        if current is not None:
            current.take_terminal()
        return (yield)


#: The test process that this is, if it is one: what the ``sandbox`` fixture asks.
current: TestProcess | None = None


class TestProcess:
    """One item in one sandbox, or those of a group."""

    __test__ = False

    item: pytest.Item  # the one that runs

    def __init__(
        self,
        config: pytest.Config,
        *,
        is_shared: bool = False,
        rehearses: bool = False,
        rehearsed: bool = False,
        in_step: bool = False,
        group: Group | None = None,
        filters: Sequence[Any] = (),
        threads: Sequence[str] = (),
    ) -> None:
        """``is_shared``: whether the controller has done more of the setup than to find it done.

        ``group``: of whose items it runs one after the other; None: it runs one.
        ``filters``: of warnings, as they are around each test that it is told to run.
        ``threads``: the names of those of broad-scoped fixtures, which it does not have.
        """
        self.config = config
        self.session: pytest.Session = config.pluginmanager.getplugin("session")
        self.kept: list[object] = []  # of the controller: to let go of it would write to its pages
        self.filters = group.filters if group is not None else filters
        self.threads = threads
        self.goes_on = group is not None
        self.in_step = in_step  # whether the controller puts something out meanwhile
        self.join(group)
        self.is_ahead = False  # of the controller, with the item that comes next
        self.memory: list[tuple[int, int]] = []  # of a template, whose fork this is
        self.teaches = False  # what of it a test has written to
        self.rehearses = rehearses
        # While setup hooks repeat what they rehearsed.
        self.mute = screen.Mute(config) if rehearsed else None
        self.is_shared = is_shared

    def join(self, group: Group | None) -> None:
        """Be the one that runs the items of that group."""
        self.group = group
        self.runs_ahead = group is not None and group.runs_ahead and not self.in_step

    def begin(self, options: SandboxOptions, home: Home) -> None:
        """From here on this is the process that we are in."""
        global current
        self.options = options
        self.home = home
        self.pid = _getpid()
        current = self

    def take(self, item: pytest.Item, *, is_shared: bool) -> None:
        """Let this be the item that runs."""
        self.item = item
        self.is_first = False
        self.inherited = Inherited(item, is_shared=is_shared)
        self.has_failed = False
        self.xml = junit.Recorded(item)
        self.told: list[tuple[pytest.TestReport, set[str]]] = []  # reports and what they held
        self.said = Said()

    def is_copy(self) -> bool:
        """Whether this is a child that the test forked, and that has come back: it has no say."""
        return _getpid() != self.pid

    def run(self, item: pytest.Item, nextitem: pytest.Item | None, *, log: bool) -> None:
        """Run the item, and those that the controller then names."""
        self.take(item, is_shared=self.is_shared)
        self.is_first = True  # whose broad-scoped setup was the controller's
        self.become_test_process(log=log)
        screen.keep_heading(self.config, "setup")
        if self.config.option.capture == "no" and os.isatty(0):
            self.take_terminal()
        self.run_item(nextitem)
        if self.goes_on:
            self.keep_wrappers()
        self.go_on()

    def go_on(self) -> None:
        """Run what else there is of the group."""
        while self.goes_on and not self.is_copy():
            self.obey(self.next_order())

    def become_ready(self) -> None:
        """Do all that can be done in a template, for what is forked from it."""
        self.become_test_process(log=True)
        self.keep_wrappers()

    def run_when_told(self) -> None:
        """Wait for the controller to name an item, and run that, and its group."""
        order = self.home.answer()
        if (spent := timing.of(self.config)) is not None:
            spent.skip()
        self.teaches = order["teaches"]
        items, first = self.session.items, order["run"]
        item = items[first]
        if order["goes_on"]:
            members, node = items[first : order["last"] + 1], scope_node(item, self.options.scope)
            self.join(Group.at(first, members, node, self.filters, order["runs_ahead"]))
        self.state.begin_at(item)
        self.obey(order)
        self.teaches = False
        self.go_on()

    def become_test_process(self, *, log: bool) -> None:
        self.kept.append(self.session._setupstate)
        self.state = fixtures.use_test_process_state(self.session, self.begin_setup)
        self.become_the_reporter(counting=log)
        self.basetemp = basetemp.Use(self.config, self.ask_for_basetemp)
        screen.before_debugger(self.wait_until_told)

    def ask_for_basetemp(self) -> str | None:
        return None if self.is_copy() else self.ask("basetemp")

    def run_item(self, nextitem: pytest.Item | None) -> None:
        """Run the item, and say how that ended."""
        if self.config.pluginmanager.hasplugin("warnings"):
            warnings._showwarnmsg_impl = self.warn  # type: ignore[attr-defined]
        self.state.goes_on = self.goes_on

        def act() -> None:
            self.item.ihook.pytest_nsbox_enter(item=self.item)
            runtestprotocol(self.item, log=True, nextitem=nextitem)
            if self.goes_on and (self.session.shouldfail or self.session.shouldstop):
                self.goes_on = self.state.goes_on = False
                if self.state.stack:  # that it stops came out in the teardown
                    self.tear_down()

        self.do(act)

    def next_order(self) -> Mapping[str, Any]:
        """What to do now: as the controller says, or what it will say, unless it says to end."""
        if not self.is_ahead or self.home.is_told_something():
            return self.home.answer()  # type: ignore[no-any-return]
        assert self.group is not None
        run = self.group.indices[self.item] + 1
        following = self.session.items[run + 1 : run + 2]
        return {
            "run": run,
            "next": run + 1 if following else None,
            "goes_on": bool(following) and following[0] in self.group.indices,
            "screen": None,
            "testsfailed": self.session.testsfailed,
            "number": 0,
            "location": location_after(self.session.items[run], self.item),
        }

    def obey(self, order: Mapping[str, Any]) -> None:
        """Run the item that is named, within what there is around each; or none, and end."""
        if order["run"] is None:
            self.send("parting")
            self.item = self.session.items[order["of"]]  # we may have been ahead of it
            self.goes_on = self.state.goes_on = False
            self.do(self.part)
            return
        items = self.session.items
        item = items[order["run"]]
        nextitem = None if order["next"] is None else items[order["next"]]
        self.goes_on = order["goes_on"]
        self.take(item, is_shared=False)
        screen.adopt(self.config, order["screen"])
        self.session.testsfailed = order["testsfailed"]
        basetemp.adopt_number(item, order["number"])
        if order["location"] is not None:
            # A cached property, which the line with its name has taken the controller to look up.
            vars(item)["location"] = tuple(order["location"])
        warnings.filters[:] = self.filters  # type: ignore[index]
        if self.has_strangers:  # the controller has them put out what they do
            self.mute = screen.Mute(self.config)
        item.ihook.pytest_runtest_protocol(item=item, nextitem=nextitem)
        self.unmute()

    def run_next(self, nextitem: pytest.Item | None) -> None:
        self.unmute()
        self.run_item(nextitem)
        if self.has_strangers:
            with contextlib.suppress(OSError):  # a test may have closed what there is to be muted
                self.mute = screen.Mute(self.config)

    def keep_wrappers(self) -> None:
        """Have nobody but us run the next item, within what is around each (warnings, faulthandler)."""
        caller = self.config.hook.pytest_runtest_protocol
        wrappers = [i for i in caller.get_hookimpls() if i.wrapper or i.hookwrapper]
        ours = [i for i in caller.get_hookimpls() if isinstance(i.plugin, Relay)]
        caller._hookimpls[:] = [*ours, *wrappers]
        self.has_strangers = any(
            not is_of(i.function, "_pytest.", "pytest_nsbox.") for i in wrappers
        )

    def part(self) -> None:
        """Tear down after the last item, which plugins have collected already what they wanted of."""
        try:
            self.item.ihook.pytest_nsbox_enter(item=self.item)
        finally:
            self.tear_down()

    def tear_down(self) -> None:
        """Tear down what an item to come would have shared, and tell how that went."""
        item = self.item
        item.stash.setdefault(caplog_records_key, {})
        hook = fixtures.shared_hooks(self.config)["teardown"]
        call = pytest.CallInfo.from_call(
            partial(hook, item=item, nextitem=None), "teardown", (Exit, KeyboardInterrupt)
        )
        self.relay(item.ihook.pytest_runtest_makereport(item=item, call=call))

    def do(self, act: Callable[[], None]) -> None:
        """Do it, and say how that ended."""
        session, hook = self.session, self.item.ihook
        try:
            act()
        except Exit as error:
            self.be_caught_up()
            self.finish()
            self.send(
                "exit", added=self.added(), reason=str(error.msg), returncode=error.returncode
            )
        except KeyboardInterrupt as error:
            self.be_caught_up()
            self.finish()
            self.send("interrupt", text=[str(arg) for arg in error.args], frames=frames_of(error))
        except wire.Lost:
            self.finish()
            raise
        else:
            timing.mark(self.config, "item protocol")
            if self.goes_on:
                faulthandler.cancel_dump_traceback_later()
            else:
                forked.collect(self.config)
            collected = hook.pytest_nsbox_collect(item=self.item)
            timing.mark(self.config, "collect")
            self.carry(collected)
            spent = timing.of(self.config)
            screen.flush(self.config)  # once it is told that we end, nobody waits for us
            # A failure may be the last of the run (-x, --stepwise, a plugin): there we wait.
            self.is_ahead = self.runs_ahead and self.goes_on and not self.has_failed
            self.send(
                "end",
                screen=screen.state(self.config),
                added=self.added(),
                goes_on=self.goes_on,
                ahead=self.is_ahead,
                shouldfail=session.shouldfail,
                shouldstop=session.shouldstop,
                timing=None if spent is None else spent.spent(),
                basetemp=self.basetemp.is_used,
                number=basetemp.next_number(self.item),
                pages=pages.written(self.memory) if self.teaches else [],
            )

    def begin_setup(self) -> None:
        """The setup hooks have let the test go on: here is where fixtures are set up."""
        if self.rehearses:
            output = self.inherited.of_hooks()
            self.send("go on", output=output, screen=screen.state(self.config))
            screen.flush(self.config)
            _exit(0)
        self.unmute()
        if not self.is_first:
            self.item.ihook.pytest_nsbox_setup(item=self.item)
        self.inherited.take_place()

    def unmute(self) -> None:
        if self.mute is not None:
            self.mute.end()
            self.mute = None

    def carry(self, collected: list[Mapping[str, Any]]) -> None:
        """Send home what plugins have collected."""
        data = {name: value for answer in collected for name, value in answer.items()}
        if data:
            self.send("carried", later=True, data=data)

    def become_the_reporter(self, *, counting: bool) -> None:
        """From here on a report is heard by us, and by the session if it is to count for --maxfail.

        The terminal, junitxml, xdist's worker and all the others must hear it once, in the
        controller.  The hooks and not ``log=False``, since subtests call the hook themselves.
        """
        hook = self.config.hook
        for caller in (hook.pytest_runtest_logreport, hook.pytest_warning_recorded):
            # unregister() would look at every hook there is: 1 ms.
            self.kept.append(caller._hookimpls)
            caller._hookimpls = [  # type: ignore[misc]
                implementation
                for implementation in caller._hookimpls
                if (counting and implementation.plugin is self.session)
                or type(implementation.plugin) is Relay
            ]

    def be_caught_up(self) -> None:
        """Wait until all is told of what was before, if we are ahead: what we put out comes after."""
        if self.runs_ahead:
            self.wait_until_told()

    def wait_until_told(self) -> None:
        """Let the controller put out first what it has to."""
        if not self.is_copy():
            with contextlib.suppress(RuntimeError, wire.Lost):
                self.ask("catch up")

    def finish(self) -> None:
        """Tear down what an Exit or an interrupt has left set up."""
        self.goes_on = self.state.goes_on = False
        with contextlib.suppress(BaseException):
            self.item.session._setupstate.teardown_exact(None)

    def relay(self, report: pytest.TestReport) -> None:
        """Send a report home."""
        if self.is_copy():
            return
        self.unmute()
        config = self.config
        self.has_failed |= report.failed
        count_subtests(report, config)
        if report.failed and not hasattr(report, "context"):
            found = self.leftovers()
            if found:
                report.sections.append(("sandbox", found))
        try:
            self.send_report(report)
        except wire.TooLong:
            shorten(report)
            self.send_report(report)

    def send_report(self, report: pytest.TestReport) -> None:
        config = self.config
        data = config.hook.pytest_report_to_serializable(config=config, report=report)
        left = self.said.left_of(data)
        self.send(
            "report",
            data=data if left is None else left,
            whole=left is None,
            rendered=render(report, config),
            xml=self.xml.news(),
            screen=screen.state(config),
            waits=self.in_step,
            later=not (self.in_step or hasattr(report, "context")),
        )
        if left is not None:
            self.said.keep(left)
        self.told.append((report, set(vars(report))))
        if self.in_step:  # until the controller has told of it nothing else is put out
            screen.adopt(config, self.home.answer())

    def added(self) -> list[dict[str, Any]]:
        """What plugins have written on each report after it was told (pdb: that it was shown)."""
        added = [
            {name: value for name, value in vars(report).items() if name not in held}
            for report, held in self.told
        ]
        return added if any(added) else []

    def take_terminal(self) -> None:
        """Become the terminal's foreground group, to read from it; the controller takes it back."""
        self.send("terminal")
        foreground(os.getpgrp())

    # ------------------------------------------------------------------ talking

    def send(self, type: str, *, later: bool = False, **values: object) -> None:
        """Send a message home; what JSON cannot say goes as its repr, and a warning names it.

        ``later``: it may wait for the next one, see wire.Held.
        """
        if self.is_copy() and type != "ask":
            return
        timing.mark(self.config, "item protocol")
        foreign = self.home.tell(wire.brief({"type": type, **values}), later=later)
        timing.mark(self.config, "send")
        for text in foreign:
            told = pytest.PytestWarning(
                f"nsbox: a report holds {text:.200}, which JSON cannot express: "
                "it arrives as its repr"
            )
            path, line = self.item.location[0], (self.item.location[1] or 0) + 1
            self.warn(warnings.WarningMessage(told, pytest.PytestWarning, path, line))

    def ask(self, type: str) -> Any:
        """Send a question home, and wait for the answer."""
        self.send(type)
        return self.home.answer()

    def warn(self, warning: warnings.WarningMessage) -> None:
        """Where ``catch_warnings`` of the controller recorded: streams, so that a crash loses none."""
        if self.mute is None:
            self.send("warning", later=True, **warning_to_send(warning))

    def leftovers(self) -> str:
        """The section of a failed test's report: what it has changed, and what it left running."""
        with contextlib.suppress(Exception):
            return leftovers.describe(self.ask("changes"), self.processes(), self.threads)
        return ""

    def processes(self) -> list[Process]:
        """What is alive in the sandbox beside init and this process."""
        return [p for p in processes() if p.pid not in (1, _getpid())]
