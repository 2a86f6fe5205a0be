#!/usr/bin/env python3
"""Run larder's tests bare and sandboxed, then larder itself in a sandbox, and check what is told.

Exit status: 0 if everything was as told, 1 if not, 2 if the demo cannot start here.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "src"

sys.path.insert(0, str(SOURCES))

from larder.config import (  # noqa: E402
    LOCK_FILE,
    PID_FILE,
    SOCKET_FILE,
    Settings,
    default_cache_dir,
    site_file,
    user_file,
)

TEST_FILES = sorted(f"tests/{path.name}" for path in (HERE / "tests").glob("test_*.py"))
DAEMON = ["-m", "larder.daemon"]
PORT = Settings.port

# Why a test of larder's is red when the suite has run before.
REASONS = {
    "test_a_new_cache_is_empty": "~/.cache/larder holds what an earlier test has stored",
    "test_status_without_a_daemon": "an earlier test's daemon still runs",
    "test_purge_empties_the_cache": f"a killed process has left {LOCK_FILE}",
    "test_defaults_without_any_file": "an earlier test has written the site's larder.conf",
    "test_gc_waits_for_no_other_larder_for_long": f"a killed process has left {LOCK_FILE}",
}

IN_THE_SANDBOX = """\
larder() { echo "$ larder $*"; "$PYTHON" -m larder "$@"; }
echo 'bytes of a wheel' > /tmp/wheel.whl
larder fetch file:///tmp/wheel.whl
larder status
larder list
larder config --site max_bytes=64M
echo '$ ls /tmp'
ls /tmp
"""


class NotAsTold(Exception):
    """Something came out otherwise than the demo says."""


class Run(NamedTuple):
    """What became of one pytest."""

    output: str
    seconds: float

    @property
    def summary(self) -> str:
        lines = self.output.strip().splitlines()
        return lines[-1].strip("= ") if lines else "no output"

    @property
    def passed(self) -> int:
        found = re.search(r"(\d+) passed", self.summary)
        return int(found[1]) if found else 0

    @property
    def green(self) -> bool:
        return re.fullmatch(r"\d+ passed in \S+", self.summary) is not None

    @property
    def red(self) -> list[tuple[str, str]]:
        """The tests that failed, each with pytest's words."""
        pattern = re.compile(r"^(?:FAILED|ERROR) \S*::(\S+)(?: - (.*))?$", re.MULTILINE)
        return [(name, words or "") for name, words in pattern.findall(self.output)]


# What is on the host


