"""Measure what a sandbox adds to a test, beside the least that a fork per test can cost.

    python benchmarks/overhead.py [--tests 300] [--rounds 7] [--json FILE]

A suite of no-op tests runs bare, with a plugin that only forks (fork_floor.py: the floor), and in
sandboxes, as root and rootless. The rounds are interleaved, each in another order, so that a noisy
moment hits every row alike. A row's figure is the median over the rounds of

    (its wall time - the wall time of the bare run of the same round) / number of tests

which has the plugin's start and end in it too. A last line has the start-up of pytest with the
plugin loaded and no test sandboxed, against the same without the plugin.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
CAP_SYS_ADMIN = 21
ROOT_LIMIT = 1.5  # times the floor
ROOTLESS_LIMIT = 2.2
STARTUP_LIMIT_MS = 10.0
# One run of pytest differs from the next by more than what is looked for here: it takes many.
STARTUP_ROUNDS_PER_ROUND = 3


class Row(NamedTuple):
    name: str
    args: tuple[str, ...]
    launcher: tuple[str, ...] = ()
    limit: float | None = None


class PerTest(NamedTuple):
    row: str
    wall_ms: float
    added_ms: float
    added_ms_min: float
    added_ms_max: float
    times_floor: float
    limit: float | None


class Startup(NamedTuple):
    bare_ms: float
    added_ms: float
    limit_ms: float


BARE = Row("bare", ("-p", "no:nsbox"))
FLOOR = Row("fork floor", ("-p", "no:nsbox", "-p", "fork_floor"))
SANDBOXED = ("-p", "nsbox", "--nsbox=all")


def effective_capabilities() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("CapEff:")[1].split()[0], 16)


def rows() -> list[Row]:
    if not effective_capabilities() >> CAP_SYS_ADMIN & 1:
        return [BARE, FLOOR, Row("nsbox rootless", SANDBOXED, limit=ROOTLESS_LIMIT)]
    found = [BARE, FLOOR, Row("nsbox root", SANDBOXED, limit=ROOT_LIMIT)]
    # Root without capabilities takes the rootless way. One has to stay: since Linux 5.12 a process
    # needs CAP_SETFCAP to map uid 0 into its user namespace (user_namespaces(7)).
    setpriv = shutil.which("setpriv")
    if setpriv:
        launcher = (setpriv, "--bounding-set=-all,+setfcap", "--inh-caps=-all", "--")
        found.append(Row("nsbox rootless", SANDBOXED, launcher, ROOTLESS_LIMIT))
    else:
        print("no setpriv (util-linux) here: the rootless row is left out", file=sys.stderr)
    return found


def write_suite(directory: Path, tests: int) -> Path:
    directory.mkdir()
    # An ini file of its own: no other one, found above, takes part.
    (directory / "pytest.ini").write_text("[pytest]\n")
    source = "".join(f"def test_{i}():\n    pass\n\n\n" for i in range(tests))
    (directory / "test_noop.py").write_text(source)
    return directory


def run(row: Row, suite: Path, tests: int) -> float:
    """The wall time of one run of pytest, in seconds."""
    command = [*row.launcher, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    # Only the plugins named take part, whatever else is installed.
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(HERE)}
    env.pop("PYTEST_ADDOPTS", None)
    start = time.perf_counter()
    done = subprocess.run(
        [*command, *row.args], cwd=suite, env=env, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode or f"{tests} passed" not in done.stdout:
        raise SystemExit(
            f"{row.name}: pytest ended with {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return seconds


def interleave(chosen: list[Row], suite: Path, tests: int, rounds: int) -> dict[str, list[float]]:
    """Wall times by row; entry i of each belongs to round i."""
    times: dict[str, list[float]] = {row.name: [] for row in chosen}
    for row in chosen:
        run(row, suite, tests)  # not counted: writes the bytecode, warms the page cache
    for i in range(rounds):
        for row in random.sample(chosen, len(chosen)):
            times[row.name].append(run(row, suite, tests))
        progress(f"round {i + 1} of {rounds}")
    progress("")
    return times


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def machine() -> dict[str, str]:
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": f"{len(os.sched_getaffinity(0))} x {model}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "pytest": version("pytest"),
    }


def measure_tests(suite: Path, tests: int, rounds: int) -> list[PerTest]:
    chosen = rows()
    times = interleave(chosen, suite, tests, rounds)
    added = {name: differences(walls, times[BARE.name]) for name, walls in times.items()}
    floor = median(added[FLOOR.name])
    return [
        PerTest(
            row=row.name,
            wall_ms=median(times[row.name]) * 1000,
            added_ms=median(added[row.name]) / tests,
            added_ms_min=min(added[row.name]) / tests,
            added_ms_max=max(added[row.name]) / tests,
            times_floor=median(added[row.name]) / floor,
            limit=row.limit,
        )
        for row in chosen
    ]


def measure_startup(suite: Path, rounds: int) -> Startup:
    loaded = Row("plugin loaded", ("-p", "nsbox"))
    times = interleave([BARE, loaded], suite, 1, rounds * STARTUP_ROUNDS_PER_ROUND)
    return Startup(
        bare_ms=median(times[BARE.name]) * 1000,
        added_ms=median(differences(times[loaded.name], times[BARE.name])),
        limit_ms=STARTUP_LIMIT_MS,
    )


def differences(walls: list[float], bare: list[float]) -> list[float]:
    """What each round took longer than the bare run beside it, in milliseconds."""
    return [(wall - base) * 1000 for wall, base in zip(walls, bare, strict=True)]


def verdict(value: float, limit: float) -> str:
    return "PASS" if value <= limit else "FAIL"


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what a sandbox adds to a test.")
    parser.add_argument("--tests", type=int, default=300, help="no-op tests in the suite (300)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds to take medians of (7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here too")
    options = parser.parse_args()

    about = machine()
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(f"{options.tests} no-op tests, {options.rounds} rounds\n", flush=True)
    verdicts: list[str] = []
    # Not in /tmp: there it would take the sandbox one more mount to show the suite.
    with tempfile.TemporaryDirectory(prefix="nsbox-bench-", dir="/var/tmp") as scratch:
        suite = write_suite(Path(scratch, "suite"), options.tests)
        per_test = measure_tests(suite, options.tests, options.rounds)
        print(f"{'':<16}{'wall':>9}{'added per test, ms':>25}{'x floor':>9}{'limit':>7}")
        for row in per_test:
            spread = f"{row.added_ms:.2f} ({row.added_ms_min:.2f} to {row.added_ms_max:.2f})"
            line = f"{row.row:<16}{row.wall_ms / 1000:>7.2f} s{spread:>25}{row.times_floor:>9.2f}"
            if row.limit is not None:
                verdicts.append(verdict(row.times_floor, row.limit))
                line += f"{row.limit:>7}  {verdicts[-1]}"
            print(line, flush=True)
        startup = measure_startup(write_suite(Path(scratch, "startup"), 1), options.rounds)
    verdicts.append(verdict(startup.added_ms, startup.limit_ms))
    print(
        f"\nstart-up, plugin loaded and nothing sandboxed: {startup.added_ms:+.1f} ms on "
        f"{startup.bare_ms:.0f} ms (limit {startup.limit_ms:.0f})  {verdicts[-1]}"
    )
    if options.json:
        results = {
            "machine": about,
            "tests": options.tests,
            "rounds": options.rounds,
            "per_test": [row._asdict() for row in per_test],
            "startup": startup._asdict(),
        }
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return int("FAIL" in verdicts)


if __name__ == "__main__":
    raise SystemExit(main())
