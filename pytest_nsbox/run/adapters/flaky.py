"""flaky: decides on another attempt by how each phase ended, which it notes down as it runs them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
from flaky.flaky_pytest_plugin import PLUGIN

_KEY = "flaky"
_CRASH = ("pytest_nsbox", "Crash", "the test process died")


class Adapter:
    """Carries how each phase ended."""

    def __init__(self, config: pytest.Config) -> None:
        self.plugin: Any = PLUGIN

    @pytest.hookimpl
    def pytest_nsbox_repeats(self, item: pytest.Item) -> bool:
        plugin = self.plugin
        plugin._copy_flaky_attributes(item, plugin._get_test_instance(item))
        return bool(
            plugin.force_flaky
            or plugin._has_flaky_attributes(item)
            or item.get_closest_marker("flaky")
        )

    @pytest.hookimpl
    def pytest_nsbox_collect(self, item: pytest.Item) -> dict[str, Any] | None:
        phases = {}
        for when, call in self.plugin._call_infos.get(item, {}).items():
            error = call.excinfo
            phases[when] = error and [error.type.__module__, error.typename, str(error.value)]
        return {_KEY: phases} if phases else None

    @pytest.hookimpl
    def pytest_nsbox_apply(self, item: pytest.Item, data: Mapping[str, Any]) -> None:
        infos = self.plugin._call_infos.get(item)
        if infos is None:  # not one that it repeats
            return
        # It reads the marker in its pytest_runtest_setup, and so in the test process.
        self.plugin.pytest_runtest_setup(item)
        # When the test process has died, as a failed call: flaky repeats that.
        for when, error in data.get(_KEY, {"call": _CRASH}).items():
            infos[when] = pytest.CallInfo.from_call(partial(_end_like, error), when=when)


def _end_like(error: tuple[str, str, str] | None) -> None:
    """Raise an exception that has the name and the text of the test process's."""
    if error is not None:
        module, name, text = error
        raise type(name, (Exception,), {"__module__": module})(text)
