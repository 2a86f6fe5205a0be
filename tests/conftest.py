"""What the suites share: a pytest of one's own to run, as root and rootless."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from helpers import machine
from helpers.host import MARK, Host

pytest_plugins = ["pytester", "same_as_bare"]

# A suite that runs in the background ignores these, and would hand that on to what it signals.
for _number, _default in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _default)

_CAP_SYS_ADMIN = 21
# Root without its capabilities: what is left lets uid 0 map itself (CAP_SETFCAP, Linux 5.12).
_DROP = ["setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all"]
_SECONDS = 90.0
# The plugins that every pytest of a test's own has. Not whatever else is installed: some change the
# order of the tests or what the terminal shows, and all take their time to be imported.
_PLUGINS = ("nsbox", "xdist", "timeout")
# With one of these pytest does not shorten its summary, and plugins have other defaults.
_CI = ("CI", "BUILD_NUMBER", "GITHUB_ACTIONS")


def _may_administer() -> bool:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        effective = next(line for line in file if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> _CAP_SYS_ADMIN & 1)


@pytest.fixture(params=["root", "rootless"])
def privilege(request: pytest.FixtureRequest) -> list[str]:
    """What to put before a command, so that it runs with the privilege."""
    if not _may_administer():
        if request.param == "root":
            pytest.skip("to be root takes CAP_SYS_ADMIN, which this suite has not been given")
        return []
    if request.param == "root":
        return []
    if shutil.which(_DROP[0]) is None:
        pytest.skip("to drop root's capabilities takes setpriv (util-linux)")
    return _DROP


@pytest.fixture(scope="session", autouse=True)
def few_plugins() -> Iterator[None]:
    """Every pytest that a test runs has our plugin, and few others, and is not told of CI."""
    with pytest.MonkeyPatch.context() as patch:
        for name in _CI:
            patch.delenv(name, raising=False)
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        patch.setenv("PYTEST_ADDOPTS", options_for(_PLUGINS))
        yield


@pytest.fixture
def pytester(
    pytester: pytest.Pytester, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """pytest's own, which forgets PYTEST_ADDOPTS: the few, and those that the module names."""
    names = (*_PLUGINS, *getattr(request.module, "PLUGINS", ()))
    monkeypatch.setenv("PYTEST_ADDOPTS", options_for(names))
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)  # a run of its own, in no worker of ours
    return pytester


def options_for(plugins: Sequence[str]) -> str:
    return " ".join(f"-p {name}" for name in plugins)


@pytest.fixture
def run_pytest(pytester: pytest.Pytester, privilege: list[str]) -> Callable[..., pytest.RunResult]:
    """Run pytest in pytester's directory, with the privilege.

    ``on``: what is different on the machine where it is to run, see helpers/machine.py.
    """

    def run(*args: str, on: Sequence[str] = ()) -> pytest.RunResult:
        if on:
            machine.need()
        there = machine.command(*on) if on else []
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args]
        return pytester.run(*there, *privilege, *command, timeout=_SECONDS)

    return run


@pytest.fixture
def start_pytest(
    pytester: pytest.Pytester, privilege: list[str]
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a pytest and leave it running; what is still there of it afterwards is ended."""
    started: list[subprocess.Popen[str]] = []

    def run(*args: str) -> subprocess.Popen[str]:
        command = [*privilege, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=pytester.path,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def host(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Finds what the runs of this test have left."""
    mark = f"{os.getpid()}-{pytester.path.name}"
    monkeypatch.setenv(MARK, mark)
    # What this process was itself started with does not change: it does not count as one of them.
    return Host(mark)


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A directory in /tmp, of which a sandbox has nothing, with room in a socket's address."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="nsbox-") as directory:
        yield Path(directory)
