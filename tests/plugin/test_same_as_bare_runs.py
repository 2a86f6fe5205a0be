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
        ["-k", "it or error", "-rA", "-q", "--tb=no"],
        ["--durations=0", "-vv"],
        ["--collect-only"],
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


def test_runs_that_remember_the_last_one(
    pytester: pytest.Pytester, same_as_bare: SameAsBare
) -> None:
    pytester.makepyfile(**SUITE)
    pytester.makepyfile(
        test_cache="""
        import os

        def test_remembers(cache):
            seen = cache.get("own/seen", [])
            print("seen", seen)
            cache.set("own/seen", [*seen, len(seen)])
            assert len(seen) != 1
            (cache.mkdir("own") / "file").write_text("x")
        """
    )
    for args in (["-rA"], ["--lf"], ["--ff", "-v"], ["--sw"], ["--sw", "--sw-skip"], ["--nf"]):
        same_as_bare("--tb=no", *args)
    same_as_bare("--lf", "--cache-show")


@pytest.mark.parametrize("mode", ["prepend", "append", "importlib"])
def test_modules_imported_in_every_way(
    pytester: pytest.Pytester, same_as_bare: SameAsBare, mode: str
) -> None:
    pytester.makepyfile(
        **{
            "package/__init__": "",
            "package/conftest": """
                import pytest

                @pytest.fixture(scope="module")
                def helped(): return "helped"
                """,
            "package/test_in": """
                import sys, warnings

                class OwnWarning(UserWarning): pass
                def test_it(helped):
                    warnings.warn("own", OwnWarning)
                    print(__name__, __name__ in sys.modules, sys.path[:1] == [helped])
                    left, right = [1, 2], [1, 3]
                    assert left == right
                """,
            "tests/test_other": """
                def test_it(): assert {"key": "value"} == {"key": "other"}
                def test_late_import():
                    import colorsys
                    assert colorsys.__file__ is None
                """,
        }
    )
    same_as_bare(f"--import-mode={mode}", "-rA", "-vv")


@pytest.mark.parametrize("args", ["--durations=3", "--durations=0 --durations-min=0.4 -vv"])
def test_what_takes_time_is_shown_with_its_phase(
    pytester: pytest.Pytester, same_as_bare: SameAsBare, args: str
) -> None:
    # The times themselves are not compared, and are what decides which phases are shown.
    pytester.makepyfile(
        """
        import time
        import pytest

        @pytest.fixture(scope="module")
        def broad():
            time.sleep(0.6)
            yield
            time.sleep(0.5)
        @pytest.fixture
        def narrow():
            time.sleep(0.2)
            yield
            time.sleep(0.2)
        def test_first(broad): pass
        def test_second(broad, narrow): time.sleep(0.8)
        def test_third(): pass
        """
    )
    result = same_as_bare(*args.split())
    shown = [line.split()[1:] for line in result.outlines if line.startswith("0.00s ")]
    assert sorted(phase for phase, _ in shown) == ["call", "setup", "teardown"]


def test_times_are_those_of_the_test(pytester: pytest.Pytester, same_as_bare: SameAsBare) -> None:
    pytester.makeconftest(
        """
        def pytest_runtest_logreport(report):
            assert report.start <= report.stop
            print(report.nodeid, report.when, "half seconds:", int(report.duration * 2))
        """
    )
    pytester.makepyfile(
        """
        import time
        import pytest

        @pytest.fixture(scope="module")
        def broad():
            time.sleep(0.35)
            yield
            time.sleep(0.6)
        @pytest.fixture
        def narrow():
            time.sleep(0.25)
            yield
            time.sleep(0.1)
        def test_first(broad, narrow): time.sleep(1.1)
        def test_second(broad): pass
        """
    )
    same_as_bare("-s").assert_outcomes(passed=2)
