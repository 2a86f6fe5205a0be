"""Look for what a long sandboxed run keeps: memory, file descriptors, threads, mounts, processes.

    python benchmarks/leaks.py [--tests 2000] [--crashes] [--as root|rootless]

Runs no-op tests, each in a sandbox, and every 100 tests takes a sample of the controller, of the
supervisor and its mounts, of the template, and counts processes and the kernel's mount namespaces.
What there is after the last test must be no more than by test 300, when the pools are full and the
caches warm. With ``--crashes`` one test in fifty dies in one of five ways. Where there are enough
tests, the last thousand must be as fast as the first, within 5 %. Root does so twice: as itself, and
without its capabilities.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest

EVERY = 100
WARM = 300
# How far the last sample may lie above the highest of those up to test WARM: the supervisor has the
# sandboxes it is just building and closing, now more, now fewer.
RSS_SLACK_KB = 2048
BARE_KB = 0.6  # that pytest itself keeps of a test: `--bare --tests 20000` says 10,048 kB
FDS_SLACK = 2
THREADS_SLACK = 0
MOUNTS_SLACK = 12  # three sandboxes on their way
PROCESSES_SLACK = 6
SLAB_SLACK = 600  # mounts, of sandboxes that the kernel is still taking down
THOUSAND = 1000
SLOWER = 1.05
CRASHES = """
import os, signal

def crash(number):
    how = number % 5
    if how == 4:
        os._exit(3)
    os.kill(os.getpid(), (signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT, signal.SIGTERM)[how])

"""

CAP_SYS_ADMIN = 21
# Root without its capabilities, but for the one with which uid 0 maps itself (CAP_SETFCAP).
DROP = ["setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all"]
MARK = "NSBOX_LEAKS"  # in the environment of what we start


class Usage(NamedTuple):
    rss_kb: int
    fds: int
    threads: int
    mounts: int


def usage(pid: int) -> Usage:
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return Usage(
        rss_kb=int(status["VmRSS"].split()[0]),
        fds=len(os.listdir(f"/proc/{pid}/fd")),
        threads=int(status["Threads"]),
        mounts=len(Path(f"/proc/{pid}/mounts").read_text().splitlines()),
    )


def mount_namespaces() -> int:
    """How many objects the kernel's slab of them has; 0 where only root may know."""
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("mnt_cache"))


def helpers() -> tuple[dict[str, int], int]:
    """The supervisor and the template, by name; and how many processes there are of this run.

    All have our mark in their environment. Inits and test processes have a PID namespace of their own.
    """
    mark = f"{MARK}={os.environ[MARK]}".encode()
    found, many = {}, 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            if mark not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            status = (entry / "status").read_text()
        except OSError:  # another user's, or gone since the list was read
            continue
        many += 1
        fields = dict(line.split(":", 1) for line in status.splitlines())
        if len(fields["NSpid"].split()) == 1 and "Z" not in fields["State"]:
            name = "supervisor" if fields["Name"].strip() == "nsbox" else "template"
            found[name] = int(entry.name)
    return found, many


