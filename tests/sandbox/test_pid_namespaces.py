"""A PID namespace serves one sandbox after the other, and none of them can tell."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from pytest_nsbox.sandbox.privileges import is_privileged

RunPytest = Callable[..., pytest.RunResult]

_TESTS = 12
_SUITE = f"""
    import ctypes, os, signal, subprocess
    import pytest

    pytestmark = pytest.mark.sandbox
    libc = ctypes.CDLL(None, use_errno=True)


    def daemonize():
        if os.fork() == 0:
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                os.setsid()
                signal.pause()
            os._exit(0)
        os.wait()


    @pytest.mark.parametrize("number", range({_TESTS}))
    def test_it(number):
        assert os.getpid() == 2
        assert sorted(int(name) for name in os.listdir("/proc") if name.isdigit()) == [1, 2]
        assert open("/proc/loadavg").read().split()[-1] == "2"  # the latest pid
        assert len(open("/proc/sysvipc/shm").readlines()) == 1  # the heading
        assert os.listdir("/dev/shm") == []
        print("NAMESPACE", os.readlink("/proc/self/ns/pid"))
        for _ in range(20):
            subprocess.run(["true"], check=True)
        daemonize()
        assert libc.shmget(0, 4096, 0o1600) >= 0  # IPC_CREAT
        open("/dev/shm/left", "w").close()
        if number % 4 == 3:
            os.kill(2, signal.SIGKILL)
"""


def namespaces(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if line.startswith("NAMESPACE")]


@pytest.mark.parametrize("ahead", ["auto", "never"])
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_what_one_test_leaves_in_it_no_other_finds(
    pytester: pytest.Pytester, run_pytest: RunPytest, jobs: str, ahead: str
) -> None:
    pytester.makepyfile(_SUITE)
    result = run_pytest("-rA", f"--nsbox-jobs={jobs}", "-o", f"nsbox_fork_ahead={ahead}")
    died = _TESTS // 4
    result.assert_outcomes(passed=_TESTS - died, failed=died)
    result.stdout.no_fnmatch_line("*AssertionError*")
    assert len(namespaces(result)) == _TESTS
    assert len(set(namespaces(result))) < _TESTS


def test_without_a_way_to_choose_a_pid_a_process_outside_is_alive_all_the_same(
    pytester: pytest.Pytester,
) -> None:
    if not is_privileged():
        pytest.skip("in a user namespace of its own an init has every capability")
    pytester.makepyfile(
        """
        import os, subprocess
        import pytest

        @pytest.fixture(scope="module")
        def server():
            with subprocess.Popen(["sleep", "600"]) as server:
                yield server
                server.kill()

        @pytest.mark.sandbox
        @pytest.mark.parametrize("number", range(3))
        def test_it(server, number):
            assert server.poll() is None
            with pytest.raises(ProcessLookupError):
                os.kill(server.pid, 0)
        """
    )
    command = ["setpriv", "--bounding-set=-cap_40", sys.executable, "-m", "pytest"]
    pytester.run(*command, "-p", "no:cacheprovider").assert_outcomes(passed=3)


def test_without_a_way_to_restart_its_pids_it_serves_one(pytester: pytest.Pytester) -> None:
    if not is_privileged():
        pytest.skip("in a user namespace of its own an init has every capability")
    pytester.makepyfile(_SUITE)
    # CAP_CHECKPOINT_RESTORE, by its number for a setpriv that does not know its name.
    command = ["setpriv", "--bounding-set=-cap_40", sys.executable, "-m", "pytest", "-rA"]
    result = pytester.run(*command, "-p", "no:cacheprovider")
    died = _TESTS // 4
    result.assert_outcomes(passed=_TESTS - died, failed=died)
    result.stdout.no_fnmatch_line("*AssertionError*")
