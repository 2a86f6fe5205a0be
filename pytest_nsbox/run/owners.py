"""Whose code an implementation of a hook is: the project's own, or that of pytest and of plugins."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

_INSTALLED = {"site-packages", "dist-packages"}


def is_of(function: Any, *packages: str) -> bool:
    """Whether the function comes from one of the packages; what ``exec`` has made has no module."""
    return (getattr(function, "__module__", None) or "").startswith(packages)


def implementations(*callers: Any) -> list[Any]:
    """Those of several hooks, given as ``config.hook.pytest_…``."""
    return [each for caller in callers for each in caller.get_hookimpls()]


def any_own(config: pytest.Config, found: Iterable[Any]) -> bool:
    """Whether one of these implementations is the project's, which may keep what its tests look at.

    That is a conftest, or a plugin in the rootdir that is not installed there (in a ``.venv``).
    """
    return any(_is_own(config, each.function) for each in found)


class Heard:
    """Of which items the project's own code hears in pytest's process, test by test.

    It may leave there what the next test looks at, which is not to have been forked before.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self._known: dict[Path, bool] = {}  # by directory, as conftests are

    def __call__(self, item: pytest.Item) -> bool:
        directory = item.path.parent
        if directory not in self._known:
            self._known[directory] = any_own(self.config, _hearers(item))
        return self._known[directory]


def _hearers(item: pytest.Item) -> list[Any]:
    hook, everywhere = item.ihook, item.config.hook  # of a conftest above it, and of any
    around = hook.pytest_runtest_protocol.get_hookimpls()
    return [
        *implementations(
            hook.pytest_runtest_logstart,
            hook.pytest_runtest_logreport,
            hook.pytest_runtest_logfinish,
            hook.pytest_warning_recorded,
            everywhere.pytest_report_from_serializable,
            everywhere.pytest_report_teststatus,
        ),
        *(each for each in around if each.wrapper or each.hookwrapper),
    ]


def _is_own(config: pytest.Config, function: Any) -> bool:
    code = getattr(function, "__code__", None)
    if code is None:
        return True  # who knows
    path = os.path.abspath(code.co_filename)
    if is_of(function, "_pytest.", "pytest_nsbox."):
        return False  # also where they are what the project is
    is_conftest = os.path.basename(path) == "conftest.py"
    is_inside = os.path.commonpath([path, config.rootpath]) == str(config.rootpath)
    return is_conftest or (is_inside and _INSTALLED.isdisjoint(path.split(os.sep)))
