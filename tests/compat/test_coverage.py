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


# All of it is executed, each part in another place: some only in sandboxes, some in the teardown of a
# fixture, in a thread, in a program.
WHOLE_APP = """
    import threading

    def up(scope):
        if scope == "session":
            return "of the session"
        if scope == "module":
            return "of the module"
        if scope == "class":
            return "of the class"
        return "of the function"

    def down(scope):
        if scope == "session":
            return "of the session"
        if scope == "module":
            return "of the module"
        if scope == "class":
            return "of the class"
        return "of the function"

    def in_a_thread():
        total = 0
        for number in range(3):
            if number % 2:
                total += number
        return total

    def of_a_broad_thread(ends):
        ends.wait()
        return "ended"

    async def asynchronously():
        return "done"

    def in_a_hook(name):
        if "sign" in name:
            return 1
        return 2

    def sign(number):
        if number < 0:
            return -1
        return 1
"""
WHOLE = {
    "app": WHOLE_APP,
    "late": """
        VALUE = 5

        def value():
            return VALUE
    """,
    "main": """
        import sys

        def main(words):
            if words:
                return 1
            return 0

        main(sys.argv[1:])
        main([])
    """,
    "conftest": """
        import threading
        import pytest
        import app

        def made(scope):
            @pytest.fixture(scope=scope, name=scope)
            def fixture():
                yield app.up(scope)
                app.down(scope)
            return fixture

        for scope in ("session", "module", "class", "function"):
            globals()[scope + "_fixture"] = made(scope)

        @pytest.fixture(scope="session")
        def thread():
            ends = threading.Event()
            thread = threading.Thread(target=app.of_a_broad_thread, args=(ends,))
            thread.start()
            yield
            ends.set()
            thread.join()

        def pytest_runtest_setup(item):
            app.in_a_hook(item.name)
    """,
    "test_whole": """
        import asyncio, os, subprocess, sys, threading, unittest
        import pytest
        import app

        def test_scopes(session, module, function):
            assert (session, module) == ("of the session", "of the module")

        @pytest.mark.parametrize("number", [-1, 1])
        def test_sign(number, function):
            assert app.sign(number) == number

        class TestClass:
            def test_one(self, request):
                assert request.getfixturevalue("class") == "of the class"

            @pytest.mark.usefixtures("class")
            def test_two(self):
                import late
                assert late.value() == 5

        def test_thread():
            thread = threading.Thread(target=app.in_a_thread)
            thread.start()
            thread.join()

        def test_fork():
            pid = os.fork()
            if pid == 0:
                os._exit(0)  # pragma: no cover
            assert os.waitpid(pid, 0) == (pid, 0)

        def test_broad_thread(thread):
            assert asyncio.run(app.asynchronously()) == "done"

        def test_program():
            subprocess.run([sys.executable, "main.py", "word"], check=True)

        class TestCase(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                cls.value = 1

            @classmethod
            def tearDownClass(cls):
                cls.value = 2

            def test_value(self):
                assert self.value == 1

        @pytest.mark.xfail(raises=ValueError)
        def test_xfails():
            raise ValueError
    """,
}


@pytest.fixture
def whole(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(**WHOLE)
    return pytester


def configure(pytester: pytest.Pytester, settings: str) -> None:
    if "patch" not in settings:
        settings = f"patch = subprocess\n{settings}"
    text = f"[run]\nsource = .\nbranch = True\n{settings}\n"
    pytester.makefile("", **{".coveragerc": text})


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ("", "--nsbox=off"),
        ("", "--cov-context=test"),
        ("", "--nsbox-jobs=2"),
        ("", "-o nsbox_fork_ahead=never"),
        ("", "-o nsbox_scope=module"),
        ("parallel = True", "-n2 --cov-context=test"),
        ("parallel = True", "-n2 -o nsbox_scope=module"),
        ("patch = subprocess, fork", ""),
        ("patch = subprocess, _exit", ""),
        ("concurrency = thread,multiprocessing", ""),
        ("concurrency = thread,multiprocessing", "-n2 -o nsbox_scope=session"),
    ],
)
def test_what_has_100_percent_bare_has_them_sandboxed(
    whole: pytest.Pytester,
    run_pytest: Callable[..., pytest.RunResult],
    settings: str,
    arguments: str,
) -> None:
    configure(whole, settings)
    result = run_pytest("--nsbox=all", "--cov", "--cov-fail-under=100", *arguments.split())
    result.assert_outcomes(passed=10, xfailed=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["Required test coverage of 100* reached. Total coverage: 100.00%"])


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ("", "-o nsbox_scope=session"),
        ("parallel = True", ""),
        ("dynamic_context = test_function", ""),
    ],
)
def test_coverage_run_says_100_percent(
    whole: pytest.Pytester, privilege: list[str], settings: str, arguments: str
) -> None:
    configure(whole, settings)
    coverage = [sys.executable, "-m", "coverage"]
    run = [*privilege, *coverage, "run", "-m", "pytest", "-p", "no:cacheprovider", "--nsbox=all"]
    whole.run(*run, *arguments.split()).assert_outcomes(passed=10, xfailed=1)
    assert whole.run(*coverage, "combine", "-q").ret == 0
    assert whole.run(*coverage, "report", "--fail-under=100").ret == 0
