"""Plugins that run a test several times: each attempt gets a sandbox of its own.

Such a plugin has a ``pytest_runtest_protocol`` of its own and calls pytest's ``runtestprotocol`` for
each attempt, by a reference of its own or by way of pytest's runner.  That function is the seam.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from _pytest import runner

#: ``(item, log, nextitem) -> reports``, as pytest's own.
RunTestProtocol = Callable[..., list[pytest.TestReport]]


class Seam:
    """Every reference to ``runtestprotocol`` that plugins have, ours in its place until ``close``."""

    def __init__(self, config: pytest.Config, ours: RunTestProtocol) -> None:
        self.theirs = runner.runtestprotocol
        modules = {_module_of(plugin) for plugin in config.pluginmanager.get_plugins()}
        self._replaced = [
            module
            for module in modules
            if module is not None and getattr(module, "runtestprotocol", None) is self.theirs
        ]
        for module in self._replaced:
            module.runtestprotocol = ours  # type: ignore[attr-defined]
        self._drivers = sum(map(_drives, config.hook.pytest_runtest_protocol.get_hookimpls()))

    def is_for(self, item: pytest.Item) -> bool:
        """Whether another plugin is to drive the item through it."""
        if not self._drivers:
            return False
        answers = item.ihook.pytest_nsbox_repeats(item=item)
        return any(answers) or len(answers) < self._drivers

    def close(self) -> None:
        for module in self._replaced:
            module.runtestprotocol = self.theirs  # type: ignore[attr-defined]


def _module_of(plugin: object) -> ModuleType | None:
    if inspect.ismodule(plugin):
        return plugin
    return sys.modules.get(type(plugin).__module__)


def _drives(implementation: Any) -> bool:
    """Whether an implementation of pytest_runtest_protocol may run a test by the seam."""
    if implementation.wrapper or implementation.hookwrapper:
        return False
    module = _module_of(implementation.plugin)
    if module is None or module.__name__.startswith(("_pytest.", "pytest_nsbox.")):
        return False
    references = vars(module).values()
    return runner in references or hasattr(module, "runtestprotocol")
