"""A pytest plugin that writes down what the processes of a run occupy at its end.

PSS, in kB: what a process shares with others counts for each by its share. The file is named by
``NSBOX_MEMORY``; the supervisor is known by ``NSBOX_LEAKS``, as in leaks.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from leaks import helpers


def pss_kb(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(rollup.split("\nPss:")[1].split()[0])


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    found = {"controller": pss_kb(os.getpid())}
    supervisor = helpers()[0].get("supervisor")
    found["supervisor"] = 0 if supervisor is None else pss_kb(supervisor)
    Path(os.environ["NSBOX_MEMORY"]).write_text(json.dumps(found))
