"""The same run bare and sandboxed: what is selected, in which order, where a run stops."""

from __future__ import annotations

from collections.abc import Callable

import pytest

SameAsBare = Callable[..., pytest.RunResult]

# Outcomes of every kind, in two modules and a class.
SUITE = {
    "test_a": """
        import pytest

        @pytest.mark.parametrize("n", range(3))
        def test_it(n): assert n != 1
        def test_skips(): pytest.skip("not today")
        class TestClass:
            def test_fails(self): assert {"a": 1} == {"a": 2}
            def test_passes(self): print("put out")
        """,
    "test_b": """
        import pytest

        @pytest.fixture
        def broken(): raise ValueError("no setup")
        @pytest.fixture
        def leaky():
            yield
            raise ValueError("no teardown")

        def test_error(broken): pass
        def test_late_error(leaky): pass
        def test_both(leaky): assert False
        @pytest.mark.xfail
        def test_xfail(): assert False
        @pytest.mark.xfail
        def test_xpass(): pass
        """,
}


@pytest.mark.parametrize(
    "args",
    [
        ["-x"],
        ["--maxfail=2", "-v"],
        ["-k", "it or error", "-rA"],
        ["--durations=0", "-vv"],
        ["--collect-only"],
        ["-q", "--tb=no"],
        ["-p", "no:logging", "-p", "no:junitxml", "--color=yes"],
        ["-p", "no:terminal", "-p", "no:cacheprovider"],
    ],
    ids=" ".join,
)
def test_a_suite_with_every_outcome(
    pytester: pytest.Pytester, same_as_bare: SameAsBare, args: list[str]
) -> None:
    pytester.makepyfile(**SUITE)
    same_as_bare(*args)
