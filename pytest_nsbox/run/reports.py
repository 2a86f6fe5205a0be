"""What JSON and two processes do to a report or a warning, undone."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from typing import Any

from pytest_nsbox.run import wire


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
