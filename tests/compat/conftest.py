"""A suite of a plugin's users, run bare and sandboxed; what they see must be the same."""

from __future__ import annotations

import difflib
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

# What differs from one run to the next, sandboxed or not.
_VARYING = [
    (re.compile(r"\b\d+\.\d+ ?(?:s|ms|us|seconds?)\b"), "<time>"),
    (re.compile(r"\b\d+ ms\b"), "<time>"),
    (re.compile(r"0x[0-9a-f]{6,}"), "<address>"),
    (re.compile(r"pytest-\d+/"), "pytest-N/"),
    (re.compile(r"[=_-]{3,}"), "---"),  # as long as is left of the line
]
# What nsbox itself says: its header, and the section of a failed test's report.
_OURS = re.compile(r"^nsbox: .*\n|^-+ sandbox -+\n(?:(?!---|===|___).*\n)*", re.MULTILINE)
_NOT_OF_THE_SUITE = ("stdout", "stderr", "__pycache__", "runpytest-")


@dataclass
class Seen:
    """What a user sees of some runs of a suite, one after the other, and what files they leave."""

    runs: list[pytest.RunResult] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)

    def compared(self, varying: Sequence[tuple[re.Pattern[str], str]]) -> list[str]:
        """The part that must be the same bare and sandboxed, as lines."""
        text = "".join(
            f"exit status {run.ret}\n{run.stdout}\nerrors: {run.stderr}\n" for run in self.runs
        )
        text += "".join(f"left: {path}\n" for path in self.files)
        for pattern, stand_in in ((_OURS, ""), *varying, *_VARYING):
            text = pattern.sub(stand_in, text)
        return [line.rstrip() for line in text.splitlines()]


class Both:
    """Runs pytest first bare and then sandboxed, each in the suite as it was."""

    def __init__(self, top: Path, run_pytest: Callable[..., pytest.RunResult]) -> None:
        self.top = top
        self.run_pytest = run_pytest

    def __call__(
        self, *runs: Sequence[str], varying: Sequence[tuple[re.Pattern[str], str]] = ()
    ) -> Seen:
        """Assert that it is the same to the user; returns what it was sandboxed.

        Each of ``runs`` is the arguments of one, and finds what the one before has left.  ``varying``
        says what else than times and addresses cannot be compared.
        """
        return self.seen(*runs, varying=varying)[1]

    def seen(
        self, *runs: Sequence[str], varying: Sequence[tuple[re.Pattern[str], str]] = ()
    ) -> tuple[Seen, Seen]:
        """The same; returns both."""
        suite = {path: (self.top / path).read_bytes() for path in _files(self.top)}
        bare, boxed = (self._seen_of(mode, suite, runs or [()]) for mode in ("off", "all"))
        one, other = bare.compared(varying), boxed.compared(varying)
        assert one == other, "\n".join(difflib.unified_diff(one, other, "bare", "sandboxed"))
        return bare, boxed

    def _seen_of(self, mode: str, suite: dict[str, bytes], runs: Sequence[Sequence[str]]) -> Seen:
        _lay(self.top, suite)
        seen = Seen([self.run_pytest(f"--nsbox={mode}", "-rA", *args) for args in runs])
        for path in _files(self.top):
            content = (self.top / path).read_bytes()
            if content != suite.get(path):
                seen.files[path] = content.decode(errors="replace")
        return seen


@pytest.fixture
def both(pytester: pytest.Pytester, run_pytest: Callable[..., pytest.RunResult]) -> Both:
    return Both(pytester.path, run_pytest)


def _files(top: Path) -> Iterator[str]:
    """The suite's files and what its runs have left, without what pytester and Python leave."""
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.is_file() and not any(
            part.startswith(_NOT_OF_THE_SUITE) for part in name.split("/")
        ):
            yield name


def _lay(top: Path, suite: dict[str, bytes]) -> None:
    """Make the directory what it was before the suite ran."""
    for path in top.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for name, content in suite.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(content)
