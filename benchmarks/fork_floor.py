"""A pytest plugin that does the least a plugin with a process per test can do.

It forks, runs the item, sends the reports back as JSON over a pipe and ends the child: no
namespaces, no care for fixtures, capture, warnings or crashes. What it costs is the floor that
bench.py measures against.
"""

from __future__ import annotations

import json
import os

import pytest
from _pytest.runner import runtestprotocol


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    hook = item.config.hook
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(receive)
            reports = [
                hook.pytest_report_to_serializable(config=item.config, report=report)
                for report in runtestprotocol(item, log=False, nextitem=nextitem)
            ]
            with open(send, "w") as pipe:
                json.dump(reports, pipe)
        finally:
            os._exit(0)
    os.close(send)
    with open(receive) as pipe:
        received = pipe.read()
    os.waitpid(pid, 0)
    for data in json.loads(received):
        report = hook.pytest_report_from_serializable(config=item.config, data=data)
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
