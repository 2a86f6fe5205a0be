"""What JSON and two processes do to a report or a warning, undone."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from typing import Any

import pytest
from _pytest._code.code import TerminalRepr
from _pytest._io import TerminalWriter

from pytest_nsbox.run import wire


class Rendered(TerminalRepr):
    """What a ``longrepr`` writes, of a kind that pytest makes a mere string of on its way."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts  # without markup, with it

    def toterminal(self, tw: TerminalWriter) -> None:
        tw.write(self.texts[tw.hasmarkup])


def render(report: pytest.TestReport, config: pytest.Config) -> list[str] | None:
    """For ``Rendered``; None where pytest sends the ``longrepr`` whole."""
    longrepr = report.longrepr
    if not isinstance(longrepr, TerminalRepr) or hasattr(longrepr, "reprcrash"):
        return None
    return [_written_by(longrepr, config, markup) for markup in (False, True)]


def _written_by(longrepr: TerminalRepr, config: pytest.Config, markup: bool) -> str:
    text = io.StringIO()
    tw = TerminalWriter(text)
    tw.hasmarkup = markup
    tw.code_highlight = config.option.code_highlight == "yes"
    longrepr.toterminal(tw)
    return text.getvalue()


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
