"""A death in words."""

from __future__ import annotations

import os
import resource
import signal

import pytest

from pytest_nsbox.run import verdict


def death(script: str) -> int:
    """The wait status of a shell that ended so. Not by os.fork: xdist's workers have threads."""
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", f"ulimit -c 0; {script}"], os.environ)
    return os.waitpid(pid, 0)[1]


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGABRT", "SIGSEGV"])
def test_a_signal_is_told_by_its_name(name: str) -> None:
    status = death(f"kill -{name.removeprefix('SIG')} $$")
    assert verdict.describe(status) == f"the test process was killed by {name}"


@pytest.mark.parametrize("number", [0, 3, 255])
def test_an_exit_status_is_told_as_a_number(number: int) -> None:
    expected = f"the test process exited with status {number} before its test had ended"
    assert verdict.describe(death(f"exit {number}")) == expected


def test_a_core_dump_is_told() -> None:
    told = verdict.describe(signal.SIGSEGV | 0x80)
    assert told == "the test process was killed by SIGSEGV (core dumped)"


def test_what_the_process_had_used_is_told_where_it_is_known() -> None:
    usage = resource.struct_rusage([1.25, 0.5, 3 << 10, *[0] * 13])
    told = verdict.describe(signal.SIGKILL, usage)
    assert told.endswith("killed by SIGKILL (peak memory 3 MiB, 1.75 s of CPU time)")


def test_a_signal_without_a_name_is_counted_from_sigrtmin() -> None:
    assert verdict.signal_name(signal.SIGRTMIN + 5) == "SIGRTMIN+5"


def test_the_ends_of_the_real_time_signals_have_names() -> None:
    names = [verdict.signal_name(number) for number in (signal.SIGRTMIN, signal.SIGRTMAX)]
    assert names == ["SIGRTMIN", "SIGRTMAX"]


@pytest.mark.parametrize(("seconds", "text"), [(1, "1 s"), (0.25, "0.25 s"), (90.0, "90 s")])
def test_a_timeout_is_told_with_its_seconds(seconds: float, text: str) -> None:
    assert verdict.timed_out(seconds).startswith(f"Timeout: the test had not ended {text} after")
