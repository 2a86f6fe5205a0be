"""The command ``nsbox``, as ``python -m pytest_nsbox``, as root and rootless."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Completed = subprocess.CompletedProcess[str]
Nsbox = Callable[..., Completed]


@pytest.fixture
def nsbox(privilege: list[str], tmp_path: Path) -> Nsbox:
    """Run the command with the privilege, in a directory of its own."""

    def run(*args: str, stdin: str = "") -> Completed:
        return subprocess.run(
            [*privilege, sys.executable, "-m", "pytest_nsbox", *args],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=60,
        )

    return run


# ----------------------------------------------------------------------- run


@pytest.mark.parametrize("status", [0, 1, 42, 255])
def test_the_exit_status_is_that_of_the_command(nsbox: Nsbox, status: int) -> None:
    done = nsbox("run", "--", "sh", "-c", f"exit {status}")
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV"])
def test_a_signal_is_128_and_its_number(nsbox: Nsbox, name: str) -> None:
    done = nsbox("run", "--", "sh", "-c", f"ulimit -c 0; kill -{name} $$")
    assert done.returncode == 128 + signal.Signals[f"SIG{name}"]


def test_a_command_that_is_not_found_is_127(nsbox: Nsbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    done = nsbox("run", "--", "no-such-command")
    assert done.returncode == 127
    assert done.stderr == "nsbox: no-such-command: No such file or directory\n"


def test_a_command_that_cannot_be_executed_is_126(nsbox: Nsbox, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no program")
    done = nsbox("run", "--", "./data")
    assert done.returncode == 126
    assert done.stderr == "nsbox: ./data: Permission denied\n"


def test_the_standard_streams_are_passed_through(nsbox: Nsbox) -> None:
    done = nsbox("run", "--", "sh", "-c", "cat; echo error >&2", stdin="some input")
    assert (done.stdout, done.stderr) == ("some input", "error\n")


def test_the_command_is_the_second_process(nsbox: Nsbox) -> None:
    assert nsbox("run", "--", "sh", "-c", "echo $$").stdout == "2\n"


def test_options_of_the_command_are_its_own(nsbox: Nsbox) -> None:
    done = nsbox("run", "--hostname", "box", "--", "echo", "--hostname", "-x", "--")
    assert done.stdout == "--hostname -x --\n"


def test_the_command_runs_in_the_directory_of_the_caller(nsbox: Nsbox, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    assert nsbox("run", "--", "sh", "-c", "pwd; cat file").stdout == f"{tmp_path}\ntext"


def test_nothing_that_the_command_writes_is_left(nsbox: Nsbox, tmp_path: Path) -> None:
    outside = Path(f"/tmp/{tmp_path.name}-left")
    script = f"echo x > here && echo x > {outside} && echo x > /etc/left && cat here /etc/left"
    done = nsbox("run", "--", "sh", "-c", script)
    assert done.stdout == "x\nx\n", done.stderr
    assert list(tmp_path.iterdir()) == []
    assert not outside.exists()
    assert not Path("/etc/left").exists()


def test_no_process_that_the_command_starts_is_left(nsbox: Nsbox, tmp_path: Path) -> None:
    mark = f"nsbox-{tmp_path.name}-{tmp_path.parent.name}"
    done = nsbox("run", "--env", f"MARK={mark}", "--", "sh", "-c", "sleep 300 >&- 2>&- &")
    assert done.returncode == 0
    assert [p for p in Path("/proc").glob("[0-9]*/environ") if mark.encode() in _read(p)] == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_the_options_shape_the_sandbox(nsbox: Nsbox, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    done = nsbox(
        *("run", "--network", "none", "--hostname", "box", "--tmp-size", "1M"),
        *("--env", "A=1", "--env", "B=2", "--hide", "/etc/os-release"),
        *("--bind", f"{tmp_path}/shared", "--"),
        *("sh", "-c", "echo through > shared/file; hostname; echo $A $B; cat /etc/os-release"),
    )
    assert done.stdout == "box\n1 2\n", done.stderr
    assert (tmp_path / "shared/file").read_text() == "through\n"


def test_a_command_that_takes_too_long_is_killed(nsbox: Nsbox) -> None:
    done = nsbox("run", "--timeout", "0.2", "--", "sleep", "300")
    assert done.returncode == 128 + signal.SIGKILL
    assert done.stderr == "nsbox: the command had not ended after 0.2 s; killed\n"


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--network", "wifi", "network='wifi' is not allowed; choose from 'host', 'loopback'"),
        ("--tmp-size", "64Q", "tmp_size='64Q' is not a size"),
        ("--timeout", "abc", "timeout='abc' is not a timeout"),
        ("--bind", "relative", "'relative' is relative"),
        ("--hide", "/", "'/' is /, which every sandbox has of its own"),
        ("--env", "NAME", "'NAME' has no '='; write NAME=VALUE"),
        ("--hostname", "x" * 65, "has 65 bytes; at most 64 are allowed"),
    ],
)
def test_a_bad_option_is_a_usage_error(nsbox: Nsbox, option: str, value: str, told: str) -> None:
    done = nsbox("run", option, value, "--", "true")
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_is_needed(nsbox: Nsbox) -> None:
    done = nsbox("run")
    assert done.returncode == 2
    assert "CMD" in done.stderr


# ----------------------------------------------------------------------- doctor


def test_the_doctor_says_that_a_sandbox_works(nsbox: Nsbox) -> None:
    done = nsbox("doctor")
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("A sandbox works here.\n")
    assert "REFUSED" not in done.stdout


def test_the_doctor_speaks_json(nsbox: Nsbox) -> None:
    done = nsbox("doctor", "--json")
    told = json.loads(done.stdout)
    assert told["works"] is True
    assert all(step["ok"] for step in told["steps"])