class Sampler:
    """Takes a sample in the controller, after every EVERY-th test."""

    def __init__(self) -> None:
        self.tests = self.failed = 0
        self.samples: dict[int, dict[str, Usage]] = {}
        self.processes: dict[int, int] = {}
        self.namespaces: dict[int, int] = {}
        self.times = {0: time.monotonic()}

    def pytest_configure(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed += report.failed

    def pytest_runtest_logfinish(self) -> None:
        self.tests += 1
        if self.tests % EVERY:
            return
        sample = {"controller": usage(os.getpid())}
        found, self.processes[self.tests] = helpers()
        for name, pid in found.items():
            with contextlib.suppress(OSError):  # a template that has just been ended
                sample[name] = usage(pid)
        self.samples[self.tests] = sample
        self.times[self.tests] = time.monotonic()
        self.namespaces[self.tests] = mount_namespaces()
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
        own = BARE_KB * max(samples) if name == "controller" else 0
        if rss_kb > RSS_SLACK_KB + own:
            found.append(f"{name}'s memory grew by {rss_kb} kB")
        if fds > FDS_SLACK:
            found.append(f"{name} got {fds} more file descriptors")
        if threads > THREADS_SLACK:
            found.append(f"{name} got {threads} more threads")
        mounts = after.mounts - max(used.mounts for used in before)
        if mounts > MOUNTS_SLACK:
            found.append(f"{name} got {mounts} more mounts")
    return found


def growth(counts: dict[int, int], what: str, slack: int) -> list[str]:
    """Whether there is more of it at the end than there was at any time up to test WARM."""
    more = counts[max(counts)] - max(count for tests, count in counts.items() if tests <= WARM)
    return [f"there are {more} more {what}"] if more > slack else []


def slowdown(times: dict[int, float]) -> list[str]:
    """Whether the last thousands of tests were slower than the first, as a complaint.

    Of each the median of three, for the machine has its moods.
    """
    last = max(times)
    if last < 8 * THOUSAND:
        return []
    ends = [range(WARM, WARM + 3 * THOUSAND, THOUSAND), range(last - 3 * THOUSAND, last, THOUSAND)]
    first, end = (median(times[n + THOUSAND] - times[n] for n in starts) for starts in ends)
    ratio = end / first
    print(f"ms a test: at first {first:.2f}, at last {end:.2f}; ratio {ratio:.3f}")
    return [f"tests became slower: {ratio:.3f} times"] if ratio > SLOWER else []


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
    parser.add_argument("--crashes", action="store_true", help="one test in fifty dies")
    parser.add_argument("--bare", action="store_true", help="without sandboxes, to compare")
    possible = privileges()
    parser.add_argument("--as", choices=possible, dest="privilege", help="only this (each)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tests < WARM + EVERY:
        parser.error(f"--tests must be {WARM + EVERY} or more")
    if options.here:
        return look(options.tests, bare=options.bare, crashes=options.crashes)
    status = 0
    for privilege in [options.privilege] if options.privilege else possible:
        print(f"as {privilege}", flush=True)
        command = [*possible[privilege], sys.executable, __file__, *sys.argv[1:], "--here"]
        environ = os.environ | {MARK: f"{os.getpid()}-{privilege}"}
        status |= subprocess.run(command, env=environ, check=False).returncode
    return status


def look(tests: int, *, bare: bool, crashes: bool) -> int:
    """Run so many tests in this very process, and say what it has kept; the exit status."""
    sampler = Sampler()
    mode = ["-p", "no:nsbox"] if bare else ["-p", "nsbox", "--nsbox=all"]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.environ.pop("PYTEST_ADDOPTS", None)
    with tempfile.TemporaryDirectory(prefix="nsbox-bench-", dir="/var/tmp") as scratch:
        Path(scratch, "pytest.ini").write_text("[pytest]\n")
        dying = range(49, tests, 50) if crashes and not bare else range(0)
        source = CRASHES + "".join(
            f"def test_{i}():\n    {f'crash({i // 50})' if i in dying else 'pass'}\n\n\n"
            for i in range(tests)
        )
        Path(scratch, "test_noop.py").write_text(source)
        args = [
            scratch,
            "--rootdir",
            scratch,
            "-qq",
            "--tb=no",
            "-r",
            "N",
            "-p",
            "no:cacheprovider",
        ]
        status = pytest.main([*args, *mode], plugins=[sampler])
    if status != (pytest.ExitCode.TESTS_FAILED if len(dying) else pytest.ExitCode.OK):
        print(f"pytest ended with {status}", file=sys.stderr)
        return 1

    if sampler.failed != len(dying):
        print(f"{sampler.failed} tests have failed, and not {len(dying)}", file=sys.stderr)
        return 1

    print(f"\n{'tests':>6} {'process':<12}{'RSS, kB':>9}{'fds':>6}{'threads':>9}{'mounts':>8}")
    every = max(1, len(sampler.samples) // 20)
    for number, sample in list(sampler.samples.items())[::every]:
        for name, used in sample.items():
            line = f"{used.rss_kb:>9}{used.fds:>6}{used.threads:>9}{used.mounts:>8}"
            print(f"{number:>6} {name:<12}{line}")
        namespaces = sampler.namespaces[number]
        print(f"{number:>6} {sampler.processes[number]} processes, mounts in the slab {namespaces}")
    found = complaints(sampler.samples)
    found += growth(sampler.processes, "processes", PROCESSES_SLACK)
    found += growth(sampler.namespaces, "mounts in the kernel's slab", SLAB_SLACK)
    found += slowdown(sampler.times)
    if not bare and "supervisor" not in sampler.samples[WARM]:
        found.append("no supervisor was seen")
    for complaint in found:
        print(f"FAIL: after test {WARM} {complaint}")
    if not found:
        print(f"PASS: nothing grew after test {WARM}")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
