"""pytest-rerunfailures and flaky: every attempt gets a sandbox of its own."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from .conftest import Both

REPEATING = """
    import os
    import pathlib
    import pytest

    @pytest.fixture(scope="module")
    def broad():
        print("broad set up")
        yield
        print("broad torn down")

    @pytest.fixture
    def narrow():
        print("narrow set up")
        yield
        print("narrow torn down")

    {marker}
    def test_that_always_fails(broad, narrow):
        print("runs")
        raise ValueError("always")

    {marker}
    def test_that_passes_at_once(broad):
        pass

    {marker}
    def test_that_is_skipped(broad):
        pytest.skip("not today")

    def test_without(broad):
        pass

    {marker}
    def test_the_last_one_of_its_module(broad):
        assert False
"""
RERUNS = ("-p", "no:flaky", "-p", "rerunfailures")
FLAKY = ("-p", "no:rerunfailures", "-p", "flaky")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("--reruns=2",), id="option"),
        pytest.param(("--reruns=2", "--only-rerun=ValueError"), id="only-rerun"),
        pytest.param(("--reruns=2", "--rerun-except=always"), id="rerun-except"),
        pytest.param(("--reruns=1", "-x"), id="exitfirst"),
        pytest.param(("--reruns=2", "--max-suite-reruns=1"), id="max-suite-reruns"),
    ],
)
def test_rerunfailures_reports_the_same(
    pytester: pytest.Pytester, both: Both, arguments: tuple[str, ...]
) -> None:
    pytest.importorskip("pytest_rerunfailures")
    pytester.makepyfile(test_it=REPEATING.format(marker=""), test_other="def test_other(): pass")
    text = both([*RERUNS, "-v", "-s", *arguments]).runs[0].stdout.str()
    assert "RERUN" in text or "--rerun-except=always" in arguments


@pytest.mark.parametrize(
    "arguments",
    [
        "reruns=2",
        "reruns=2, condition=True",
        "reruns=1, condition='isinstance(error, ValueError)'",
        "reruns=2, only_rerun='ValueError'",
    ],
)
def test_the_marker_of_rerunfailures_counts(
    pytester: pytest.Pytester, both: Both, arguments: str
) -> None:
    pytest.importorskip("pytest_rerunfailures")
    pytester.makepyfile(REPEATING.format(marker=f"@pytest.mark.flaky({arguments})"))
    both([*RERUNS, "-v", "-s"]).runs[0].stdout.fnmatch_lines("*RERUN*")


def test_flaky_reports_the_same(pytester: pytest.Pytester, both: Both) -> None:
    pytest.importorskip("flaky")
    pytester.makepyfile(REPEATING.format(marker="@pytest.mark.flaky(max_runs=3, min_passes=2)"))
    # It lists the frames of the exception, which stay in the test process.
    frames = (re.compile(r"\[<TracebackEntry.*"), "[frames]")
    seen = both([*FLAKY, "-v", "-s"], varying=[frames])
    seen.runs[0].stdout.fnmatch_lines("*Running test again*")


@pytest.mark.parametrize(
    ("plugin", "marker"), [(RERUNS, "flaky(reruns=2)"), (FLAKY, "flaky(max_runs=3)")]
)
def test_every_attempt_gets_a_fresh_sandbox(
    pytester: pytest.Pytester,
    run_pytest: Callable[..., pytest.RunResult],
    plugin: tuple[str, ...],
    marker: str,
) -> None:
    pytest.importorskip(plugin[-1] if plugin[-1] == "flaky" else "pytest_rerunfailures")
    pytester.makepyfile(
        f"""
        import os
        import pathlib
        import pytest

        @pytest.mark.{marker}
        @pytest.mark.sandbox
        def test_attempt():
            print("pid", os.getpid())
            for name in ("/tmp/left-over", "/var/tmp/nsbox-left-over"):
                assert not pathlib.Path(name).exists()
                pathlib.Path(name).touch()
            raise ValueError("again")
        """
    )
    result = run_pytest(*plugin, "-s")
    assert result.stdout.str().count("pid 2") == 3
    assert "AssertionError" not in result.stdout.str()


@pytest.mark.parametrize(
    ("plugin", "marker", "failed"),
    # flaky asks for no report of a failure that it repeats, and that is not its to ask here.
    [(RERUNS, "flaky(reruns=2)", 1), (FLAKY, "flaky(max_runs=3)", 3)],
)
def test_a_test_process_that_dies_is_another_attempt(
    pytester: pytest.Pytester,
    run_pytest: Callable[..., pytest.RunResult],
    plugin: tuple[str, ...],
    marker: str,
    failed: int,
) -> None:
    pytest.importorskip(plugin[-1] if plugin[-1] == "flaky" else "pytest_rerunfailures")
    pytester.makepyfile(
        f"""
        import os
        import pytest

        @pytest.mark.{marker}
        @pytest.mark.sandbox
        def test_crash():
            os.write(2, b"attempt\\n")
            os.kill(os.getpid(), 9)

        def test_after():
            pass
        """
    )
    result = run_pytest(*plugin, "-s")
    assert result.stderr.str().count("attempt") == 3
    result.stdout.fnmatch_lines(["*killed by SIGKILL*", f"*{failed} failed, 1 passed*"])
