"""The section of a failed test's report: what it has changed on disk, left running, and not found."""

from __future__ import annotations

import io
from collections.abc import Sequence

from pytest_nsbox.sandbox.processes import Process

_LISTED = 10


def describe(changes: list[list[str]], left: list[Process], threads: Sequence[str] = ()) -> str:
    """What a test has changed and left running, short; "" where that is nothing.

    ``threads``: names of those that a fork has not copied.

    >>> print(describe([["/etc/x", "added"]], [Process(3, "sleep 9")]))
    1 change outside /tmp:
      added     /etc/x
    1 process left running:
      pid 3     sleep 9
    """
    text = io.StringIO()
    for title, lines in (
        ("change{s} outside /tmp", [f"{kind:<9} {path}" for path, kind in changes]),
        (
            "process{es} left running",
            [f"{f'pid {p.pid}':<9} {p.command:.200}" for p in left],
        ),
        (
            "thread{s} of broad-scoped fixtures outside (pytest_nsbox_fixtures can have {them} in here)",
            threads,
        ),
    ):
        if lines:
            many = len(lines) > 1
            them = "them" if many else "it"
            head = title.format(s="s" if many else "", es="es" if many else "", them=them)
            print(f"{len(lines)} {head}:", file=text)
            for line in lines[:_LISTED]:
                print(f"  {line}", file=text)
            if len(lines) > _LISTED:
                print(f"  … and {len(lines) - _LISTED} more", file=text)
    return text.getvalue().rstrip("\n")
