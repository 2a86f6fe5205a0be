"""Faults of the machine and of our own parts: told on the test they hit, and the run goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.host import Host

RunPytest = Callable[..., pytest.RunResult]

# What may fail in the controller on the way to a test process, and with what.
_FAULTS = """
import errno, os, random, socket, subprocess, mmap
import pytest
from pytest_nsbox.kernel import syscalls
from pytest_nsbox.sandbox import client, forking

CALLS = {
    "pipe": (os, errno.EMFILE),
    "memfd_create": (os, errno.ENFILE),
    "fork": (os, errno.EAGAIN),
    "libc_fork": (forking, errno.EAGAIN),
    "clone_vfork": (forking, errno.EAGAIN),
    "pidfd_open": (os, errno.ENOMEM),
    "mmap": (mmap, errno.ENOMEM),
    "setns": (client, errno.ENOSPC),
    "socketpair": (socket, errno.EMFILE),
    "getcwd": (os, errno.EACCES),
}


class Faulty:
    '''A function that fails, so many times, when it is called for the nth time.'''

    def __init__(self, real, error, nth, times):
        self.real, self.error, self.nth, self.times = real, error, nth, times
        self.pid = os.getpid()

    def __call__(self, *args, **kwargs):
        if os.getpid() == self.pid:
            self.nth -= 1
            if self.nth <= 0 < self.times:
                self.times -= 1
                raise OSError(self.error, os.strerror(self.error))
        return self.real(*args, **kwargs)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    '''Around ours: the test is named by what is to fail, when and how often.'''
    name, nth, times = item.callspec.params["fault"] if hasattr(item, "callspec") else ("", 0, 0)
    if not name:
        return (yield)
    module, error = CALLS[name]
    real = getattr(module, name)
    setattr(module, name, Faulty(real, error, nth, times))
    try:
        return (yield)
    finally:
        setattr(module, name, real)

def pytest_runtest_logfinish():
    print("\\nopen:", len(os.listdir("/proc/self/fd")))
"""

_FAULTY_SUITE = """
import os
import pytest
from conftest import CALLS

FAULTS = [
    (name, nth, times)
    for name in CALLS
    # Not the second: the way back into our own PID namespace, which has nothing to run out of.
    for nth in ((1,) if name == "setns" else (1, 2, 3))
    for times in (1, 9)
]

