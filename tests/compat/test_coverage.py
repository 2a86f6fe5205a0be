"""coverage.py and pytest-cov: what is executed in a sandbox counts as if it had been outside."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("coverage")
pytest.importorskip("pytest_cov")

PLUGINS = ("pytest_cov",)

APP = """
    def sign(x):
        if x < 0:
            return -1
        elif x > 0:
            return 1
        return 0

    def by_fixture():
        for i in range(2):
            if i:
                break
        return "fixture"

    def by_nobody():
        return "never"
"""
SUITE = """
    import multiprocessing, subprocess, sys
    import pytest
    import app

    @pytest.fixture(scope="module")
    def broad():
        return app.by_fixture()

    @pytest.fixture
    def narrow():
        yield
        app.sign(-1)

    def test_of_one_branch(narrow):
        assert app.sign(1) == 1

    @pytest.mark.xfail
    def test_that_fails(broad):
        assert app.sign(0) == 1

    def test_with_a_subprocess():
        subprocess.run([sys.executable, "main.py"], check=True)

    class TestClass:
        def test_bare(self, broad):
            assert broad == "fixture"
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(app=APP, test_app=SUITE, main="print('main')")
    return pytester


def measured(pytester: pytest.Pytester) -> dict[str, Any]:
    """What the data file says of each source file: lines, arcs and contexts."""
    command = [sys.executable, "-m", "coverage", "json", "-q", "--show-contexts", "-o", "out.json"]
    assert pytester.run(*command).ret == 0
    report = json.loads((pytester.path / "out.json").read_text())
    (pytester.path / ".coverage").unlink()
    keys = ("summary", "executed_lines", "missing_lines", "executed_branches")
    return {
        name: {
            **{key: file[key] for key in keys if key in file},
            "contexts": {line: sorted(names) for line, names in file["contexts"].items()},
        }
        for name, file in report["files"].items()
    }


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        pytest.param("", (), id="plain"),
        pytest.param("branch = True", ("--cov-context=test",), id="contexts"),
        pytest.param("patch = subprocess", (), id="subprocess"),
        pytest.param("parallel = True", ("-n2",), id="xdist"),
        pytest.param("patch = subprocess\nbranch = True", ("-n2",), id="xdist-subprocess"),
    ],
)
def test_pytest_cov_says_the_same(
    project: pytest.Pytester,
    run_pytest: Callable[..., pytest.RunResult],
    settings: str,
    arguments: tuple[str, ...],
) -> None:
    project.makefile("", **{".coveragerc": f"[run]\nsource = .\n{settings}\n"})
    found = []
    for mode in ("off", "all"):
        result = run_pytest("--cov", *arguments, f"--nsbox={mode}")
        result.assert_outcomes(passed=3, xfailed=1)
        found.append(measured(project))
        assert not list(project.path.glob(".coverage.*"))
    bare, sandboxed = found
    assert sandboxed == bare
    assert bare["app.py"]["missing_lines"] == [15]
    assert bool(bare["main.py"]["executed_lines"]) == ("patch" in settings)


@pytest.mark.parametrize("settings", ["", "parallel = True", "dynamic_context = test_function"])
def test_coverage_run_says_the_same(
    project: pytest.Pytester, privilege: list[str], settings: str
) -> None:
    project.makefile("", **{".coveragerc": f"[run]\nbranch = True\nsource = .\n{settings}\n"})
    found = []
    for mode in ("off", "all"):
        run = [*privilege, sys.executable, "-m", "coverage", "run", "-m", "pytest"]
        project.run(*run, "-p", "no:cacheprovider", f"--nsbox={mode}").assert_outcomes(
            passed=3, xfailed=1
        )
        if settings == "parallel = True":
            assert project.run(sys.executable, "-m", "coverage", "combine", "-q").ret == 0
        found.append(measured(project))
    bare, sandboxed = found
    assert sandboxed == bare
    assert bare["app.py"]["missing_lines"] == [15]


def test_a_test_process_that_dies_loses_only_what_it_measured(
    project: pytest.Pytester, run_pytest: Callable[..., pytest.RunResult]
) -> None:
    project.makepyfile(
        test_app="""
        import os
        import app

        def test_good():
            app.sign(1)

        def test_crash():
            app.sign(0)
            os.kill(os.getpid(), 9)

        def test_good_again():
            app.sign(-1)
        """
    )
    result = run_pytest("--cov=app", "--nsbox=all")
    result.assert_outcomes(passed=2, failed=1)
    assert measured(project)["app.py"]["missing_lines"] == [6, 9, 10, 11, 12, 15]  # 6: of the crash
