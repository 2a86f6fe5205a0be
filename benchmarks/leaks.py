"""Look for what a long sandboxed run keeps: memory, file descriptors, threads, processes.

    python benchmarks/leaks.py [--tests 2000] [--as root|rootless]

Runs no-op tests, each in a sandbox, and every 100 tests takes a sample of the controller and of the
supervisor. What both hold after the last test must be no more than what they held by test 300, when
the pools are full and the caches warm. Root does so twice: as itself, and without its capabilities.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

EVERY = 100
WARM = 300
# How far the last sample may lie above the highest of those up to test WARM: the supervisor has the
# sandboxes it is just building and closing, now more, now fewer.
RSS_SLACK_KB = 2048
FDS_SLACK = 2
THREADS_SLACK = 0

CAP_SYS_ADMIN = 21
# Root without its capabilities, but for the one with which uid 0 maps itself (CAP_SETFCAP).
DROP = ["setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all"]
MARK = "NSBOX_LEAKS"  # in the environment of what we start


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
    """Our supervisors, which are no children of ours: what has our mark in its environment.

    Inits have it too, and are told apart by their PID namespace.
    """
    mark = f"{MARK}={os.environ[MARK]}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            if mark not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            status = (entry / "status").read_text()
        except OSError:  # another user's, or gone since the list was read
            continue
        (pids,) = (line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
        if len(pids) == 1:
            found.append(int(entry.name))
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
    """What the last sample holds more of than any up to test WARM."""
    early = [sample for tests, sample in samples.items() if tests <= WARM]
    last = samples[max(samples)]
    found = []
    for name, after in last.items():
        before = [sample[name] for sample in early if name in sample]
        if not before:
            found.append(f"{name} came to be")
            continue
        rss_kb = after.rss_kb - max(used.rss_kb for used in before)
        fds = after.fds - max(used.fds for used in before)
        threads = after.threads - max(used.threads for used in before)
        if rss_kb > RSS_SLACK_KB:
            found.append(f"{name}'s memory grew by {rss_kb} kB")
        if fds > FDS_SLACK:
            found.append(f"{name} got {fds} more file descriptors")
        if threads > THREADS_SLACK:
            found.append(f"{name} got {threads} more threads")
    return found


def privileges() -> dict[str, list[str]]:
    """What we can run as, and what to put before a command for that."""
    status = Path("/proc/self/status").read_text().splitlines()
    (effective,) = (int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    if not effective >> CAP_SYS_ADMIN & 1:
        return {"rootless": []}
    return {"root": [], "rootless": DROP}


def main() -> int:
    parser = argparse.ArgumentParser(description="Look for what a long sandboxed run keeps.")
    parser.add_argument("--tests", type=int, default=2000, help="no-op tests to run (2000)")
    parser.add_argument("--bare", action="store_true", help="without sandboxes, to compare")
    possible = privileges()
    parser.add_argument("--as", choices=possible, dest="privilege", help="only this (each)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tests < WARM + EVERY:
        parser.error(f"--tests must be {WARM + EVERY} or more")
    if options.here:
        return look(options.tests, bare=options.bare)
    status = 0
    for privilege in [options.privilege] if options.privilege else possible:
        print(f"as {privilege}", flush=True)
        command = [*possible[privilege], sys.executable, __file__, *sys.argv[1:], "--here"]
        environ = os.environ | {MARK: f"{os.getpid()}-{privilege}"}
        status |= subprocess.run(command, env=environ, check=False).returncode
    return status


def look(tests: int, *, bare: bool) -> int:
    """Run so many tests in this very process, and say what it has kept; the exit status."""
    sampler = Sampler()
    mode = ["-p", "no:nsbox"] if bare else ["-p", "nsbox", "--nsbox=all"]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.environ.pop("PYTEST_ADDOPTS", None)
    with tempfile.TemporaryDirectory(prefix="nsbox-bench-", dir="/var/tmp") as scratch:
        Path(scratch, "pytest.ini").write_text("[pytest]\n")
        source = "".join(f"def test_{i}():\n    pass\n\n\n" for i in range(tests))
        Path(scratch, "test_noop.py").write_text(source)
        args = [scratch, "--rootdir", scratch, "-qq", "-p", "no:cacheprovider", *mode]
        status = pytest.main(args, plugins=[sampler])
    if status != pytest.ExitCode.OK:
        print(f"pytest ended with {status}", file=sys.stderr)
        return 1

    print(f"\n{'tests':>6} {'process':<14}{'RSS, kB':>9}{'fds':>6}{'threads':>9}")
    for number, sample in sampler.samples.items():
        for name, used in sample.items():
            print(f"{number:>6} {name:<14}{used.rss_kb:>9}{used.fds:>6}{used.threads:>9}")
    found = complaints(sampler.samples)
    if not bare and "supervisor" not in sampler.samples[WARM]:
        found.append("no supervisor was seen")
    for complaint in found:
        print(f"FAIL: after test {WARM} {complaint}")
    if not found:
        print(f"PASS: nothing grew after test {WARM}")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
