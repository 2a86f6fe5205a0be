"""A fork without what os.fork does for threads: which handlers are called, and what a child finds."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PREAMBLE = """
import os, random, sys, threading, logging
from pytest_nsbox.sandbox import forking
from pytest_nsbox.sandbox.forking import Forker, is_single_threaded

def child(do, forker=None):
    "What do() says in a forked child."
    reading, writing = os.pipe()
    pid = (forker or Forker()).fork()
    if pid == 0:
        try:
            os.write(writing, str(do()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as file:
        said = file.read()
    assert os.waitpid(pid, 0)[1] == 0
    return said
"""


def run(code: str) -> list[str]:
    """What a process of its own prints, for that of the suite has threads; as lines."""
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(code)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_what_is_registered_before_and_later_is_called_in_the_order_of_os_fork() -> None:
    code = """
        said = []
        def say(word): return lambda: said.append(word)
        os.register_at_fork(before=say("b1"), after_in_parent=say("p1"), after_in_child=say("c1"))
        forker = Forker()
        os.register_at_fork(before=say("b2"), after_in_parent=say("p2"), after_in_child=say("c2"))
        print(child(lambda: said, forker))
        print(said)
    """
    assert run(code) == ["['b2', 'b1', 'c1', 'c2']", "['b2', 'b1', 'p1', 'p2']"]


def test_what_is_for_the_sake_of_threads_is_not_called() -> None:
    code = """
        called = []
        def spy(frame, event, argument):
            if event == "call" and frame.f_code.co_name in ("_after_fork", "seed"):
                called.append(frame.f_code.co_name)
        forker = Forker()
        sys.setprofile(spy)
        print(child(lambda: called, forker))
        sys.setprofile(None)
    """
    assert run(code) == ["[]"]


def test_with_a_thread_it_is_os_fork() -> None:
    code = """
        import time
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        assert not is_single_threaded()
        print(child(lambda: [thread.name for thread in threading.enumerate()]))
        os._exit(print(end="", flush=True) or 0)
    """
    assert run(code) == ["['MainThread']"]


@pytest.mark.parametrize("lists", ["found", "not found"])
def test_random_numbers_go_on_in_the_child(lists: str) -> None:
    code = f"""
        forker = Forker()
        if {lists!r} == "not found":
            forker._lists = None
        random.seed(3)
        theirs = child(random.random, forker)
        print(theirs == str(random.random()))
    """
    assert run(code) == ["True"]


def test_a_handler_that_raises_is_told_and_stops_nothing() -> None:
    code = """
        told = []
        sys.unraisablehook = lambda args: told.append((args.exc_type.__name__, args.object.__name__))
        def fails(): raise ValueError
        os.register_at_fork(after_in_child=fails)
        os.register_at_fork(after_in_child=lambda: told.append("next"))
        print(child(lambda: told))
    """
    assert run(code) == ["[('ValueError', 'fails'), 'next']"]


def test_a_refused_fork_is_an_os_error_and_the_parents_handlers_are_called() -> None:
    code = """
        import errno
        called = []
        os.register_at_fork(after_in_parent=lambda: called.append("parent"))
        def refused(): raise OSError(errno.EAGAIN, "no")
        forker = Forker()
        forking.libc_fork = refused
        try:
            forker.fork()
        except OSError as error:
            print(error.errno == errno.EAGAIN, called)
    """
    assert run(code) == ["True ['parent']"]


def test_threads_locks_and_logging_work_in_the_child() -> None:
    code = """
        import multiprocessing, queue, subprocess
        logging.basicConfig(stream=sys.stdout, format="%(message)s")

        def work():
            results = queue.Queue()
            thread = threading.Thread(target=lambda: results.put(logging.getLogger().name))
            thread.start()
            thread.join()
            assert threading.main_thread().native_id == threading.get_native_id() == os.getpid()
            assert subprocess.run(["true"]).returncode == 0
            with multiprocessing.get_context("fork").Pool(1) as pool:
                return results.get(), pool.apply(abs, (-1,))

        print(child(work))
    """
    assert run(code) == ["('root', 1)"]


def test_lists_that_cannot_be_told_apart_are_left_alone() -> None:
    code = """
        import gc
        gc.get_referrers = lambda *objects: []
        forker = Forker()
        print(forker._lists, child(lambda: "works", forker))
    """
    assert run(code) == ["None works"]
