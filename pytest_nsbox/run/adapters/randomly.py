"""pytest-randomly: seeds the random number generators before every phase of a test."""

from __future__ import annotations

import pytest
import pytest_randomly as plugin


class Adapter:
    """Has broad-scoped fixtures draw the same numbers as bare, in setup and in teardown."""

    def __init__(self, config: pytest.Config) -> None:
        pass

    @pytest.hookimpl
    def pytest_nsbox_setup(self, item: pytest.Item) -> None:
        plugin.pytest_runtest_setup(item)

    @pytest.hookimpl
    def pytest_nsbox_enter(self, item: pytest.Item) -> None:
        # Not once more: the narrow fixtures draw what comes after the broad ones' numbers.
        caller = item.config.hook.pytest_runtest_setup
        caller._hookimpls[:] = [i for i in caller.get_hookimpls() if i.plugin is not plugin]

    @pytest.hookimpl
    def pytest_nsbox_apply(self, item: pytest.Item) -> None:
        plugin.pytest_runtest_teardown(item)
