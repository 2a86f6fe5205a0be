"""pytest-sugar: its progress is that of a bare run."""

from __future__ import annotations

import re

import pytest

from .conftest import Both

pytest.importorskip("pytest_sugar")

PLUGINS = ("sugar",)


def test_the_terminal_shows_the_same(pytester: pytest.Pytester, both: Both) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(3))
        def test_number(number):
            assert number < 2

        class TestClass:
            @pytest.mark.skip
            def test_skipped(self):
                pass

            @pytest.mark.xfail
            def test_xfailed(self):
                assert False

        @pytest.fixture
        def broken():
            raise RuntimeError("broken")

        def test_error(broken):
            pass
        """
    )
    quiet, verbose = both(["--force-sugar"], ["--force-sugar", "-v"]).runs
    for run in (quiet, verbose):
        text = re.sub(r"\x1b\[[\d;]*\w", "", str(run.stdout))
        assert "✓" in text
        assert "2 passed" in text
        assert "1 failed" in text
