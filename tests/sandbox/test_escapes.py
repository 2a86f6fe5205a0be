"""Every attempt to get out of a sandbox ends as it has to; as root and rootless."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import escapes
import pytest

_SECONDS = 120
_PAGE = Path(__file__).parents[2] / "docs/explanation/security.md"

_TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
_CONFTEST = """
import json
from pathlib import Path
import escapes
import pytest

HERE = Path(__file__).parent

@pytest.fixture(scope="session")
def world():
    with escapes.made_outside(HERE / "canary", HERE / "stranger") as world:
        yield world

# The controller's ears: a test process has its reports only sent home.
def pytest_runtest_logreport(report):
    if report.when == "call":
        with (HERE / "outcomes").open("a") as file:
            print(json.dumps([report.nodeid, report.outcome, report.user_properties]), file=file)
"""
_TESTS = """
import escapes
import pytest

@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.sandbox(**attempt.marker))
        for name, attempt in escapes.ATTEMPTS.items()
    ],
)
def test_attempt(name, world, record_property):
    record_property(name, escapes.outcome(name, world))
"""


class Recording(NamedTuple):
    """What one run of all attempts has left."""

    directory: Path
    output: str
    outcomes: dict[str, str]  # attempt -> how it ended


_recordings: dict[str, Recording] = {}


@pytest.fixture
def recording(
    request: pytest.FixtureRequest,
    privilege: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Recording:
    """One run of all attempts with the privilege, on a terminal of its own."""
    name = request.node.callspec.params["privilege"]
    if name not in _recordings:
        _recordings[name] = record(privilege, tmp_path_factory.mktemp(f"escapes-{name}"))
    return _recordings[name]


def record(privilege: list[str], directory: Path) -> Recording:
    (directory / "conftest.py").write_text(_CONFTEST)
    (directory / "test_inner.py").write_text(_TESTS)
    (directory / "escapes.py").write_text(Path(escapes.__file__).read_text())
    (directory / "pytest.ini").touch()
    (directory / "outcomes").touch()
    command = [*privilege, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rf"]
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(str(directory / "stranger"))
        stranger.listen()
        output = on_a_terminal(command, directory)
    outcomes: dict[str, str] = {}
    for line in (directory / "outcomes").read_text().splitlines():
        outcomes.update(json.loads(line)[2])
    return Recording(directory, output, outcomes)


def on_a_terminal(command: list[str], directory: Path) -> str:
    """What the command puts out, as the leader of a session with a terminal of its own."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _TAKE_TERMINAL, *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=directory,
        start_new_session=True,
    )
    os.close(theirs)
    output = b""
    deadline = time.monotonic() + _SECONDS
    try:
        while select.select([ours], [], [], max(0, deadline - time.monotonic()))[0]:
            try:
                output += os.read(ours, 1 << 16)
            except OSError:  # EIO: nobody has the other end open any more
                break
        else:
            process.kill()
    finally:
        process.wait()
        os.close(ours)
    return output.decode(errors="replace")


@pytest.mark.parametrize("name", escapes.ATTEMPTS)
def test_an_escape_ends_as_it_has_to(
    name: str, recording: Recording, request: pytest.FixtureRequest
) -> None:
    attempt = escapes.ATTEMPTS[name]
    rootless = request.node.callspec.params["privilege"] == "rootless"
    allowed = (attempt.rootless if rootless else attempt.root).split()
    assert name in recording.outcomes, recording.output
    assert recording.outcomes[name].split()[0] in allowed, recording.outcomes[name]
    place = recording.directory / "canary" / name
    assert [path.name for path in place.iterdir()] == ["file"]
    assert (place / "file").read_text() == escapes.CONTENT
    assert (place / "file").stat().st_mode & 0o777 == escapes.MODE


def test_a_log_file_of_a_broad_fixture_is_written_to(recording: Recording) -> None:
    assert (recording.directory / "canary/log").read_text() == "a line\n"


def test_the_page_about_security_lists_every_attempt_and_how_it_ends() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .+ \|$", _PAGE.read_text(), re.MULTILINE)
    listed = {name: ends.replace("*", "").replace(" or ", " ") for name, ends in rows}
    assert len(listed) == len(rows)
    assert listed == {
        name: root if root == rootless else f"{root}; rootless {rootless}"
        for name, (_, root, rootless, _) in escapes.ATTEMPTS.items()
    }
