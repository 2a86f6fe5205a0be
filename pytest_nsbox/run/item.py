"""One item in a sandbox, seen from the pytest process: set up, fork, relay, tear down, one verdict.

Starting an item (``ItemRun.start``) and finishing it (``finish``) are two steps, so that several may
be in flight; what an item's run needs is kept in its ``ItemRun``, not in the session.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from _pytest.logging import caplog_records_key
from _pytest.outcomes import Exit
from _pytest.runner import CallInfo, check_interactive_exception
from _pytest.skipping import evaluate_skip_marks, evaluate_xfail_marks, xfailed_key

from pytest_nsbox.options import SandboxOptions
from pytest_nsbox.run import fixtures, screen, verdict, wire
from pytest_nsbox.run import test_process as child
from pytest_nsbox.run.inherited import add_to_report
from pytest_nsbox.run.reports import Rendered, relay_warning, restored, with_frames
from pytest_nsbox.run.running import Running
from pytest_nsbox.sandbox.client import Sandbox, SandboxError

_RERAISE = (Exit, KeyboardInterrupt)
_INTERRUPT_GRACE = 10.0  # seconds for a test process to tear down after ^C, unless ^C comes again


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


class ItemRun:
    """The run of one item."""

    def __init__(
        self,
        item: Any,
        nextitem: pytest.Item | None,
        options: SandboxOptions,
        hooks: dict[str, Callable[..., Any]],
        *,
        log: bool = True,
    ) -> None:
        self.item = item
        self.nextitem = nextitem
        self.options = options
        self.hooks = hooks  # of the controller's share of a phase
        self.is_logged = log  # or whoever called looks at the reports first
        self.reports: list[pytest.TestReport] = []
        self.carried: dict[str, Any] = {}  # what plugins have collected in the test process
        self.session: pytest.Session = item.session
        self.config: pytest.Config = item.config
        self.broad: CallInfo[None] | None = None
        self.reported: dict[str, str] = {}  # phases, and their outcomes
        self.teardown: pytest.TestReport | None = None  # the test process's, held back
        self.has_ended = False
        self._made_setup_report = False

    # ------------------------------------------------------------------ broad scope

    def set_up_broad(self) -> bool:
        """Set up collectors and broad-scoped fixtures; False if that failed, and is reported."""
        item = self.item
        if hasattr(item, "_request") and not item._request:
            item._initrequest()
        with fixtures.broad_only(item):
            self.broad = self.call("setup", item=item)
        if self.broad.excinfo is None:
            return True
        self.log(self.make_report(self.broad), self.broad)
        return False

    def tear_down_broad(self) -> None:
        """Tear down what the next item does not share, and give the one report of the teardown."""
        item = self.item
        # From runtestprotocol: a stopping session tears everything down (#11706).
        stops = self.session.shouldfail or self.session.shouldstop
        nextitem = None if stops else self.nextitem
        before = len(item._report_sections)
        with fixtures.before_teardown(item, self.apply):
            call = self.call("teardown", item=item, nextitem=nextitem)
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

    def apply(self) -> None:
        """Have plugins take in what they have collected in the test process."""
        self.item.ihook.pytest_nsbox_apply(
            item=self.item, nextitem=self.nextitem, data=self.carried
        )

    def call(self, when: Any, **kwargs: object) -> CallInfo[None]:
        """The controller's share of a phase: pytest's own implementations of its hook."""
        self.item.stash.setdefault(caplog_records_key, {})
        screen.keep_heading(self.config, when)
        hook = self.hooks[when]
        # A partial has no frame of its own, which a traceback would show.
        return CallInfo.from_call(functools.partial(hook, **kwargs), when=when, reraise=_RERAISE)

    # ------------------------------------------------------------------ the test process

    def start(self, sandbox: Sandbox) -> Running:
        """Fork the test process.

        Raises SandboxError if it has not come about, OSError if it had to be killed.
        """
        screen.flush(self.config)
        if self.config.pluginmanager.hasplugin("faulthandler"):
            # A watchdog is a thread, which a fork does not copy: cancelling it in the child waits
            # for it for ever, and pytest does so on every failure. The child starts its own.
            faulthandler.cancel_dump_traceback_later()
        state, cwd = random.getstate(), os.getcwd()
        started = time.monotonic()
        with contextlib.ExitStack() as ours:
            pid = -1
            try:
                with contextlib.ExitStack() as theirs:
                    # Pipes and not a socket pair: a test may list its process' connections.
                    reports, send_reports = os.pipe()
                    ours.callback(os.close, reports)
                    theirs.callback(os.close, send_reports)
                    read_answers, answers = os.pipe()
                    ours.callback(os.close, answers)
                    theirs.callback(os.close, read_answers)
                    stacks = os.memfd_create("nsbox-stacks")
                    ours.callback(os.close, stacks)
                    last_words = wire.LastWords()
                    pid = sandbox.fork()
                    if pid == 0:
                        os.close(reports)
                        os.close(answers)
                        home = child.Home(wire.Writer(send_reports), read_answers, last_words)
                        child.run(
                            self.item, self.nextitem, self.options, home, stacks, state,
                            log=self.is_logged, enter=sandbox.enter, cwd=cwd,
                        )  # fmt: skip
            except OSError as error:
                # ENOMEM: its init has died, and so its PID namespace takes no more processes.
                raise SandboxError(f"cannot fork into the sandbox: {error}") from error
            finally:
                if pid == 0:
                    os._exit(1)
            fixtures.hand_over_late_exceptions(self.config)
            running = Running(pid, reports, answers, stacks, last_words, started)
            ours.pop_all()
        return running

    def finish(self, running: Running, sandbox: Sandbox) -> None:
        """Relay what the test process sends until it has ended, however it ends."""
        grace = 0.0
        call: CallInfo[None] | None = None
        deadline = None
        if self.options.timeout:
            deadline = running.started + self.options.timeout

        def relay() -> None:
            messages = running.messages(deadline)
            while (message := self.wait_for(messages)) is not None:
                self.receive(message, running, sandbox)

        try:
            call = CallInfo.from_call(relay, when=self.current_phase(), reraise=_RERAISE)
        except KeyboardInterrupt:
            if self.has_ended:  # it is the test's own, come home
                raise
            grace = _INTERRUPT_GRACE
            running.interrupt()
            with contextlib.suppress(wire.Garbled):
                for message in running.messages(time.monotonic() + grace):
                    with contextlib.suppress(*_RERAISE):
                        self.receive(message, running, sandbox)
            raise
        finally:
            if running.timed_out:
                running.ask_for_stacks()
            status, usage = running.end()
            stacks = running.stacks()
            last_words = running.last_words.hear()
        error = call.excinfo.value if call.excinfo is not None else None
        if isinstance(error, wire.Garbled):
            call = self.failed(f"the test has written to the pipe that is for its reports: {error}")
        elif isinstance(error, SandboxError):
            call = self.failed(str(error))
        if running.timed_out:
            call = self.failed(verdict.timed_out(self.options.timeout or 0))
        elif error is None and last_words:
            call = self.failed(last_words)
        elif error is None and not (self.has_ended and "teardown" in self.reported):
            call = self.failed(verdict.describe(status, usage))
        if call.excinfo is not None:
            self.report_death(call, sandbox, stacks)

    def wait_for(self, messages: Iterator[wire.Message]) -> wire.Message | None:
        """The next message.

        What a broad-scoped fixture's thread puts out meanwhile belongs to the test, as it does bare:
        the capture file is shared with the test process.
        """
        capture = self.config.pluginmanager.getplugin("capturemanager")
        if capture is None:
            return next(messages, None)
        capture.resume_global_capture()
        try:
            return next(messages, None)
        finally:
            capture.suspend_global_capture(in_=False)

    def receive(self, message: wire.Message, running: Running, sandbox: Sandbox) -> None:
        """Act on one message of the test process."""
        wire.check(message)
        kind = message["type"]
        if kind == "report":
            screen.adopt(self.config, message["screen"])
            self.relay_report(message["data"], message["rendered"])
            if message["screen"] is not None:
                running.answer(screen.state(self.config))
        elif kind == "warning":
            relay_warning(message)
        elif kind == "changes":
            found: list[list[str]] = []
            with contextlib.suppress(SandboxError):  # without a supervisor there is nobody to ask
                found = self.changes(sandbox)
            running.answer(found)
        elif kind == "terminal":
            running.has_terminal = True
        elif kind == "carried":
            self.carried = message["data"]
        elif kind == "end":
            self.has_ended = True
            screen.adopt(self.config, message["screen"])
            self.session.shouldfail = self.session.shouldfail or message["shouldfail"]
            self.session.shouldstop = message["shouldstop"] or self.session.shouldstop
        elif kind == "exit":
            self.has_ended = True
            pytest.exit(message["reason"], returncode=message["returncode"])
        elif kind == "interrupt":
            self.has_ended = True
            raise with_frames(KeyboardInterrupt(*message["text"]), message["frames"])
        elif kind == "trouble":
            raise SandboxError(f"the test process could not run its test:\n{message['text']}")

    def relay_report(self, data: dict[str, Any], rendered: list[str] | None) -> None:
        report = restored(data, self.item)
        if rendered is not None:
            report.longrepr = Rendered(rendered)
        if not hasattr(report, "context"):  # a subtest's is one of the call phase
            self.reported[str(report.when)] = report.outcome
        if report.when == "setup" and self.broad is not None:
            report.duration += self.broad.duration
            report.start = self.broad.start
        if hasattr(report, "context"):
            self.item.ihook.pytest_runtest_logreport(report=report)
        elif report.when == "teardown":
            self.teardown = report
        else:
            self.log(report)

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

    def failed(self, text: str) -> CallInfo[None]:
        return CallInfo.from_call(lambda: pytest.fail(text, pytrace=False), when="call")

    def report_death(self, call: CallInfo[None], sandbox: Sandbox, stacks: str) -> None:
        """The report of the phase in which the test process ended, or our waiting for it did."""
        call.when = self.current_phase()
        self.salvage_output(call.when)
        report = self.make_report(call)
        if stacks:
            report.sections.append(("Python stacks", stacks))
        try:
            found = child.describe_leftovers(self.changes(sandbox), sandbox.processes())
        except (SandboxError, OSError) as error:
            found = str(error)  # it may be why
        if found:
            report.sections.append(("sandbox", found))
        if call.when == "teardown":
            self.teardown = report
        else:
            self.log(report, call)

    def changes(self, sandbox: Sandbox) -> list[list[str]]:
        basetemp = basetemp_of(self.config)
        cache = getattr(self.config, "cache", None)
        left_out = [basetemp] if basetemp else []
        left_out += [str(cache._cachedir)] if cache is not None else []
        return [list(change) for change in sandbox.changes(left_out)]

    def salvage_output(self, when: Any) -> None:
        """What a dead test process had put out lies in the capture file, which we share with it."""
        capture = self.config.pluginmanager.getplugin("capturemanager")
        if capture is not None and capture._global_capturing is not None:
            out, err = capture.read_global_capture()
            self.item.add_report_section(when, "stdout", out)
            self.item.add_report_section(when, "stderr", err)

    # ------------------------------------------------------------------ reports

    def make_report(self, call: CallInfo[None]) -> pytest.TestReport:
        # Plugins rely on a setup report before the others in the same process (rerunfailures does).
        if call.when != "setup" and not self._made_setup_report and self.broad is not None:
            self.make_report(self.broad)
        self._made_setup_report |= call.when == "setup"
        report: pytest.TestReport = self.item.ihook.pytest_runtest_makereport(
            item=self.item, call=call
        )
        return report

    def log(self, report: pytest.TestReport, call: CallInfo[None] | None = None) -> None:
        self.reports.append(report)
        if self.is_logged:
            self.item.ihook.pytest_runtest_logreport(report=report)
        if (
            call is not None
            and call.excinfo is not None
            and check_interactive_exception(call, report)
        ):
            self.item.ihook.pytest_exception_interact(node=self.item, call=call, report=report)


def basetemp_of(config: pytest.Config) -> str | None:
    """Where pytest keeps this session's temporary directories, once that is decided."""
    factory = getattr(config, "_tmp_path_factory", None)
    basetemp = getattr(factory, "_basetemp", None)
    return None if basetemp is None else os.path.realpath(basetemp)


def uses_basetemp(item: pytest.Item) -> bool:
    """Whether the item may make a directory there."""
    wanted = {"tmp_path", "tmpdir", "tmp_path_factory", "tmpdir_factory", "pytester", "testdir"}
    return not wanted.isdisjoint(getattr(item, "fixturenames", ()))
