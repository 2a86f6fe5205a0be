"""The tutorial, from its first command to its last: what it shows is what one gets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import machine

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(console|python|diff)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SAVED_AS = "tests/test_site.py"
_END = "-- end of a command --"
_PIDS = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
# What is another number, or another place, every time.
CHANGING = [
    (r"\d+\.\d\ds( \(\d+:\d\d:\d\d\))?", "0.00s"),
    (r"pid \d+", "pid N"),
    (r"\S+/python\d?[\d.]* -m larder", "python -m larder"),
    (r"(/home/ada/\.local)?/etc/larder\.conf", "/etc/larder.conf"),
]
if ROOT.parts[1] == "tmp":  # where a sandbox shows the way to our sources
    CHANGING.append((rf"(?m)^{re.escape(ROOT.parts[2])}$", ""))


def blocks() -> list[tuple[str, str]]:
    """The blocks of the tutorial after those that make the environment: (language, text)."""
    text = (ROOT / "docs/tutorial.md").read_text().partition("## Run the tests bare")[2]
    return BLOCK.findall(text)


def commands(block: str) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with its output."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def what_matters(output: str) -> list[str]:
    """The lines of an output in which two runs are alike.

    Sorted, for what root changes lies elsewhere; a difference of lists (``E``) follows that order.
    """
    for pattern, instead in CHANGING:
        output = re.sub(pattern, instead, output)
    return sorted(line for line in output.splitlines() if line and not line.startswith("E "))


def steps() -> Iterator[tuple[str, str]]:
    """What a reader does, as commands for a shell, and what each shows."""
    source = ""
    for language, text in blocks():
        if language == "console":
            yield from commands(text)
            continue
        if language == "python":
            source = text
        else:
            before, after = (
                "".join(line[1:] for line in text.splitlines(True) if line[0] != other)
                for other in "+-"
            )
            assert before in source
            source = source.replace(before, after)
        yield f"cat >{SAVED_AS} <<'END'\n{source}END", ""


def run(script: str, privilege: list[str]) -> str:
    """What a shell prints; whatever it leaves running ends with it."""
    done = subprocess.run(
        [*machine.command("scratch", "own"), *_PIDS, *privilege, "sh", "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    return done.stdout


# It is long; and a reader is no root. `make demo` tells the same as both.
@pytest.mark.parametrize("privilege", ["rootless"], indirect=True)
def test_the_tutorial_shows_what_one_gets(
    privilege: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.need()
    monkeypatch.setenv("PATH", f"{sys.prefix}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", "src")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LC_ALL", "C")
    told = list(steps())
    prepare = f"cd {machine.HOME}\ncp -r {ROOT}/example_project .\ncd example_project\n"
    script = "\n".join(f"{command}\necho '{_END}'" for command, _ in told)
    printed = run(prepare + script, privilege).split(f"{_END}\n")
    assert len(printed) == len(told) + 1, printed[-1]
    for (command, expected), output in zip(told, printed, strict=False):
        shown, got = what_matters(expected), what_matters(output.replace(machine.HOME, "/home/ada"))
        if "..." in shown:  # which stands for lines that are not shown
            shown.remove("...")
            got = [line for line in got if line in shown]
        assert (command, got) == (command, shown)
