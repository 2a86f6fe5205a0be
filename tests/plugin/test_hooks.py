"""The hooks by which other plugins take part, ``pytest_nsbox_*``."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., pytest.RunResult]

HOW_TO = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "plugins.md"


def examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", HOW_TO.read_text(), re.MULTILINE | re.DOTALL)


def test_the_how_to_counts_queries(pytester: pytest.Pytester, run_pytest: Run) -> None:
    conftest, suite, *_ = examples()
    pytester.makeconftest(conftest)
    pytester.makepyfile(test_shop=suite)
    result = run_pytest("-q")
    result.assert_outcomes(passed=3)
    assert "6 queries" in result.outlines


def test_the_how_to_changes_options_and_keeps_files(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    _, _, options, keep = examples()
    pytester.makeconftest(options + keep)
    pytester.makeini("[pytest]\nmarkers = slow: takes a while")
    pytester.makepyfile(
        """
        import pathlib
        import pytest

        @pytest.mark.slow
        @pytest.mark.sandbox(timeout=1, hostname="box")
        def test_slow(sandbox):
            assert (sandbox.options.timeout, sandbox.options.tmp_size) == (300, 4 << 30)
            assert sandbox.options.hostname == "box"

        def test_quick(sandbox):
            assert sandbox.options.timeout is None
            for name in ("build/reports/one.xml", "screenshots/one.png", "screenshots/one.txt"):
                path = pathlib.Path(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(name)
        """
    )
    run_pytest().assert_outcomes(passed=2)
    kept = [p.name for p in pytester.path.rglob("one.*")]
    assert sorted(kept) == ["one.png", "one.xml"]


HOOKS = """
    import os, pathlib
    import pytest

    LOG = pathlib.Path(__file__).with_name("log")
    PID = os.getpid()

    def log(*words):
        with LOG.open("a") as file:
            print("test process" if os.getpid() != PID else "controller", *words, file=file)

    def pytest_nsbox_setup(item):
        log("setup", item.name)

    def pytest_nsbox_enter(item):
        item.log = ["enter"]

    def pytest_nsbox_collect(item):
        return {"log": [*item.log, "collect"]}

    def pytest_nsbox_apply(item, nextitem, data):
        log("apply", item.name, nextitem and nextitem.name, data.get("log"))

    @pytest.fixture(scope="module")
    def broad():
        log("broad set up")
        yield
        log("broad torn down")
"""


def test_hooks_are_called_where_and_when_they_say(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    pytester.makeconftest(HOOKS)
    pytester.makepyfile(
        """
        import os

        def test_first(broad, sandbox, request):
            request.node.log.append("runs")

        def test_that_dies(broad, sandbox):
            os._exit(3)
        """
    )
    run_pytest().assert_outcomes(passed=1, failed=1)
    assert (pytester.path / "log").read_text().splitlines() == [
        "controller setup test_first",
        "controller broad set up",
        "controller apply test_first test_that_dies ['enter', 'runs', 'collect']",
        "controller setup test_that_dies",
        "controller apply test_that_dies None None",
        "controller broad torn down",
    ]


def test_what_is_collected_in_a_scope_that_ends_early_comes_home_once(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    conftest, *_ = examples()
    pytester.makeconftest(conftest)
    pytester.makeini("[pytest]\nnsbox_scope = module")
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="module")
        def broad(request):
            query = request.config.pluginmanager.getplugin("queries")
            query.total += 10
            yield
            query.total += 100

        def test_sandboxed(query, broad, sandbox): query("select 1")
        def test_bare(): pass
        def test_again(query, broad, sandbox): query("select 2")
        """
    )
    result = run_pytest("-q")
    result.assert_outcomes(passed=3)
    assert "222 queries" in result.outlines


@pytest.mark.parametrize(
    ("hook", "where"),
    [
        ("def pytest_nsbox_setup(item): raise ValueError('of the hook')", "setup"),
        ("def pytest_nsbox_enter(item): raise ValueError('of the hook')", "setup"),
        ("def pytest_nsbox_collect(item): raise ValueError('of the hook')", "teardown"),
        ("def pytest_nsbox_apply(item): raise ValueError('of the hook')", "teardown"),
    ],
)
def test_an_error_of_a_hook_is_the_tests_own(
    hook: str, where: str, pytester: pytest.Pytester, run_pytest: Run
) -> None:
    pytester.makeconftest(hook)
    pytester.makepyfile(
        """
        def test_sandboxed(sandbox): pass
        def test_after(): pass
        """
    )
    result = run_pytest()
    result.assert_outcomes(errors=1, passed=1 if where == "setup" else 2)
    result.stdout.fnmatch_lines(["*ERROR at " + where + " of test_sandboxed*", "*of the hook*"])


def test_a_bad_option_from_a_hook_names_the_test(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    pytester.makeconftest("def pytest_nsbox_options(item): return {'timeout': 'soon'}")
    pytester.makepyfile("def test_sandboxed(sandbox): pass")
    result = run_pytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*test_sandboxed: timeout='soon' is not a timeout*"])


def test_a_value_of_100_mb_comes_home(pytester: pytest.Pytester, run_pytest: Run) -> None:
    pytester.makeconftest(
        """
        def pytest_nsbox_collect(item):
            return {"big": "x" * 100_000_000}

        def pytest_nsbox_apply(item, data):
            item.config.big = len(data["big"])

        def pytest_terminal_summary(terminalreporter, config):
            terminalreporter.line(f"{config.big} came home")
        """
    )
    pytester.makepyfile("def test_sandboxed(sandbox): pass")
    result = run_pytest()
    result.assert_outcomes(passed=1)
    assert "100000000 came home" in result.outlines


def test_a_value_that_json_cannot_say_comes_as_its_repr(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    pytester.makeconftest(
        """
        def pytest_nsbox_collect(item):
            return {"odd": 1j}

        def pytest_nsbox_apply(item, data):
            assert data["odd"] == "1j"
        """
    )
    pytester.makepyfile("def test_sandboxed(sandbox): pass")
    result = run_pytest()
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*PytestWarning: nsbox: *1j*"])


def test_a_keyword_of_a_report_that_cannot_be_compared_comes_as_its_repr(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    pytester.makeconftest(
        """
        import pytest

        class Array:
            def __eq__(self, other):
                raise ValueError("the truth value of an array is ambiguous")

            def __repr__(self):
                return "array([1, 2])"

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            report.keywords["odd"] = Array()
            return report
        """
    )
    pytester.makepyfile("def test_sandboxed(sandbox): pass")
    result = run_pytest()
    result.assert_outcomes(passed=1, warnings=3)
    result.stdout.fnmatch_lines(["*PytestWarning: nsbox: *array([[]1, 2])*"])
