"""What two processes that write on one terminal tell each other of it: its line, its headings."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
from _pytest.debugging import pytestPDB

# What the handler of --log-cli-level knows of the headings it has written.
_LIVE = ("_when", "_section_name_shown", "_first_record_emitted", "_test_outcome_written")


def is_shared(config: pytest.Config) -> bool:
    """Whether a test process writes on the terminal, too."""
    option = config.option
    return bool(
        _live(config) is not None
        or option.capture in ("no", "tee-sys")
        or option.setupshow
        or option.usepdb
        or option.trace
    )


def state(config: pytest.Config) -> dict[str, Any] | None:
    """What this process knows of the terminal, all of it put out; None if only one writes there."""
    if not is_shared(config):
        return None
    reporter, live = _reporter(config), _live(config)
    flush(config)
    known = {name: getattr(live, name) for name in _LIVE} if live is not None else {}
    if reporter is not None:
        known["line"] = reporter._tw._current_line
        known["in_line"] = bool(reporter.currentfspath)
    return known


def adopt(config: pytest.Config, known: dict[str, Any] | None) -> None:
    """Go on where the other process has left the terminal."""
    if known is None:
        return
    reporter, live = _reporter(config), _live(config)
    for name in _LIVE if live is not None else ():
        setattr(live, name, known.get(name))
    if reporter is not None:
        reporter._tw._current_line = str(known.get("line", ""))
        if not known.get("in_line"):
            reporter.currentfspath = None
        elif not reporter.currentfspath:
            reporter.currentfspath = -2  # in a line, and not one of a file's


def keep_heading(config: pytest.Config, when: str) -> None:
    """If the other process has begun the phase, have ours go on below its heading."""
    live = _live(config)
    if live is not None and live._when == when:
        shown = live._section_name_shown

        def set_when(when: str) -> None:
            del live.set_when  # the class's again
            live.set_when(when)
            live._section_name_shown = shown

        live.set_when = set_when


def flush(config: pytest.Config) -> None:
    """Empty the buffers: a fork would copy them, another process writes to the same terminal."""
    for stream in (sys.stdout, sys.stderr, getattr(_reporter(config), "_tw", None)):
        if stream is not None:
            with contextlib.suppress(ValueError, OSError):  # a test's closed stream
                stream.flush()


def before_debugger(act: Callable[[], None]) -> None:
    """Have it done before pytest's debugger puts its first line out."""
    initialize: Any = pytestPDB._init_pdb

    def act_and_initialize(*args: object, **kwargs: object) -> object:
        act()
        return initialize(*args, **kwargs)

    pytestPDB._init_pdb = act_and_initialize  # type: ignore[method-assign]


# Taken now: a test may replace them, and is muted after it, too.
_open, _dup, _dup2, _close = os.open, os.dup, os.dup2, os.close


class Mute:
    """Lets nothing out on the terminal and into the log file, until it ends; captured is as ever."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        null = _nowhere()
        self.saved = {fd: _dup(fd) for fd in _ways_out(config)}
        for fd in self.saved:
            _dup2(null, fd, inheritable=fd < 3)
        _close(null)

    def end(self) -> None:
        flush(self.config)
        for fd, saved in self.saved.items():
            if not _is_captured(self.config, fd):
                _dup2(saved, fd, inheritable=fd < 3)
            _close(saved)


def _nowhere() -> int:
    try:
        return _open(os.devnull, os.O_WRONLY)
    except OSError:  # a test has changed its root
        return os.memfd_create("nsbox-nowhere")


def _ways_out(config: pytest.Config) -> list[int]:
    fds = {1, 2}
    for capture in _fd_captures(config):
        fds.add(capture.targetfd_save)
    handler: Any = getattr(
        config.pluginmanager.getplugin("logging-plugin"), "log_file_handler", None
    )
    if getattr(handler, "stream", None) is not None:
        fds.add(handler.stream.fileno())
    return sorted(fds)


def _is_captured(config: pytest.Config, fd: int) -> bool:
    """Whether the capturing has put its file there meanwhile, and will put back what we restore."""
    return any(
        capture.targetfd == fd and capture._state == "started" for capture in _fd_captures(config)
    )


def _fd_captures(config: pytest.Config) -> list[Any]:
    capturing = getattr(config.pluginmanager.getplugin("capturemanager"), "_global_capturing", None)
    both = [getattr(capturing, name, None) for name in ("out", "err")]
    return [capture for capture in both if hasattr(capture, "targetfd_save")]


def _reporter(config: pytest.Config) -> Any:
    return config.pluginmanager.getplugin("terminalreporter")


def _live(config: pytest.Config) -> Any:
    plugin = config.pluginmanager.getplugin("logging-plugin")
    handler = getattr(plugin, "log_cli_handler", None)
    return handler if hasattr(handler, "_when") else None  # else one that logs nothing
