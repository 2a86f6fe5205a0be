"""One item in a sandbox, seen from the pytest process: set up, fork, relay, tear down, one verdict.

Starting an item (``ItemRun.start``) and finishing it (``finish``) are two steps, so that several may
be in flight; what an item's run needs is kept in its ``ItemRun``, not in the session.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import random
import resource
import select
import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from _pytest.logging import caplog_records_key
from _pytest.outcomes import Exit
from _pytest.runner import CallInfo, check_interactive_exception
from _pytest.skipping import evaluate_skip_marks, evaluate_xfail_marks, xfailed_key

from pytest_nsbox.options import SandboxOptions
from pytest_nsbox.run import fixtures, verdict, wire
from pytest_nsbox.run import test_process as child
from pytest_nsbox.sandbox.client import Client, Kind, Sandbox, SandboxError
from pytest_nsbox.sandbox.terminal import foreground

_RERAISE = (Exit, KeyboardInterrupt)
_INTERRUPT_GRACE = 10.0  # seconds for a test process to tear down after ^C, unless ^C comes again
_STACKS_GRACE = 1.0  # seconds for faulthandler to write the stacks of a test that timed out


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

    def __init__(self, item: Any, nextitem: pytest.Item | None, options: SandboxOptions) -> None:
        self.item = item
        self.nextitem = nextitem
        self.options = options
        self.session: pytest.Session = item.session
        self.config: pytest.Config = item.config
        self.broad: CallInfo[None] | None = None
        self.reported: list[str] = []  # phases
        self.teardown: pytest.TestReport | None = None  # the test process's, held back
        self.has_ended = False
        self._made_setup_report = False

    # ------------------------------------------------------------------ broad scope

    def set_up_broad(self) -> bool:
        """Set up collectors and broad-scoped fixtures; False if that failed, and is reported."""
        item = self.item
        if hasattr(item, "_request") and not item._request:
            item._initrequest()
        with self.phase("setup"):
            self.broad = CallInfo.from_call(
                lambda: fixtures.set_up_broad(item), when="setup", reraise=_RERAISE
            )
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
        with self.phase("teardown"):
            call = CallInfo.from_call(
                lambda: self.session._setupstate.teardown_exact(nextitem),
                when="teardown",
                reraise=_RERAISE,
            )
        new = [
            (f"Captured {key} {when}", text) for when, key, text in item._report_sections[before:]
        ]
        held = self.teardown
        if held is None:
            self.log(self.make_report(call), call)
            return
        held.sections[:] = joined(held.sections, new)
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

    @contextlib.contextmanager
    def phase(self, when: Any) -> Iterator[None]:
        """Capture and logging around the controller's share of a phase, as pytest's own hooks do."""
        plugins = self.config.pluginmanager
        capture = plugins.getplugin("capturemanager")
        logging = plugins.getplugin("logging-plugin")
        with contextlib.ExitStack() as stack:
            if logging is not None:
                if when == "setup":
                    self.item.stash[caplog_records_key] = {}
                around = logging._runtest_for(self.item, when)
                if not hasattr(around, "__enter__"):  # a bare generator before pytest 9.2
                    around = contextlib.contextmanager(lambda: around)()
                stack.enter_context(around)
            if capture is not None:
                stack.enter_context(capture.item_capture(when, self.item))
            yield

    # ------------------------------------------------------------------ the test process

    def start(self, sandbox: Sandbox) -> Running:
        """Fork the test process."""
        self.flush()
        if self.config.pluginmanager.hasplugin("faulthandler"):
            # A watchdog is a thread, which a fork does not copy: cancelling it in the child waits
            # for it for ever, and pytest does so on every failure. The child starts its own.
            faulthandler.cancel_dump_traceback_later()
        ours, theirs = socket.socketpair()
        stacks = os.memfd_create("nsbox-stacks")
        state, cwd = random.getstate(), os.getcwd()
        started = time.monotonic()
        pid = -1
        try:
            pid = sandbox.fork()
            if pid == 0:
                ours.close()
                child.run(
                    self.item, self.nextitem, self.options, theirs.detach(), stacks, state,
                    enter=sandbox.enter, cwd=cwd,
                )  # fmt: skip
        finally:
            if pid == 0:
                os._exit(1)  # pragma: no cover
            theirs.close()
            if pid < 0:
                ours.close()
                os.close(stacks)
        return Running(pid, ours, stacks, started)

    def finish(self, running: Running, sandbox: Sandbox) -> None:
        """Relay what the test process sends until it has ended, however it ends."""
        grace = 0.0
        call: CallInfo[None] | None = None
        deadline = None
        if self.options.timeout:
            deadline = running.started + self.options.timeout

        def relay() -> None:
            for message in running.messages(deadline):
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
        if call.excinfo is not None and isinstance(
            call.excinfo.value, (SandboxError, wire.Garbled)
        ):
            call = self.failed(str(call.excinfo.value))
        if running.timed_out:
            call = self.failed(verdict.timed_out(self.options.timeout or 0))
        elif call.excinfo is None and not self.has_ended:
            call = self.failed(verdict.describe(status, usage))
        if call.excinfo is not None:
            self.report_death(call, sandbox, stacks)

    def receive(self, message: wire.Message, running: Running, sandbox: Sandbox) -> None:
        """Act on one message of the test process."""
        kind = message["type"]
        if kind == "report":
            self.relay_report(message["data"])
        elif kind == "warning":
            relay_warning(message)
        elif kind == "ask":
            running.answer(self.changes(sandbox))
        elif kind == "terminal":
            running.has_terminal = True
        elif kind == "end":
            self.has_ended = True
            self.session.shouldfail = self.session.shouldfail or message["shouldfail"]
            self.session.shouldstop = message["shouldstop"] or self.session.shouldstop
        elif kind == "exit":
            self.has_ended = True
            pytest.exit(message["reason"], returncode=message["returncode"])
        elif kind == "interrupt":
            self.has_ended = True
            raise KeyboardInterrupt
        elif kind == "trouble":
            raise SandboxError(f"the test process could not run its test:\n{message['text']}")

    def relay_report(self, data: dict[str, Any]) -> None:
        report = self.config.hook.pytest_report_from_serializable(
            config=self.config, data=restore_tuples(data)
        )
        if not hasattr(report, "context"):  # a subtest's is one of the call phase
            self.reported.append(report.when)
        if report.when == "setup" and self.broad is not None:
            report.duration += self.broad.duration
            report.start = self.broad.start
        if report.when == "teardown":
            self.teardown = report
        else:
            self.log(report)

    def current_phase(self) -> Any:
        """The phase that the test process has not yet reported."""
        return verdict.PHASES[min(len(self.reported), 2)]

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
        # Plugins rely on a setup report before the others in the same process (rerunfailures does).
        if call.when != "setup" and not self._made_setup_report and self.broad is not None:
            self.make_report(self.broad)
        report = self.make_report(call)
        if stacks:
            report.sections.append(("Python stacks", stacks))
        with contextlib.suppress(SandboxError, OSError):
            found = child.describe_leftovers(self.changes(sandbox), sandbox.processes())
            if found:
                report.sections.append(("sandbox", found))
        if call.when == "teardown":
            self.teardown = report
        else:
            self.log(report, call)

    def changes(self, sandbox: Sandbox) -> list[list[str]]:
        basetemp = basetemp_of(self.config)
        left_out = [basetemp] if basetemp else []
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
        self._made_setup_report |= call.when == "setup"
        report: pytest.TestReport = self.item.ihook.pytest_runtest_makereport(
            item=self.item, call=call
        )
        return report

    def log(self, report: pytest.TestReport, call: CallInfo[None] | None = None) -> None:
        self.item.ihook.pytest_runtest_logreport(report=report)
        if (
            call is not None
            and call.excinfo is not None
            and check_interactive_exception(call, report)
        ):
            self.item.ihook.pytest_exception_interact(node=self.item, call=call, report=report)

    def flush(self) -> None:
        """Empty the buffers that the fork would copy, and the child write out once more."""
        reporter = self.config.pluginmanager.getplugin("terminalreporter")
        for stream in (sys.stdout, sys.stderr, getattr(reporter, "_tw", None)):
            if stream is not None:
                with contextlib.suppress(ValueError, OSError):  # a test's closed stream
                    stream.flush()


class Running:
    """A test process and our end of its socket."""

    def __init__(self, pid: int, sock: socket.socket, stacks_fd: int, started: float) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.socket = sock
        self.stacks_fd = stacks_fd
        self.started = started  # time.monotonic()
        self.timed_out = False
        self.has_terminal = False
        sock.setblocking(False)

    def messages(self, deadline: float | None) -> Iterator[wire.Message]:
        """What the test process sends, until it has *exited* or the deadline has passed.

        Not until end of file: whatever it has forked may hold its end for ever.
        Raises wire.Garbled.
        """
        reader = wire.Reader(self.socket.fileno())
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        poll.register(self.pidfd, select.POLLIN)
        while True:
            wait = None if deadline is None else max(0, deadline - time.monotonic()) * 1000
            ready = dict(poll.poll(wait))
            if not ready:
                self.timed_out = True
                return
            if self.socket.fileno() in ready:
                yield from reader.read()
                if reader.at_end:
                    poll.unregister(self.socket)
            elif self.pidfd in ready:
                return

    def answer(self, value: object) -> None:
        """Answer a question of the test process, which waits for it."""
        self.socket.setblocking(True)
        try:
            self.socket.sendall(json.dumps(value).encode() + b"\n")
        except OSError:
            pass  # it has died meanwhile
        finally:
            self.socket.setblocking(False)

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
        self.socket.close()
        return status, usage


class Controller:
    """Runs items in sandboxes that it gets from one client."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.client = Client()
        self.remaining = 0
        self._real: dict[str, str] = {}
        self._kinds: dict[object, Kind] = {}
        self._refusal: str | None = None

    def start(self) -> None:
        """Let the supervisor start, while pytest does something else."""
        self.config.pluginmanager.register(child.Relay(), "nsbox-relay")
        self.client.start()

    def stop(self) -> None:
        self.client.stop()

    def notes(self) -> list[str]:
        """What of the host the sandboxes of this run left out, and why."""
        return list(self.client.notes)

    def protocol(
        self,
        item: pytest.Item,
        nextitem: pytest.Item | None,
        options: SandboxOptions,
        unavailable: str,
    ) -> Literal[True] | None:
        """pytest_runtest_protocol for an item with these options; None leaves it to pytest."""
        self.remaining -= 1
        if runs_bare(item):
            return None
        refusal = self.refusal()
        if refusal and unavailable == "run":
            item.warn(pytest.PytestWarning(f"nsbox: runs WITHOUT a sandbox: {refusal}"))
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        run = ItemRun(item, nextitem, options)
        try:
            if refusal:
                run.refuse(refusal, skip=unavailable == "skip")
            else:
                self.prepare_basetemp(item)
                if run.set_up_broad():
                    self.run_in_sandbox(run)
            run.tear_down_broad()
        finally:
            if hasattr(item, "_request"):
                item._request = False
                item.funcargs = None  # type: ignore[attr-defined]
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def refusal(self) -> str:
        """Why this machine gives us no sandbox, "" if it does; tried once, for real."""
        if self._refusal is None:
            try:
                self.client.acquire(self.kind(SandboxOptions())).close()
                self._refusal = ""
            except SandboxError as error:
                self._refusal = explain(error)
        return self._refusal

    def run_in_sandbox(self, run: ItemRun) -> None:
        try:
            sandbox = self.client.acquire(self.kind(run.options), ahead=min(self.remaining, 2))
        except SandboxError as error:
            run.refuse(explain(error), skip=False)
            return
        basetemp = basetemp_of(self.config)
        try:
            running = run.start(sandbox)
            if self.remaining > 0:
                self.client.prefetch(self.kind(run.options), ahead=min(self.remaining, 2))
            run.finish(running, sandbox)
        finally:
            carry = [(basetemp, False)] if basetemp else []
            with contextlib.suppress(SandboxError):
                # The next tmp_path is numbered after this one.
                sandbox.close(carry, wait=uses_basetemp(run.item))

    def prepare_basetemp(self, item: pytest.Item) -> None:
        """Have basetemp made by us, for a test process would number a private one."""
        if uses_basetemp(item):
            factory = getattr(self.config, "_tmp_path_factory", None)
            if factory is not None:
                with contextlib.suppress(Exception):  # tmp_path itself will say it better
                    factory.getbasetemp()

    def kind(self, options: SandboxOptions) -> Kind:
        """The kind of sandbox that an item with these options needs now."""
        basetemp = basetemp_of(self.config)
        key = (options, os.getcwd(), basetemp, tuple(sys.path), os.environ.get("TMPDIR"))
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = Kind(
                visible=tuple(self.visible(basetemp)),
                tmp_size=options.tmp_size,
                bind=tuple(
                    (self.real(bind.source), self.real(bind.target), bind.read_only)
                    for bind in options.bind
                ),
                hide=tuple(self.real(path) for path in options.hide),
                network=options.network,
                hostname=options.hostname,
            )
        return kind

    def visible(self, basetemp: str | None) -> list[str]:
        """The paths that must be there in every sandbox, whatever hides them."""
        config = self.config
        sources = {
            str(config.rootpath),
            str(config.invocation_params.dir),
            sys.prefix,
            sys.base_prefix,
            sys.exec_prefix,
            *(path for path in sys.path if path),
            *([basetemp] if basetemp else []),
        }
        places = {os.getcwd(), os.environ.get("TMPDIR", "/tmp")}
        # A private /tmp is the point: only sources that lie right in it open it up.
        return sorted(
            {self.real(path) for path in sources} | {self.real(path) for path in places} - {"/tmp"}
        )

    def real(self, path: str) -> str:
        found = self._real.get(path)
        if found is None:
            found = self._real[path] = os.path.realpath(path)
        return found


