"""The hooks by which other plugins, and a conftest, take part: ``pytest_nsbox_*``.

All of them are optional.  A test process is a fork that ends with its test: what a plugin notes down in
there is lost unless it *collects* that in the test process and *applies* it in pytest's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest


@pytest.hookspec
def pytest_nsbox_options(item: pytest.Item) -> Mapping[str, object] | None:
    """Keys of the sandbox marker that overrule the item's markers, or None.

    Called once, after collection, for an item that is going to be sandboxed.
    """


@pytest.hookspec
def pytest_nsbox_keep(config: pytest.Config) -> Sequence[str] | None:
    """Paths to copy out to the host after every sandboxed test, as the marker's ``keep`` names them.

    Called once, before the first of them.
    """


@pytest.hookspec
def pytest_nsbox_repeats(item: pytest.Item) -> bool | None:
    """Whether this plugin's own ``pytest_runtest_protocol`` is to run the item, for it may repeat it.

    It then calls pytest's ``runtestprotocol`` for each attempt.  A plugin that has such an
    implementation and not this hook is always let do it.
    """


@pytest.hookspec
def pytest_nsbox_setup(item: pytest.Item) -> None:
    """Called in pytest's own process before the item's broad-scoped fixtures are set up there.

    ``pytest_runtest_setup`` is called after that, in the test process: what a plugin does there for
    fixtures of every scope, it does here for the broad ones.  ``pytest_nsbox_apply`` undoes it.
    """


@pytest.hookspec
def pytest_nsbox_fixtures(item: pytest.Item) -> Mapping[str, bool] | None:
    """By name, whether the item shares a broad-scoped fixture with other tests; None: as usual.

    ``True`` for one that the item asks for by ``getfixturevalue``, which nobody can know beforehand:
    it is set up once, in pytest's own process, instead of in every test process.  ``False`` for one
    that every test process is to set up for itself, such as a server in a thread that is to see what
    the test has in memory.
    """


@pytest.hookspec
def pytest_nsbox_fork(item: pytest.Item) -> None:
    """Called in pytest's own process before it forks the test process, or hands it another item."""


@pytest.hookspec
def pytest_nsbox_enter(item: pytest.Item) -> None:
    """Called in the test process before its item is set up.

    With a wider ``scope`` also before it tears down, apart from any item's teardown, what is left.
    """


@pytest.hookspec
def pytest_nsbox_collect(item: pytest.Item) -> Mapping[str, Any] | None:
    """What is to be carried home, as JSON can say it, or None.

    Called in the test process after its item has been torn down, or what was left.  The mappings
    of all plugins are joined: a plugin takes its own name for a key.
    """


@pytest.hookspec
def pytest_nsbox_apply(
    item: pytest.Item, nextitem: pytest.Item | None, data: Mapping[str, Any]
) -> None:
    """Takes in, in pytest's own process, what ``pytest_nsbox_collect`` has carried home.

    Called after every sandboxed test, before the broad-scoped fixtures are torn down that
    ``nextitem`` does not share, and once more after what was left; ``data`` is empty when the test
    process has died.
    """
