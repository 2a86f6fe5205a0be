"""pytest-benchmark: makes its table and its files at the end, of all that was measured."""

from __future__ import annotations

import pstats
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_benchmark.stats import Metadata
from pytest_benchmark.utils import funcname

_KEY = "benchmark"


class Adapter:
    """Carries the measurements."""

    def __init__(self, config: pytest.Config) -> None:
        self.session: Any = config._benchmarksession  # type: ignore[attr-defined]
        self.dump = self.session.cprofile_dump
        self.inherited = 0

    @pytest.hookimpl
    def pytest_nsbox_keep(self) -> list[str]:
        return [f"{self.dump}-*.prof"] if self.dump else []

    @pytest.hookimpl
    def pytest_nsbox_enter(self) -> None:
        self.inherited = len(self.session.benchmarks)

    @pytest.hookimpl
    def pytest_nsbox_collect(self) -> dict[str, Any] | None:
        new = self.session.benchmarks[self.inherited :]
        return {_KEY: [_describe(benchmark) for benchmark in new]} if new else None

    @pytest.hookimpl
    def pytest_nsbox_apply(self, item: pytest.Item, data: Mapping[str, Any]) -> None:
        self.session.benchmarks += [_restore(item, found) for found in data.get(_KEY, ())]


def _describe(benchmark: Any) -> dict[str, Any]:
    """What is not known beforehand."""
    profile = benchmark.cprofile_stats
    options = benchmark.options.items()
    return {
        "group": benchmark.group,
        "extra_info": benchmark.extra_info,
        "has_error": benchmark.has_error,
        "iterations": benchmark.iterations,
        "options": {name: funcname(v) if callable(v) else v for name, v in options},  # type: ignore[no-untyped-call]
        "data": benchmark.stats.data,
        # Who called a function is not shown.
        "profile": profile and [[name, run[:4]] for name, run in profile.stats.items()],
    }


def _restore(item: Any, found: Mapping[str, Any]) -> Any:
    callspec = getattr(item, "callspec", None)
    fixture = SimpleNamespace(
        name=item.name,
        fullname=item.nodeid,
        group=found["group"],
        param=callspec and callspec.id,
        params=callspec and callspec.params,
        extra_info=found["extra_info"],
        has_error=found["has_error"],
        cprofile_stats=None,
    )
    benchmark = Metadata(fixture, found["iterations"], found["options"])  # type: ignore[no-untyped-call]
    benchmark.stats.data = found["data"]
    if found["profile"]:
        profile: Any = pstats.Stats()
        profile.stats = {tuple(name): (*run, {}) for name, run in found["profile"]}
        benchmark.cprofile_stats = profile
    return benchmark
