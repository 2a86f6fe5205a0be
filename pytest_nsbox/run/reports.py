"""What JSON, two processes and a test's malice do to a report or a warning, undone or refused."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from pytest_nsbox.run import wire
from pytest_nsbox.run.verdict import PHASES


def joined(sections: list[tuple[str, str]], more: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """``sections``, with the text of ``more`` added to those of the same title."""
    rest = dict(more)
    together = [(title, text + rest.pop(title, "")) for title, text in sections]
    return together + list(rest.items())


def restored(data: dict[str, Any], item: pytest.Item) -> pytest.TestReport:
    """The report that a test process has sent as ``data``. Raises Garbled.

    Of reports pytest and its plugins believe everything, some of it only when the run ends, so that
    whatever a test may have made up is refused here.
    """
    for name, is_right in _RIGHT.items():
        if not is_right(data.get(name)):
            raise wire.Garbled(f"not a report: {name} is {data.get(name)!r:.200}")
    # A makereport hook may give it a name of its own, but not that of a test that is not it.
    if data["nodeid"] != item.nodeid and data["nodeid"] in _nodeids(item.session):
        raise wire.Garbled(f"a report of another test: {data['nodeid']}")
    try:
        report: pytest.TestReport = item.config.hook.pytest_report_from_serializable(
            config=item.config, data=restore_tuples(data)
        )
        if data["longrepr"]:
            assert isinstance(report.longreprtext, str)  # as the terminal shows it
            crash = getattr(report.longrepr, "reprcrash", None)
            assert crash is None or isinstance(crash.message, str)
    except Exception as error:
        raise wire.Garbled(f"not a report: {type(error).__name__}: {error}") from error
    return report


def _nodeids(session: pytest.Session) -> set[str]:
    return {item.nodeid for item in session.items}


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))


def _is_list_of_pairs(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in value
    )


def _is_location(value: object) -> bool:
    match value:
        case [str(), int() | None, str() | None]:
            return True
    return False


def _is_explanation(value: object) -> bool:
    match value:
        case None | str() | dict() | [str(), int() | None, str()]:
            return True
    return False


def _are_sections(value: object) -> bool:
    return _is_list_of_pairs(value) and all(isinstance(text, str) for _, text in value)  # type: ignore[attr-defined]


_RIGHT: dict[str, Callable[[object], bool]] = {
    "nodeid": _is_text,
    "location": _is_location,
    "keywords": lambda value: isinstance(value, dict),
    "outcome": _is_text,
    "longrepr": _is_explanation,
    "when": lambda value: value in PHASES,
    "user_properties": _is_list_of_pairs,
    "sections": _are_sections,
    "duration": _is_number,
    "start": _is_number,
    "stop": _is_number,
    "wasxfail": lambda value: value is None or isinstance(value, str),
}


_KEPT = 1 << 16  # characters


def shorten(report: pytest.TestReport) -> None:
    """Leave of a report what can be sent: of output the end, of an explanation the beginning."""
    report.sections = [
        (
            title,
            text if len(text) <= _KEPT else f"[… {len(text) - _KEPT} characters]{text[-_KEPT:]}",
        )
        for title, text in report.sections
    ]
    text = report.longreprtext
    if len(text) > _KEPT:
        report.longrepr = f"{text[:_KEPT]}[… {len(text) - _KEPT} characters]"


def restore_tuples(data: dict[str, Any]) -> dict[str, Any]:
    """JSON has no tuples, and pytest wants some: terminal.py asserts that a skip's longrepr is one."""
    if isinstance(data["longrepr"], list):
        data["longrepr"] = tuple(data["longrepr"])
    data["location"] = tuple(data["location"])
    for name in ("sections", "user_properties"):
        data[name] = [tuple(pair) for pair in data[name]]
    return data


def relay_warning(message: wire.Message) -> None:
    """Warn here of what a test process was warned of, by way of whoever records warnings."""
    category: type[Warning] = Warning
    with contextlib.suppress(Exception):
        found: Any = importlib.import_module(message["module"])
        for name in message["name"].split("."):
            found = getattr(found, name)
        if issubclass(found, Warning):
            category = found
    text: Warning
    try:
        text = category(message["text"])
    except Exception:
        text = Warning(message["text"])
    warnings.showwarning(
        text, category, message["filename"], message["lineno"], None, message["line"]
    )