def daemons() -> list[int]:
    """Every larder daemon of this host, in whatever sandbox."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if is_daemon(path.read_bytes()):
                found.append(int(path.parent.name))
    return sorted(found)


def is_daemon(cmdline: bytes) -> bool:
    return cmdline.decode(errors="replace").rstrip("\0").split("\0")[1:] == DAEMON


def port_answers() -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", PORT)) == 0


def pid_in(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def left_on_host() -> list[str]:
    """What larder or its tests have left, a line each; empty on a host without any of it."""
    found = []
    for directory in (default_cache_dir(), user_file().parent):
        if directory.exists():
            files = [path for path in directory.rglob("*") if path.is_file()]
            found.append(f"{tilde(directory)}/  {len(files) or 'no'} files")
    if site_file().exists():
        setting = site_file().read_text().splitlines()[1]
        found.append(f"{tilde(site_file())}  that now says {setting!r} to everybody")
    if LOCK_FILE.exists():
        pid = pid_in(LOCK_FILE)
        state = "is alive" if Path(f"/proc/{pid}").exists() else "is dead"
        found.append(f"{LOCK_FILE}  of pid {pid}, which {state}")
    if SOCKET_FILE.exists():
        found.append(f"{SOCKET_FILE}")
    if PID_FILE.exists():
        found.append(f"{PID_FILE}  of pid {pid_in(PID_FILE)}")
    for pid in daemons():
        found.append(f"process {pid}  {' '.join(['python', *DAEMON])}")
    if port_answers():
        found.append(f"127.0.0.1:{PORT}  in use")
    return found


def tilde(path: Path) -> str:
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def clean() -> None:
    """Put the host back as it was: stop the daemon that the pid file names, remove the files."""
    pid = pid_in(PID_FILE)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            stop(pid)
    for path in (LOCK_FILE, SOCKET_FILE, PID_FILE, site_file()):
        path.unlink(missing_ok=True)
    for name in (".cache", ".config", ".local"):
        shutil.rmtree(Path.home() / name, ignore_errors=True)


def stop(pid: int) -> None:
    """End this process if it is a larder daemon, and wait for it."""
    pidfd = os.pidfd_open(pid)
    try:
        # Read with the pidfd open: if it still is the daemon then the pidfd is the daemon's.
        if not is_daemon(Path(f"/proc/{pid}/cmdline").read_bytes()):
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(pidfd, number)
            if select.select([pidfd], [], [], 5)[0]:
                return
    finally:
        os.close(pidfd)


# What we run


class Commands:
    """Runs commands so that none of them outlives the demo."""

    def __init__(self, scratch: Path) -> None:
        ours = {
            "HOME": str(Path.home()),
            "PYTEST_DEBUG_TEMPROOT": str(scratch),
            "COLUMNS": "200",
            "PYTHON": sys.executable,
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(SOURCES), os.environ.get("PYTHONPATH")])
            ),
        }
        alien = ("PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "FORCE_COLOR", "PY_COLORS")
        self.environment = {k: v for k, v in os.environ.items() if k not in alien} | ours
        self.running: list[subprocess.Popen[str]] = []

    def start(self, *argv: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            argv,
            cwd=HERE,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # ^C is for us, who clean up
        )
        self.running.append(process)
        return process

    def pytest(self, mode: str, files: list[str]) -> subprocess.Popen[str]:
        report = ("-q", "-rfE", "--tb=short", "--color=no")
        plugins = ("-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:sugar")
        return self.start(
            sys.executable, "-m", "pytest", f"--nsbox={mode}", *report, *plugins, *files
        )

    def finish(self, *processes: subprocess.Popen[str]) -> list[Run]:
        began = time.monotonic()
        runs = []
        for process in processes:
            output, _ = process.communicate(timeout=120)
            runs.append(Run(output, time.monotonic() - began))
            self.running.remove(process)
        return runs

    def kill(self) -> None:
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        if self.running:
            time.sleep(0.3)  # a daemon that was being started has its pid file by now


# The story


def heading(number: int, text: str) -> None:
    print(f"\n{number}. {text}\n", flush=True)


def say(text: str) -> None:
    print(textwrap.fill(text, 88, initial_indent="   ", subsequent_indent="   "), flush=True)


def line(label: str, text: str) -> None:
    print(f"   {label:<24} {text}", flush=True)


def items(lines: list[str]) -> None:
    for text in lines:
        print(f"      {text}"[:110], flush=True)


def expect(condition: bool, claim: str, *outputs: str) -> None:
    if not condition:
        raise NotAsTold("\n".join([claim, *outputs]))


def reasons(run: Run) -> list[str]:
    return [f"{name}: {REASONS.get(name, words)}" for name, words in run.red]


def expect_nothing_left(what: str) -> None:
    """Processes are killed when a sandbox is closed; the last is closed as pytest ends."""
    deadline = time.monotonic() + 2
    while (left := left_on_host()) and time.monotonic() < deadline:
        time.sleep(0.05)
    expect(not left, f"{what} was to leave nothing on the host, but there is", *left)


def bare(commands: Commands) -> int:
    """The tests as they are; returns how many there are."""
    heading(1, "Bare: the tests run as pytest runs them (--nsbox=off)")
    [first] = commands.finish(commands.pytest("off", TEST_FILES))
    line("the first run", first.summary)
    expect(first.green, "the first bare run was to be green", first.output)

    [second] = commands.finish(commands.pytest("off", TEST_FILES))
    line("once more", second.summary)
    items(reasons(second))
    expect(bool(second.red), "the second bare run was to be red", second.output)

    left = left_on_host()
    print()
    say("This is now left on the host:")
    items(left)
    expect(len(left) >= 6, "the bare runs were to leave files, a daemon and its port behind")
    clean()
    expect_nothing_left("cleaning up")
    say("The demo removes all of it by hand. Then, each from a clean host again:")
    print()

    [other] = commands.finish(commands.pytest("off", TEST_FILES[::-1]))
    clean()
    line("in another order", other.summary)
    items(reasons(other))
    expect(bool(other.red), "the bare run in another order was to be red", other.output)

    runs = commands.finish(*[commands.pytest("off", TEST_FILES) for _ in range(2)])
    clean()
    for number, run in enumerate(runs, 1):
        line(f"two at a time, no. {number}", run.summary)
        items([name for name, _ in run.red])
    outputs = [run.output for run in runs]
    expect(any(run.red for run in runs), "one of two bare runs at a time was to be red", *outputs)
    return first.passed


def sandboxed(commands: Commands, tests: int) -> None:
    heading(2, "Marked: every test in a sandbox of its own (pytestmark = pytest.mark.sandbox)")
    plan = [
        [("the first run", TEST_FILES)],
        [("once more", TEST_FILES)],
        [("two at a time: in order", TEST_FILES), ("and in another order", TEST_FILES[::-1])],
    ]
    for together in plan:
        runs = commands.finish(*[commands.pytest("marked", files) for _, files in together])
        for (label, _), run in zip(together, runs, strict=True):
            line(label, run.summary)
            expect(
                run.green and run.passed == tests,
                f"the sandboxed run was to be green, all {tests} tests ({label})",
                run.output,
            )
        expect_nothing_left("a sandboxed run")
    print()
    say("Left on the host: nothing; no file, no lock, no socket, no process, the port is free.")


def command(commands: Commands) -> None:
    heading(3, "nsbox run: the program itself in a sandbox, no test around it")
    process = commands.start(
        sys.executable,
        *("-m", "pytest_nsbox", "run", "--network", "loopback", "--", "sh", "-ec"),
        IN_THE_SANDBOX,
    )
    [run] = commands.finish(process)
    items(run.output.splitlines())
    expect(process.returncode == 0, f"nsbox run has ended with status {process.returncode}")
    expect("running, pid" in run.output, "larder's daemon was to run in the sandbox")
    expect_nothing_left("nsbox run")
    print()
    say("Left on the host: nothing. The daemon has ended with its sandbox.")


def refuse_to_start() -> str | None:
    """Why the bare half would get in the way of something on this host."""
    in_the_way = [str(p) for p in (LOCK_FILE, SOCKET_FILE, PID_FILE, site_file()) if p.exists()]
    if in_the_way:
        return f"already there, not from this demo: {', '.join(in_the_way)}. Remove it if unused."
    if port_answers():
        return f"something listens on 127.0.0.1:{PORT}, the port that larder's tests need."
    return None


def no_sandbox(commands: Commands) -> str | None:
    """Why there is no second half of the demo here, in the words of nsbox doctor."""
    process = commands.start(sys.executable, "-m", "pytest_nsbox", "doctor")
    [run] = commands.finish(process)
    return run.output if process.returncode else None


@contextlib.contextmanager
def home_of_its_own() -> Iterator[Path]:
    """A fresh HOME, removed at the end; not in /tmp, which a sandbox has of its own."""
    with tempfile.TemporaryDirectory(prefix="larder-demo-", dir="/var/tmp") as directory:
        home = Path(directory) / "home"
        home.mkdir()
        os.environ["HOME"] = str(home)
        scratch = Path(directory) / "pytest"
        scratch.mkdir()
        yield scratch


def interrupted(number: int, _: object) -> NoReturn:
    raise KeyboardInterrupt(signal.Signals(number).name)


def main() -> int:
    description = (__doc__ or "").splitlines()[0]
    argparse.ArgumentParser(description=description).parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    began = time.monotonic()
    with home_of_its_own() as scratch:
        if reason := refuse_to_start():
            print(f"demo.py: {reason}", file=sys.stderr)
            return 2
        commands = Commands(scratch)
        try:
            if refusal := no_sandbox(commands):
                print(f"demo.py: there are no sandboxes here.\n\n{refusal}", file=sys.stderr)
                return 2
            tests = bare(commands)
            sandboxed(commands, tests)
            command(commands)
        except NotAsTold as error:
            print(f"\ndemo.py: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\ndemo.py: interrupted", file=sys.stderr)
            return 130
        finally:
            commands.kill()
            clean()
    print(f"\nAll as told, in {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
