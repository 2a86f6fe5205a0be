"""The rows: each way to run a suite, what it needs on this machine, and one timed run of it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from suites import Suite, Unusable, last_line

from pytest_nsbox.kernel.syscalls import prctl

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent / ".venvs"  # what git ignores and `make clean` removes
CAP_SYS_ADMIN = 21
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
ROOT_LIMIT = 1.5  # times the floor, per test
ROOTLESS_LIMIT = 2.2
ORPHAN_SECONDS = 5.0  # to wait for them at most
EACH = 3  # tests that get a pytest of their own: more would take minutes, and show nothing new

BARE = "bare pytest"
BARE_OLDER = "bare pytest 8"
FLOOR = "fork floor"
FLOOR_TWO = "2 fork floors at once"
NSBOX_ROOT = "nsbox root"
NSBOX_ROOTLESS = "nsbox rootless"
NSBOX_JOBS = "nsbox --nsbox-jobs=2"
NSBOX_SCOPE = "nsbox scope=module"
XDIST = "xdist -n2"
XDIST_NSBOX = "xdist -n2 and nsbox"
OLDER = {"pytest-forked": "--forked", "pytest-isolate": "--isolate"}  # and what switches them on
BWRAP = "bwrap and a new pytest per test"
UNSHARE = "unshare and a new pytest per test"
ROWS = (
    BARE, FLOOR, FLOOR_TWO, NSBOX_ROOT, NSBOX_ROOTLESS, NSBOX_JOBS, NSBOX_SCOPE, XDIST, XDIST_NSBOX,
    BARE_OLDER, *OLDER, BWRAP, UNSHARE,
)  # fmt: skip

NO_PLUGIN = ("-p", "no:nsbox")
SANDBOXED = ("-p", "nsbox", "--nsbox=all")
# Root without capabilities takes the rootless way. One has to stay: since Linux 5.12 a process
# needs CAP_SETFCAP to map uid 0 into its user namespace (user_namespaces(7)).
DROP = ("setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all", "--")


class Row(NamedTuple):
    """One way to run a suite."""

    name: str
    args: tuple[str, ...]
    launcher: tuple[str, ...] = ()  # before the command
    python: str = sys.executable
    baseline: str = BARE  # the row that is subtracted, round by round
    limit: float | None = None  # times the floor, per test, of the no-op tests
    each: bool = False  # a pytest of its own for each test


class Rows:
    """The rows that this machine can run, and why not the others."""

    def __init__(self, wanted: Iterable[str] = ROWS) -> None:
        """``wanted``: only these of ROWS, and those that they are compared with."""
        self.wanted = {BARE, *wanted}
        if not self.wanted.isdisjoint(OLDER):
            self.wanted.add(BARE_OLDER)
        self.rows: list[Row] = []
        self.left_out: dict[str, str] = {}
        self._add()

    def _add(self) -> None:
        root = is_privileged()
        self._row(BARE, NO_PLUGIN)
        floor = (*NO_PLUGIN, "-p", "fork_floor")
        self._row(FLOOR, floor)
        self._row(FLOOR_TWO, (*floor, "--fork-floor-jobs=2"))
        self._row(
            NSBOX_ROOT, SANDBOXED, limit=ROOT_LIMIT, reason="" if root else "takes CAP_SYS_ADMIN"
        )
        drop = () if not root else DROP
        self._row(
            NSBOX_ROOTLESS, SANDBOXED, drop, limit=ROOTLESS_LIMIT,
            reason="" if not drop or shutil.which(drop[0]) else "no setpriv (util-linux)",
        )  # fmt: skip
        self._row(NSBOX_JOBS, (*SANDBOXED, "--nsbox-jobs=2"))
        self._row(NSBOX_SCOPE, (*SANDBOXED, "-o", "nsbox_scope=module"))
        no_xdist = "" if find_spec("xdist") else "pytest-xdist is not installed"
        xdist = ("-p", "xdist", "-n2")
        self._row(XDIST, (*NO_PLUGIN, *xdist), reason=no_xdist)
        self._row(XDIST_NSBOX, (*SANDBOXED, *xdist), reason=no_xdist)
        self._add_older()
        self._add_each()

    def _row(
        self,
        name: str,
        args: tuple[str, ...],
        launcher: tuple[str, ...] = (),
        *,
        reason: str = "",
        python: str = sys.executable,
        baseline: str = BARE,
        limit: float | None = None,
        each: bool = False,
    ) -> None:
        """Add the row if it is wanted; ``reason``: why it cannot run."""
        if name not in self.wanted:
            return
        if reason:
            self.left_out[name] = reason
        else:
            self.rows.append(Row(name, args, launcher, python, baseline, limit, each))

    def _add_older(self) -> None:
        """Those that work with no newer pytest than 8 have an environment of their own."""
        if BARE_OLDER not in self.wanted:
            return
        try:
            python, reason = str(environment("older", "pytest>=8.4,<9", *OLDER)), ""
        except Unusable as error:
            python, reason = "", str(error)
        self._row(BARE_OLDER, (), python=python, baseline=BARE_OLDER, reason=reason)
        for plugin, option in OLDER.items():
            args = ("-p", plugin.replace("-", "_"), option)
            self._row(plugin, args, python=python, baseline=BARE_OLDER, reason=reason)

    def _add_each(self) -> None:
        """A new pytest for each test, in namespaces that another program makes."""
        bwrap = ["bwrap", "--dev-bind", "/", "/", "--proc", "/proc", "--tmpfs", "/tmp"]
        bwrap += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent", "--"]
        unshare = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--ipc", "--uts"]
        unshare += ["--"] if is_privileged() else ["--user", "--map-root-user", "--"]
        for name, command in ((BWRAP, bwrap), (UNSHARE, unshare)):
            reason = refusal([*command, "true"])
            self._row(name, NO_PLUGIN, tuple(command), reason=reason, each=True)


def refusal(command: list[str]) -> str:
    """Why the command does not work here; "" if it does."""
    if shutil.which(command[0]) is None:
        return f"no {command[0]}"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return last_line(done.stderr) if done.returncode else ""


def is_privileged() -> bool:
    status = Path("/proc/self/status").read_text()
    return bool(int(status.split("CapEff:")[1].split()[0], 16) >> CAP_SYS_ADMIN & 1)


# ------------------------------------------------------------------ what is installed for us


def environment(name: str, *requirements: str) -> Path:
    """The Python of an environment with these, made once. Raises Unusable."""
    directory = CACHE / f"bench-{name}-{sys.implementation.cache_tag}"
    python = directory / "bin" / "python"
    if not (directory / ".ready").exists():
        shutil.rmtree(directory, ignore_errors=True)
        _install([sys.executable, "-m", "venv", str(directory)], name)
        _install([str(python), "-m", "pip", "install", "--quiet", *requirements], name)
        (directory / ".ready").touch()
    return python


def modules(name: str, *requirements: str) -> Path:
    """A directory with these, to import from in any environment, made once. Raises Unusable."""
    directory = CACHE / f"bench-{name}-{sys.implementation.cache_tag}"
    if not (directory / ".ready").exists():
        shutil.rmtree(directory, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(directory)]
        _install([*pip, *requirements], name)
        (directory / ".ready").touch()
    return directory


def _install(command: list[str], what: str) -> None:
    progress(f"preparing: {what}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unusable(f"cannot install it: {last_line(done.stderr or done.stdout)}")


# ------------------------------------------------------------------ one run


class Times(NamedTuple):
    """Seconds: on the clock, and of all processors, for pytest and every process that it has had."""

    wall_s: float
    cpu_s: float


def run(row: Row, suite: Suite, around: tuple[str, ...] = ()) -> Times:
    """What one run of the suite takes. Raises Unusable if that is no success.

    ``around``: a command that runs this one. With ``row.each`` the times are those of some tests,
    scaled up to the suite.
    """
    if not row.each:
        return _run(row, suite, around, list(suite.args), suite.tests)
    chosen = _ids(suite)[:EACH]
    found = [_run(row, suite, around, [test], 1) for test in chosen]
    return Times(*(sum(each) / len(chosen) * suite.tests for each in zip(*found, strict=True)))


def _run(row: Row, suite: Suite, around: tuple[str, ...], args: list[str], passing: int) -> Times:
    """What one pytest takes."""
    pytest = [row.python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    # Where pytest keeps directories of earlier runs, one run removes what another has written.
    with tempfile.TemporaryDirectory(prefix="nsbox-bench-", dir="/tmp") as temproot:
        environ = {**_environ(suite), "PYTEST_DEBUG_TEMPROOT": temproot}
        if row.python != sys.executable:  # pytest-isolate leaves files behind
            environ["TMPDIR"] = temproot
        used, start = _cpu_s(), time.perf_counter()
        done = subprocess.run(
            [*around, *row.launcher, *pytest, *row.args, *args],
            cwd=suite.directory, env=environ, capture_output=True, text=True, check=False,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        times = Times(seconds, _cpu_s() - used)
    passed = re.search(r"(\d+) passed", done.stdout)
    if done.returncode or passed is None or int(passed[1]) != passing:
        said = last_line(done.stdout + done.stderr)
        raise Unusable(f"its pytest ended with {done.returncode}: {said}")
    return times


def _cpu_s() -> float:
    """Processor time of all our descendants that have ended, orphans among them, if they do end.

    Pytest's supervisor is one: it ends with pytest, of which it is no child.
    """
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # we are the parent of orphans
    until = time.monotonic() + ORPHAN_SECONDS
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < until:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _environ(suite: Suite) -> dict[str, str]:
    """Only the plugins that are named take part, whatever else is installed."""
    path = os.pathsep.join([str(HERE), *map(str, suite.modules)])
    environ = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": path}
    # Bytecode is written as ever: what is installed has some, and nobody is to compile it each time.
    others = ("PYTEST_ADDOPTS", "PYTEST_XDIST", "PYTHONDONTWRITEBYTECODE")
    for name in [name for name in environ if name.startswith(others)]:
        del environ[name]
    return environ


def _ids(suite: Suite) -> list[str]:
    """The ids of its tests."""
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", *NO_PLUGIN, *suite.args]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=suite.directory, env=_environ(suite), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [line for line in done.stdout.splitlines() if "::" in line]


# ------------------------------------------------------------------ where


def machine() -> dict[str, str]:
    """What the figures depend on."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    total_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": f"{len(os.sched_getaffinity(0))} x {model[1] if model else platform.machine()}",
        "memory": f"{total_kb / 2**20:.0f} GB",
        "kernel": platform.release(),
        "mounts": str(mounts()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "pytest": version("pytest"),
        "nsbox": version("pytest-nsbox"),
    }


def mounts() -> int:
    """How many mounts there are here."""
    return len(Path("/proc/self/mountinfo").read_text().splitlines())


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
