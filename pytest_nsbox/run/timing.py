"""Where the milliseconds of a sandboxed test go (``--nsbox-debug=timing``).

A mark ends a step, which began with the mark before it: so the steps of a process add up to all of
its time, with several jobs too. What a test process has spent comes home with its "end".
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import pytest

from pytest_nsbox.run import wire

# In the order in which a test takes them.
CONTROLLER = (
    "between tests",
    "broad setup",
    "acquire",
    "fork",
    "order",
    "wait",
    "verdict, close",
    "teardown",
)
TEST_PROCESS = ("fork", "enter", "adopt", "item protocol", "collect", "send")


class Timing:
    """Seconds by step: of the test at hand, and of all before it."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        # Not looked up when it is needed: a test may freeze time.
        self._now = time.perf_counter
        self._last = self._now()
        self._current: dict[str, float] = defaultdict(float)
        self.controller: dict[str, list[float]] = defaultdict(list)
        self.test_process: dict[str, list[float]] = defaultdict(list)

    def mark(self, step: str) -> None:
        now = self._now()
        if step == CONTROLLER[0]:
            self.roll()
        self._current[step] += now - self._last
        self._last = now

    def skip(self) -> None:
        """What was since the last mark is of no step."""
        self._last = self._now()

    def roll(self) -> None:
        """The test at hand is one of all now."""
        _append(self.controller, self._current)
        self._current.clear()

    def begin_child(self) -> None:
        """In the test process: what came before the fork is the controller's."""
        self._current.clear()
        self.mark("fork")

    def spent(self) -> dict[str, float]:
        """Seconds by step of the test at hand."""
        return dict(self._current)

    def adopt(self, spent: dict[str, Any]) -> None:
        """Take in what a test process has spent. Raises Garbled."""
        if not all(name in TEST_PROCESS and isinstance(spent[name], float) for name in spent):
            raise wire.Garbled(f"not a message: its timing is {spent!r}")
        _append(self.test_process, spent)

    def lines(self) -> list[str]:
        """The table of medians, in milliseconds; a step that never was is not in it."""
        from statistics import median  # two milliseconds, in a run that has time

        self.roll()
        said = ["medians over the tests of this run, in ms"]
        for title, steps, spent in (
            ("pytest's process", CONTROLLER, self.controller),
            ("test process, meanwhile", TEST_PROCESS, self.test_process),
        ):
            medians = {step: median(spent[step]) * 1000 for step in steps if spent.get(step)}
            said.append(f"{title:<26}{sum(medians.values()):8.3f}")
            said += [f"  {step:<24}{medians[step]:8.3f}" for step in medians]
        return said


def _append(to: dict[str, list[float]], spent: dict[str, float]) -> None:
    for step, seconds in spent.items():
        to[step].append(seconds)


# Of one run, not of those that a test may have in its process. No stash: a mark is to cost nothing.
_timing: Timing | None = None


def switch_on(config: pytest.Config) -> None:
    global _timing
    _timing = Timing(config)


def of(config: pytest.Config) -> Timing | None:
    """The run's recorder; None unless it was asked for."""
    return _timing if _timing is not None and _timing.config is config else None


def mark(config: pytest.Config, step: str) -> None:
    """The step ends here."""
    timing = of(config)
    if timing is not None:
        timing.mark(step)
