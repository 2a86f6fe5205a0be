"""Every system call by which the supervisor makes a sandbox, refused now and then."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.host import Host

RunPytest = Callable[..., pytest.RunResult]

# The supervisor is executed anew, by this; so what is to fail in there has to be said in here.
_CONFTEST = """
from pytest_nsbox.sandbox import client

client._MAIN = '''
import ctypes, errno, mmap, os, sys
sys.path.append({package!r})
from pytest_nsbox.kernel import syscalls
from pytest_nsbox.sandbox import supervisor

# By fd, for a path leads elsewhere in a sandbox; one that an init does not close.
os.dup2(os.open(os.environ["NSBOX_TEST_FAULTS"], os.O_RDWR | os.O_APPEND | os.O_CREAT), 1)
# Shared with every init: calls until one fails, and how many have.
class Counts(ctypes.Structure):
    _fields_ = [("left", ctypes.c_long), ("faults", ctypes.c_long)]


counts = Counts.from_buffer(mmap.mmap(-1, 4096))


class Faulty:
    "The C library, of whose functions one in so many fails, a different one of each sandbox."

    def __init__(self, real):
        self.real = real
        self.armed = False
        # Another supervisor is not to fail at the same point.
        counts.faults = len(os.read(1, 1 << 20).splitlines())
        counts.left = STEP + 7 * counts.faults

    def __getattr__(self, name):
        function = getattr(self.real, name)

        def call(*arguments):
            if self.armed:
                counts.left -= 1
                if counts.left == 0:
                    counts.faults += 1
                    counts.left = STEP + 7 * counts.faults
                    os.write(1, name.encode() + bytes([10]))
                    ctypes.set_errno(errno.ENOMEM)
                    return -1
            return function(*arguments)

        return call


faulty = syscalls._libc = Faulty(syscalls._libc)
acquire = supervisor.Supervisor.acquire


def arm(self, message):
    faulty.armed = True  # the staging area is there
    acquire(self, message)


supervisor.Supervisor.acquire = arm
supervisor.main()
'''
"""

_SUITE = """
import os
import pytest

@pytest.mark.sandbox
@pytest.mark.parametrize("number", range(40))
def test_it(number):
    assert os.getpid() == 2
    assert os.listdir("/dev/shm") == []
    open("/dev/shm/left", "w").close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 23, 61])
def test_a_call_that_fails_is_told_or_tried_again(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    host: Host,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    step: int,
) -> None:
    faults = tmp_path / "faults"
    monkeypatch.setenv("NSBOX_TEST_FAULTS", str(faults))
    pytester.makeconftest(_CONFTEST.replace("STEP", str(step)))
    pytester.makepyfile(_SUITE)
    result = run_pytest("--tb=short")
    text = result.stdout.str()
    assert "INTERNALERROR" not in text
    outcomes = result.parseoutcomes()
    bad = outcomes.get("errors", 0) + outcomes.get("failed", 0)
    assert outcomes["passed"] + bad >= 40, text  # more, if one has died in its teardown
    assert outcomes["passed"] >= 30, text
    # With a supervisor that has not come back from a sandbox its others end, and their tests.
    why = r"no sandbox for this test: .*\(ENOMEM\)|has died: it said|was killed by SIGKILL"
    assert len(re.findall(why, text)) >= bad, text
    assert len(faults.read_text().splitlines()) >= 10
    host.assert_clean()