@pytest.fixture(scope="session")
def runs():
    return os.open(os.environ["NSBOX_CHAOS_RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@pytest.mark.sandbox(bind=[os.environ["NSBOX_CHAOS_RUNS"]])
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_it(fault, request):
    with open(os.environ["NSBOX_CHAOS_RUNS"], "a") as file:
        print(request.node.name, file=file)
    assert os.getpid() == 2

@pytest.mark.sandbox
def test_after():
    assert os.getpid() == 2
"""


@pytest.fixture
def runs(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the tests of a suite write down that they run."""
    file = pytester.path / "runs"
    file.touch()
    monkeypatch.setenv("NSBOX_CHAOS_RUNS", str(file))
    return file


def assert_never_twice(ran: list[str], passed: int) -> None:
    """What ran, ran once; what passed, ran. One that was killed may have run or not."""
    assert len(ran) == len(set(ran)) >= passed


def test_a_system_call_that_fails_once_or_for_long_is_told_on_its_test(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    host: Host,
    runs: Path,
) -> None:
    pytester.makeconftest(_FAULTS)
    pytester.makepyfile(_FAULTY_SUITE)
    result = run_pytest("-s", "--tb=short")
    text = result.stdout.str()
    assert "INTERNALERROR" not in text
    outcomes = result.parseoutcomes()
    assert outcomes["errors"] >= 8, text
    assert outcomes["passed"] + outcomes["errors"] == 9 * 6 + 2 + 1
    assert_never_twice(runs.read_text().splitlines(), outcomes["passed"] - 1)
    counts = [int(line.split()[-1]) for line in text.splitlines() if line.startswith("open:")]
    assert len(counts) == 9 * 6 + 2 + 1
    assert counts[-1] <= counts[0]
    host.assert_clean()


_FEW_DESCRIPTORS = """
import os, resource
import pytest

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    '''The test runs where only so many more descriptors are to be had.'''
    spare = item.callspec.params["spare"] if hasattr(item, "callspec") else None
    if spare is None:
        return (yield)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + spare, hard))
    try:
        return (yield)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
"""


def test_a_lack_of_descriptors_is_told_on_the_tests_it_hits(
    pytester: pytest.Pytester, run_pytest: RunPytest, host: Host
) -> None:
    pytester.makeconftest(_FEW_DESCRIPTORS)
    pytester.makepyfile(
        """
        import os
        import pytest

        @pytest.mark.sandbox
        @pytest.mark.parametrize("spare", range(1, 30))
        def test_it(spare): assert os.getpid() == 2

        @pytest.mark.sandbox
        def test_after(tmp_path): assert os.getpid() == 2
        """
    )
    result = run_pytest("--tb=short", "-rN")
    outcomes = result.parseoutcomes()
    text = result.stdout.str()
    assert outcomes["passed"] >= 5, text
    assert outcomes["passed"] + outcomes["errors"] == 30, text
    result.stdout.no_fnmatch_line("*test_after*")
    host.assert_clean()


_ENDING_SUPERVISOR = """
import os, signal
from pathlib import Path
import pytest
from pytest_nsbox.sandbox import client

client._ANSWER_SECONDS = 0.3
left = 0  # until the supervisor is sent the signal
number = 0


def supervisors():
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            is_ours = b"pytest_nsbox.sandbox.supervisor" in path.read_bytes()
            mark = os.environ["NSBOX_TEST_MARK"].encode()
            is_ours = is_ours and mark in (path.parent / "environ").read_bytes()
            status = (path.parent / "status").read_text()
        except OSError:
            continue
        (levels,) = [line for line in status.splitlines() if line.startswith("NSpid:")]
        if is_ours and len(levels.split()) == 2:  # an init has a pid in its own namespace too
            yield int(path.parent.name)


def at_a_point(method):
    def wrapped(self, *args):
        global left
        left -= 1
        if left == 0:
            for pid in supervisors():
                os.kill(pid, number)
        return method(self, *args)
    return wrapped


client.Client._send = at_a_point(client.Client._send)
client.Client._answer = at_a_point(client.Client._answer)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    global left, number
    number, left = item.callspec.params["fault"] if item.name.startswith("test_it") else (0, 0)
    try:
        return (yield)
    finally:
        left = 0
"""


@pytest.mark.slow
def test_a_supervisor_that_ends_or_stops_at_any_point_is_replaced(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    host: Host,
    runs: Path,
) -> None:
    pytester.makeconftest(_ENDING_SUPERVISOR)
    pytester.makepyfile(
        """
        import os, signal, time
        import pytest

        FAULTS = [(number, nth) for number in (signal.SIGKILL, signal.SIGSTOP) for nth in range(1, 9)]

        @pytest.mark.sandbox(bind=[os.environ["NSBOX_CHAOS_RUNS"]])
        @pytest.mark.parametrize("fails", [False, True])
        @pytest.mark.parametrize("fault", FAULTS, ids=str)
        def test_it(fault, fails, request, tmp_path):
            with open(os.environ["NSBOX_CHAOS_RUNS"], "a") as file:
                print(request.node.name, file=file)
            (tmp_path / "file").touch()
            assert not fails, "its own failure"

        @pytest.mark.sandbox
        @pytest.mark.parametrize("number", range(3))
        def test_after(number): pass
        """
    )
    result = run_pytest("--tb=short", "-rN")
    text = result.stdout.str()
    outcomes = result.parseoutcomes()
    assert set(outcomes) <= {"passed", "failed", "errors"}, text
    bad = outcomes["failed"] + outcomes.get("errors", 0)
    assert outcomes["passed"] + bad >= 2 * 2 * 8 + 3, text  # more, if one has died in its teardown
    result.stdout.no_fnmatch_line("*test_after*")
    assert_never_twice(runs.read_text().splitlines(), outcomes["passed"] - 3)
    told = [text.count(told) for told in ("Error: its own failure", "was killed by SIGKILL")]
    assert sum(told) == bad, text
    assert "the supervisor of the sandboxes has died" in text
    host.assert_clean()


_DYING_INITS = """
import os, select, signal
from pathlib import Path
import pytest
from pytest_nsbox.sandbox.client import Client, Sandbox


def kill_inits(client):
    '''Kill what the supervisor has forked, and wait for that to have happened.'''
    info = Path(f"/proc/self/fdinfo/{client._supervisor}").read_text()
    supervisor = info.partition("Pid:")[2].split()[0]
    for path in Path("/proc").glob("[0-9]*"):
        try:
            status = (path / "status").read_text()
        except OSError:
            continue
        if status.partition("PPid:")[2].split()[0] != supervisor or "(zombie)" in status:
            continue
        init = os.pidfd_open(int(path.name))
        signal.pidfd_send_signal(init, signal.SIGKILL)
        if point != "when it has joined":
            # Not for ever: that of the test before waits until we have reaped its test process.
            select.select([init], [], [], 1)
        os.close(init)


acquire, fork = Client.acquire, Sandbox.fork
point = ""


def acquire_and_kill(self, *args, **kwargs):
    global point
    sandbox = acquire(self, *args, **kwargs)
    if point == "before the test process joins":
        kill_inits(self)
        point = ""
    return sandbox


def fork_and_kill(self, run):
    global point
    pid = fork(self, run)
    if point == "when it has joined":
        kill_inits(self._client)  # each is gone only when we have reaped its test process
        point = ""
    return pid


Client.acquire, Sandbox.fork = acquire_and_kill, fork_and_kill


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    global point
    point = item.callspec.params["point"] if hasattr(item, "callspec") else ""
    return (yield)
"""


def test_an_init_that_dies_is_replaced_or_told(
    pytester: pytest.Pytester, run_pytest: RunPytest, host: Host
) -> None:
    pytester.makeconftest(_DYING_INITS)
    pytester.makepyfile(
        """
        import os, time
        import pytest

        @pytest.mark.sandbox
        @pytest.mark.parametrize("point", ["", "before the test process joins"] * 3)
        def test_it(point): assert os.getpid() == 2

        @pytest.mark.sandbox
        @pytest.mark.parametrize("point", ["when it has joined"])
        def test_dies(point): time.sleep(60)

        @pytest.mark.sandbox
        def test_after(): assert os.getpid() == 2
        """
    )
    result = run_pytest("--tb=short", "-rN")
    outcomes = result.parseoutcomes()
    assert outcomes.pop("passed") == 7
    assert list(outcomes.values()) == [1]  # in its setup or its call
    told = ["*_ *test_dies*", "the test process was killed by SIGKILL*"]
    result.stdout.fnmatch_lines(told)
    host.assert_clean()
