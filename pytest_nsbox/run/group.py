"""Which items share a sandbox: those of one node that come one after the other, with equal options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import pytest

from pytest_nsbox.options import SandboxOptions
from pytest_nsbox.run import fixtures
from pytest_nsbox.run.owners import any_own, implementations, is_of


@dataclass
class Group:
    """The items that may share a sandbox, beginning with the one for which it is made."""

    node: pytest.Collector
    indices: dict[pytest.Item, int]  # of its items, in session.items
    filters: Sequence[Any]  # of warnings, as they are around each test
    runs_ahead: bool  # its test process need not wait to be told which item is next

    @classmethod
    def at(
        cls,
        first: int,
        members: Iterable[pytest.Item],
        node: pytest.Collector,
        filters: Sequence[Any],
        runs_ahead: bool,
    ) -> Group:
        """Of these items, which are in a row in session.items, the first of them there."""
        indices = {member: first + n for n, member in enumerate(members)}
        return cls(node, indices, filters, runs_ahead)

    def index(self, item: pytest.Item | None) -> int | None:
        """Where in session.items the item is, or one of another group."""
        if item is None or item in self.indices:
            return self.indices.get(item)  # type: ignore[arg-type]
        items = item.session.items
        return items.index(item) if item in items else None

    def follows(self, item: pytest.Item, previous: pytest.Item) -> bool:
        """Whether the item is of this group, and its next."""
        return self.indices.get(item) == self.indices[previous] + 1

    @property
    def last(self) -> int:
        """Where in session.items its last item is."""
        return next(reversed(self.indices.values()))

    @property
    def others(self) -> list[pytest.Item]:
        """All but the first."""
        return list(self.indices)[1:]


def may_run_ahead(config: pytest.Config) -> bool:
    """Whether the item after one is known before that is told of: the next of session.items.

    Not where another plugin goes through the items, as pytest-xdist's worker does, nor where code of
    the project's own hears of reports, and may stop the run at a test that has passed.
    """
    hook = config.hook
    loops = hook.pytest_runtestloop.get_hookimpls()
    hearers = implementations(hook.pytest_runtest_logreport, hook.pytest_runtest_logfinish)
    return all(
        i.wrapper or i.hookwrapper or is_of(i.function, "_pytest.") for i in loops
    ) and not any_own(config, hearers)


def location_after(item: pytest.Item, previous: pytest.Item) -> tuple[str, int | None, str]:
    """The item's location, which comes after that one: of the same function it is not looked up again.

    Those with one object for their fixtures' names have been made of one function (_genfunctions in
    _pytest/python.py).  To look it up in the source is a tenth of a quick test.
    """
    if type(item) is pytest.Function and "location" not in vars(item):
        is_same = type(previous) is pytest.Function and item._fixtureinfo is previous._fixtureinfo
        if is_same and item.parent is previous.parent:
            path, line, _ = previous.location
            vars(item)["location"] = path, line, item.getmodpath()
    return item.location


def scope_node(item: pytest.Item, scope: str) -> Any:
    """The node for as long as which a sandbox of that scope lives; None: the item itself.

    Of classes and packages in each other it is the outermost, whose fixtures are the inner ones' too.
    """
    kinds = {"class": pytest.Class, "module": pytest.File, "package": pytest.Package}
    kind = kinds.get(scope)
    if kind is not None:
        for node in item.listchain():
            if isinstance(node, kind):
                return node
    return item.session if scope in ("package", "session") else None


def group_of(
    item: pytest.Item,
    options: SandboxOptions,
    options_of: Callable[[pytest.Item], object],
    filters: list[Any],
    runs_ahead: bool,
) -> Group | None:
    """The group that begins with the item; None where each item has a sandbox of its own.

    Wider fixtures come into a sandbox by the fork, so that one with another parameter begins another.
    """
    node = scope_node(item, options.scope)
    if node is None:
        return None
    params = fixtures.wider_params(item, node)

    def belongs(other: pytest.Item) -> bool:
        return (
            scope_node(other, options.scope) is node
            and options_of(other) == options
            and fixtures.wider_params(other, node) == params
        )

    items = item.session.items
    try:
        start = items.index(item)
    except ValueError:  # one that a plugin has made up
        return None
    return Group.at(start, takewhile(belongs, items[start:]), node, filters, runs_ahead)
