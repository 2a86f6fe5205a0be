"""pytest-timeout: its timer runs where the test does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .conftest import Both

pytest.importorskip("pytest_timeout")

SUITE = """
    import threading
    import time
    import pytest

    @pytest.mark.timeout(0.5, method="signal")
    def test_call():
        print("before")
        time.sleep(60)

    @pytest.fixture
    def slow():
        yield
        time.sleep(60)

    @pytest.mark.timeout(0.5, method="signal")
    def test_teardown(slow):
        pass

    @pytest.mark.timeout(0.5, method="signal", func_only=True)
    def test_function_only(request):
        time.sleep(60)

    @pytest.fixture(scope="module")
    def broad():
        time.sleep(60)

    @pytest.mark.timeout(0.5, method="signal")
    def test_broad(broad):
        pass

    @pytest.mark.timeout(30, method="thread")
    def test_quick():
        assert [t.name for t in threading.enumerate()][1:] == [
            "pytest_timeout test_timeouts.py::test_quick"
        ]

    def test_next():
        pass
"""

THREAD = """
    import time
    import pytest

    def test_slow():
        print("before")
        time.sleep(60)

    def test_next():
        pass
"""


def test_a_signal_fails_the_phase_that_takes_too_long(
    pytester: pytest.Pytester, both: Both
) -> None:
    pytester.makepyfile(test_timeouts=SUITE)
    run = both(["-v"]).runs[0]
    run.assert_outcomes(passed=3, failed=2, errors=2)
    run.stdout.fnmatch_lines(["*Failed: Timeout (>0.5s) from pytest-timeout.*"])


def test_the_ini_file_and_the_command_line_bound_a_test(
    pytester: pytest.Pytester, both: Both
) -> None:
    pytester.makeini("[pytest]\ntimeout = 0.5")
    pytester.makepyfile(THREAD)
    for run in both([], ["--timeout=0.6"]).runs:
        run.assert_outcomes(passed=1, failed=1)


def test_the_thread_method_ends_the_sandbox_only(
    pytester: pytest.Pytester, run_pytest: Callable[..., pytest.RunResult]
) -> None:
    # Bare, it ends pytest.
    pytester.makepyfile(THREAD)
    result = run_pytest("--nsbox=all", "--timeout=0.5", "--timeout-method=thread")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*the test process exited with status 1*"])
    output = str(result.stdout) + str(result.stderr)
    assert "Stack of MainThread" in output
    assert "time.sleep(60)" in output
