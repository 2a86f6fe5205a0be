"""What JSON and two processes do to a report or a warning, undone."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from types import TracebackType
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


Frame = tuple[str, int, str]  # file, line, function


def frames_of(error: BaseException) -> list[Frame]:
    """Where the error was raised, as pytest would show it: without what hides itself."""
    info = pytest.ExceptionInfo.from_exception(error)
    return [
        (str(entry.path), entry.lineno + 1, entry.name)
        for entry in info.traceback
        if not entry.ishidden(info)
    ]


def with_frames(error: BaseException, frames: list[Frame]) -> BaseException:
    """The error, to be raised with a traceback that ends in these frames of another process."""
    traceback = None
    for path, line, name in reversed(frames):
        code = compile("\n" * (line - 1) + "raise error", path, "exec").replace(co_name=name)
        try:
            exec(code, {"error": error})
        except BaseException as raised:
            assert raised.__traceback__ is not None
            at = raised.__traceback__.tb_next
            assert at is not None
            traceback = TracebackType(traceback, at.tb_frame, at.tb_lasti, at.tb_lineno)
    return error.with_traceback(traceback)


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
