"""pytest-randomly: a seed gives the same order and the same numbers."""

from __future__ import annotations

import pytest

from .conftest import Both

pytest.importorskip("pytest_randomly")

PLUGINS = ("randomly",)


def test_a_seed_gives_the_same_order_and_numbers(pytester: pytest.Pytester, both: Both) -> None:
    suite = """
        import random
        import pytest

        @pytest.fixture(scope="module")
        def shared():
            return random.random()

        @pytest.fixture(scope="class")
        def of_class():
            return random.random()

        @pytest.mark.parametrize("number", range(4))
        def test_number(number, shared, tmp_path):
            print(number, shared, random.random(), random.sample(range(100), 5))
            random.seed()

        class TestClass:
            def test_a(self, of_class):
                print(of_class, random.random())

            def test_b(self, of_class):
                print(of_class, random.random())
        """
    pytester.makepyfile(test_one=suite, test_two=suite)
    first, second, ordered = both(
        ["-v", "--randomly-seed=1"],
        ["-v", "--randomly-seed=2"],
        ["-v", "--randomly-seed=1", "--randomly-dont-reorganize"],
    ).runs
    first.assert_outcomes(passed=12)
    order = [[line for line in run.outlines if " PASSED" in line] for run in (first, second)]
    assert order[0] != order[1]
    names = [line for line in ordered.outlines if " PASSED" in line]
    assert "test_one.py::test_number[0]" in names[0]
    ordered.assert_outcomes(passed=12)


def test_each_phase_goes_on_with_the_numbers_that_broad_fixtures_have_left(
    pytester: pytest.Pytester, both: Both
) -> None:
    pytester.makepyfile(
        """
        import random
        import pytest

        @pytest.fixture(scope="module")
        def broad():
            print("broad setup", random.random())
            yield
            print("broad teardown", random.random())

        @pytest.fixture
        def narrow(broad):
            print("narrow setup", random.random())
            yield

        def test_a(narrow):
            print("call", random.random())

        def test_b(narrow):
            print("call", random.random())
        """
    )
    both(["--randomly-seed=3"]).runs[0].assert_outcomes(passed=2)
