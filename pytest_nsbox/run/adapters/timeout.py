"""pytest-timeout: its timer is a signal or a thread, and a fork inherits neither."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import pytest_timeout as plugin


class Adapter:
    """Has the timer where the test runs: what fails is the test, what ends is its sandbox.

    It bounds the controller's setup, the test process and the controller's teardown, each.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.hook = config.hook
        self.current: pytest.Item | None = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.current = item
        return (yield)

    @pytest.hookimpl
    def pytest_nsbox_fork(self, item: pytest.Item) -> None:
        self.stop(item)

    @pytest.hookimpl
    def pytest_nsbox_enter(self, item: pytest.Item) -> None:
        self.stop(item)  # in a test process that runs several items the plugin has started one
        self.start(item)

    @pytest.hookimpl
    def pytest_nsbox_collect(self, item: pytest.Item) -> None:
        self.stop(item)

    @pytest.hookimpl(trylast=True)
    def pytest_nsbox_apply(self, item: pytest.Item) -> None:
        if item is self.current:  # with several jobs it may be another's turn
            self.stop(item)
            self.start(item)

    def start(self, item: pytest.Item) -> None:
        settings = plugin._get_item_settings(item)
        if settings.timeout and settings.timeout > 0 and not settings.func_only:
            self.hook.pytest_timeout_set_timer(item=item, settings=settings)

    def stop(self, item: pytest.Item) -> None:
        self.hook.pytest_timeout_cancel_timer(item=item)
