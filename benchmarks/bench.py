"""Measure what a sandbox costs, beside a bare pytest, a bare fork and other ways to isolate tests.

    python benchmarks/bench.py [--full] [--only noop,heavy] [--rows "fork floor,nsbox root"]

Prints one table, rows by suites; then how the cost of a test grows, what memory it takes and whether
the limits are kept. The exit status is 1 if one is not, or if a suite fails in a sandbox.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import suites
import table
from rounds import Column, Measured, measure
from runners import (
    BARE,
    EACH,
    FLOOR,
    HERE,
    NO_PLUGIN,
    NSBOX_ROOT,
    NSBOX_ROOTLESS,
    ROWS,
    Row,
    Rows,
    is_privileged,
    machine,
    modules,
    mounts,
    run,
)

STARTUP_LIMIT_MS = 10.0
# One run of pytest differs from the next by more than what is looked for here: it takes many.
STARTUP_ROUNDS_PER_ROUND = 3
GROWTH_ROUNDS = 3  # at most
GROWTH_TESTS = 100  # of a suite whose heap or whose mounts grow
SUITES = ("noop", "heavy", "files", "session", "real")
GROWTH = ("tests", "heap", "mounts", "jobs")
PARTS = (*SUITES, *GROWTH, "memory", "startup")


class Sizes(NamedTuple):
    """Numbers of rounds and of tests, and the points at which growth is measured."""

    rounds: int
    noop: int
    heavy: int
    files: int
    session: int
    cpu: int
    tests: tuple[int, ...]
    heap: tuple[int, ...]  # MB
    mounts: tuple[int, ...]
    jobs: tuple[int, ...]

    def at_most(self, tests: int) -> Sizes:
        """With no suite of more tests than so many."""
        smaller = {name: min(tests, getattr(self, name)) for name in self._fields[1:6]}
        return self._replace(**smaller, tests=tuple(sorted({min(tests, n) for n in self.tests})))


QUICK = Sizes(3, 300, 300, 40, 3, 150, (100, 1000), (30, 400), (20, 100), (1, 2))
FULL = Sizes(
    7, 300, 300, 200, 20, 200, (100, 1000, 5000, 20000), (30, 400, 1000, 2000), (20, 100, 500),
    (1, 2, 4, 8),
)  # fmt: skip


class Bench:
    """One run of everything that is wanted; ``left_out`` says what there is not, and why."""

    def __init__(self, scratch: Path, sizes: Sizes, parts: set[str], rows: Iterable[str]) -> None:
        self.scratch = scratch
        self.sizes = sizes
        self.parts = parts
        found = Rows(rows)
        self.rows = found.rows
        self.left_out = found.left_out

    # ------------------------------------------------------------------ the table

    def columns(self) -> Iterator[Column]:
        sizes, directory = self.sizes, self.scratch
        makers: dict[str, Callable[[], suites.Suite]] = {
            "noop": lambda: suites.noop(directory / "noop", sizes.noop),
            "heavy": lambda: suites.heavy(
                directory / "heavy", sizes.heavy, modules("heavy", "numpy", "pandas")
            ),
            "files": lambda: suites.files(directory / "files", sizes.files),
            "session": lambda: suites.session(directory / "session", sizes.session),
            "real": lambda: suites.real(directory / "real"),
        }
        for key, make in makers.items():
            if key in self.parts:
                try:
                    yield Column(key, make(), tuple(self.rows))
                except suites.Unusable as error:
                    self.left_out[key] = str(error)

    # ------------------------------------------------------------------ growth

    def growth(self) -> Iterator[tuple[str, Column]]:
        """Points, each with a label; what differs between two points of an axis is one thing."""
        wanted = (BARE, FLOOR, NSBOX_ROOT, NSBOX_ROOTLESS)
        rows = tuple(row for row in self.rows if row.name in wanted)
        axes = {
            "tests": self.of_tests,
            "heap": self.of_heap,
            "mounts": self.of_mounts,
            "jobs": self.of_jobs,
        }
        for axis, points in axes.items():
            if axis in self.parts:
                yield from points(rows)

    def of_tests(self, rows: tuple[Row, ...]) -> Iterator[tuple[str, Column]]:
        for tests in self.sizes.tests:
            suite = suites.noop(self.scratch / f"tests-{tests}", tests)
            yield f"tests: {tests}", Column("tests", suite, rows)

    def of_heap(self, rows: tuple[Row, ...]) -> Iterator[tuple[str, Column]]:
        for megabytes in self.sizes.heap:
            label = f"heap: {megabytes} MB"
            if 2 * megabytes > available_mb():
                self.left_out[label] = f"only {available_mb()} MB of memory are free"
                continue
            tests = min(GROWTH_TESTS, self.sizes.noop)
            suite = suites.heap(self.scratch / f"heap-{megabytes}", tests, megabytes)
            yield label, Column("heap", suite, rows)

    def of_mounts(self, rows: tuple[Row, ...]) -> Iterator[tuple[str, Column]]:
        if not is_privileged():
            self.left_out["mounts"] = "to make mounts takes CAP_SYS_ADMIN"
            return
        tests = min(GROWTH_TESTS, self.sizes.noop)
        suite = suites.noop(self.scratch / "mounts", tests)
        for number in self.sizes.mounts:
            # One at least: what lies beside a mount costs a rootless sandbox more than the mount does.
            more = max(1, number - mounts())
            place = self.scratch / f"{more}-mounts"  # each its own: directories stay when mounts go
            command = (sys.executable, str(HERE / "mounts.py"), str(more), str(place))
            label = f"mounts: {mounts() + more}"
            yield label, Column("mounts", suite, rows, around=command)

    def of_jobs(self, rows: tuple[Row, ...]) -> Iterator[tuple[str, Column]]:
        suite = suites.cpu(self.scratch / "jobs", self.sizes.cpu)
        for jobs in self.sizes.jobs:
            nsbox = (f"--nsbox-jobs={jobs}",)
            others = {BARE: (), FLOOR: (f"--fork-floor-jobs={jobs}",)}
            here = tuple(
                row._replace(args=(*row.args, *others.get(row.name, nsbox))) for row in rows
            )
            yield f"jobs: {jobs}, {suite.title}", Column("jobs", suite, here)

    # ------------------------------------------------------------------ start-up and memory

    def startup_ms(self) -> dict[str, float]:
        """What the plugin adds to the start of pytest where nothing is sandboxed."""
        suite = suites.noop(self.scratch / "startup", 1)
        loaded = Row("plugin loaded", ("-p", "nsbox"))
        # For any -p pytest looks through all that is installed, which is not what we add.
        bare = Row(BARE, (*NO_PLUGIN, "-p", "errno"))
        column = Column("startup", suite, (bare, loaded))
        (measured,) = measure([column], self.sizes.rounds * STARTUP_ROUNDS_PER_ROUND)
        cells = measured.cells
        return {
            "bare_ms": cells[BARE].wall_s * 1000,
            "added_ms": cells[loaded.name].added_ms,
            "limit_ms": STARTUP_LIMIT_MS,
        }

    def memory_kb(self) -> dict[str, dict[str, float]]:
        """What pytest and the supervisor occupy after the last no-op test, by row, in kB of PSS."""
        suite = suites.noop(self.scratch / "memory", self.sizes.noop)
        wanted = (BARE, NSBOX_ROOT, NSBOX_ROOTLESS)
        return {row.name: self._memory_of(row, suite) for row in self.rows if row.name in wanted}

    def _memory_of(self, row: Row, suite: suites.Suite) -> dict[str, float]:
        file = self.scratch / "memory.json"
        samples = []
        for number in range(self.sizes.rounds):
            mark = f"NSBOX_LEAKS={os.getpid()}-{row.name}-{number}"
            watched = row._replace(args=(*row.args, "-p", "memory"))
            run(watched, suite, around=("env", f"NSBOX_MEMORY={file}", mark))
            samples.append(json.loads(file.read_text()))
        return {name: median(sample[name] for sample in samples) for name in samples[0]}


def available_mb() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    (available,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return int(available) // 1024


# ---------------------------------------------------------------------- what is said


def verdict(value: float, limit: float) -> str:
    return "PASS" if value <= limit else "FAIL"


def limits(measured: Measured) -> Iterator[str]:
    """A line for each row that has a limit, from the no-op tests."""
    for row in measured.column.rows:
        cell = measured.cells.get(row.name)
        if row.limit is not None and cell is not None and cell.times_floor is not None:
            times = cell.times_floor
            yield (
                f"{verdict(times, row.limit)}: {row.name} adds {cell.added_ms:.2f} ms to a test, "
                f"{times:.2f} times the fork floor (limit {row.limit})"
            )


def failures(measured: list[Measured]) -> Iterator[str]:
    """A sandbox in which a suite fails that passes bare is no matter of speed."""
    for each in measured:
        for row, reason in each.left_out.items():
            if "nsbox" in row and BARE in each.cells:
                yield f"FAIL: {row}, {each.column.suite.title}: {reason}"


def startup_line(startup: dict[str, float]) -> str:
    return (
        f"{verdict(startup['added_ms'], startup['limit_ms'])}: start-up, plugin loaded and nothing "
        f"sandboxed: {startup['added_ms']:+.1f} ms on {startup['bare_ms']:.0f} ms "
        f"(limit {startup['limit_ms']:.0f})"
    )


def memory_lines(memory: dict[str, dict[str, float]]) -> Iterator[str]:
    bare = memory.get(BARE)
    for row, found in memory.items():
        if row != BARE and bare is not None:
            more = found["controller"] - bare["controller"]
            yield (
                f"memory (PSS), {row}: pytest {more / 1024:+.1f} MB on {bare['controller'] / 1024:.1f}, "
                f"supervisor {found['supervisor'] / 1024:.1f} MB"
            )


def report(bench: Bench) -> tuple[dict[str, Any], list[str]]:
    """Measure, print as it comes; the results, and the lines that say PASS or FAIL."""
    sizes = bench.sizes
    verdicts: list[str] = []
    print(table.legend(sizes.rounds, EACH), end="\n\n")
    found = measure(list(bench.columns()), sizes.rounds)
    say(table.main_table(found, [row.name for row in bench.rows]))
    points = list(bench.growth())
    growth = measure([column for _, column in points], min(sizes.rounds, GROWTH_ROUNDS))
    labelled = [(label, each) for (label, _), each in zip(points, growth, strict=True)]
    if labelled:
        say(["", *table.growth_table(labelled)])
    memory = bench.memory_kb() if "memory" in bench.parts else {}
    say(["", *memory_lines(memory)])
    startup = bench.startup_ms() if "startup" in bench.parts else None
    for each in found:
        if each.column.key == "noop":
            verdicts += limits(each)
    verdicts += failures([*found, *growth])
    if startup is not None:
        verdicts.append(startup_line(startup))
    say(f"left out: {what}: {why}" for what, why in bench.left_out.items())
    say(table.left_out([*found, *growth]))
    say(verdicts)
    return {
        "columns": [table.as_json(each) for each in found],
        "growth": [{"point": label, **table.as_json(each)} for label, each in labelled],
        "memory_kb": memory,
        "startup": startup,
        "left_out": bench.left_out,
    }, verdicts


def say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, flush=True)


def names(text: str) -> set[str]:
    return {name.strip() for name in text.split(",")}


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what a sandbox costs.")
    parser.add_argument("--full", action="store_true", help="more rounds and tests, all growth")
    parser.add_argument("--rounds", type=int, help="rounds to take medians of (3; 7)")
    parser.add_argument("--tests", type=int, help="most tests in a suite")
    parser.add_argument("--only", type=names, default=set(PARTS), help=", ".join(PARTS))
    parser.add_argument("--rows", type=names, default=set(ROWS), help=", ".join(ROWS))
    parser.add_argument("--json", type=Path, default=HERE / "bench.json", metavar="FILE")
    options = parser.parse_args()
    for option, known in (("only", PARTS), ("rows", ROWS)):
        if unknown := getattr(options, option) - set(known):
            parser.error(f"--{option} takes {', '.join(known)}, not {', '.join(sorted(unknown))}")
    sizes = FULL if options.full else QUICK
    if options.rounds:
        sizes = sizes._replace(rounds=options.rounds)
    if options.tests:
        sizes = sizes.at_most(options.tests)

    about = machine()
    say([", ".join(f"{key} {value}" for key, value in about.items())])
    # Not in /tmp: there it would take the sandbox one more mount to show the suite.
    with tempfile.TemporaryDirectory(prefix="nsbox-bench-", dir="/var/tmp") as scratch:
        bench = Bench(Path(scratch), sizes, options.only, options.rows)
        results, verdicts = report(bench)
    results = {"machine": about, "sizes": sizes._asdict(), **results, "verdicts": verdicts}
    options.json.write_text(json.dumps(results, indent=2) + "\n")
    say(["", f"written: {options.json}"])
    return int(any(line.startswith("FAIL") for line in verdicts))


if __name__ == "__main__":
    raise SystemExit(main())
