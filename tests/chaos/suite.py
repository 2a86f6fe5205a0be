"""The inner suite: each act of a group in each phase, each followed by a test that must pass.

The group is named by the variable NSBOX_CHAOS_GROUP.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import acts
import pytest

GROUP = acts.GROUPS[os.environ["NSBOX_CHAOS_GROUP"]]
VICTIM = os.environ["NSBOX_CHAOS_VICTIM"]


def parameters() -> Iterator[Any]:
    for name, act in GROUP.items():
        for phase in act.phases:
            for extra in acts.variants(act, phase):
                marks = [pytest.mark.sandbox(**act.options)]
                if extra == "xfail":
                    marks.append(pytest.mark.xfail(strict=True, reason="known"))
                elif extra == "raises":
                    marks.append(pytest.mark.xfail(strict=True, raises=ZeroDivisionError))
                one = "-".join(filter(None, (name, phase, extra)))
                yield pytest.param(act, phase, marks=marks, id=one)
                yield pytest.param(None, phase, marks=pytest.mark.sandbox, id=f"{one}-after")


@pytest.fixture
def around(request: pytest.FixtureRequest) -> Iterator[None]:
    act, phase = (request.node.callspec.params[name] for name in ("act", "phase"))
    if act and phase == "setup":
        acts.perform(act)
    yield
    if act and phase == "teardown":
        acts.perform(act)


@pytest.mark.parametrize(("act", "phase"), list(parameters()))
def test_act(act: acts.Act | None, phase: str, around: None) -> None:
    if act is None:
        assert_pristine()
    elif phase == "call":
        acts.perform(act)


def assert_pristine() -> None:
    """The test before this one has left nothing, in here or outside."""
    assert os.getpid() == 2
    assert [name for name in os.listdir("/proc") if name.isdigit()] == ["1", "2"]
    for place in ("/tmp", "/dev/shm", "/var/tmp", "/", "/etc", "/usr"):
        assert not [name for name in os.listdir(place) if acts.LEFT in name], place
    assert os.listdir(VICTIM) == ["file"]
    with open(f"{VICTIM}/file") as file:
        assert file.read() == "host"
    assert os.umask(0o022) == 0o022
