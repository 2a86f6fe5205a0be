"""Python in a forked process: what the fork does to its state, and its garbage."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import sys
from typing import Any

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key, get_timeout_config_value
from _pytest.unraisableexception import collect_unraisable

from pytest_nsbox.options import SandboxOptions
from pytest_nsbox.run import children

_collected = 0  # times that all generations were, before this process
_collect = gc.collect
# What is frozen none of them finds: https://docs.python.org/3/library/gc.html#gc.freeze
_BLIND = {name: getattr(gc, name) for name in ("collect", "get_objects", "get_referrers")}


def freeze() -> None:
    """Never collect here what the controller holds too, unless the test asks for that."""
    global _collected
    gc.freeze()  # which resets the counts of the generations as well
    _collected = gc.get_stats()[2]["collections"]
    for name in _BLIND:
        vars(gc).pop(name, None)
    gc.__getattr__ = _thaw  # type: ignore[method-assign]


def _thaw(name: str) -> Any:
    """Whoever looks for one of them gets it as it is, and it finds all.

    No wrapper: what calls a function in Python has its local variables found as referrers.
    """
    if name not in _BLIND:
        raise AttributeError(f"module 'gc' has no attribute {name!r}")
    gc.unfreeze()
    vars(gc).update(_BLIND)
    del gc.__getattr__
    return _BLIND[name]


def adopt(config: pytest.Config, options: SandboxOptions) -> None:
    """Mend what a fork does to Python's own state."""
    if options.env:
        os.environ.update(options.env)
    if started := config.stash.get(children.children_key, None):
        children.adopt(started)
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    if tracker is not None:
        # The one inherited is outside: it would mourn shared memory that it cannot see.
        tracker._resource_tracker._fd = None
        tracker._resource_tracker._pid = None
    if config.pluginmanager.hasplugin("faulthandler"):
        # The controller's watchdog was cancelled before the fork: see flight.launch.
        timeout = get_timeout_config_value(config)
        if timeout > 0:
            faulthandler.dump_traceback_later(
                timeout, file=config.stash[fault_handler_stderr_fd_key]
            )


def _full_collections() -> int:
    return int(gc.get_stats()[2]["collections"]) - _collected


def collect(config: pytest.Config) -> None:
    """Unraisable exceptions of this test's garbage: nobody will collect it after us."""
    # What is new is in the two young generations, unless so much is that it has become old. To
    # collect all three empties Python's free lists, too: 0.2 ms in a forked process.
    is_young = sys.version_info < (3, 14) and not gc.get_count()[2] and not _full_collections()
    _collect(1 if is_young else 2)
    with contextlib.suppress(Exception):  # -W error: no phase is left to fail
        collect_unraisable(config)
