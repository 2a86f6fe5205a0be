"""The benchmark runs, in its smallest sizes: its figures are not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "benchmarks" / "bench.py"


def bench(json_file: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH), "--rounds=1", "--tests=2", f"--json={json_file}", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_it_measures_each_row_beside_the_bare_run(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    done = bench(
        file,
        "--only=noop,session,memory,startup",
        "--rows=fork floor,2 fork floors at once,nsbox root,nsbox rootless",
    )
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(file.read_text())
    assert [column["column"] for column in found["columns"]] == ["noop", "session"]
    left_out = set(found["left_out"])
    for column in found["columns"]:
        rows = set(column["rows"])
        assert {"bare pytest", "fork floor", "2 fork floors at once"} <= rows
        assert rows | left_out >= {"nsbox root", "nsbox rootless"}
    assert found["startup"]["limit_ms"] == 10
    assert "bare pytest" in found["memory_kb"]
    # A small size is slow for its few tests; nothing has failed otherwise.
    assert done.returncode == int(any(line.startswith("FAIL") for line in found["verdicts"]))
    assert not [line for line in found["verdicts"] if "its pytest ended with" in line]


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    done = bench(tmp_path / "bench.json", "--only=noop,nonsense")
    assert done.returncode == 2
    assert "--only takes" in done.stderr
    assert "not nonsense" in done.stderr
