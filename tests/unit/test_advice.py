"""Causes of refusals that this machine cannot be made to have; the others are in tests/sandbox."""

from __future__ import annotations

import errno
import json

import pytest

from pytest_nsbox import cli
from pytest_nsbox.kernel import mountinfo
from pytest_nsbox.kernel.mountinfo import Mount
from pytest_nsbox.kernel.syscalls import SyscallError
from pytest_nsbox.sandbox import advice


def root_on(fstype: str) -> Mount:
    return Mount(1, 0, "0:1", "/", "/", frozenset(), fstype, "none", frozenset())


@pytest.mark.parametrize(
    ("number", "fstype", "cause"),
    [
        (errno.EPERM, "ext4", "this kernel lets only root mount overlayfs"),
        (errno.ENODEV, "ext4", "the overlay module is not loaded"),
        (errno.EINVAL, "vfat", "overlayfs takes no vfat as a lower layer"),
        (errno.EINVAL, "overlay", "the root here is an overlay already"),
    ],
)
def test_a_refused_overlay_has_its_cause(
    monkeypatch: pytest.MonkeyPatch, number: int, fstype: str, cause: str
) -> None:
    monkeypatch.setattr(mountinfo, "read", lambda: [root_on(fstype)])
    told = advice.explain(SyscallError(number, "mount", "overlay, /tmp/root"))
    assert cause in told


def test_a_tmpfs_without_user_xattrs_has_its_cause() -> None:
    found = advice.advise("mkdir(/x): Input/output error (EIO)", errno.EIO)
    assert found is not None
    assert "Linux 6.6" in found.cause


def test_what_we_cannot_explain_points_to_the_doctor() -> None:
    told = advice.explain(SyscallError(errno.EBADF, "fchdir", "5"))
    assert told == (
        "fchdir(5): Bad file descriptor (EBADF)\n"
        "`nsbox doctor` tries every step that a sandbox needs."
    )


def test_another_system_is_told_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert cli.main(["doctor", "--json"]) == 1
    (step,) = json.loads(capsys.readouterr().out)["steps"]
    assert step["cause"] == "this is darwin"
    assert cli.main(["run", "--", "true"]) == 1
    assert capsys.readouterr().err == "nsbox: a sandbox needs Linux, this is darwin\n"