def uses_basetemp(item: pytest.Item) -> bool:
    """Whether the item may make a directory there."""
    wanted = {"tmp_path", "tmpdir", "tmp_path_factory", "tmpdir_factory", "pytester", "testdir"}
    return not wanted.isdisjoint(getattr(item, "fixturenames", ()))


def explain(error: SandboxError) -> str:
    """The refusal, its likely cause and the remedy."""
    from pytest_nsbox.sandbox import probe

    return probe.explain(error)


def basetemp_of(config: pytest.Config) -> str | None:
    """Where pytest keeps this session's temporary directories, once that is decided."""
    factory = getattr(config, "_tmp_path_factory", None)
    basetemp = getattr(factory, "_basetemp", None)
    return None if basetemp is None else os.path.realpath(basetemp)


def joined(sections: list[tuple[str, str]], more: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """``sections``, with the text of ``more`` added to those of the same title."""
    rest = dict(more)
    together = [(title, text + rest.pop(title, "")) for title, text in sections]
    return together + list(rest.items())


def restore_tuples(data: dict[str, Any]) -> dict[str, Any]:
    """JSON has no tuples, and pytest wants some: terminal.py asserts that a skip's longrepr is one."""
    if isinstance(data["longrepr"], list):
        data["longrepr"] = tuple(data["longrepr"])
    data["location"] = tuple(data["location"])
    for name in ("sections", "user_properties"):
        data[name] = [tuple(pair) for pair in data[name]]
    return data


def relay_warning(message: wire.Message) -> None:
    """Warn here of what a test process was warned of, by way of whoever records warnings."""
    category: type[Warning] = Warning
    with contextlib.suppress(Exception):
        found: Any = importlib.import_module(message["module"])
        for name in message["name"].split("."):
            found = getattr(found, name)
        if issubclass(found, Warning):
            category = found
    text: Warning
    try:
        text = category(message["text"])
    except Exception:
        text = Warning(message["text"])
    warnings.showwarning(
        text, category, message["filename"], message["lineno"], None, message["line"]
    )
