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

def child(do, forker=None, way="fork", join=lambda: None):
    "What do() says in a forked child."
    reading, writing = os.pipe()
    def run():
        try:
            os.write(writing, str(do()).encode())
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    forker = forker or Forker()
    if way == "fork":
        pid = forker.fork(run)
    elif way == "behind":
        pid = forker.fork_behind(join, run)
    else:
        pid = forking._fork_twice(forker.fork, join, run)
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
            forker.fork(lambda: os._exit(0))
        except OSError as error:
            print(error.errno == errno.EAGAIN, called)
    """
    assert run(code) == ["True ['parent']"]


WAYS = pytest.mark.parametrize("way", ["fork", "behind", "behind, in two copies"])


@WAYS
def test_threads_locks_and_processes_work_in_the_child(way: str) -> None:
    code = f"""
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

        print(child(work, way={way!r}))
    """
    assert run(code) == ["('root', 1)"]


@WAYS
def test_a_signal_comes_to_its_handler_in_the_child(way: str) -> None:
    code = f"""
        import signal, time

        def work():
            got = []
            signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            signal.signal(signal.SIGALRM, lambda number, frame: os.kill(os.getpid(), signal.SIGUSR1))
            while not got:
                time.sleep(0.01)
            return got == [signal.SIGUSR1], signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()

        print(child(work, way={way!r}), signal.pthread_sigmask(signal.SIG_BLOCK, []) == set())
    """
    assert run(code) == ["(True, True) True"]


@WAYS
def test_a_crash_of_the_child_has_a_traceback(way: str) -> None:
    code = f"""
        import ctypes, faulthandler

        def crashes():
            faulthandler.enable(sys.stdout)
            ctypes.string_at(0)

        try:
            child(crashes, way={way!r})
        except AssertionError:
            print("it died")
    """
    told = run(code)
    assert told[0].startswith("Fatal Python error: Segmentation fault")
    assert any("in crashes" in line for line in told)
    assert told[-1] == "it died"


@WAYS
def test_deep_recursion_of_the_child_is_an_error_of_pythons(way: str) -> None:
    code = f"""
        import json

        def deep():
            nested = []
            for _ in range(100_000):
                nested = [nested]
            try:
                json.dumps(nested)
            except RecursionError:
                return "RecursionError"

        print(child(deep, way={way!r}))
    """
    assert run(code) == ["RecursionError"]


@WAYS
def test_the_parent_goes_on_as_before_a_thousand_times(way: str) -> None:
    code = f"""
        import gc
        forker = Forker()
        before = set(os.listdir("/proc/self/fd"))
        for number in range(200 if {way!r} != "behind" else 1000):
            assert child(lambda: number, forker, {way!r}) == str(number)
        assert set(os.listdir("/proc/self/fd")) == before
        assert gc.isenabled()
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            print("no child is left")
    """
    assert run(code) == ["no child is left"]


BEHIND = pytest.mark.parametrize("way", ["behind", "behind, in two copies"])


@BEHIND
def test_what_joining_changes_is_changed_for_the_child_only(way: str) -> None:
    code = f"""
        place = os.getcwd()
        def join(): os.chdir("/"), os.umask(0o25)
        said = child(lambda: (os.getcwd(), os.umask(0)), way={way!r}, join=join)
        print(said, os.getcwd() == place, os.umask(0) != 0o25)
    """
    assert run(code) == ["('/', 21) True True"]


@BEHIND
def test_what_is_refused_on_the_way_is_an_os_error_of_the_parent(way: str) -> None:
    code = f"""
        import errno
        from pytest_nsbox.kernel.syscalls import SyscallError
        def refused(): raise SyscallError(errno.EPERM, "setns", "CLONE_NEWUSER")
        try:
            child(lambda: "unreached", way={way!r}, join=refused)
        except OSError as error:
            print(error)
    """
    (told,) = run(code)
    assert "setns(CLONE_NEWUSER): Operation not permitted (EPERM)" in told


@BEHIND
def test_who_is_killed_on_the_way_is_an_os_error_of_the_parent(way: str) -> None:
    code = f"""
        import signal
        try:
            child(lambda: "unreached", way={way!r}, join=lambda: os.kill(os.getpid(), signal.SIGKILL))
        except OSError as error:
            print(error)
    """
    (told,) = run(code)
    assert "killed on the way" in told


def test_garbage_is_not_collected_in_between() -> None:
    code = """
        import gc
        gone = []
        class Loud:
            def __del__(self): gone.append(os.getpid())
        def join():
            for _ in range(100_000):
                loud = Loud()
                loud.itself = loud
        child(lambda: None, way="behind", join=join)
        gc.collect()
        print(set(gone) == {os.getpid()}, gc.isenabled())
    """
    assert run(code) == ["True True"]


def test_lists_that_cannot_be_told_apart_are_left_alone() -> None:
    code = """
        import gc
        gc.get_referrers = lambda *objects: []
        forker = Forker()
        print(forker._lists, child(lambda: "works", forker))
    """
    assert run(code) == ["None works"]


SIBLING = """
def sibling(do, forker=None):
    "What do() says in a child of ours that a child of ours has forked, and both parents' view of it."
    forker = forker or Forker()
    reading, writing = os.pipe()
    pids, telling = os.pipe()
    def middle():
        def run():
            os.write(writing, str(do()).encode())
            os._exit(0)
        os.write(telling, b"%d" % forker.fork_sibling(run))
        os._exit(0)
    os.waitpid(forker.fork(middle), 0)
    pid = int(os.read(pids, 99))
    assert os.waitpid(pid, 0) == (pid, 0)
    os.close(writing)
    with open(reading) as file:
        return file.read()
"""


@pytest.mark.parametrize("lists", ["found", "not found"])
def test_a_sibling_is_the_parents_child(lists: str) -> None:
    code = f"""
        forker, main = Forker(), os.getpid()
        if {lists!r} == "not found":
            forker._lists = None
        random.seed(3)
        print(sibling(lambda: os.getppid() == main, forker))
        theirs = sibling(random.random, forker)
        print(theirs == str(random.random()))
        print(sibling(lambda: threading.get_native_id() == os.getpid(), forker))
    """
    assert run(SIBLING + textwrap.dedent(code)) == ["True"] * 3


@pytest.mark.parametrize("lists", ["found", "not found"])
def test_what_is_registered_is_called_for_a_sibling(lists: str) -> None:
    code = f"""
        said = []
        os.register_at_fork(after_in_child=lambda: said.append("child"))
        forker = Forker()
        if {lists!r} == "not found":
            forker._lists = None
        print(sibling(lambda: said, forker))
    """
    assert run(SIBLING + textwrap.dedent(code)) == ["['child', 'child']"]
