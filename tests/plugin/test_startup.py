"""A run without a sandboxed test: the plugin starts nothing and imports next to nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

RunPytest = Callable[..., pytest.RunResult]

# Tells at the end of the run what is there; in it, a conftest of the inner run.
_WITNESS = """
import os, sys
from pathlib import Path

def started_by_us():
    "What carries our mark in its environment: the supervisor is a child of nobody here."
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                if os.environ["WITNESS"].encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                pass
    return found

def started():
    "How many processes this one has started and reaped, which their times would tell."
    times = os.times()
    return times.children_user + times.children_system

def pytest_runtest_logfinish(): print("\\nwhile running:", started_by_us())

def pytest_unconfigure():
    ours = sorted(n for n in sys.modules if n.startswith("pytest_nsbox"))
    print("\\nat the end:", started_by_us())
    print("reaped:", started())
    print("pyroute2:", "pyroute2" in sys.modules)
    print("ours:", *ours)
"""


@pytest.fixture
def witness(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WITNESS", str(pytester.path))
    pytester.makeconftest(_WITNESS)


def told(result: pytest.RunResult, what: str) -> str:
    """The last line in which the witness tells of it."""
    return [line for line in result.outlines if line.startswith(f"{what}:")][-1].partition(": ")[2]


@pytest.mark.usefixtures("witness")
def test_without_a_sandboxed_test_no_process_is_started(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile("def test_it(): pass")
    result = run_pytest("-s")
    result.assert_outcomes(passed=1)
    assert told(result, "while running") == "[]"
    assert told(result, "at the end") == "[]"
    assert told(result, "reaped") == "0.0"


@pytest.mark.usefixtures("witness")
def test_with_sandboxes_off_no_process_is_started(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.sandbox\ndef test_it(): pass")
    result = run_pytest("-s", "--nsbox=off")
    result.assert_outcomes(passed=1)
    assert told(result, "while running") == "[]"


@pytest.mark.usefixtures("witness")
def test_collecting_alone_starts_no_process(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.sandbox\ndef test_it(): pass")
    result = run_pytest("-s", "--collect-only")
    assert told(result, "at the end") == "[]"
    assert told(result, "reaped") == "0.0"


@pytest.mark.usefixtures("witness")
def test_a_sandboxed_test_does_start_one(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.sandbox\ndef test_it(): pass")
    result = run_pytest("-s")
    result.assert_outcomes(passed=1)
    assert told(result, "while running") != "[]"


@pytest.mark.usefixtures("witness")
def test_without_a_sandboxed_test_no_engine_is_imported(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile("def test_it(): pass")
    result = run_pytest("-s")
    ours = set(told(result, "ours").split())
    light = ("", ".hookspecs", ".options", ".plugin", ".sandbox", ".sandbox.belongings")
    assert ours == {f"pytest_nsbox{name}" for name in light}
    assert told(result, "pyroute2") == "False"


@pytest.mark.usefixtures("witness")
@pytest.mark.parametrize("network", ["host", "loopback", "none"])
def test_pyroute2_is_never_imported_by_pytest_itself(
    pytester: pytest.Pytester, run_pytest: RunPytest, network: str
) -> None:
    pytester.makepyfile(
        f"""
        import sys
        import pytest

        @pytest.mark.sandbox(network={network!r})
        def test_it(): assert "pyroute2" not in sys.modules
        """
    )
    result = run_pytest("-s")
    result.assert_outcomes(passed=1)
    assert told(result, "pyroute2") == "False"


def test_the_plugin_alone_imports_next_to_nothing() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import pytest_nsbox.plugin; "
        "print(sorted(n for n in set(sys.modules) - before if n.partition('.')[0] in "
        "('pytest_nsbox', 'pyroute2', 'subprocess', 'socket', 'asyncio')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    light = ["", ".options", ".plugin", ".sandbox", ".sandbox.belongings"]
    assert done.stdout == f"{[f'pytest_nsbox{name}' for name in light]}\n"


@pytest.mark.usefixtures("witness")
def test_collecting_alone_starts_no_process_where_all_tests_would_be_sandboxed(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile("def test_it(): pass")
    result = run_pytest("-s", "--nsbox=all", "--collect-only")
    assert told(result, "at the end") == "[]"
    assert told(result, "reaped") == "0.0"


def test_our_modules_are_imported_as_they_were_installed(
    pytester: pytest.Pytester, run_pytest: RunPytest, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where pytest looks for installed plugins, it marks all of their modules for rewriting.
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    pytester.makeconftest(
        """
        import sys

        def pytest_unconfigure():
            loader = sys.modules["pytest_nsbox.run.controller"].__loader__
            print("loaded by:", type(loader).__name__)
        """
    )
    pytester.makepyfile("def test_it(): pass")
    result = run_pytest("--nsbox=all")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines("loaded by: SourceFileLoader")
