"""pyfakefs: a class's or a module's fake file system stays in place between tests."""

from __future__ import annotations

import sys

import pytest
from pyfakefs.fake_filesystem_unittest import Patcher


class Adapter:
    """Has it leave our modules their ``os``, and broad-scoped fixtures their fake file system."""

    def __init__(self, config: pytest.Config) -> None:
        ours = {name for name in sys.modules if name.partition(".")[0] == "pytest_nsbox"}
        Patcher.SKIPNAMES.update(ours)

    @pytest.hookimpl
    def pytest_nsbox_setup(self) -> None:
        _resume()

    @pytest.hookimpl
    def pytest_nsbox_apply(self) -> None:
        _resume()  # for the teardown of those


def _resume() -> None:
    if Patcher.PATCHER is not None:  # paused with every report
        Patcher.PATCHER.resume()
