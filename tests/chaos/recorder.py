"""A plugin of the inner suites: what pytest hears of each test, as lines of JSON."""

from __future__ import annotations

import json
import os

import pytest

_END = 5_000  # of a text that is long only its end is recorded


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _record(
        nodeid=report.nodeid,
        when=report.when,
        outcome=report.outcome,
        duration=report.duration,
        xfail=getattr(report, "wasxfail", None),
        text=report.longreprtext if report.failed else str(report.longrepr or ""),
        sections=[(title, text[-_END:], len(text)) for title, text in report.sections],
    )


def pytest_internalerror(excrepr: object) -> None:
    _record(internalerror=str(excrepr))


def _record(**values: object) -> None:
    if isinstance(text := values.get("text"), str) and len(text) > 4 * _END:
        values["text"] = text[: 2 * _END] + "…" + text[-_END:]
    with open(os.environ["NSBOX_CHAOS_RECORD"], "a") as file:
        print(json.dumps(values), file=file)
