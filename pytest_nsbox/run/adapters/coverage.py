"""coverage.py, by itself or by way of pytest-cov: what a test process has executed counts.

The fork inherits a collector that goes on tracing.  There it is given data of its own, in memory;
that travels home and joins the controller's.  Data files of subprocesses are copied out.
"""

from __future__ import annotations

import base64
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
        pass

    @pytest.hookimpl
    def pytest_nsbox_keep(self) -> list[str]:
        current = coverage.Coverage.current()
        # The names that "parallel" gives: of subprocesses (patch = subprocess) and multiprocessing.
        return [os.path.abspath(current.config.data_file) + ".*"] if current is not None else []

    @pytest.hookimpl
    def pytest_nsbox_enter(self) -> None:
        current = coverage.Coverage.current()
        if current is not None and current._collector is not None:
            collector, context = current._collector, current.config.context
            # What the controller has collected and not stored yet: it will do that itself.
            collector.use_data(CoverageData(no_disk=True), context)
            collector.flush_data()
            collector.use_data(CoverageData(no_disk=True), context)

    @pytest.hookimpl
    def pytest_nsbox_collect(self) -> dict[str, str] | None:
        current = coverage.Coverage.current()
        if current is None or current._collector is None:
            return None
        collector = current._collector
        collector.flush_data()
        data = collector.covdata
        if not data.measured_files():
            return None
        return {_KEY: base64.b64encode(data.dumps()).decode("ascii")}

    @pytest.hookimpl
    def pytest_nsbox_apply(self, data: Mapping[str, Any]) -> None:
        current = coverage.Coverage.current()
        if _KEY not in data or current is None or current._collector is None:
            return
        collector = current._collector
        collector.flush_data()
        measured = CoverageData(no_disk=True)
        measured.loads(base64.b64decode(data[_KEY]))
        collector.covdata.update(measured)
