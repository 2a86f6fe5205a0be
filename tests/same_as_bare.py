"""One suite run twice, bare and sandboxed, to be compared: the fixture ``same_as_bare``."""

from __future__ import annotations

import difflib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

_SECONDS = 90.0

# Names of one length: pytest cuts and fills its lines.
_MODES = {"off": "bare", "all": "nsbx"}

# What differs between any two runs.
_CHANCE = [
    (re.compile(r"^nsbox: (off|all)(, .*)?\n", re.MULTILINE), ""),
    (re.compile(r"\b\d+\.\d\ds(?: \(\d+:\d\d:\d\d\))?"), "0.00s"),
    (re.compile(r"^=+ (.* in 0\.00s) =+$", re.MULTILINE), r"= \1 ="),  # filled up to the margin
    (re.compile(r"\bcache from \d:\d\d:\d\d ago"), "cache from 0:00:00 ago"),
    (re.compile(r"\b0x[0-9a-f]{6,}"), "0x0"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+"), "NOW"),
    (re.compile(r'(?<= time=)"[\d.]+"|(?<= timestamp=)"[^"]+"'), '"0"'),
]
# What our own frames take of the stack.
_CHANCE += [(re.compile(r"Previous line repeated \d+ more times"), "Previous line repeated")]
# In place of this lambda the controller calls the hook.
_CHANCE += [(re.compile(r".*_pytest/runner.py.* in <lambda>\n.*\n.*\^+\n"), "")]
_DURATIONS = re.compile(r"(?:^0\.00s (?:setup|call|teardown) .*\n)+", re.MULTILINE)


@pytest.fixture
def same_as_bare(
    pytester: pytest.Pytester, privilege: list[str]
) -> Callable[..., pytest.RunResult]:
    """Run pytest on pytester's files, bare and in sandboxes: whatever can be seen must be equal.

    That is the exit status, both streams, and all files: the cache, reports, temporary directories.
    Each of both has a directory of its own, where a second call goes on. What is returned is the
    result in sandboxes, to see that the test tests something.
    """
    places = {mode: pytester.path / name for mode, name in _MODES.items()}

    def run(*args: str) -> pytest.RunResult:
        prepare(pytester.path, list(places.values()))
        started = [
            (place, start([*privilege, *command(mode, args)], place))
            for mode, place in places.items()
        ]
        bare, boxed = (result_of(place, process) for place, process in started)
        assert_equal("stderr", bare.errlines, boxed.errlines)
        assert_equal("stdout", bare.outlines, boxed.outlines)
        assert boxed.ret == bare.ret
        left = [list(files_in(place)) for place in places.values()]
        assert_equal("files", *left)
        return boxed

    return run


def command(mode: str, args: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "pytest", f"--nsbox={mode}", *args]


def prepare(source: Path, places: list[Path]) -> None:
    """Give each place what has been put into ``source`` since the last time."""
    new = [path for path in source.iterdir() if path not in places]
    for place in places:
        for name in ("suite", "temporary"):
            (place / name).mkdir(parents=True, exist_ok=True)
        for path in new:
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, place / "suite" / path.name)
    for path in new:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "PYTEST_DEBUG_TEMPROOT": str(place / "temporary")}


def start(command: list[str], place: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=place / "suite",
        env=environment(place),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def result_of(place: Path, process: subprocess.Popen[bytes]) -> pytest.RunResult:
    try:
        out, err = process.communicate(timeout=_SECONDS)
    finally:
        process.kill()
    out_lines, err_lines = (normal(place, text.decode()).splitlines() for text in (out, err))
    return pytest.RunResult(process.returncode, out_lines, err_lines, duration=0)


def normal(place: Path, text: str) -> str:
    """The text without what differs between any two runs."""
    text = text.replace(str(place), "PLACE").replace(f"/{place.name}/", "/PLACE/")
    for pattern, stand_in in _CHANCE:
        text = pattern.sub(stand_in, text)
    # The longest comes first, whichever that is this time.
    return _DURATIONS.sub(lambda found: "".join(sorted(found[0].splitlines(True))), text)


def assert_equal(what: str, bare: list[str], boxed: list[str]) -> None:
    diff = difflib.unified_diff(bare, boxed, f"{what}, bare", f"{what}, sandboxed", lineterm="")
    text = "\n".join(diff)
    if text:
        pytest.fail(text, pytrace=False)


def files_in(place: Path) -> Iterator[str]:
    """What lies there: each path with its mode and content, or where it leads to."""
    for path in sorted(place.rglob("*")):
        name = str(path.relative_to(place))
        if "__pycache__" in path.parts:
            continue
        if path.is_symlink():
            yield f"{name} -> {normal(place, os.readlink(path))}"
        elif path.is_dir():
            yield f"{name}/ {path.stat().st_mode:o}"
        else:
            yield f"{name}: {path.stat().st_mode:o}"
            yield from normal(place, path.read_text()).splitlines()


@pytest.fixture
def same_dialogue_as_bare(
    pytester: pytest.Pytester, privilege: list[str]
) -> Callable[..., list[str]]:
    """Hold a dialogue with pytest on a terminal, bare and in sandboxes: all it shows must be equal.

    The dialogue is a list of what to wait for, and what to type then.
    """
    places = {mode: pytester.path / name for mode, name in _MODES.items()}

    def run(dialogue: list[tuple[str, str]], *args: str) -> list[str]:
        prepare(pytester.path, list(places.values()))
        bare, boxed = (
            shown(place, [*privilege, *command(mode, args)], dialogue)
            for mode, place in places.items()
        )
        assert_equal("terminal", bare, boxed)
        return boxed

    return run


def shown(place: Path, command: list[str], dialogue: list[tuple[str, str]]) -> list[str]:
    """What the command shows on a terminal of its own, and how it ends."""
    child = pexpect.spawn(
        command[0],
        command[1:],
        cwd=str(place / "suite"),
        env=environment(place),
        timeout=_SECONDS,
        dimensions=(24, 80),
        encoding="utf-8",
    )
    child.logfile_read = text = io.StringIO()
    try:
        for wait_for, answer in dialogue:
            child.expect(wait_for)
            child.sendline(answer)
        child.expect(pexpect.EOF)
    finally:
        child.close(force=True)
    ending = f"status {child.exitstatus}, signal {child.signalstatus}"
    return [*normal(place, text.getvalue().replace("\r\n", "\n")).splitlines(), ending]
