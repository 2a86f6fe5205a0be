"""Processes that broad-scoped fixtures have started, and pytest's own: by their pids in a test."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

RunPytest = Callable[..., pytest.RunResult]

_SERVER = """
    import os, signal, subprocess, sys, time
    import pytest

    PYTEST = os.getpid()

    @pytest.fixture(scope="module")
    def server():
        program = "import time; print(flush=True); time.sleep(600)"
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
            server.stdout.readline()
            yield server
            assert server.poll() is None
            server.kill()
"""


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_process_of_a_broad_scoped_fixture_is_alive_in_every_test(
    jobs: str, pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        _SERVER
        + """
    @pytest.mark.parametrize("number", range(6))
    def test_it(server, number):
        assert server.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            server.wait(timeout=0.01)
        os.kill(server.pid, 0)
        assert str(server.pid) in os.listdir("/proc")
        """
    )
    run_pytest("--nsbox=all", f"--nsbox-jobs={jobs}").assert_outcomes(passed=6)


def test_many_processes_are_alive_as_well(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    pytester.makepyfile(
        """
        import os, subprocess
        import pytest

        @pytest.fixture(scope="module")
        def servers():
            servers = [subprocess.Popen(["sleep", "600"]) for number in range(12)]
            yield servers
            for server in servers:
                server.kill()
                server.wait()

        @pytest.mark.parametrize("number", range(4))
        def test_it(servers, number):
            assert [server.poll() for server in servers] == [None] * 12
            for server in servers:
                os.kill(server.pid, 0)
        """
    )
    run_pytest("--nsbox=all").assert_outcomes(passed=4)


def test_what_procfs_says_of_it_is_true(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    pytester.makepyfile(
        _SERVER
        + """
    def of(pid):
        with open(f"/proc/{pid}/stat") as stat, open(f"/proc/{pid}/status") as status:
            started = stat.read().rpartition(")")[2].split()[19]
            name, *_ = status.read().splitlines()
        with open(f"/proc/{pid}/cmdline") as cmdline:
            return started, name, cmdline.read()

    @pytest.fixture(scope="module")
    def outside(server):
        return {pid: of(pid) for pid in (server.pid, PYTEST)}

    def test_it(outside):
        assert os.getpid() != PYTEST
        assert {pid: of(pid) for pid in outside} == outside
        """
    )
    run_pytest("--nsbox=all").assert_outcomes(passed=1)


def test_one_that_a_test_ends_has_ended_for_that_test_alone(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        _SERVER
        + """
    @pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGKILL"] * 2)
    def test_it(server, number):
        assert server.poll() is None
        server.send_signal(getattr(signal, number))
        assert server.wait() == -getattr(signal, number)
        with pytest.raises(ProcessLookupError):
            os.kill(server.pid, 0)
        """
    )
    run_pytest("--nsbox=all").assert_outcomes(passed=6)


def test_one_that_has_ended_by_itself_has_its_exit_status(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        _SERVER
        + """
    @pytest.fixture(scope="module")
    def ended():
        with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as ended:
            os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
            yield ended

    @pytest.fixture(scope="module")
    def killed():
        with subprocess.Popen(["sleep", "600"]) as killed:
            killed.kill()
            os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
            yield killed

    @pytest.mark.parametrize("number", range(4))
    def test_it(server, ended, killed, number):
        assert (server.poll(), ended.poll(), killed.wait()) == (None, 3, -9)
        """
    )
    run_pytest("--nsbox=all").assert_outcomes(passed=4)


def test_a_multiprocessing_worker_can_be_asked_and_ended(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
    import multiprocessing, time
    import pytest

    @pytest.fixture(scope="module")
    def worker():
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        worker.start()
        yield worker
        assert worker.is_alive()
        worker.kill()
        worker.join()

    @pytest.mark.parametrize("number", range(3))
    def test_it(worker, number):
        assert multiprocessing.active_children() == [worker]
        worker.terminate()
        worker.join()
        assert worker.exitcode == -15
        """
    )
    run_pytest("--nsbox=all").assert_outcomes(passed=3)


def test_a_child_of_the_tests_own_is_waited_for_as_ever(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        _SERVER
        + """
    def test_it(server):
        assert subprocess.run([sys.executable, "-c", "raise SystemExit(3)"]).returncode == 3
        with pytest.raises(ChildProcessError):
            os.waitpid(1, 0)
        """
    )
    run_pytest("--nsbox=all").assert_outcomes(passed=1)


