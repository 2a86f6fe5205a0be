"""What a run must leave as it was: no process of it, no mount."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

MARK = "NSBOX_TEST_MARK"  # a variable; whatever a run starts inherits it
_PATIENCE = 2.0  # seconds, which the design promises


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for the condition, at most so long; whether it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Host:
    """The machine, seen by those who look for what a run has left."""

    def __init__(self, mark: str) -> None:
        self.mark = f"{MARK}={mark}"
        self.mounts = Path("/proc/self/mountinfo").read_text()

    def processes(self) -> list[int]:
        """The processes of the run: whatever has inherited its environment."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                environ = path.read_text(errors="replace").split("\0")
            except OSError:
                continue
            if self.mark in environ:
                found.append(int(path.parent.name))
        return found

    def assert_clean(self) -> None:
        """Wait as long as it is allowed to take until nothing is left."""
        is_clean = until(lambda: not self.processes(), _PATIENCE)
        assert is_clean, f"left: {self.processes()}"
        assert Path("/proc/self/mountinfo").read_text() == self.mounts
