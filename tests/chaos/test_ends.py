"""A run that is ended from outside: what still runs, and how fast."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.host import Host, until

Start = Callable[..., "subprocess.Popen[str]"]

_SUITE = """
import os, time
from pathlib import Path
import pytest

HERE = Path(__file__).parent / "shared"

def log(word):
    with open(HERE / "log", "a") as file:
        print(word, file=file)

@pytest.fixture(scope="module")
def broad():
    log(f"controller {os.getpid()}")
    yield
    log("broad torn down")

@pytest.fixture
def narrow():
    yield
    log("teardown begins")
    time.sleep(float(os.environ["NSBOX_CHAOS_TEARDOWN"]))
    log("teardown ends")

@pytest.mark.sandbox(bind=[str(HERE)])
def test_waits(broad, narrow):
    log("running")
    time.sleep(300)

@pytest.mark.sandbox
def test_next(broad): pass
"""


@pytest.fixture
def log(pytester: pytest.Pytester) -> Path:
    return pytester.mkdir("shared") / "log"


@pytest.fixture
def start(
    pytester: pytest.Pytester,
    start_pytest: Start,
    monkeypatch: pytest.MonkeyPatch,
    host: Host,
    log: Path,
) -> Start:
    """Start a run whose test waits, and wait until it does."""

    def run(*args: str, teardown: float = 0) -> subprocess.Popen[str]:
        monkeypatch.setenv("NSBOX_CHAOS_TEARDOWN", str(teardown))
        pytester.makepyfile(test_suite=_SUITE)
        process: subprocess.Popen[str] = start_pytest(*args)
        assert until(lambda: log.exists() and "running" in log.read_text(), 30)
        return process

    return run


def test_one_interrupt_tears_the_test_down_and_shows_the_summary(
    start: Start, host: Host, log: Path
) -> None:
    process = start(teardown=0.5)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in output
    assert "no tests ran" in output.splitlines()[-1]
    after = log.read_text().splitlines()[2:]
    assert after == ["teardown begins", "teardown ends", "broad torn down"]
    host.assert_clean()


_INTERRUPTED = """
import os, signal, time
from pathlib import Path
from pytest_nsbox.sandbox import client

def be_interrupted():
    while "running" not in Path("shared/log").read_text(): time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
"""
_AT = {
    "the next test is prepared": """
def prefetch(self, *args, **kwargs):
    real(self, *args, **kwargs)
    be_interrupted()

real, client.Client.prefetch = client.Client.prefetch, prefetch
""",
    "a report is told": """
def pytest_runtest_logreport(report): be_interrupted()
""",
}


@pytest.mark.parametrize("at", _AT)
def test_an_interrupt_while_we_do_something_else_tears_the_test_down_as_well(
    at: str, pytester: pytest.Pytester, start: Start, host: Host, log: Path
) -> None:
    pytester.makeconftest(_INTERRUPTED + _AT[at])
    process = start(teardown=0.5)
    process.communicate(timeout=30)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    after = log.read_text().splitlines()[2:]
    assert after == ["teardown begins", "teardown ends", "broad torn down"]
    host.assert_clean()


def test_a_second_interrupt_does_not_wait_for_the_teardown(
    start: Start, host: Host, log: Path
) -> None:
    process = start(teardown=300)
    process.send_signal(signal.SIGINT)
    assert until(lambda: "teardown begins" in log.read_text(), 30)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=8)  # less than the grace of a single one
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert log.read_text().splitlines()[2:] == ["teardown begins", "broad torn down"]
    host.assert_clean()


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_worker_that_dies_takes_its_sandboxes_along(
    name: str, start: Start, host: Host, log: Path
) -> None:
    process = start("-n1")
    worker = int(log.read_text().split()[1])
    assert worker != process.pid
    os.kill(worker, signal.Signals[name])
    output = process.communicate(timeout=60)[0]
    assert "worker 'gw0' crashed while running" in output
    assert "1 failed, 1 passed" in output
    host.assert_clean()


@pytest.mark.slow
def test_the_death_of_the_controller_of_workers_leaves_nothing(start: Start, host: Host) -> None:
    start("-n1").kill()
    # execnet gives the main thread of a worker some seconds, sandboxed or not.
    until(lambda: not host.processes(), 20)
    host.assert_clean()
