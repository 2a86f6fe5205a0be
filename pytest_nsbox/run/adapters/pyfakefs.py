"""pyfakefs: a class's or a module's fake file system stays in place between tests."""

from __future__ import annotations

import sys

import pytest


class Adapter:
    """Has it leave our modules their ``os``."""

    def __init__(self, config: pytest.Config) -> None:
        from pyfakefs.fake_filesystem_unittest import Patcher

        ours = {name for name in sys.modules if name.partition(".")[0] == "pytest_nsbox"}
        Patcher.SKIPNAMES.update(ours)
