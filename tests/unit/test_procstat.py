"""What /proc tells of processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from pytest_nsbox.kernel import procstat
from pytest_nsbox.sandbox.outsiders import Outsiders


def test_a_name_with_blanks_and_parentheses_does_not_shift_the_fields(tmp_path: Path) -> None:
    program = shutil.copy("/bin/sleep", tmp_path / ") R 1 (2")
    with subprocess.Popen([program, "60"]) as process:
        found = procstat.stat(process.pid)
        process.kill()
    assert (found.pid, found.parent) == (process.pid, os.getpid())


def test_a_process_that_is_not_there_is_an_error() -> None:
    with pytest.raises(OSError, match="No such file"):
        procstat.stat(2**22 + 1)


def test_the_children_of_every_thread_are_ours() -> None:
    started: list[subprocess.Popen[bytes]] = []
    goes_on = threading.Event()

    def start() -> None:
        started.append(subprocess.Popen(["sleep", "60"]))
        goes_on.wait()

    thread = threading.Thread(target=start)
    thread.start()
    with subprocess.Popen(["sleep", "60"]) as other:
        while not started:
            pass
        found = procstat.children()
        goes_on.set()
        thread.join()
        for process in (other, *started):
            process.kill()
            process.wait()
    assert found is not None
    assert {other.pid, started[0].pid} <= found


def test_who_is_in_no_pid_namespace_below_has_one_pid() -> None:
    assert procstat.pids("self") == [os.getpid()]


def test_a_process_that_comes_again_under_an_old_pid_is_another() -> None:
    outsiders = Outsiders()
    with subprocess.Popen(["sleep", "60"]) as process:
        found = [each for each in outsiders.look([process.pid]) if each.pid == process.pid]
        process.kill()
    assert [(each.pid, each.is_listed) for each in found] == [(process.pid, True)]
    assert found[0].started > 0
    assert process.pid not in [each.pid for each in outsiders.look([])]
