"""pytest-socket: what forbids a test its sockets forbids them to its broad-scoped fixtures too."""

from __future__ import annotations

import pytest
import pytest_socket as plugin


class Adapter:
    """Has the controller restricted while it sets such fixtures up."""

    def __init__(self, config: pytest.Config) -> None:
        pass

    @pytest.hookimpl
    def pytest_nsbox_setup(self, item: pytest.Item) -> None:
        plugin.pytest_runtest_setup(item)

    @pytest.hookimpl
    def pytest_nsbox_apply(self) -> None:
        plugin.pytest_runtest_teardown()
