"""The lock file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import larder as package
import pytest
from conftest import Larder
from larder.lock import FileLock, Locked

pytestmark = pytest.mark.sandbox

HOLDER = """
import sys
from larder.config import LOCK_FILE
from larder.lock import FileLock

with FileLock(LOCK_FILE):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_lock_goes_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with FileLock(path):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


def test_a_second_holder_is_told_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with FileLock(path), pytest.raises(Locked, match=f"locked by pid {os.getpid()}"):
        FileLock(path, timeout=0).__enter__()


def test_gc_waits_for_no_other_larder_for_long(larder: Larder) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        env={**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        result = larder("gc")
        holder.kill()
    assert result.code == os.EX_TEMPFAIL
    assert f"locked by pid {holder.pid}" in result.err