def test_it_is_not_left_running_by_the_test(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        _SERVER
        + """
    def test_it(server, sandbox):
        assert [process.pid for process in sandbox.processes()] == []
        assert False
        """
    )
    result = run_pytest("--nsbox=all")
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*left running*")


def test_its_files_and_memory_are_closed(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    pytester.makepyfile(
        _SERVER
        + """
    @pytest.mark.parametrize("name", ["root", "cwd", "exe", "mem", "environ", "maps"])
    def test_it(server, name):
        for pid in (server.pid, PYTEST):
            with pytest.raises(PermissionError):
                open(f"/proc/{pid}/{name}", "rb").read(1)

    def test_descriptors(server):
        for pid in (server.pid, PYTEST):
            for number in range(10):
                with pytest.raises(OSError):
                    os.readlink(f"/proc/{pid}/fd/{number}")
        """
    )
    run_pytest("--nsbox=all").assert_outcomes(passed=7)


def test_a_user_still_mounts_a_proc_of_his_own(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    if os.geteuid() == 0:
        pytest.skip(
            "what of /proc uid 0 may not write is covered, and so the kernel refuses another"
        )
    pytester.makepyfile(
        _SERVER
        + """
    def test_it(server):
        subprocess.run(["unshare", "--user", "--pid", "--fork", "--mount-proc", "true"], check=True)
        """
    )
    run_pytest("--nsbox=all").assert_outcomes(passed=1)


_FILES = """
    import os, shutil, subprocess, sys, tempfile
    from pathlib import Path
    import pytest

    # What it is asked for on its standard input it moves to where it answers.
    PROGRAM = "import os, sys\\nfor line in sys.stdin: print(os.listdir(line.strip()), flush=True)"

    @pytest.fixture(scope="session")
    def place(tmp_path_factory):
        PLACE

    @pytest.fixture(scope="session")
    def server(place):
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM ARGUMENTS], cwd=CWD,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as server:
            def ask():
                print(place, file=server.stdin, flush=True)
                return server.stdout.readline().strip()
            yield ask
            server.kill()

    @pytest.mark.parametrize("number", range(4))
    def test_it(server, place, number):
        assert server() == "[]"
        (place / "file").write_text("x")
        assert server() == "['file']"
        (place / "file").unlink()
"""


@pytest.mark.parametrize(
    ("arguments", "cwd"), [(", place", "None"), (", f'--in={place}'", "None"), ("", "place")]
)
@pytest.mark.parametrize(
    "place",
    [
        "return tmp_path_factory.mktemp('served')",
        "path = Path(tempfile.mkdtemp(dir='/tmp')); yield path; shutil.rmtree(path)",
    ],
    ids=["basetemp", "tmp"],
)
def test_a_directory_that_it_serves_is_shared(
    pytester: pytest.Pytester, run_pytest: RunPytest, place: str, arguments: str, cwd: str
) -> None:
    suite = _FILES.replace("PLACE", place).replace("ARGUMENTS", arguments).replace("CWD", cwd)
    pytester.makepyfile(suite)
    run_pytest("--nsbox=all").assert_outcomes(passed=4)


def test_other_directories_of_temporary_ones_are_pristine_for_each_test(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        _FILES.replace("PLACE", "return tmp_path_factory.mktemp('served')")
        .replace("ARGUMENTS", ", place")
        .replace("CWD", "tmp_path_factory.getbasetemp()")
        .replace("def server(place)", "def server(place, tmp_path_factory)")
        + """
    @pytest.fixture(scope="session")
    def other(tmp_path_factory):
        return tmp_path_factory.mktemp("other")

    @pytest.mark.parametrize("number", range(3))
    def test_other(server, other, number):
        assert os.listdir(other) == []
        (other / "file").write_text("x")
        """
    )
    run_pytest("--nsbox=all").assert_outcomes(passed=7)


def test_after_it_has_ended_nothing_stands_in_for_it(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        test_one="""
    import os, subprocess
    import pytest

    @pytest.fixture(scope="module")
    def server():
        with subprocess.Popen(["sleep", "600"]) as server:
            os.environ["SERVER"] = str(server.pid)
            yield server
            server.kill()

    def test_it(server):
        os.kill(server.pid, 0)
        """,
        test_two="""
    import os
    import pytest

    @pytest.mark.parametrize("number", range(3))
    def test_it(number):
        with pytest.raises(ProcessLookupError):
            os.kill(int(os.environ["SERVER"]), 0)
        assert [name for name in os.listdir("/proc") if name.isdigit()] == ["1", "2"]
        """,
    )
    run_pytest("--nsbox=all").assert_outcomes(passed=4)
