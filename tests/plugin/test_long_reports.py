"""A report that is longer than what travels between two processes."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def test_a_report_that_is_too_long_arrives_shortened(
    pytester: pytest.Pytester, run_pytest: Callable[..., pytest.RunResult]
) -> None:
    pytester.makeconftest("from pytest_nsbox.run import wire\nwire._MAX_FRAME = 500_000")
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.sandbox

        def test_puts_out_much():
            print("begin" + "x" * 600_000 + "end")
            assert not "this is why"

        @pytest.fixture
        def much():
            print("begin" + "x" * 600_000 + "of the setup")

        def test_whose_first_report_is_too_long(much):
            assert not "this is another"

        def test_fails_with_much():
            pytest.fail("this is why" + "x" * 600_000)

        def test_has_a_property_that_is_too_much(record_property):
            record_property("much", "x" * 600_000)

        def test_after(): pass
        """
    )
    result = run_pytest("--show-capture=stdout")
    assert result.parseoutcomes() == {"failed": 4, "passed": 1}
    result.stdout.re_match_lines(
        [
            r"E +AssertionError: assert not 'this is why'",
            r"\[… 534\d+ characters\]x+end",
            r"\[… 534\d+ characters\]x+of the setup",
            r".*this is whyx+\[… 5\d+ characters\]",
            r".*a message of 600\d+ bytes; the most is 500000",
        ]
    )
