"""Run the suite on every supported pair of CPython and pytest that this machine can offer.

    python scripts/matrix.py [--pairs corner|newest|all] [--python 3.12 ...] [-- PYTEST_ARGS]

Each pair has an environment of its own under .venvs/, made once and reused until pyproject.toml
changes. A CPython that is not here is skipped, and the table says so.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
PYTESTS = ("8.4", "9.0", "9.1", "9.2")
# The CPython that meets every pytest in the corner matrix.
MIDDLE = "3.12"
DEFAULT_PYTEST_ARGS = ("tests", "-q", "-x", "-n", "auto")


class Pair(NamedTuple):
    python: str
    pytest: str


class Result(NamedTuple):
    pair: Pair
    verdict: str
    seconds: float
    detail: str


def candidates(version: str) -> Iterator[Path]:
    """Every place where CPython `version` may be, the likeliest first."""
    if version == "{}.{}".format(*sys.version_info):
        yield Path(sys.executable)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    installed = [
        path for path in pyenv.glob(f"versions/{version}.*") if path.name.split(".")[-1].isdecimal()
    ]
    for path in sorted(installed, key=lambda path: int(path.name.split(".")[-1]), reverse=True):
        yield path / "bin" / "python3"
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield Path(on_path)


def find_python(version: str) -> Path | None:
    """A CPython `version` that runs and can make an environment.

    Each candidate is run: a pyenv shim is on PATH also for versions it does not have.
    """
    check = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    for path in candidates(version):
        try:
            answer = subprocess.run(
                [path, "-c", check], capture_output=True, text=True, check=False
            )
        except OSError:
            continue
        if answer.returncode == 0 and answer.stdout.strip() == version:
            return path
    return None


def choose(which: str, pythons: Sequence[str]) -> list[Pair]:
    if which == "all":
        return [Pair(python, pytest) for python in pythons for pytest in PYTESTS]
    newest = [Pair(python, PYTESTS[-1]) for python in pythons]
    if which == "newest" or not pythons:
        return newest
    middle = MIDDLE if MIDDLE in pythons else pythons[-1]
    return newest + [Pair(middle, pytest) for pytest in PYTESTS[:-1]]


def environment(pair: Pair, interpreter: Path) -> Path:
    """The Python of the pair's environment, which is made or renewed when it has to be."""
    venv = ROOT / ".venvs" / f"py{pair.python}-pytest{pair.pytest}"
    python = venv / "bin" / "python"
    stamp = venv / ".ready"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    run(interpreter, "-m", "venv", "--clear", venv)
    # `pip install --group` came with pip 25.1.
    run(python, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1")
    pinned = f"pytest=={pair.pytest}.*"
    run(python, "-m", "pip", "install", "--quiet", "--editable", ".", "--group", "test", pinned)
    stamp.write_text(wanted)
    return python


def run(*command: str | Path) -> None:
    subprocess.run(command, cwd=ROOT, check=True)


def test(pair: Pair, interpreter: Path, pytest_args: Sequence[str]) -> Result:
    start = time.monotonic()
    try:
        python = environment(pair, interpreter)
    except (OSError, subprocess.CalledProcessError) as error:
        return Result(pair, "FAILED", time.monotonic() - start, f"no environment: {error}")
    start = time.monotonic()
    status = subprocess.run(
        [python, "-m", "pytest", *pytest_args], cwd=ROOT, check=False
    ).returncode
    seconds = time.monotonic() - start
    if status:
        return Result(pair, "FAILED", seconds, f"pytest ended with {status}")
    return Result(pair, "passed", seconds, "")


def table(results: Iterable[Result]) -> str:
    lines = [f"{'CPython':<9}{'pytest':<9}{'result':<9}{'time':>8}"]
    for pair, verdict, seconds, detail in results:
        spent = f"{seconds:.1f} s" if seconds else ""
        lines.append(f"{pair.python:<9}{pair.pytest:<9}{verdict:<9}{spent:>8}  {detail}".rstrip())
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Run the suite on every supported CPython and pytest that this machine has.",
    )
    parser.add_argument(
        "--pairs",
        choices=["corner", "newest", "all"],
        default="corner",
        help="newest: the newest pytest on every Python; corner (default): these, and every pytest "
        f"on one Python, {MIDDLE} if it is here; all: every pytest on every Python",
    )
    parser.add_argument(
        "--python",
        choices=PYTHONS,
        action="append",
        help="only this Python; may be repeated",
    )
    parser.add_argument(
        "pytest_args",
        nargs="*",
        default=DEFAULT_PYTEST_ARGS,
        metavar="-- PYTEST_ARGS",
        help=f"arguments for pytest (default: {' '.join(DEFAULT_PYTEST_ARGS)})",
    )
    options = parser.parse_args()

    wanted = options.python or PYTHONS
    found = {version: path for version in wanted if (path := find_python(version))}
    absent = [version for version in wanted if version not in found]
    for version in absent:
        print(f"matrix: CPython {version} is not on this machine, skipped", flush=True)

    results = []
    for pair in choose(options.pairs, list(found)):
        print(f"\nmatrix: CPython {pair.python}, pytest {pair.pytest}", flush=True)
        results.append(test(pair, found[pair.python], options.pytest_args))
    results += [
        Result(Pair(version, "-"), "skipped", 0, "not on this machine") for version in absent
    ]
    print(f"\n{table(results)}")
    return int(any(result.verdict == "FAILED" for result in results))


if __name__ == "__main__":
    raise SystemExit(main())
