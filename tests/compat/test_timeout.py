"""pytest-timeout: its marker bounds a sandboxed test."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def test_the_signal_method_fails_the_test_and_the_run_goes_on(
    pytester: pytest.Pytester, run_pytest: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(
        """
        import time
        import pytest

        pytestmark = pytest.mark.sandbox

        @pytest.mark.timeout(1, method="signal")
        def test_slow():
            time.sleep(60)

        def test_next():
            pass
        """
    )
    result = run_pytest()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*Timeout*1*"])
