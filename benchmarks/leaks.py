"""Look for what a long sandboxed run keeps: memory, file descriptors, threads, processes.

    python benchmarks/leaks.py [--tests 2000]

Runs no-op tests, each in a sandbox, in this very process, and every 100 tests takes a sample of it
and of the supervisor. What both hold after the last test must be what they held after test 300, by
when the pools are full and the caches warm.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

EVERY = 100
WARM = 300
# How far the last sample may lie above the one at test WARM.
RSS_SLACK_KB = 2048
FDS_SLACK = 2
THREADS_SLACK = 0


class Usage(NamedTuple):
    rss_kb: int
    fds: int
    threads: int


def usage(pid: int) -> Usage:
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return Usage(
        rss_kb=int(status["VmRSS"].split()[0]),
        fds=len(os.listdir(f"/proc/{pid}/fd")),
        threads=int(status["Threads"]),
    )


def supervisors() -> list[int]:
    """The helper processes of the plugin among our children."""
    found = []
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except FileNotFoundError:  # gone since the list was read
                continue
            if b"pytest_nsbox" in command:
                found.append(int(pid))
    return found


class Sampler:
    """Takes a sample in the controller, after every EVERY-th test."""

    def __init__(self) -> None:
        self.tests = 0
        self.samples: dict[int, dict[str, Usage]] = {}

    def pytest_configure(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logfinish(self) -> None:
        self.tests += 1
        if self.tests % EVERY:
            return
        sample = {"controller": usage(os.getpid())}
        for number, pid in enumerate(supervisors()):
            sample[f"supervisor {number}" if number else "supervisor"] = usage(pid)
        self.samples[self.tests] = sample
        # Until its summary pytest keeps every report. That growth is not ours, and hides what is.
        reporter = self.config.pluginmanager.getplugin("terminalreporter")
        for reports in reporter.stats.values():
            reports.clear()


def complaints(samples: dict[int, dict[str, Usage]]) -> list[str]:
    """What the last sample holds more of than the one at test WARM."""
    first, last = samples[WARM], samples[max(samples)]
    found = []
    for name in sorted(first.keys() | last.keys()):
        if name not in first or name not in last:
            found.append(f"{name} was {'not yet' if name in last else 'no longer'} there")
            continue
        before, after = first[name], last[name]
        if after.rss_kb - before.rss_kb > RSS_SLACK_KB:
            found.append(f"{name}'s memory grew by {after.rss_kb - before.rss_kb} kB")
        if after.fds - before.fds > FDS_SLACK:
            found.append(f"{name} has {after.fds - before.fds} more file descriptors")
        if after.threads - before.threads > THREADS_SLACK:
            found.append(f"{name} has {after.threads - before.threads} more threads")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Look for what a long sandboxed run keeps.")
    parser.add_argument("--tests", type=int, default=2000, help="no-op tests to run (2000)")
    parser.add_argument("--bare", action="store_true", help="without sandboxes, to compare")
    options = parser.parse_args()
    if options.tests < WARM + EVERY:
        parser.error(f"--tests must be {WARM + EVERY} or more")

    sampler = Sampler()
    mode = ["-p", "no:nsbox"] if options.bare else ["-p", "nsbox", "--nsbox=all"]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.environ.pop("PYTEST_ADDOPTS", None)
    with tempfile.TemporaryDirectory(prefix="nsbox-bench-", dir="/var/tmp") as scratch:
        Path(scratch, "pytest.ini").write_text("[pytest]\n")
        source = "".join(f"def test_{i}():\n    pass\n\n\n" for i in range(options.tests))
        Path(scratch, "test_noop.py").write_text(source)
        args = [scratch, "--rootdir", scratch, "-qq", "-p", "no:cacheprovider", *mode]
        status = pytest.main(args, plugins=[sampler])
    if status != pytest.ExitCode.OK:
        print(f"pytest ended with {status}", file=sys.stderr)
        return 1

    print(f"\n{'tests':>6} {'process':<14}{'RSS, kB':>9}{'fds':>6}{'threads':>9}")
    for tests, sample in sampler.samples.items():
        for name, used in sample.items():
            print(f"{tests:>6} {name:<14}{used.rss_kb:>9}{used.fds:>6}{used.threads:>9}")
    found = complaints(sampler.samples)
    if not options.bare and "supervisor" not in sampler.samples[WARM]:
        found.append("no supervisor was seen")
    for complaint in found:
        print(f"FAIL: from test {WARM} to the last, {complaint}")
    if not found:
        print(f"PASS: nothing grew from test {WARM} to the last")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
