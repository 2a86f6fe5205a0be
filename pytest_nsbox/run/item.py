"""One item in a sandbox, seen from the pytest process: set up, fork, relay, tear down, one verdict.

What an item's run needs is kept in its ``ItemRun``, not in the session, so that several may be in
flight.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from _pytest.logging import caplog_records_key
from _pytest.outcomes import Exit
from _pytest.runner import CallInfo, check_interactive_exception
from _pytest.skipping import evaluate_skip_marks, evaluate_xfail_marks, xfailed_key

from pytest_nsbox.options import SandboxOptions
from pytest_nsbox.run import basetemp, fixtures, inherited, junit, leftovers, screen, timing, wire
from pytest_nsbox.run.group import Group
from pytest_nsbox.run.inherited import Section, add_to_report, joined
from pytest_nsbox.run.reports import Said, relay_warning, restored, with_frames
from pytest_nsbox.run.running import Running
from pytest_nsbox.sandbox.belongings import Belongings
from pytest_nsbox.sandbox.client import Sandbox, SandboxError

_RERAISE = (Exit, KeyboardInterrupt)


def runs_bare(item: pytest.Item) -> bool:
    """Whether the item needs no sandbox whatever its marker says, for nothing of it will run.

    A test that is skipped before its setup must not cost a fork, nor set up its module's fixtures;
    nor do --setup-only and --setup-plan run anything.
    """
    if item.config.option.setuponly or item.config.option.setupplan:
        return True
    try:
        if evaluate_skip_marks(item):
            return True
        xfailed = evaluate_xfail_marks(item)
    except BaseException:
        return True  # a bad condition, which the default protocol reports
    # makereport wants it when the test process dies; skipping.py keeps it there as well.
    item.stash[xfailed_key] = xfailed
    return bool(xfailed and not item.config.option.runxfail and not xfailed.run)


class Share(NamedTuple):
    """What the controller's share of a phase needs."""

    hooks: dict[str, Callable[..., Any]]  # by phase
    reap: Callable[[], None]  # before it: a fixture is to find no child that is not its own
    belongings: Belongings
    threads: Callable[[], list[str]]  # the names of those that broad-scoped fixtures have started


