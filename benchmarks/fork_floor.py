"""A pytest plugin that does the least a plugin with a process per test can do.

It forks, runs the item, sends the reports back as JSON over a pipe and ends the child: no
namespaces, no care for fixtures, capture, warnings or crashes. What it costs is the floor that
bench.py measures against; with ``--fork-floor-jobs=2``, what two processors allow.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Generator
from typing import NamedTuple

import pytest
from _pytest.runner import runtestprotocol


class Forked(NamedTuple):
    """A child that runs an item, and our end of its pipe."""

    item: pytest.Item
    pid: int
    receive: int


in_flight: deque[Forked] = deque()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fork-floor-jobs", type=int, default=1, help="children at the same time")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    in_flight.append(fork(item, nextitem))
    if len(in_flight) == item.config.option.fork_floor_jobs:
        tell(in_flight.popleft())
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop() -> Generator[None, object, object]:
    result = yield
    while in_flight:
        tell(in_flight.popleft())
    return result


def fork(item: pytest.Item, nextitem: pytest.Item | None) -> Forked:
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
    return Forked(item, pid, receive)


def tell(forked: Forked) -> None:
    """Take in the reports of the item when its child has ended."""
    config, hook = forked.item.config, forked.item.config.hook
    with open(forked.receive) as pipe:
        received = pipe.read()
    os.waitpid(forked.pid, 0)
    for data in json.loads(received):
        report = hook.pytest_report_from_serializable(config=config, data=data)
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=forked.item.nodeid, location=forked.item.location)
