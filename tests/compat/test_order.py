"""pytest-order: the order of its markers; broad-scoped fixtures follow."""

from __future__ import annotations

import pytest

from .conftest import Both

pytest.importorskip("pytest_order")

PLUGINS = ("pytest_order",)

SUITE = """
    import pytest

    @pytest.fixture(scope="class", autouse=True)
    def of_class():
        print("class setup")
        yield
        print("class teardown")

    @pytest.mark.order(-1)
    def test_last():
        pass

    @pytest.mark.order("second_to_last")
    def test_second_to_last():
        pass

    class TestClass:
        @pytest.mark.order(2)
        def test_b(self):
            pass

        @pytest.mark.order(1)
        def test_a(self):
            pass

        @pytest.mark.order(after="test_free")
        def test_after(self):
            pass

    def test_free():
        pass

    @pytest.mark.order(before="TestClass::test_a")
    def test_before():
        pass
"""


def test_the_order_of_the_markers(pytester: pytest.Pytester, both: Both) -> None:
    pytester.makepyfile(test_one=SUITE, test_two=SUITE)
    for run in both(["-v"], ["-v", "--order-scope=module"], ["-v", "--order-scope=class"]).runs:
        run.assert_outcomes(passed=14)
