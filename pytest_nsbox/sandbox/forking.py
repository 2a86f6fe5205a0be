"""fork(2) of pytest, without what ``os.fork`` does for the sake of threads where there are none.

``os.fork`` calls what is registered by ``os.register_at_fork``.  What the standard library registers
makes locks anew that another thread might have held, and forgets such threads: in a small process 180
pages written to and 0.6 ms, a tenth of what a forked no-op test costs.  Where a process has no other
thread that is for nothing.  Whatever else is registered is called all the same.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
import random
import resource
import signal
import sys
import threading
import types
import warnings
from collections.abc import Callable
from functools import partial
from posix import _exit  # not os._exit: a test may replace that, coverage saves its data in it
from typing import Any, NoReturn

from pytest_nsbox.kernel.syscalls import (
    CLONE_PARENT,
    MADV_NOHUGEPAGE,
    clone_vfork,
    fork,
    libc_fork,
    madvise,
)
from pytest_nsbox.sandbox.privileges import kept_dumpable

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
# They would end what an adapter of ours lets go on in the child.
_OTHERWISE_DONE = {("coverage.control", "_after_fork_in_child")}
_BIG = 200 * 1024  # kB; to find the lists takes a look at every object
_MAP_STACK, _MAP_NORESERVE = 0x20000, 0x4000  # asm-generic/mman.h; Python has them since 3.11
_LEAST_STACK, _MOST_STACK = 8 << 20, 256 << 20  # bytes; the least is what Linux gives as a rule


class Handlers:
    """One list of the interpreter's, to which ``os.register_at_fork`` may still add."""

    def __init__(self, registered: list[Handler]) -> None:
        self._registered = registered
        self._count = 0
        self._needed: list[Handler] = []

    def call(self, *, backwards: bool = False) -> None:
        """Call those that are needed; what one raises is told, and stops nothing."""
        if len(self._registered) != self._count:
            self._count = len(self._registered)
            self._needed = [each for each in self._registered if not _is_needless(each)]
        for handler in reversed(self._needed) if backwards else self._needed:
            try:
                handler()
            except BaseException as error:
                sys.unraisablehook(_unraisable(handler, error))


def _is_needless(handler: Handler) -> bool:
    module, name = getattr(handler, "__module__", ""), getattr(handler, "__name__", "")
    if module == __name__ or (module, name) in _FOR_THREADS | _OTHERWISE_DONE:
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
        self._stack: Stack | None = None
        # getattr: before Python 3.13 there is always the one lock.
        has_lock = getattr(sys, "_is_gil_enabled", lambda: True)()
        if has_lock and _peak_kb() < _BIG and sys.implementation.name == "cpython":
            self._lists = _lists()

    def fork(self, run: Callable[[], NoReturn]) -> int:
        """A child that does ``run``, in which ``random`` goes on where it was. Raises OSError."""
        if self._lists is None or not is_single_threaded():
            return _fork_for_threads(run)
        pid = self._forked(libc_fork)
        if pid == 0:
            self._run(run)
        return pid

    def fork_behind(self, join: Callable[[], None], run: Callable[[], NoReturn]) -> int:
        """A child that does ``run`` where ``join`` leads, which the caller could not come back from.

        It takes a process between: it joins, forks a sibling of itself (``CLONE_PARENT``), and ends.
        Raises OSError, also what ``join`` raises.
        """
        if self._lists is None or not is_single_threaded():
            return _fork_twice(_fork_for_threads, join, run)
        if sys.version_info >= (3, 14):
            return _fork_twice(self.fork, join, run)
        self._stack = self._stack or Stack()
        return self._forked(partial(_fork_from_between, self._stack, join, partial(self._run, run)))

    def fork_sibling(self, run: Callable[[], NoReturn]) -> int:
        """A child of the caller's parent that does ``run``. Raises OSError.

        Only for a process with one thread, of CPython.
        """
        clone = partial(fork, CLONE_PARENT)
        if self._lists is None:
            return _fork_as_python_does(clone, run)
        pid = self._forked(clone)
        if pid == 0:
            self._run(run)
        return pid

    def _forked(self, fork: Callable[[], int]) -> int:
        """What ``fork`` gives, within what is registered for the parent."""
        assert self._lists is not None
        before, in_parent, _ = self._lists
        sys.audit("os.fork")
        before.call(backwards=True)
        pid = -1
        try:
            pid = fork()
        finally:
            if pid != 0:
                in_parent.call()
        return pid

    def _run(self, run: Callable[[], NoReturn]) -> NoReturn:
        """In the child."""
        assert self._lists is not None
        in_child = self._lists[2]

        def whole() -> NoReturn:
            remember_thread_id()
            in_child.call()
            run()

        _be(whole)


