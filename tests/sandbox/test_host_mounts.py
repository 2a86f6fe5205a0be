"""Hosts with odd mounts: what a sandbox shows of them, and what a run says that it leaves out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers import machine

ODD = (
    "scratch", "dead_fuse", "autofs", "read_only", "file_bind", "stacked", "covered", "closed",
)  # fmt: skip

# What one finds on such a host, bare and in a sandbox.
TESTS = """
import os
import select
from pathlib import Path

import pytest

PLACE = Path("@PLACE@")

@pytest.mark.parametrize(
    ("name", "text"),
    [("read-only/file", "host"), ("target", "source"), ("stacked/upper", "upper"),
     ("covered/file", "outer")],
)
def test_a_file_is_there(name, text):
    assert (PLACE / name).read_text() == text

def test_what_is_covered_is_not_there():
    assert os.listdir(PLACE / "stacked") == ["upper"]
    assert os.listdir(PLACE / "covered") == ["file"]

def test_what_is_read_only_stays_so():
    with pytest.raises(OSError, match="Read-only"):
        (PLACE / "read-only/file").write_text("test")

@pytest.mark.parametrize("name", ["stacked", "covered"])
def test_a_filesystem_can_be_written_to(name):
    (PLACE / name / "new").touch()

@pytest.mark.parametrize("name", ["closed/file", "closed-mount/inner/file"])
def test_a_closed_directory_opens_only_to_a_capability(name):
    try:
        text = (PLACE / name).read_text()
    except PermissionError:
        text = "closed"
    assert text == os.environ["CLOSED"]

def test_nobody_has_woken_the_automounter():
    assert select.select([int(os.environ["AUTOFS"])], [], [], 0)[0] == []
""".replace("@PLACE@", machine.PLACE)

RunPytest = Callable[..., pytest.RunResult]


@pytest.mark.parametrize("mode", ["all", "off"])
def test_odd_mounts_look_as_they_do_bare(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    privilege: list[str],
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
) -> None:
    monkeypatch.setenv("CLOSED", "closed" if privilege else "secret")
    pytester.makepyfile(TESTS)
    result = run_pytest(f"--nsbox={mode}", on=ODD)
    result.assert_outcomes(passed=11)
    expected = {
        "auto (autofs)": "autofs mounts on demand, which a look would trigger",
        "dead (fuse)": "it did not answer stat within 1 s",
    }
    if privilege:
        expected["closed-mount"] = "Permission denied (EACCES)"
    assert sorted(line for line in result.outlines if "is left empty" in line) == sorted(
        f"{machine.PLACE}/{name} is left empty: {why}"
        for name, why in expected.items()
        if mode == "all"
    )


def test_hundreds_of_mounts_are_all_there(
    pytester: pytest.Pytester, run_pytest: RunPytest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", f"{machine.PLACE}/many/7")
    pytester.makepyfile(
        f"""
        from pathlib import Path
        import pytest

        MANY = Path("{machine.PLACE}/many")

        def test_it():
            for number in range(0, 300, 2):
                assert (MANY / str(number) / "file").read_text() == str(number)

        def test_they_are_read_only():
            with pytest.raises(OSError, match="Read-only"):
                (MANY / "8/new").touch()

        @pytest.mark.parametrize("number", range(2))
        def test_one_that_is_used_is_copy_on_write(number):
            assert not Path("~/new").expanduser().exists()
            Path("~/new").expanduser().touch()

        def test_so_is_all_around_them():
            (MANY.parent / "new").touch()
        """
    )
    result = run_pytest("--nsbox=all", on=["scratch", "many"])
    result.assert_outcomes(passed=5)
    result.stdout.no_fnmatch_line("*left empty*")
    result.stdout.fnmatch_lines([f"{machine.PLACE}/many: its mounts are read-only, as 300 are *"])


def test_hundreds_of_mounts_where_the_suite_lies_beside_them_are_copy_on_write(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        f"""
        from pathlib import Path

        def test_it():
            (Path("{machine.PLACE}/many/8/new")).touch()
        """
    )
    result = run_pytest("--nsbox=all", f"--rootdir={machine.PLACE}/many", on=["scratch", "many"])
    result.assert_outcomes(passed=1)


def test_what_takes_no_overlay_is_read_only_in_every_sandbox(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        f"""
        from pathlib import Path
        import pytest

        FILE = Path("{machine.PLACE}/layers/2/file")

        @pytest.mark.parametrize("number", range(4))
        def test_it(number):
            assert FILE.read_text() == "lowest"
            with pytest.raises(OSError, match="Read-only"):
                FILE.write_text("test")
        """
    )
    result = run_pytest("--nsbox=all", on=["scratch", "layered"])
    result.assert_outcomes(passed=4)
    layer = f"{machine.PLACE}/layers/2"
    assert [line for line in result.outlines if line.startswith(f"{layer}: ")] == [
        f"{layer}: read-only bind {layer}, since mount: Invalid argument (EINVAL)"
    ]