class ItemRun:
    """The run of one item."""

    def __init__(
        self,
        item: Any,
        nextitem: pytest.Item | None,
        options: SandboxOptions,
        share: Share,
        *,
        log: bool = True,
        driven: bool = False,
        concurrent: bool = False,
        group: Group | None = None,
    ) -> None:
        self.item = item
        self.nextitem = nextitem
        self.options = options
        self.share = share
        self.is_logged = log  # or whoever called looks at the reports first
        self.is_driven = driven  # by another plugin, which may have put finalizers aside
        self.is_concurrent = concurrent  # with others, and told of in its turn
        self.group = group  # of the items that share its sandbox
        self.note = ""  # for its reports
        self.is_announced = False
        self.warned: list[warnings.WarningMessage] = []  # before that
        self.has_left = False
        self.is_shared = True  # its setup, in part: the controller may have put something out
        self.reports: list[pytest.TestReport] = []
        # What plugins have collected in the test process; twice, where it has torn down later.
        self.carried: list[dict[str, Any]] = []
        self.learn: Callable[[list[int]], None] | None = None  # what pages are written to
        self.session: pytest.Session = item.session
        self.config: pytest.Config = item.config
        self.ihook = item.ihook  # which pytest looks up anew each time
        self.broad: CallInfo[None] | None = None
        self.reported: dict[str, str] = {}  # phases, and their outcomes
        self.told: list[pytest.TestReport] = []
        self.said = Said()
        self.teardown: pytest.TestReport | None = None  # the test process's, held back
        self.has_ended = False
        self.waits = False  # its test process, for another item of the group
        self.is_ahead = False  # or has begun with it
        self.has_died = False
        self.is_over = False  # all of it is told
        self.uses_basetemp = basetemp.uses_basetemp(item)
        # Where a hook may end the test before the broad fixtures are set up, a first test process
        # runs the setup hooks; if they let the test go on, that process ends and all starts anew.
        self.rehearses = False
        self.rehearsed = False
        self.output_of_hooks: list[Section] = []
        self._made_setup_report = False

    # ------------------------------------------------------------------ broad scope

    def set_up_broad(self) -> bool:
        """Set up collectors and broad-scoped fixtures; False if that failed."""
        item = self.item
        if hasattr(item, "_request") and not item._request:
            item._initrequest()
        node, others = (self.group.node, self.group.others) if self.group else (None, ())
        if fixtures.is_set_up(item, node, others):
            # The hooks of pytest would be half a millisecond for nothing.
            fixtures.enter(item, node)
            tell = functools.partial(self.ihook.pytest_nsbox_setup, item=item)
            self.broad = CallInfo.from_call(tell, when="setup", reraise=_RERAISE)
            inherited.forget(self.config)
            self.is_shared = False
        else:
            self.share.belongings.begin()
            with fixtures.broad_only(item, node, others):
                self.broad = self.call("setup", item=item)
            self.share.belongings.end()
        timing.mark(self.config, "broad setup")
        if self.broad_failed:
            item._report_sections[:] = joined(self.output_of_hooks, item._report_sections)
        return not self.broad_failed

    @property
    def broad_failed(self) -> bool:
        return self.broad is not None and self.broad.excinfo is not None

    def report_setup(self) -> None:
        """Report that the collectors or the broad-scoped fixtures could not be set up."""
        assert self.broad is not None
        self.log(self.make_report(self.broad), self.broad)

    def leave(self) -> None:
        """Have the item no longer active, since another one is to be: nothing is torn down."""
        fixtures.leave(self.session, self.nextitem)
        self.has_left = True

    def tear_down_broad(self) -> None:
        """Tear down what the next item does not share, and give the one report of the teardown."""
        item = self.item
        # From runtestprotocol: a stopping session tears everything down (#11706).
        stops = self.session.shouldfail or self.session.shouldstop
        nextitem = None if stops else self.nextitem
        before = len(item._report_sections)
        if not self.has_left and not stops and not self.has_something_to_tear_down():
            self.leave()
        if self.has_left and not stops:
            call = CallInfo.from_call(self.apply, when="teardown", reraise=_RERAISE)
        else:
            with fixtures.before_teardown(item, self.apply):
                call = self.call("teardown", item=item, nextitem=nextitem)
        timing.mark(self.config, "teardown")
        new = item._report_sections[before:]
        held = self.teardown
        if held is None:
            self.log(self.make_report(call), call)
            return
        add_to_report(held, new)
        held.duration += call.duration
        held.stop = call.stop
        if call.excinfo is None:
            self.log(held)
            return
        ours = self.make_report(call)
        if held.failed:
            held.sections.append(("broad-scoped teardown failed too", ours.longreprtext))
        else:
            held.outcome, held.longrepr = ours.outcome, ours.longrepr
        self.log(held, call)

    def has_something_to_tear_down(self) -> bool:
        return (
            self.is_driven
            or fixtures.tears_down(self.session, self.nextitem)
            or fixtures.has_late_exceptions(self.config)
        )

    def apply(self) -> None:
        """Have plugins take in what they have collected in the test process."""
        for data in self.carried or [{}]:
            self.ihook.pytest_nsbox_apply(item=self.item, nextitem=self.nextitem, data=data)

    def apply_late(self) -> None:
        """The same of a teardown that came after the item was told of; what is raised is told too."""
        call = CallInfo.from_call(self.apply, when="teardown", reraise=_RERAISE)
        if call.excinfo is not None:
            self.log(self.make_report(call), call)

    def tear_down_later_ones(self) -> None:
        """Tear down what only items after this one use, of whom nobody is told; nor of this."""
        before = len(self.item._report_sections)
        self.call("teardown", item=self.item, nextitem=self.item)
        del self.item._report_sections[before:]

    def call(self, when: Any, **kwargs: object) -> CallInfo[None]:
        """The controller's share of a phase: pytest's own implementations of its hook."""
        self.share.reap()
        self.item.stash.setdefault(caplog_records_key, {})
        screen.keep_heading(self.config, when)
        hook = self.share.hooks[when]
        # A partial has no frame of its own, which a traceback would show.
        return CallInfo.from_call(functools.partial(hook, **kwargs), when=when, reraise=_RERAISE)

    # ------------------------------------------------------------------ the test process

    def announce(self) -> None:
        """Tell that the item starts, which in the run of one after the other is now."""
        self.is_announced = True
        self.ihook.pytest_runtest_logstart(nodeid=self.item.nodeid, location=self.item.location)
        for warned in self.warned:
            warnings.showwarning(warned.message, warned.category, warned.filename, warned.lineno)

    def close(self) -> None:
        """Let go of what pytest has filled the item with."""
        if hasattr(self.item, "_request"):
            self.item._request = False
            self.item.funcargs = None
        if self.is_concurrent:
            self.ihook.pytest_runtest_logfinish(
                nodeid=self.item.nodeid, location=self.item.location
            )

    @property
    def goes_on(self) -> bool:
        """Whether the next item is to run in the same test process."""
        group = None if self.rehearses else self.group
        return group is not None and self.nextitem in group.indices

    def is_waited_for(self) -> bool:
        """Whether what it has written is to be copied out before the next item begins.

        The next ``tmp_path`` is numbered after this one's.
        """
        return self.uses_basetemp or bool(self.options.keep) or self.group is not None

    def will_be_repeated(self) -> bool:
        """Whether that was a rehearsal, after which the test goes on in another process."""
        return self.rehearsed and self.broad is None

    def receive(self, message: wire.Message, running: Running, sandbox: Sandbox) -> None:
        """Act on one message of the test process."""
        message = wire.completed(message)
        kind = message["type"]
        if kind == "report":
            screen.adopt(self.config, message["screen"])
            junit.adopt(self.item, message["xml"])
            data = self.said.completed(message["data"], whole=message["whole"])
            self.relay_report(restored(data, message["rendered"], self.item))
            if message["waits"]:
                running.answer_later(screen.state(self.config))
        elif kind == "warning":
            relay_warning(message)
        elif kind == "changes":
            found: list[list[str]] = []
            with contextlib.suppress(SandboxError):  # without a supervisor there is nobody to ask
                found = self.changes(sandbox)
            running.answer(found)
        elif kind == "basetemp":
            self.uses_basetemp = True
            running.answer(basetemp.make_basetemp(self.config))
        elif kind == "catch up":
            screen.flush(self.config)
            running.answer_later(None)
        elif kind == "terminal":
            running.has_terminal = True
        elif kind == "carried":
            self.carried.append(message["data"])
        elif kind == "go on":
            self.output_of_hooks = [
                (str(when), str(key), str(text)) for when, key, text in message["output"]
            ]
            self.has_ended = True
            self.rehearses, self.rehearsed = False, True
            screen.adopt(self.config, message["screen"])
        elif kind == "end":
            self.has_ended = True
            self.waits = message["goes_on"] and self.goes_on
            self.is_ahead = message["ahead"]
            self.uses_basetemp |= message["basetemp"]
            basetemp.adopt_number(self.item, message["number"])
            screen.adopt(self.config, message["screen"])
            self.add_to_told(message["added"])
            if self.learn is not None:
                self.learn(message["pages"])
            self.session.shouldfail = self.session.shouldfail or message["shouldfail"]
            self.session.shouldstop = message["shouldstop"] or self.session.shouldstop
            if (spent := timing.of(self.config)) is not None:
                spent.adopt(message["timing"] or {})
        elif kind == "exit":
            self.has_ended = True
            self.add_to_told(message["added"])
            pytest.exit(message["reason"], returncode=message["returncode"])
        elif kind == "interrupt":
            self.has_ended = True
            raise with_frames(KeyboardInterrupt(*message["text"]), message["frames"])
        elif kind == "trouble":
            raise SandboxError(f"the test process could not run its test:\n{message['text']}")

    def add_to_told(self, added: list[dict[str, Any]]) -> None:
        if not added:
            return
        if len(added) != len(self.told) or not all(isinstance(each, dict) for each in added):
            raise wire.Garbled(f"not a message: it adds to {len(added)} reports")
        for report, attributes in zip(self.told, added, strict=True):
            vars(report).update({**attributes, **vars(report)})  # never what was checked

    def relay_report(self, report: pytest.TestReport) -> None:
        self.told.append(report)
        if not hasattr(report, "context"):  # a subtest's is one of the call phase
            self.reported[str(report.when)] = report.outcome
        if report.when == "setup" and self.broad is not None:
            report.duration += self.broad.duration
            report.start = self.broad.start
        if self.note:
            report.sections.append(("sandbox", self.note))
        if hasattr(report, "context"):
            self.ihook.pytest_runtest_logreport(report=report)
        elif report.when == "teardown":
            self.hold(report)
        else:
            self.log(report)

    def hold(self, report: pytest.TestReport) -> None:
        """Keep the report of the teardown; a second one is of what was left for an item to come."""
        if self.teardown is None or not self.teardown.failed:
            self.teardown = report
        elif report.failed:
            self.teardown.sections.append(("broad-scoped teardown failed too", report.longreprtext))

    def current_phase(self) -> Any:
        """The phase that the test process has not yet reported."""
        setup = self.reported.get("setup")
        if setup is None:
            return "setup"
        return "call" if setup == "passed" and "call" not in self.reported else "teardown"

    def refuse(self, reason: str, *, skip: bool) -> None:
        """Report that there is no sandbox for the item."""

        def raise_it() -> None:
            if skip:
                pytest.skip(f"no sandbox: {reason}")
            pytest.fail(f"no sandbox for this test: {reason}", pytrace=False)

        call = CallInfo.from_call(raise_it, when="setup")
        self.log(self.make_report(call), call)

    def report_death(
        self, call: CallInfo[None], sandbox: Sandbox, stacks: str, output: list[str] | None
    ) -> None:
        """The report of the phase in which the test process ended, or our waiting for it did."""
        self.has_died = True
        self.salvage_output(call.when, output)
        report = self.make_report(call)
        if stacks:
            report.sections.append(("Python stacks", stacks))
        try:
            found = leftovers.describe(
                self.changes(sandbox), sandbox.processes(), self.share.threads()
            )
        except (SandboxError, OSError) as error:
            found = str(error)  # it may be why
        if found:
            report.sections.append(("sandbox", found))
        if call.when == "teardown":
            self.teardown = report
        else:
            self.log(report, call)

    def changes(self, sandbox: Sandbox) -> list[list[str]]:
        place = basetemp.basetemp_of(self.config)
        cache = getattr(self.config, "cache", None)
        left_out = [place] if place else []
        left_out += [str(cache._cachedir)] if cache is not None else []
        return [list(change) for change in sandbox.changes(left_out)]

    def salvage_output(self, when: str, output: list[str] | None) -> None:
        """What a dead test process had put out lies in its files, or in those we share with it."""
        capture = self.config.pluginmanager.getplugin("capturemanager")
        if output is None and capture is not None and capture._global_capturing is not None:
            output = capture.read_global_capture()
        for key, text in zip(("stdout", "stderr"), output or (), strict=False):
            self.item.add_report_section(when, key, text)

    # ------------------------------------------------------------------ reports

    def make_report(self, call: CallInfo[None]) -> pytest.TestReport:
        # Plugins rely on a setup report before the others in the same process (rerunfailures does).
        if call.when != "setup" and not self._made_setup_report and self.broad is not None:
            self.make_report(self.broad)
        self._made_setup_report |= call.when == "setup"
        report: pytest.TestReport = self.ihook.pytest_runtest_makereport(item=self.item, call=call)
        return report

    def log(self, report: pytest.TestReport, call: CallInfo[None] | None = None) -> None:
        self.reports.append(report)
        if self.is_logged:
            self.ihook.pytest_runtest_logreport(report=report)
        if (
            call is not None
            and call.excinfo is not None
            and check_interactive_exception(call, report)
        ):
            self.ihook.pytest_exception_interact(node=self.item, call=call, report=report)
