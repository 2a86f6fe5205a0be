"""pytest-xdist: a worker is a controller of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

SUITE = """
    import os, signal
    import pytest

    pytestmark = pytest.mark.sandbox

    @pytest.mark.parametrize("number", range(8))
    def test_number(number, tmp_path):
        assert os.getpid() == 2
        assert os.listdir("/tmp") != ["left"]
        open("/tmp/left", "w").close()
"""


@pytest.mark.parametrize("dist", ["load", "loadscope", "loadgroup"])
def test_sandboxed_tests_pass_in_workers(
    dist: str, pytester: pytest.Pytester, run_pytest: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(SUITE)
    run_pytest("-n2", f"--dist={dist}").assert_outcomes(passed=8)


def test_a_crashing_sandbox_does_not_take_its_worker(
    pytester: pytest.Pytester, run_pytest: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(
        SUITE
        + """
    def test_crash():
        os.kill(os.getpid(), signal.SIGSEGV)
"""
    )
    result = run_pytest("-n2")
    result.assert_outcomes(passed=8, failed=1)
    result.stdout.fnmatch_lines(["*the test process was killed by SIGSEGV*"])
    result.stdout.no_fnmatch_line("*replacing crashed worker*")
