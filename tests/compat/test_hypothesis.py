"""hypothesis: its database outlives a sandbox, its statistics reach the terminal."""

from __future__ import annotations

import re

import pytest

from .conftest import Both

pytest.importorskip("hypothesis")

PLUGINS = ("hypothesispytest",)

SUITE = """
    import pytest
    from hypothesis import HealthCheck, event, example, given, note, settings, target
    from hypothesis import strategies as st
    from hypothesis.stateful import RuleBasedStateMachine, rule

    drawn = []

    @given(st.integers())
    def test_holds(number):
        event("even" if number % 2 == 0 else "odd")
        assert number * 2 // 2 == number

    @given(st.integers(), st.text())
    def test_fails(number, text):
        note(f"noted {number}")
        if not drawn:
            drawn.append(number)
            print("first drawn:", number)
        assert number < 1000

    @pytest.fixture
    def fixed():
        return 5

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=7)
    @given(data=st.data())
    def test_with_a_fixture(fixed, data):
        target(data.draw(st.integers(0, fixed)))

    @example(number=-1)
    @given(number=st.integers())
    def test_explicit_example(number):
        assert number != -1

    class Machine(RuleBasedStateMachine):
        @rule(number=st.integers())
        def add(self, number):
            assert number == number

    Machine.TestCase.settings = settings(max_examples=5)
    TestMachine = Machine.TestCase
"""


_VARYING = [(re.compile(r"(?<=drawn: )-?\d+"), "N"), (re.compile(r"left: \.hypothesis/.*\n"), "")]


def test_statistics_and_falsifying_examples_of_a_seed(
    pytester: pytest.Pytester, both: Both
) -> None:
    pytester.makepyfile(SUITE)
    # The way to it depends on the clock, and on the constants in whatever modules lie outside of
    # site-packages: ours do while they are worked on.
    varying = [*_VARYING, (re.compile(r"\n *- .*|\n.*%.*"), "")]
    args = ["-v", "--hypothesis-seed=5", "--hypothesis-show-statistics"]
    run = both(args, varying=varying).runs[0]
    run.assert_outcomes(passed=3, failed=2)
    run.stdout.fnmatch_lines(
        ["*Hypothesis Statistics*", "*::test_holds:", "*100 passing, 0 failing*"]
    )


def test_the_database_lies_where_the_environment_says(
    pytester: pytest.Pytester, both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(SUITE)
    monkeypatch.setenv("HYPOTHESIS_STORAGE_DIRECTORY", "elsewhere")
    seen = both(
        ["-k", "test_fails"], varying=[*_VARYING, (re.compile(r"left: elsewhere/.*\n"), "")]
    )
    assert any(path.startswith("elsewhere/examples/") for path in seen.files)


def test_an_example_that_failed_comes_first_in_the_next_run(
    pytester: pytest.Pytester, both: Both
) -> None:
    pytester.makepyfile(SUITE)
    first, again = both(["-k", "test_fails"], ["-k", "test_fails"], varying=_VARYING).runs
    assert "first drawn: 1000" not in first.outlines
    assert "first drawn: 1000" in again.outlines


@pytest.mark.parametrize("where", [None, "elsewhere"])
def test_the_database_of_a_test_that_imports_hypothesis_when_it_runs(
    pytester: pytest.Pytester, both: Both, monkeypatch: pytest.MonkeyPatch, where: str | None
) -> None:
    """Of which pytest's own process knows nothing."""
    if where is not None:
        monkeypatch.setenv("HYPOTHESIS_STORAGE_DIRECTORY", where)
    pytester.makepyfile(
        """
        def test_imports_it():
            from hypothesis import given, strategies

            @given(strategies.integers())
            def check(number):
                assert number < 1000

            check()
        """
    )
    place = where or ".hypothesis"
    varying = [(re.compile(rf"left: {re.escape(place)}/.*\n"), ""), (re.compile(r"\n.*%.*"), "")]
    seen = both([], varying=varying)
    assert any(path.startswith(f"{place}/examples/") for path in seen.files)


def test_hypothesis_is_not_imported_before_its_own_plugin_does_so_at_the_end(
    pytester: pytest.Pytester, both: Both
) -> None:
    pytester.makeconftest(
        """
        import sys
        import pytest

        @pytest.hookimpl(tryfirst=True)
        def pytest_sessionfinish():
            print("imported:", "hypothesis" in sys.modules)
        """
    )
    pytester.makepyfile("def test_it(): pass")
    both([]).runs[0].stdout.fnmatch_lines(["*imported: False"])
