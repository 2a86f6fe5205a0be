"""What JSON, two processes and a test's malice do to a report or a warning, undone or refused."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import pytest
from _pytest._code.code import TerminalRepr
from _pytest._io import TerminalWriter
from _pytest.tracemalloc import tracemalloc_message

from pytest_nsbox.run import wire
from pytest_nsbox.run.verdict import PHASES


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


# What the data of a test that passes says, each time.
_USUAL: dict[str, Any] = {
    "$report_type": "TestReport",
    "outcome": "passed",
    "longrepr": None,
    "sections": [],
    "user_properties": [],
}
_COMMON = ("nodeid", "location", "keywords")  # to the reports of an item, as a rule


class Said:
    """What is said of an item's reports already, and holds for the next: most, if its test passes.

    There is one on either side of the pipe.
    """

    def __init__(self) -> None:
        self._values = dict(_USUAL)

    def left_of(self, data: dict[str, Any]) -> dict[str, Any] | None:
        """What of a report's data is still to be said; None: all of it, and nothing to ``keep``."""
        said = self._values
        if not said.keys() <= data.keys():  # which holds not for one that lacks it
            return None
        try:
            return {
                name: value
                for name, value in data.items()
                if name not in said or value != said[name]
            }
        except Exception:  # of what a plugin has put there: an array has no truth
            return None

    def completed(self, data: dict[str, Any], *, whole: bool) -> dict[str, Any]:
        """The data from what was left of it, or from all of it. Raises Garbled.

        Of reports pytest and its plugins believe everything, some of it only when the run ends, so
        that whatever a test may have made up is refused here.
        """
        said = {} if whole else self._values
        for name, is_right in _RIGHT.items():
            if (name in data or name not in said) and not is_right(data.get(name)):
                raise wire.Garbled(f"not a report: {name} is {data.get(name)!r:.200}")
        if not whole:
            self.keep(data)
        # In copies: plugins may add to those of a report.
        return {name: copy.copy(value) for name, value in said.items() if name not in data} | data

    def keep(self, left: Mapping[str, Any]) -> None:
        """Have this said: it is on its way, or has come."""
        self._values.update({name: copy.copy(left[name]) for name in _COMMON if name in left})


def restored(
    data: dict[str, Any], rendered: list[str] | None, item: pytest.Item
) -> pytest.TestReport:
    """The report that a test process has sent; ``rendered``: by ``render``. Raises Garbled."""
    # A makereport hook may give it a name of its own, but not that of a test that is not it.
    if data["nodeid"] != item.nodeid and data["nodeid"] in _nodeids(item.session):
        raise wire.Garbled(f"a report of another test: {data['nodeid']}")
    try:
        report: pytest.TestReport = item.config.hook.pytest_report_from_serializable(
            config=item.config, data=data
        )
        if data["longrepr"]:
            assert isinstance(report.longreprtext, str)  # as the terminal shows it
            crash = getattr(report.longrepr, "reprcrash", None)
            assert crash is None or isinstance(crash.message, str)
        if rendered is not None:
            without_markup, with_markup = map(str, rendered)
            report.longrepr = Rendered([without_markup, with_markup])
        of_subtest = data.get("_subtest.context")
        if of_subtest is not None:
            # Made once more, it holds the repr of the repr of each value.
            object.__setattr__(report.context, "kwargs", dict(of_subtest["kwargs"]))
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
        isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str)
        for pair in value
    )


def is_location(value: object) -> bool:
    """Whether that is where an item is: a path, a line or None, and a name."""
    match value:
        case [str(), int() | None, str() | None]:
            return isinstance(value, tuple)
    return False


def _is_explanation(value: object) -> bool:
    match value:
        case [str(), int() | None, str()]:
            return isinstance(value, tuple)
    return value is None or isinstance(value, (str, dict))


def _are_sections(value: object) -> bool:
    return _is_list_of_pairs(value) and all(isinstance(text, str) for _, text in value)  # type: ignore[attr-defined]


_RIGHT: dict[str, Callable[[object], bool]] = {
    "nodeid": _is_text,
    "location": is_location,
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


def count_subtests(report: pytest.TestReport, config: pytest.Config) -> None:
    """Have a test fail whose subtests have: of these only its process has the count.

    That is what the hook does which tells a status: it is no mere query (_pytest/subtests.py).
    """
    if report.when != "call" or _FAILED_SUBTESTS is None:
        return
    counts: dict[object, int] = config.stash.get(_FAILED_SUBTESTS, {})
    if counts.get(getattr(report, "id", report.nodeid)):
        config.hook.pytest_report_teststatus(report=report, config=config)


# By the test's id (pytest 9.2) or its node id; before pytest 9.0 there are no subtests.
_FAILED_SUBTESTS: Any = getattr(sys.modules.get("_pytest.subtests"), "failed_subtests_key", None)


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
_LONGEST = 1 << 20  # lines of a file


def _is_frame(value: object) -> bool:
    match value:
        case [str() as path, int(), str()]:
            return "\0" not in path
    return False


def frames_of(error: BaseException) -> list[Frame]:
    """Where the error was raised, as pytest would show it: without what hides itself."""
    info = pytest.ExceptionInfo.from_exception(error)
    return [
        (str(entry.path), entry.lineno + 1, entry.name)
        for entry in info.traceback
        if not entry.ishidden(info)
    ]


def with_frames(error: BaseException, frames: list[Frame]) -> BaseException:
    """The error, to be raised with a traceback that ends in these frames of another process.

    Raises Garbled if they are none.
    """
    if len(frames) > sys.getrecursionlimit() or not all(map(_is_frame, frames)):
        raise wire.Garbled(f"not a message: it has the frames {frames!r:.200}")
    traceback = None
    for path, line, name in reversed(frames):
        code = compile("\n" * (min(line, _LONGEST) - 1) + "raise error", path, "exec").replace(
            co_name=name
        )
        with contextlib.suppress(type(error)):
            exec(code, {"error": error.with_traceback(None)})
        at: Any = error.__traceback__
        at = at.tb_next  # the frame below ours
        traceback = TracebackType(traceback, at.tb_frame, at.tb_lasti, at.tb_lineno)
    return error.with_traceback(traceback)


def warning_to_send(warning: warnings.WarningMessage) -> dict[str, Any]:
    """What of a warning can be sent."""
    text, has_source = str(warning.message), warning.source is not None
    if has_source:
        import tracemalloc  # with pickle, three milliseconds

        if tracemalloc.is_tracing():
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
