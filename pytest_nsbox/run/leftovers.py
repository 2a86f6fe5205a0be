"""The section of a failed test's report: what it has changed on disk, and left running."""

from __future__ import annotations

import io

from pytest_nsbox.sandbox.client import Process

_LISTED = 10


def describe(changes: list[list[str]], left: list[Process]) -> str:
    """What a test has changed and left running, short; "" where that is nothing.

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
    ):
        if lines:
            many = len(lines) > 1
            head = title.format(s="s" if many else "", es="es" if many else "")
            print(f"{len(lines)} {head}:", file=text)
            for line in lines[:_LISTED]:
                print(f"  {line}", file=text)
            if len(lines) > _LISTED:
                print(f"  … and {len(lines) - _LISTED} more", file=text)
    return text.getvalue().rstrip("\n")
