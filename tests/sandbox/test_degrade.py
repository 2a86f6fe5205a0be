"""Machines that refuse a part of a sandbox, which the user may do without."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from helpers import machine

from pytest_nsbox.plugin import DEGRADABLE
from pytest_nsbox.sandbox import degrade

RunPytest = Callable[..., pytest.RunResult]

# What is different, the part that is refused then, and what a test finds.
MACHINES = {
    "proc": (
        ["masked_proc", "user_namespace"],
        "assert int(os.readlink('/proc/self')) != 2",
    ),
    "ipc": (["no_ipc_namespaces"], "pass"),
    "uts": (["no_uts_namespaces"], f"assert socket.gethostname() == {socket.gethostname()!r}"),
    "network": (["no_net_namespaces"], "assert len(socket.if_nameindex()) >= 1"),
}
SUITE = """
import os, socket, tempfile
import pytest

@pytest.mark.sandbox({marker})
def test_it(sandbox):
    assert os.getpid() == 2
    {act}
    with open("/etc/nsbox-was-here", "w"):
        pass
    assert sandbox.processes() == []
"""

every_part = pytest.mark.parametrize("part", MACHINES)


def run(
    pytester: pytest.Pytester, run_pytest: RunPytest, part: str, *options: str
) -> pytest.RunResult:
    machine.need()
    different, act = MACHINES[part]
    marker = 'network="loopback"' if part == "network" else ""
    pytester.makepyfile(SUITE.format(act=act, marker=marker))
    return run_pytest("--junitxml=junit.xml", *options, on=["scratch", *different])


@every_part
def test_a_part_that_may_be_missing_is(
    pytester: pytest.Pytester, run_pytest: RunPytest, part: str
) -> None:
    result = run(pytester, run_pytest, part, "-o", f"nsbox_degrade={part}")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [f"nsbox: marked*degrade={part}", "a sandbox has the machine's * (nsbox_degrade), since *"]
    )
    report = (pytester.path / "junit.xml").read_text()
    assert f'name="nsbox" value="in a sandbox WITHOUT its own {part}"' in report


@every_part
def test_a_part_that_nobody_lets_go_is_an_error_that_says_how(
    pytester: pytest.Pytester, run_pytest: RunPytest, part: str
) -> None:
    result = run(pytester, run_pytest, part)
    result.assert_outcomes(errors=1)
    if part != "network":
        result.stdout.fnmatch_lines([f"*nsbox_degrade = {part}*"])


@every_part
def test_a_part_that_is_there_is_used(
    pytester: pytest.Pytester, run_pytest: RunPytest, part: str
) -> None:
    pytester.makepyfile(
        """
        import os

        def test_it(sandbox):
            assert os.readlink("/proc/self") == "2"
        """
    )
    result = run_pytest("-o", f"nsbox_degrade={part}", "--junitxml=junit.xml")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*(nsbox_degrade)*")
    assert "WITHOUT" not in (pytester.path / "junit.xml").read_text()


def test_a_host_name_takes_a_namespace_for_it(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    machine.need()
    pytester.makepyfile(SUITE.format(act="pass", marker='hostname="box"'))
    before = socket.gethostname()
    result = run_pytest("-o", "nsbox_degrade=uts", on=["no_uts_namespaces"])
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*hostname='box': unshare(CLONE_NEWUTS): *"])
    assert socket.gethostname() == before


def test_an_unknown_part_is_refused(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    pytester.makepyfile("def test_it(): pass")
    result = run_pytest("-o", "nsbox_degrade=pid proc")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*nsbox_degrade = 'pid' is not allowed; choose from proc, ipc, uts, network"]
    )


def test_the_plugin_knows_the_parts() -> None:
    assert tuple(degrade.PARTS) == DEGRADABLE
