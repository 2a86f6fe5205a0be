"""pytest-xdist: a worker names the test of a report by its index, that of the test it runs now."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest


class Adapter:
    """Names the right one: with several jobs a report may come when the worker is further on."""

    def __init__(self, config: pytest.Config) -> None:
        self.worker: Any = next(
            plugin
            for plugin in config.pluginmanager.get_plugins()
            if type(plugin).__name__ == "WorkerInteractor"  # its module is executed, not imported
        )
        self.indices: dict[str, int] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(
        self, report: pytest.TestReport
    ) -> Generator[None, object, object]:
        worker = self.worker
        now = worker.item_index
        if worker.session.items[now].nodeid != report.nodeid:
            if not self.indices:
                self.indices = {item.nodeid: n for n, item in enumerate(worker.session.items)}
            worker.item_index = self.indices.get(report.nodeid, now)
        try:
            return (yield)
        finally:
            worker.item_index = now
