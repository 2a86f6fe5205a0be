"""Runs items in sandboxes: which kind each needs, when to ask for one, what to do without.

A controller is whatever process sets broad fixtures up and forks tests: pytest's, or under xdist a
worker.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Literal

import pytest

from pytest_nsbox.kind import kind_of
from pytest_nsbox.options import OptionError, SandboxOptions
from pytest_nsbox.run import adapters, fixtures
from pytest_nsbox.run import test_process as child
from pytest_nsbox.run.attempts import Seam
from pytest_nsbox.run.item import ItemRun, basetemp_of, runs_bare, uses_basetemp
from pytest_nsbox.run.running import Running
from pytest_nsbox.sandbox.client import Client, Kind, Refused, Sandbox, SandboxError
from pytest_nsbox.sandbox.sockets import Socket, Sockets


class Controller:
    """Runs items in sandboxes that it gets from one client."""

    def __init__(
        self,
        config: pytest.Config,
        options: Callable[[pytest.Item], SandboxOptions | OptionError | None],
        unavailable: str,
    ) -> None:
        self.config = config
        self.options = options
        self.unavailable = unavailable
        self.pid = os.getpid()
        self.client = Client()
        self.hooks = fixtures.shared_hooks(config)
        self.remaining = 0
        self._real: dict[str, str] = {}
        self._kinds: dict[object, Kind] = {}
        self._refusal: str | None = None
        self._keep: list[str] | None = None
        session = config.pluginmanager.getplugin("session")
        self._sockets = Sockets(partial(fixtures.is_started_by, session))
        self._generation: object = None
        self.not_copied: list[str] = []
        self._seam = Seam(config, self.runtestprotocol)

    def start(self) -> None:
        """Let the supervisor start, while pytest does something else."""
        self.config.pluginmanager.register(child.Relay(), "nsbox-relay")
        adapters.register(self.config)
        self.client.start()

    def settle(self) -> None:
        """Wait for what is still being copied out."""
        with contextlib.suppress(SandboxError):
            self.not_copied += self.client.settle()

    def stop(self) -> None:
        self._seam.close()
        self.client.stop()

    def notes(self) -> list[str]:
        """What of the host the sandboxes left out, and what was not copied back, and why."""
        return [*self.client.notes, *(f"not copied out: {failure}" for failure in self.not_copied)]

    def protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Literal[True] | None:
        """pytest_runtest_protocol; None leaves it to another, who may want several attempts."""
        if self._seam.is_used or not isinstance(self.options(item), SandboxOptions):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        self.runtestprotocol(item, nextitem=nextitem)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def runtestprotocol(
        self, item: pytest.Item, log: bool = True, nextitem: pytest.Item | None = None
    ) -> list[pytest.TestReport]:
        """pytest's function of that name, in a sandbox where the item is to have one."""
        options = self.options(item)
        if not isinstance(options, SandboxOptions):
            return self._seam.theirs(item, log=log, nextitem=nextitem)
        self.remaining = max(0, self.remaining - 1)
        if runs_bare(item):
            return self._seam.theirs(item, log=log, nextitem=nextitem)
        refusal = self.refusal()
        if refusal and self.unavailable == "run":
            item.warn(pytest.PytestWarning(f"nsbox: runs WITHOUT a sandbox: {refusal}"))
            return self._seam.theirs(item, log=log, nextitem=nextitem)
        run = ItemRun(item, nextitem, options, self.hooks, log=log)
        try:
            if refusal:
                run.refuse(refusal, skip=self.unavailable == "skip")
            else:
                self.prepare_basetemp(item)
                if fixtures.hooks_may_prevent_setup(item):
                    run.rehearses = True
                    self.run_in_sandbox(run)
                if not run.rehearses and run.set_up_broad():
                    self.run_in_sandbox(run)
            run.tear_down_broad()
        finally:
            if hasattr(item, "_request"):
                item._request = False
                item.funcargs = None  # type: ignore[attr-defined]
        return run.reports

    def refusal(self) -> str:
        """Why this machine gives us no sandbox, "" if it does; tried once, for real."""
        if os.getpid() != self.pid:
            return (
                "another plugin has forked pytest to run this test, and sandboxes belong to the "
                "process that asked for them; leave its option out (--forked and the like)"
            )
        if self._refusal is None:
            try:
                self.client.acquire(self.kind(SandboxOptions())).close()
                self._refusal = ""
            except SandboxError as error:
                self._refusal = explain(error)
        return self._refusal

    def run_in_sandbox(self, run: ItemRun) -> None:
        try:
            kind = self.kind(run.options)._replace(sockets=self.look_for_sockets(run.item.session))
            sandbox, running = self.start_run(run, kind)
        except SandboxError as error:
            run.refuse(explain(error), skip=False)
            return
        basetemp = basetemp_of(self.config)
        try:
            if self.remaining > 0:
                self.client.prefetch(kind, ahead=min(self.remaining, 2))
            run.finish(running, sandbox)
        finally:
            carry = [(basetemp, False)] if basetemp else []
            carry += [(path, True) for path in self.kept(run.options)]
            if run.will_be_repeated():
                carry = []
            # The next tmp_path is numbered after this one.
            wait = uses_basetemp(run.item) or bool(run.options.keep)
            with contextlib.suppress(SandboxError):
                self.not_copied += sandbox.close(carry, wait=wait)

    def look_for_sockets(self, session: pytest.Session) -> tuple[Socket, ...]:
        """The unix sockets on which something listens that broad-scoped fixtures started."""
        before, self._generation = self._generation, fixtures.generation(session)
        return self._sockets.look(anew=self._generation != before)

    def start_run(self, run: ItemRun, kind: Kind) -> tuple[Sandbox, Running]:
        """A test process in a sandbox. Raises SandboxError.

        What was made ahead may have died with its supervisor (an out-of-memory killer, an operator):
        nothing of the test has run then, and a new supervisor gets one more try.
        """
        for last in (False, True):
            try:
                sandbox = self.client.acquire(kind, ahead=min(self.remaining, 2))
                return sandbox, run.start(sandbox)
            except Refused:
                raise
            except SandboxError:
                self.client.stop()
                if last:
                    raise
        raise AssertionError("unreachable")

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
            kind = kind_of(options, self.visible(basetemp), self.real)
            self._kinds[key] = kind
        return kind

    def kept(self, options: SandboxOptions) -> list[str]:
        """What is copied out whole after a test: what plugins keep, and the user's own."""
        if self._keep is None:
            answers = self.config.hook.pytest_nsbox_keep(config=self.config)
            self._keep = [path for answer in answers for path in answer]
        root = str(self.config.rootpath)
        paths = (*self._keep, *options.keep)
        return [self.real(os.path.join(root, os.path.expanduser(path))) for path in paths]

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


def explain(error: SandboxError) -> str:
    """The refusal, its likely cause and the remedy."""
    from pytest_nsbox.sandbox import probe

    return probe.explain(error)
