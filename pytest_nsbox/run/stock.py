"""Test processes in stock: when there is a template that makes them, for which items, and how many."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pytest_nsbox.options import SandboxOptions
from pytest_nsbox.run import fixtures, screen, timing
from pytest_nsbox.run.flight import Flight, prepare, uninterrupted
from pytest_nsbox.run.group import scope_node
from pytest_nsbox.run.item import ItemRun
from pytest_nsbox.run.owners import any_own, implementations
from pytest_nsbox.run.template import Template
from pytest_nsbox.sandbox import heap
from pytest_nsbox.sandbox.client import Client, Kind, Sandbox, SandboxError

_WORTH = 3  # items to come: a template costs one fork, and saves each of them a part of its own
_TEACHES = 6  # items to come: two tell what pages they have written to, at 2 ms each
_SPARE = 1  # test processes that wait beside one for each job: a fork may take longer than a test
_PATIENCE = 3  # templates that do not work, before there is no other


class Stock:
    """One template at most, and what it has made."""

    def __init__(
        self,
        config: pytest.Config,
        client: Client,
        options_of: Callable[[pytest.Item], object],
        jobs: int,
        is_heard: Callable[[pytest.Item], bool],
        in_child: Callable[[], None],
        *,
        may_be_used: bool,
        collapses: bool,
    ) -> None:
        """``is_heard``: whether code of the project's own hears of an item, in the controller.

        ``in_child``: called in a template, to let go of what belongs to others.

        ``collapses``: a template that is to fork often may put its memory into huge pages.
        """
        self.config = config
        self.client = client
        self.options_of = options_of
        self.jobs = jobs
        self.is_heard = is_heard
        self.in_child = in_child
        self.collapses = collapses
        self._template: Template | None = None
        self._items: list[pytest.Item] = []
        self._indices: dict[pytest.Item, int] = {}
        self._filters: list[Any] = []
        self._runs_ahead = False
        self._after: dict[int, int] = {}  # see ``_index_after``
        self._may_be_used = may_be_used
        self._patience = _PATIENCE
        self.problems: list[str] = []

    def begin(self, session: pytest.Session, filters: list[Any], runs_ahead: bool) -> None:
        """``filters``: of warnings, as they are around each test; ``runs_ahead``: see ``Group``."""
        self._filters = filters
        self._runs_ahead = runs_ahead
        self._may_be_used &= is_unchanging(self.config)
        self._items = session.items
        self._indices = {item: number for number, item in enumerate(session.items)}

    def take(
        self, run: ItemRun, kind: Kind, generation: object, board: Callable[[Flight], None]
    ) -> bool:
        """``board`` the item's test process, told to run it; False if it must be forked now."""
        template = self._template
        if (
            template is None
            or run.is_shared
            or run.rehearsed
            or not _is_usual(run)
            or generation != template.generation
            or fixtures.has_late_exceptions(self.config)
            or not self._knows(run)
        ):
            return False
        try:
            template.wait()
        except SandboxError as error:
            self._give_up(error)
            return False
        with uninterrupted():
            if (ready := template.take((run.options, kind))) is None:
                return False
            timing.mark(self.config, "acquire")
            prepare(run)
            run.learn = template.learn
            flight = Flight(run, ready.sandbox, ready.running, ready.ends.output, ready.held)
            flight.order(
                run=self._indices[run.item],
                next=None if run.nextitem is None else self._indices[run.nextitem],
                goes_on=run.goes_on,
                last=run.group.last if run.group is not None else None,
                runs_ahead=self._runs_ahead,
                screen=None,
                teaches=run.learn is not None,
            )
            board(flight)
        timing.mark(self.config, "order")
        return True

    def refill(
        self,
        run: ItemRun,
        kind: Kind,
        generation: object,
        key_of: Callable[[pytest.Item], tuple[SandboxOptions, Kind] | None],
        acquire: Callable[[Kind], Sandbox],
    ) -> Kind:
        """Have test processes made for the items that follow the one of this run, which is of ``kind``.

        ``key_of``: what the test process of an item is to have; None if it needs another, or none.
        Returns the kind of sandbox that will be wanted next.
        """
        if not (self._may_be_used and _is_usual(run) and self._knows(run)):
            return kind
        if any(map(self.is_heard, run.group.indices if run.group is not None else [run.item])):
            self.end()  # what comes after one that is heard of is to be a copy of what that leaves
            return kind
        coming = self._following(run.item, max(_WORTH, self.jobs + _SPARE + 1))
        if self._template is not None:
            if self._template.generation != generation or self._template.is_ending:
                self.end()
            elif not coming and not self._template.stock:
                self._template.let_end()
        try:
            if self._template is None:
                if len(coming) < _WORTH or threading.active_count() > 1:
                    return kind
                many = len(self._following(run.item, heap.FORKS))
                self._template = Template(
                    self.config, self.client, self.options_of, generation, self._filters,
                    many=2 * self.jobs + 4,
                    collapses=many == heap.FORKS and self.collapses, learns=many >= _TEACHES,
                    in_child=self.in_child,
                )  # fmt: skip
            for item in coming[self._template.stock : self.jobs + _SPARE]:
                if (key := key_of(item)) is None:
                    return kind
                sandbox = acquire(key[1])
                if sandbox.lacks:  # which the controller notes on the item, before it forks
                    sandbox.close()
                    self.end()
                    self._may_be_used = False
                    return kind
                is_ahead = self._runs_ahead and self._node(item) is not None
                own_output = self.jobs > 1 or is_ahead
                index = self._indices[item]
                if not self._template.ask(
                    index, key, sandbox, own_output=own_output, holds=is_ahead
                ):
                    sandbox.close()
                    return kind
            after = coming[self._template.stock : self._template.stock + 1]
            key = key_of(after[0]) if after else None
            return kind if key is None else key[1]
        except (OSError, SandboxError) as error:
            self._give_up(error)
            return kind

    def pids(self) -> list[int]:
        """Of the processes that there are of it."""
        if self._template is not None:
            try:
                return self._template.pids()
            except SandboxError as error:
                self._give_up(error)
        return []

    def end(self) -> None:
        """Let nothing be left of it."""
        if self._template is not None:
            template, self._template = self._template, None
            template.end()

    def _give_up(self, error: Exception) -> None:
        """Do without: who needs a test process forks it when it does, and says what is wrong then."""
        self.end()
        self._patience -= 1
        if not self._patience:
            self._may_be_used = False
            self.problems.append(f"test processes are no longer forked ahead of time: {error}")

    def close_fds(self) -> None:
        """In a forked child: let go of what is the controller's."""
        if self._template is not None:
            self._template.close_fds()

    def _knows(self, run: ItemRun) -> bool:
        return run.item in self._indices and (run.nextitem is None or run.nextitem in self._indices)

    def _following(self, item: pytest.Item, most: int) -> list[pytest.Item]:
        """The items in a row that come after that one, nothing being set up or torn down between.

        At most so many, and of each group the first; a new fixture of an item with the parent of the
        one before goes unnoticed here.
        """
        found: list[pytest.Item] = []
        session, parent = item.session, item.parent
        index = self._index_after(self._indices[item])
        while len(found) < most and index < len(self._items):
            other = self._items[index]
            if other.parent is not parent:
                is_set_up = fixtures.is_set_up(other, self._node(other))
                if fixtures.tears_down(session, other) or not is_set_up:
                    break
                if self.is_heard(other):  # all of a parent are, or none
                    break
                parent = other.parent
            found.append(other)
            index = self._index_after(index)
        return found

    def _node(self, item: pytest.Item) -> Any:
        """The node whose items share a sandbox with this one; None: it has one of its own, or none."""
        options = self.options_of(item)
        return scope_node(item, options.scope) if isinstance(options, SandboxOptions) else None

    def _index_after(self, index: int) -> int:
        """Where in session.items the next one is that may need another test process."""
        after = self._after.get(index)
        if after is None:
            after, items = index + 1, self._items
            node = self._node(items[index])
            while node is not None and after < len(items) and self._node(items[after]) is node:
                after += 1
            self._after[index] = after
        return after


def _is_usual(run: ItemRun) -> bool:
    return run.is_logged and not run.is_driven


def is_unchanging(config: pytest.Config) -> bool:
    """Whether nothing changes in the controller from test to test that a test could tell.

    But for what code of the project's own leaves that hears of an item, see ``owners.Heard``.
    """
    hook = config.hook
    ours = implementations(hook.pytest_nsbox_setup, hook.pytest_nsbox_fork, hook.pytest_nsbox_apply)
    return (
        sys.implementation.name == "cpython"
        and getattr(sys, "_is_gil_enabled", lambda: True)()
        and not screen.is_shared(config)
        and not any_own(config, ours)
    )
