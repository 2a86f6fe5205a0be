"""pytest-forked, which may still be installed: it runs what it is asked to, and no other test."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("pytest_forked")

Run = Callable[..., pytest.RunResult]

MANY = """
    import os
    import pytest

    @pytest.mark.parametrize("number", range(8))
    def test_number(number):
        assert os.getpid() == 2
"""


def test_a_test_that_it_is_not_asked_to_run_is_forked_ahead_of_its_turn(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    pytester.makepyfile(MANY)
    result = run_pytest("--nsbox=all", "-p", "pytest_forked", "--nsbox-debug=timing")
    result.assert_outcomes(passed=8)
    result.stdout.re_match_lines([r"  order +[\d.]+$"])


def test_one_that_it_runs_is_refused_a_sandbox_and_told_why(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    pytester.makepyfile(MANY)
    result = run_pytest("--nsbox=all", "-p", "pytest_forked", "--forked")
    assert result.ret != 0
    assert "passed" not in result.parseoutcomes()
