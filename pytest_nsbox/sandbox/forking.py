"""fork(2) of pytest, without what ``os.fork`` does for the sake of threads where there are none.

``os.fork`` calls what is registered by ``os.register_at_fork``.  What the standard library registers
makes locks anew that another thread might have held, and forgets such threads: in a small process 180
pages written to and 0.6 ms, a tenth of what a forked no-op test costs.  Where a process has no other
thread that is for nothing.  Whatever else is registered is called all the same.
"""

from __future__ import annotations

import gc
import os
import random
import resource
import sys
import threading
import types
import warnings
from collections.abc import Callable

from pytest_nsbox.kernel.syscalls import libc_fork

Handler = Callable[[], object]

# By module and name, of CPython 3.10 to 3.14.
_FOR_THREADS = {
    ("logging", "_acquireLock"),  # before 3.13
    ("logging", "_releaseLock"),
    ("logging", "_prepareFork"),
    ("logging", "_afterFork"),
    ("logging", "_after_at_fork_child_reinit_locks"),
    ("threading", "_after_fork"),
}
_BIG = 200 * 1024  # kB; to find the lists takes a look at every object


class Handlers:
    """One list of the interpreter's, to which ``os.register_at_fork`` may still add."""

    def __init__(self, registered: list[Handler]) -> None:
        self._registered = registered
        self._count = 0
        self._needed: list[Handler] = []

    def call(self, *, backwards: bool = False) -> None:
        """Call those that are not for threads; what one raises is told, and stops nothing."""
        if len(self._registered) != self._count:
            self._count = len(self._registered)
            self._needed = [each for each in self._registered if not _is_for_threads(each)]
        for handler in reversed(self._needed) if backwards else self._needed:
            try:
                handler()
            except BaseException as error:
                sys.unraisablehook(_unraisable(handler, error))


def _is_for_threads(handler: Handler) -> bool:
    module, name = getattr(handler, "__module__", ""), getattr(handler, "__name__", "")
    if module == __name__ or (module, name) in _FOR_THREADS:
        return True
    return handler == random.seed  # for numbers of its own: bare, a seed set at import counts


def _unraisable(handler: Handler, error: BaseException) -> sys.UnraisableHookArgs:
    """As PyErr_WriteUnraisable has it."""
    return types.SimpleNamespace(
        exc_type=type(error),
        exc_value=error,
        exc_traceback=error.__traceback__,
        err_msg=None,
        object=handler,
    )


class Forker:
    """Forks this process, in the cheapest way that it allows."""

    def __init__(self) -> None:
        self._lists: list[Handlers] | None = None  # before, after in the parent, after in the child
        if _peak_kb() < _BIG and sys.implementation.name == "cpython":
            self._lists = _lists()

    def fork(self) -> int:
        """As ``os.fork``, but in the child ``random`` goes on where it was. Raises OSError."""
        if self._lists is None or not is_single_threaded():
            return _fork_for_threads()
        before, in_parent, in_child = self._lists
        sys.audit("os.fork")
        before.call(backwards=True)
        pid = -1
        try:
            pid = libc_fork()
        finally:
            if pid != 0:
                in_parent.call()
        if pid == 0:
            remember_thread_id()
            in_child.call()
        return pid


def _fork_for_threads() -> int:
    state = random.getstate()
    with warnings.catch_warnings():
        # 3.12+: fork() in a process with threads may deadlock. The user has been told.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        random.setstate(state)
    return pid


def _lists() -> list[Handlers] | None:
    """The interpreter's lists, found by what we register; None where that does not tell them."""
    ours: tuple[Handler, ...] = (_before, _in_parent, _in_child)
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
    found = [each for each in gc.get_referrers(*ours) if type(each) is list]
    lists = [[each for each in found if one in each] for one in ours]
    if any(len(each) != 1 for each in lists):
        return None
    return [Handlers(each[0]) for each in lists]


def _before() -> None: ...


def _in_parent() -> None: ...


def _in_child() -> None: ...


def _peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def is_single_threaded() -> bool:
    """Whether this process has one thread, counting those of C libraries."""
    try:
        return os.stat("/proc/self/task").st_nlink == 3  # ".", ".." and the thread's
    except OSError:  # a masked /proc
        return False


def remember_thread_id() -> None:
    """What ``os.fork`` does in the child for ``threading.get_native_id`` of the main thread."""
    remember = getattr(threading.main_thread(), "_set_native_id", None)
    if remember is not None:
        remember()
