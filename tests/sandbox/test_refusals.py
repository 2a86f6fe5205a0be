"""Machines that refuse: each for real, and told by its cause, by the doctor and by a run alike."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import machine

RunPytest = Callable[..., pytest.RunResult]

WORKS = ""
# What is different, and what must be told of it, as root and rootless.
MACHINES = {
    "docker": ("default profile of Docker", "default profile of Docker"),
    "docker_sys_admin": (WORKS, WORKS),
    "old_filter": ("a seccomp filter that is older", "a seccomp filter that is older"),
    "old_kernel": ("Linux 5.4, and a sandbox needs 5.12", "Linux 5.4, and a sandbox needs 5.12"),
    "wsl1": ("this is WSL1", "this is WSL1"),
    "gvisor": ("this is gVisor", "this is gVisor"),
    "debian": (WORKS, "kernel.unprivileged_userns_clone is 0"),
    "apparmor": ("a security module", "AppArmor takes every capability"),
    "no_mounting": ("a security module", "a security module"),
    "user_namespace": (WORKS, WORKS),
    "no_user_namespaces": ("user.max_user_namespaces is 0", "user.max_user_namespaces is 0"),
    "used_up": ("is used up", "is used up"),
    "no_mount_namespaces": ("user.max_mnt_namespaces is 0", "user.max_mnt_namespaces is 0"),
    "masked_proc": (WORKS, "parts of this /proc are covered"),
    "masked_proc user_namespace": ("parts of this /proc are covered",) * 2,
    "no_proc": ("no /proc is mounted here",) * 2,
    "i686": ("clone(2) on this architecture",) * 2,
    "hidepid": (WORKS, WORKS),
    "chroot": (WORKS, "this process lives in a chroot"),
    "chroot_to_directory": ("a chroot into a directory", "this process lives in a chroot"),
    "deep": ("the root here is an overlay already", "the root here is an overlay already"),
}
BOTH = (
    'nsbox() { "$PYTHON" -m pytest_nsbox "$@"; }; nsbox doctor --json; nsbox run -- echo ran 2>&1'
)


def try_both(
    command: list[str], cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Any], str]:
    """What the doctor says, and what a run."""
    monkeypatch.setenv("PYTHON", sys.executable)
    done = subprocess.run(
        [*command, "sh", "-c", BOTH], cwd=cwd, capture_output=True, text=True, timeout=60
    )
    assert done.stdout, done.stderr
    told, end = json.JSONDecoder().raw_decode(done.stdout)
    return told, done.stdout[end:].strip()


@pytest.mark.parametrize("different", MACHINES)
def test_a_refusal_is_told_with_its_cause(
    different: str, privilege: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.need()
    command = [*machine.command("scratch", *different.split()), *privilege]
    told, run = try_both(command, tmp_path, monkeypatch)
    cause = MACHINES[different][bool(privilege)]
    assert told["works"] is (cause == WORKS), told
    if cause == WORKS:
        assert run == "ran"
        return
    *passed, refused = told["steps"]
    assert all(step["ok"] for step in passed)
    assert cause in refused["cause"]
    assert refused["detail"]
    # A run tells the same, in its own words of what was refused.
    assert run.splitlines()[1:] == [
        f"Likely cause: {refused['cause']}",
        f"Remedy: {refused['remedy']}",
    ]


def test_root_without_the_capability_has_no_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.need()
    drop = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-all"]
    told, run = try_both([*machine.command(), *drop], tmp_path, monkeypatch)
    assert told["works"] is False
    (refused,) = [step for step in told["steps"] if not step["ok"]]
    assert "CAP_NET_ADMIN" in refused["cause"]
    assert run == "ran"
    loopback = [sys.executable, "-m", "pytest_nsbox", "run", "--network=loopback", "--", "true"]
    done = subprocess.run([*drop, *loopback], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 125
    assert refused["cause"] in done.stderr


def test_uid_0_that_may_not_map_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.need()
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    told, run = try_both([*machine.command(), *drop], tmp_path, monkeypatch)
    assert told["works"] is False
    assert "Likely cause: uid 0 without CAP_SETFCAP may not map itself" in run


@pytest.mark.parametrize("lacking", ["chown", "dac_override", "fowner", "setpcap", "sys_chroot"])
def test_the_capability_to_mount_without_the_others_takes_the_rootless_way(
    lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.need()
    drop = ["setpriv", f"--bounding-set=-{lacking}", "--inh-caps=-all"]
    told, run = try_both([*machine.command(), *drop], tmp_path, monkeypatch)
    assert told["works"], told
    assert told["steps"][0]["name"] == "user namespace, own uid and gid mapped"
    assert run.endswith("ran")


SUITE = """
import os
import pytest

def test_bare(): pass

@pytest.mark.sandbox
def test_it():
    assert os.getpid() == 2

@pytest.mark.sandbox
def test_another():
    assert os.getpid() == 2
"""


@pytest.mark.parametrize(
    ("choice", "outcomes"),
    [
        ("error", {"passed": 1, "errors": 2}),
        ("skip", {"passed": 1, "skipped": 2}),
        ("run", {"passed": 1, "failed": 2, "warnings": 2}),
    ],
)
def test_the_suite_is_told_as_chosen(
    pytester: pytest.Pytester, run_pytest: RunPytest, choice: str, outcomes: dict[str, int]
) -> None:
    pytester.makepyfile(SUITE)
    result = run_pytest(
        "-rs", f"--nsbox-unavailable={choice}", "--junitxml=junit.xml", on=["docker"]
    )
    result.assert_outcomes(**outcomes)
    result.stdout.fnmatch_lines(["*unshare(CLONE_NEW*): Operation not permitted (EPERM)*"])
    assert "seccomp=unconfined" in result.stdout.str()
    bare = ["nsbox: tests run WITHOUT a sandbox: unshare(*"]
    if choice == "run":
        result.stdout.fnmatch_lines(["collected 3 items", *bare, "*.py .FF*"])
    else:
        result.stdout.no_fnmatch_line(*bare)
    said = (pytester.path / "junit.xml").read_text().count('value="ran WITHOUT a sandbox"')
    assert said == (2 if choice == "run" else 0)
