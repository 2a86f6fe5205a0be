"""After a run, however it ends: no process of it, no mount, no file."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable

import pytest
from helpers.host import Host, until

Start = Callable[..., "subprocess.Popen[str]"]

_LONG_RUN = """
import os, subprocess, time
from pathlib import Path
import pytest

HERE = Path(__file__).parent

@pytest.fixture(scope="module")
def controller():
    (HERE / "pid.new").write_text(str(os.getpid()))
    (HERE / "pid.new").rename(HERE / "pid")

@pytest.mark.sandbox(bind=[str(HERE / "shared")], network={network!r})
def test_it(controller):
    subprocess.Popen(["sleep", "300"], start_new_session=True)
    Path("/tmp/file").write_text("x")
    (HERE / "shared/running").write_text("x")
    time.sleep(300)
"""


@pytest.fixture
def in_the_middle(pytester: pytest.Pytester, start_pytest: Start) -> Callable[..., int]:
    """Start a run, wait until its test is running; the pid of its controller."""

    def begin(network: str = "host") -> int:
        shared = pytester.mkdir("shared")
        pytester.makepyfile(_LONG_RUN.format(network=network))
        process = start_pytest()
        assert until((shared / "running").exists, 30), process.communicate()[0]
        return int((pytester.path / "pid").read_text())

    return begin


def gone(pid: int) -> bool:
    """Whether the child has ended; it is not reaped."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def run_to_its_end(start_pytest: Start) -> str:
    output: str = start_pytest().communicate(timeout=60)[0]
    return output


@pytest.mark.parametrize("network", ["host", "loopback"])
def test_nothing_is_left_after_a_run(
    pytester: pytest.Pytester, start_pytest: Start, host: Host, network: str
) -> None:
    pytester.makepyfile(
        f"""
        import subprocess
        import pytest

        @pytest.mark.sandbox(network={network!r})
        @pytest.mark.parametrize("n", range(5))
        def test_it(n):
            subprocess.Popen(["sleep", "300"], start_new_session=True)
            open("/tmp/file", "w").close()
            open("file", "w").close()
            assert n
        """
    )
    output = run_to_its_end(start_pytest)
    assert "1 failed, 4 passed" in output
    host.assert_clean()
    assert not (pytester.path / "file").exists()


def test_nothing_is_left_in_tmp_after_a_run(
    pytester: pytest.Pytester, start_pytest: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = pytester.mkdir("temporary")
    monkeypatch.setenv("TMPDIR", str(temporary))
    pytester.makepyfile("import pytest\n@pytest.mark.sandbox\ndef test_it(): pass")
    assert "1 passed" in run_to_its_end(start_pytest)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("network", ["host", "loopback"])
def test_nothing_is_left_after_the_controller_was_killed(
    in_the_middle: Callable[..., int], host: Host, network: str
) -> None:
    controller = in_the_middle(network)
    assert len(host.processes()) > 2, "the mark does not find the test's processes"
    os.kill(controller, signal.SIGKILL)
    assert until(lambda: gone(controller), 1)
    host.assert_clean()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_nothing_is_left_after_the_controller_was_ended(
    in_the_middle: Callable[..., int], host: Host, name: str
) -> None:
    os.kill(in_the_middle(), signal.Signals[name])
    host.assert_clean()


def test_nothing_is_left_after_an_interrupt(in_the_middle: Callable[..., int], host: Host) -> None:
    os.kill(in_the_middle(), signal.SIGINT)
    host.assert_clean()


def test_the_descriptors_of_the_controller_do_not_grow(
    pytester: pytest.Pytester, start_pytest: Start
) -> None:
    pytester.makeconftest(
        """
        import os, threading

        def pytest_runtest_logfinish(nodeid):
            print("\\nopen:", len(os.listdir("/proc/self/fd")), threading.active_count())
        """
    )
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.sandbox(timeout=60)
        @pytest.mark.parametrize("n", range(60))
        def test_it(n, tmp_path): pass
        """
    )
    output = start_pytest("-s").communicate(timeout=60)[0]
    assert "60 passed" in output
    counts = [line for line in output.splitlines() if line.startswith("open:")]
    assert len(counts) == 60
    # Not the last: what is made ahead ends before the run does.
    assert counts[50] == counts[10]
