"""pytest-forked: runs what is to be forked by its own option or marker, and nothing else."""

from __future__ import annotations

import pytest


class Adapter:
    """Tells which items those are."""

    def __init__(self, config: pytest.Config) -> None:
        self.all = bool(config.getvalue("forked"))

    @pytest.hookimpl
    def pytest_nsbox_repeats(self, item: pytest.Item) -> bool:
        return self.all or item.get_closest_marker("forked") is not None
