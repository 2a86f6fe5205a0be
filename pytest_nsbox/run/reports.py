"""What JSON and two processes do to a report or a warning, undone."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tracemalloc
import warnings
from types import TracebackType
from typing import Any

import pytest
from _pytest._code.code import TerminalRepr
from _pytest._io import TerminalWriter
from _pytest.tracemalloc import tracemalloc_message

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


_OURS = f"{os.path.dirname(os.path.abspath(__file__))}/"


def forget_our_frames(error: BaseException) -> None:
    """Take out of a traceback what pytest would take for the user's code: this directory's."""
    at = error.__traceback__
    while at is not None:
        following = at.tb_next
        while following is not None and following.tb_frame.f_code.co_filename.startswith(_OURS):
            following = following.tb_next
        at.tb_next = following
        at = following


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
        with contextlib.suppress(type(error)):
            exec(code, {"error": error.with_traceback(None)})
        at: Any = error.__traceback__
        at = at.tb_next  # the frame below ours
        traceback = TracebackType(traceback, at.tb_frame, at.tb_lasti, at.tb_lineno)
    return error.with_traceback(traceback)


def warning_to_send(warning: warnings.WarningMessage) -> dict[str, Any]:
    """What of a warning can be sent."""
    text, has_source = str(warning.message), warning.source is not None
    if has_source and tracemalloc.is_tracing():
        text, has_source = text + tracemalloc_message(warning.source), False
    return {
        "text": text,
        "module": warning.category.__module__,
        "name": warning.category.__qualname__,
        "filename": warning.filename,
        "lineno": warning.lineno,
        "line": warning.line,
        "has_source": has_source,
    }


def relay_warning(message: wire.Message) -> None:
    """Warn here of what a test process was warned of, by way of whoever records warnings."""
    category = _category(message["module"], message["name"])
    text: Warning
    try:
        text = category(message["text"])
    except Exception:
        text = Warning(message["text"])
    warnings._showwarnmsg(  # type: ignore[attr-defined]
        warnings.WarningMessage(
            text,
            category,
            message["filename"],
            message["lineno"],
            line=message["line"],
            # Something that was never allocated: of that pytest says how to learn more.
            source=... if message["has_source"] else None,
        )
    )


def _category(module: str, name: str) -> type[Warning]:
    """The class, or where only the test process has it one that looks like it."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type) and issubclass(found, Warning):
        return found
    return type(name.rpartition(".")[2], (Warning,), {"__module__": module})
