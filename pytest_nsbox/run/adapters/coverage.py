"""coverage.py, by itself or by way of pytest-cov: what a test process has executed counts.

The fork inherits a collector that goes on tracing.  There it is given data of its own, in memory;
that travels home and joins the controller's.  Data files of subprocesses are copied out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import coverage
import pytest
from coverage import CoverageData

_KEY = "coverage"


class Adapter:
    """Carries what was measured."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.kept: list[CoverageData] = []  # to let go of one would close its connection

    def switch_context(self, item: pytest.Item, when: str) -> None:
        """What ``--cov-context=test`` does in the hooks that only a test process runs."""
        contexts: Any = self.config.pluginmanager.getplugin("_cov_contexts")
        if contexts is not None:
            contexts.switch_context(item, when)

    @pytest.hookimpl
    def pytest_nsbox_keep(self) -> list[str]:
        current = coverage.Coverage.current()
        # The names that "parallel" gives: of subprocesses (patch = subprocess) and multiprocessing.
        return [os.path.abspath(current.config.data_file) + ".*"] if current is not None else []

    @pytest.hookimpl
    def pytest_nsbox_setup(self, item: pytest.Item) -> None:
        self.switch_context(item, "setup")

    @pytest.hookimpl
    def pytest_nsbox_enter(self) -> None:
        current = coverage.Coverage.current()
        if current is not None and current._collector is not None:
            collector, context = current._collector, current.config.context
            # What the controller has collected and not stored yet: it will do that itself.
            dynamic = collector.covdata._current_context
            collector.use_data(CoverageData(no_disk=True), context)
            collector.flush_data()
            collector.use_data(CoverageData(no_disk=True), context)
            collector.covdata.set_context(dynamic)
            # Who saves in here (patch = _exit) is not to touch the controller's file, which would then
            # be copied out over what that has saved meanwhile.
            if current._data is not None and current._data._suffix:
                self.kept.append(current._data)
                current._data = CoverageData(current.config.data_file, suffix=True)

    @pytest.hookimpl
    def pytest_nsbox_collect(self) -> dict[str, Any] | None:
        current = coverage.Coverage.current()
        if current is None or current._collector is None:
            return None
        current._collector.flush_data()
        data = current._collector.covdata
        files = data.measured_files()
        return {_KEY: _read(data, files)} if files else None

    @pytest.hookimpl
    def pytest_nsbox_apply(self, item: pytest.Item, data: Mapping[str, Any]) -> None:
        current = coverage.Coverage.current()
        if _KEY in data and current is not None and current._collector is not None:
            collector = current._collector
            collector.flush_data()
            _add(data[_KEY], collector.covdata)
            collector.covdata.set_context(current.config.context)
        self.switch_context(item, "teardown")


def _read(data: CoverageData, files: set[str]) -> dict[str, Any]:
    """What was measured, by context and file: lines, or arcs."""
    measured = {}
    for context in data.measured_contexts():
        data.set_query_context(context)
        read = data.arcs if data.has_arcs() else data.lines
        measured[context] = {file: found for file in files if (found := read(file))}
    tracers = {file: data.file_tracer(file) for file in files}
    return {"arcs": data.has_arcs(), "measured": measured, "tracers": tracers}


def _add(found: dict[str, Any], to: CoverageData) -> None:
    """Add it, and not by ``update``: that leaves out the hash by which ``combine`` tells files apart."""
    for context, files in found["measured"].items():
        to.set_context(context)
        if found["arcs"]:
            to.add_arcs({file: [(a, b) for a, b in arcs] for file, arcs in files.items()})
        else:
            to.add_lines(files)
    to.add_file_tracers({file: plugin for file, plugin in found["tracers"].items() if plugin})
