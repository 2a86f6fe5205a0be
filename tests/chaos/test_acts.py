"""Whatever a test does in its sandbox is told in its own report, and harms nobody else."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import acts
import pytest
from helpers.host import Host

_HERE = Path(__file__).parent
_SECONDS = 240

Record = dict[str, Any]


@pytest.fixture
def victim(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of the host's that every act may reach."""
    victim = pytester.mkdir("victim")
    (victim / "file").write_text("host")
    monkeypatch.setenv("NSBOX_CHAOS_VICTIM", str(victim))
    return victim


def run_group(
    pytester: pytest.Pytester, privilege: list[str], monkeypatch: pytest.MonkeyPatch, group: str
) -> list[Record]:
    """Run the inner suite; what was recorded of it."""
    record = pytester.path / "record"
    monkeypatch.setenv(acts.OUTSIDE, os.readlink("/proc/self/ns/pid"))
    monkeypatch.setenv("NSBOX_CHAOS_GROUP", group)
    monkeypatch.setenv("NSBOX_CHAOS_RECORD", str(record))
    monkeypatch.setenv("PYTHONPATH", str(_HERE))
    pytester.makepyfile(test_inner="from suite import *")
    command = [*privilege, sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    with open(pytester.path / "output", "wb") as output:
        subprocess.run(
            [*command, "-p", "recorder", "-q", "-r", "", "--tb=no", "test_inner.py"],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=pytester.path,
            timeout=_SECONDS,
            check=False,
        )
    return [json.loads(line) for line in record.read_text().splitlines()]


def complaints(group: str, records: list[Record]) -> Iterator[str]:
    """What is not as it should be about the reports of a group."""
    yield from (r["internalerror"] for r in records if "internalerror" in r)
    reports: dict[str, list[Record]] = {}
    for record in records:
        if "nodeid" in record:
            name = record["nodeid"].partition("[")[2].rstrip("]")
            reports.setdefault(name, []).append(record)
    for name, act in acts.GROUPS[group].items():
        for phase in act.phases:
            for extra in acts.variants(act, phase):
                one = "-".join(filter(None, (name, phase, extra)))
                for problem in problems(act, phase, extra, reports.pop(one, [])):
                    yield f"{one}: {problem}"
                after = [r["outcome"] for r in reports.pop(f"{one}-after", [])]
                if after != ["passed"] * 3:
                    yield f"the test after {one}: {after}"
    if reports:
        yield f"nobody's reports: {sorted(reports)}"


def problems(act: acts.Act, phase: str, extra: str, found: list[Record]) -> Iterator[str]:
    told = {record["when"]: record for record in found}
    outcomes = [(record["when"], record["outcome"]) for record in found]
    bad = "skipped" if extra == "xfail" else "failed" if act.told else "passed"
    phases = ("setup", "teardown") if phase == "setup" and act.told else acts.PHASES
    expected = [(when, bad if when == phase else "passed") for when in phases]
    if outcomes != expected:
        yield f"{outcomes}"
    report = told.get(phase)
    if report is None or not act.told:
        for record in found:
            if record["outcome"] == "failed":
                yield f"{record['when']}: {record['text'][:3000]}"
        return
    if extra == "xfail":
        if report["xfail"] != "known":
            yield f"xfail is not honoured: {report['xfail']!r}"
        return
    if not re.search(act.told, report["text"]):
        yield f"does not say {act.told!r} but {report['text'][:3000]!r}"
    sections = {title: text for title, text, _ in report["sections"]}
    if act.keeps_output and "last words" not in sections.get(f"Captured stdout {phase}", ""):
        yield f"has lost its last words: {sections}"
    if act.shows_stack and f"in {act.do.__name__}" not in sections.get("Python stacks", ""):
        yield f"has no stack: {sections}"


@pytest.mark.parametrize(
    "group",
    [
        pytest.param(group, marks=[pytest.mark.slow] if group == "volume" else [])
        for group in acts.GROUPS
    ],
)
def test_every_report_is_true_and_the_run_goes_on(
    group: str,
    pytester: pytest.Pytester,
    privilege: list[str],
    monkeypatch: pytest.MonkeyPatch,
    victim: Path,
    host: Host,
) -> None:
    before = victim.stat(), (victim / "file").stat()
    records = run_group(pytester, privilege, monkeypatch, group)
    found = "\n".join(complaints(group, records))
    assert not found, f"{found}\n{(pytester.path / 'output').read_text()[-2000:]}"
    assert (victim.stat(), (victim / "file").stat()) == before
    assert stat.S_ISDIR(os.lstat(victim).st_mode)
    for place in ("/tmp", "/dev/shm", "/var/tmp", "/", "/etc", "/usr"):
        assert not [name for name in os.listdir(place) if acts.LEFT in name]
    host.assert_clean()
