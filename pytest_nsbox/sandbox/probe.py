"""Whether this machine can make a sandbox: step by step, for real.

Nothing is predicted from versions or uids: a step is what a process that was forked for it could do.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, NoReturn

from pytest_nsbox.kernel.syscalls import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    MS_PRIVATE,
    MS_REC,
    SyscallError,
    in_words,
    mount,
    umount,
    unshare,
)
from pytest_nsbox.sandbox import privileges
from pytest_nsbox.sandbox.advice import Advice, advise
from pytest_nsbox.sandbox.steps import attach

_PLACE = "/tmp"  # covered by a tmpfs in the probing process's own mount namespace
_REPLACING = "replacing a directory in the overlay"
_LOOPBACK = "network namespace with lo up"
# Steps that a sandbox can do without, and what a test has not got then.
PARTIAL = {
    _REPLACING: "a directory of the host's cannot be removed and made again (EIO)",
    _LOOPBACK: 'network="loopback" is refused',
}

Step = Callable[[str], AbstractContextManager[None]]


class Outcome(NamedTuple):
    """What came of one step."""

    name: str
    ok: bool
    detail: str  # the system call that was refused, in words; "" if none was
    cause: str
    remedy: str


def steps() -> Iterator[Outcome]:
    """Try every step that a sandbox needs, in order; no more after one that it cannot do without."""
    if sys.platform != "linux":
        cause = f"this is {sys.platform}"
        yield Outcome("Linux", False, cause, cause, "run the suite on Linux; elsewhere skip")
        return
    for outcomes in (_attempt(_mounting), _attempt(_network), _whole()):
        for outcome in outcomes:
            yield outcome
            if not outcome.ok and outcome.name not in PARTIAL:
                return


def _mounting(step: Step) -> None:
    from pytest_nsbox.sandbox import init
    from pytest_nsbox.sandbox.staging import enter_user_namespace

    options = f"lowerdir=/usr,upperdir={_PLACE}/upper,workdir={_PLACE}/work,index=off"
    if not privileges.is_privileged():
        options += ",userxattr"
        with step("user namespace, own uid and gid mapped"):
            enter_user_namespace()
    with step("mount, PID, IPC and UTS namespaces"):
        unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS)
    with step("tmpfs"):
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        mount("tmpfs", _PLACE, "tmpfs", 0, "mode=755")
        for name in ("upper", "work", "root", "proc"):
            os.mkdir(f"{_PLACE}/{name}")
    with step("read-only bind of /usr, by the calls of Linux 5.12"):
        attach("/usr", f"{_PLACE}/root", read_only=True, recursive=True)
        umount(f"{_PLACE}/root")
    with step("/proc of a new PID namespace"):
        _mount_proc_as_pid_1(f"{_PLACE}/proc")
    with step("overlay of /usr"):
        mount("overlay", f"{_PLACE}/root", "overlay", 0, options)
    with step(_REPLACING):
        _replace_directory(f"{_PLACE}/root")
    with step("another root"):
        init.enter(_PLACE)


def _network(step: Step) -> None:
    from pytest_nsbox.sandbox import network

    with step(_LOOPBACK):
        unshare(CLONE_NEWNET | (0 if privileges.is_privileged() else CLONE_NEWUSER))
        network.bring_up_loopback()


def _replace_directory(root: str) -> None:
    """Overlayfs marks a directory made where a lower one was, by an xattr on the upper layer.

    tmpfs has the user xattrs for that since Linux 6.6; before, this is EIO.
    """
    name = next(
        (entry.path for entry in os.scandir(root) if entry.is_dir() and not os.listdir(entry.path)),
        None,
    )
    if name is None or not os.access(root, os.W_OK):
        return
    try:
        os.rmdir(name)
        os.mkdir(name)
    except OSError as error:
        raise SyscallError(error.errno or 0, "mkdir", name) from error


def _mount_proc_as_pid_1(place: str) -> None:
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            mount("proc", place, "proc")
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise SyscallError(code, "mount", f"proc, {place}")


def _whole() -> Iterator[Outcome]:
    from pytest_nsbox.sandbox.client import Client, Kind, SandboxError

    name = "a whole sandbox, joined by a process"
    client = Client()
    try:
        sandbox = client.acquire(Kind())

        def look() -> NoReturn:
            code = 1
            try:
                sandbox.enter("/")
                code = 0 if os.getpid() == 2 and stat.S_ISDIR(os.stat("/proc/2").st_mode) else 2
            finally:
                os._exit(code)

        pid = sandbox.fork(look)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        sandbox.close()
        if code:
            raise SandboxError(f"a process that joined it ended with {code}")
    except (SandboxError, OSError) as error:
        yield _refused(name, str(error), getattr(error, "errno", 0) or 0)
    else:
        yield Outcome(name, True, "; ".join(client.notes), "", "")
    finally:
        client.stop()


def _attempt(work: Callable[[Step], None]) -> Iterator[Outcome]:
    """Run ``work`` in a forked process; what came of each of its steps."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)

        @contextlib.contextmanager
        def step(name: str) -> Iterator[None]:
            told: tuple[str, int] = ("", 0)
            try:
                yield
            except OSError as error:
                told = (_describe(error), error.errno or 0)
            except BaseException as error:
                told = (f"{type(error).__name__}: {error}", 0)
            os.write(writing, json.dumps([name, *told]).encode() + b"\n")
            if told[0] and name not in PARTIAL:
                os._exit(1)

        try:
            work(step)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as file:
        lines = [json.loads(line) for line in file]
    os.waitpid(pid, 0)
    for name, refusal, number in lines:
        yield _refused(name, refusal, number) if refusal else Outcome(name, True, "", "", "")


def _describe(error: OSError) -> str:
    if isinstance(error, SyscallError):
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    return where + (in_words(error.errno) if error.errno else str(error))


def _refused(name: str, refusal: str, number: int) -> Outcome:
    advice = advise(refusal, number) or Advice("not one that we know", "please report it")
    return Outcome(name, False, refusal, *advice)