class Stack:
    """Memory for the C stack of a process that shares all other memory with its parent."""

    def __init__(self) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
        size = soft if _LEAST_STACK < soft < _MOST_STACK else _LEAST_STACK
        size -= size % mmap.PAGESIZE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_STACK | _MAP_NORESERVE
        self._memory = mmap.mmap(-1, size, flags=flags)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        madvise(start, size, MADV_NOHUGEPAGE)  # two pages are in use, and not 1,000
        self.end = start + size


def _fork_from_between(stack: Stack, join: Callable[[], None], run: Callable[[], NoReturn]) -> int:
    """With one copy of our memory: the process between shares it with us, who stand still."""
    found: list[int | BaseException] = []

    def between() -> None:
        try:
            with kept_dumpable():  # a property of the memory
                join()
            pid = fork(CLONE_PARENT)
            if pid == 0:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                if collects:
                    gc.enable()
                run()
            found.append(pid)
        except BaseException as error:
            found.append(error)

    # A handler, or what garbage does when it goes, would run in a process that is not theirs.
    collects = gc.isenabled()
    gc.disable()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        os.waitpid(clone_vfork(between, stack.end), 0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if collects:
            gc.enable()
    if not found:
        raise OSError(errno.ECHILD, "killed on the way")
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def _fork_twice(
    fork_first: Callable[[Callable[[], NoReturn]], int],
    join: Callable[[], None],
    run: Callable[[], NoReturn],
) -> int:
    """With two copies of our memory: the process between has one."""
    reading, writing = os.pipe()

    def between() -> NoReturn:
        try:
            os.close(reading)
            join()
            pid = fork(CLONE_PARENT)
            if pid == 0:
                os.close(writing)
                remember_thread_id()
                _be(run)
            os.write(writing, b"%d" % pid)
        except BaseException as error:
            os.write(writing, str(error).encode())
        finally:
            _exit(0)

    try:
        middle = fork_first(between)
    except OSError:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    try:
        answer = os.read(reading, 4096).decode()
    finally:
        os.close(reading)
        os.waitpid(middle, 0)
    if not answer.isdigit():
        raise OSError(errno.ECHILD, answer or "killed on the way")
    return int(answer)


def _fork_for_threads(run: Callable[[], NoReturn]) -> int:
    state = random.getstate()
    with warnings.catch_warnings():
        # 3.12+: fork() in a process with threads may deadlock. The user has been told.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _be(run, state)
    return pid


def _fork_as_python_does(clone: Callable[[], int], run: Callable[[], NoReturn]) -> int:
    """``os.fork`` with another system call, see PyOS_BeforeFork in Python's C API."""
    python, state = ctypes.pythonapi, random.getstate()
    python.PyOS_BeforeFork()
    pid = -1
    try:
        pid = clone()
    finally:
        if pid != 0:
            python.PyOS_AfterFork_Parent()
    if pid == 0:
        python.PyOS_AfterFork_Child()
        _be(run, state)
    return pid


def _be(run: Callable[[], NoReturn], state: Any = None) -> NoReturn:
    """Do it in a child, which must never come back into the session that it has a copy of.

    ``state``: of ``random``, where a handler of the fork has seeded that anew.
    """
    try:
        if state is not None:
            random.setstate(state)
        run()
    finally:
        _exit(1)


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
    main: Any = threading.main_thread()
    if hasattr(main, "_native_id"):
        main._native_id = threading.get_native_id()
