"""``--nsbox-debug=timing``: where a sandboxed test's time went, by the step."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from pytest_nsbox.run.timing import CONTROLLER, TEST_PROCESS, Timing

RunPytest = Callable[..., pytest.RunResult]

_LINE = re.compile(r"^(?P<indent> {2})?(?P<step>\S.*?) +(?P<ms>\d+\.\d{3})$")


def table(result: pytest.RunResult) -> list[tuple[str, float]]:
    """The lines of the section: what, and its milliseconds."""
    start = next(n for n, line in enumerate(result.outlines) if "nsbox: timing" in line)
    found = map(_LINE.match, result.outlines[start + 2 : -1])
    return [(line["step"], float(line["ms"])) for line in found if line]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_every_step_of_both_processes_has_its_time(
    pytester: pytest.Pytester, run_pytest: RunPytest, jobs: str
) -> None:
    pytester.makepyfile(
        """
        import time
        import pytest

        @pytest.mark.parametrize("n", range(3))
        def test_it(n): time.sleep(0.05)
        """
    )
    result = run_pytest("--nsbox=all", "--nsbox-debug=timing", f"--nsbox-jobs={jobs}")
    result.assert_outcomes(passed=3)
    found = dict(table(result))
    assert set(TEST_PROCESS) <= found.keys()
    assert {"acquire", "fork", "wait"} <= found.keys() <= {
        "pytest's process", "test process, meanwhile", *CONTROLLER, *TEST_PROCESS,
    }  # fmt: skip
    assert found["item protocol"] >= 50
    assert found["test process, meanwhile"] >= 50


def test_without_the_option_nothing_is_said(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile("def test_it(): pass")
    result = run_pytest("--nsbox=all")
    result.stdout.no_fnmatch_line("*timing*")


def test_another_thing_to_debug_is_refused(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    result = run_pytest("--nsbox-debug=colours")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines("*--nsbox-debug*invalid choice: 'colours'*timing*")


def test_the_steps_of_a_process_add_up(pytestconfig: pytest.Config) -> None:
    timing = Timing(pytestconfig)
    clock = iter([1.0, 1.5, 3.0, 3.25])
    timing._now = lambda: next(clock)
    timing._last = 0.0
    for step in ("between tests", "acquire", "wait", "between tests"):
        timing.mark(step)
    timing.roll()
    assert timing.controller == {"between tests": [1.0, 0.25], "acquire": [0.5], "wait": [1.5]}
