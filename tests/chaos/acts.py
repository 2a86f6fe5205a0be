"""What tests do in their sandboxes that no test should do, and what their reports must say of it.

An act is done by the process of a test of an inner suite (see suite.py), in setup, call or teardown.
It asserts first, from the kernel, that it is in a sandbox: were it not, it would harm the machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import itertools
import json
import mmap
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

OUTSIDE = "NSBOX_CHAOS_OUTSIDE"  # a variable: the PID namespace that no act may find itself in
PHASES = ("setup", "call", "teardown")
LEFT = "nsbox-chaos"  # begins the name of every file that an act makes in a directory of all tests

# A test's death must be told with what the process had used.
_USED = r" \(peak memory [1-9]\d* MiB, \d+\.\d\d s of CPU time\)"
_EXITED = "the test process exited with status {} before its test had ended" + _USED
_TIMEOUT = "Timeout: the test had not ended .* s after its setup began; sandbox killed"


class Act(NamedTuple):
    """Something bad, and what comes of it."""

    do: Callable[[], object]
    told: str | None = None  # a regular expression: in the report of its phase; None: that passes
    shows_stack: bool = False  # faulthandler's, down to the act's own function
    options: dict[str, Any] = {}  # of the sandbox  # noqa: RUF012
    phases: tuple[str, ...] = PHASES
    keeps_output: bool = True  # what it has put out is in the report


GROUPS: dict[str, dict[str, Act]] = {}


def act(
    group: str, told: str | None = None, *, shows_stack: bool = False,
    phases: tuple[str, ...] = PHASES, keeps_output: bool = True, **options: Any,
) -> Callable[[Callable[[], object]], Callable[[], object]]:  # fmt: skip
    def add(do: Callable[[], object]) -> Callable[[], object]:
        GROUPS.setdefault(group, {})[do.__name__] = Act(
            do, told, shows_stack, options, phases, keeps_output
        )
        return do

    return add


def variants(act: Act, phase: str) -> tuple[str, ...]:
    """How often it is done in a phase: alone, and what its report says also with xfail marks."""
    is_thorough = act.told and act.phases == PHASES and phase == "call"
    return ("", "xfail", "raises") if is_thorough else ("",)


def perform(act: Act) -> None:
    """Do it, if this is a sandbox."""
    outside = os.environ[OUTSIDE]
    assert outside.startswith("pid:")
    if os.getpid() != 2 or os.readlink("/proc/self/ns/pid") == outside:
        raise RuntimeError(f"not in a sandbox, and so not done: {act.do.__name__}")
    print("last words", flush=True)
    act.do()


def refused(codes: tuple[int, ...], call: Callable[..., Any], *args: Any) -> None:
    """Call something that must be refused with one of the errnos."""
    try:
        call(*args)
    except OSError as error:
        if error.errno not in codes:
            raise
    else:
        raise AssertionError(f"allowed: {call.__name__}{args}")


# ----------------------------------------------------------------------- deaths


def killed_by(name: str) -> str:
    return f"the test process was killed by {name}( \\(core dumped\\))?" + _USED


@act("deaths", killed_by("SIGSEGV"), shows_stack=True)
def reads_address_0() -> None:
    ctypes.string_at(0)


@act("deaths", killed_by("SIGABRT"), shows_stack=True)
def aborts() -> None:
    os.abort()


@act("deaths", killed_by("SIGBUS"), shows_stack=True)
def reads_past_the_end_of_a_mapped_file() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"x")
        file.flush()
        mapped = mmap.mmap(file.fileno(), 1)
        file.truncate(0)
        file.flush()
        mapped[0]


@act("deaths", killed_by("SIGSEGV") + "|RecursionError")
def recurses_in_c() -> None:
    sys.setrecursionlimit(1 << 30)

    class Deep:
        def __getattr__(self, name: str) -> object:
            return getattr(self, name + "x"[:0])

    repr(Deep().x)


@act("deaths", killed_by("SIGKILL"))
def kills_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@act("deaths", killed_by("SIGTERM"))
def ends_its_process_group() -> None:
    os.kill(0, signal.SIGTERM)


@act("deaths", killed_by("SIGKILL"))
def kills_its_process_group() -> None:
    os.killpg(os.getpgrp(), signal.SIGKILL)


@act("deaths", killed_by("SIGKILL"))
def kills_its_parent() -> None:
    os.kill(os.getppid(), signal.SIGKILL)  # which is 0 in here: its own process group


@act("deaths", killed_by("SIGRTMIN\\+7"))
def is_killed_by_a_signal_without_a_name() -> None:
    os.kill(os.getpid(), signal.SIGRTMIN + 7)


@act("deaths", _EXITED.format(0))
def exits_with_0() -> None:
    os._exit(0)


@act("deaths", _EXITED.format(3))
def exits_with_3() -> None:
    os._exit(3)


@act("deaths", _EXITED.format(0))
def becomes_another_program() -> None:
    os.execv("/bin/sh", ["sh", "-c", "echo another program; exec true"])


@act("deaths", _EXITED.format(5))
def exits_in_a_thread() -> None:
    threading.Thread(target=os._exit, args=(5,)).start()
    time.sleep(60)


@act("deaths", _TIMEOUT + r" \(its process was stopped", timeout=0.3)
def stops_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@act("deaths", _TIMEOUT, shows_stack=True, timeout=0.3)
def loops_in_c_and_holds_the_gil() -> None:
    sum(itertools.repeat(1))


@act("deaths", _TIMEOUT, shows_stack=True, timeout=0.3)
def waits_for_its_own_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


@act("deaths", _TIMEOUT, timeout=0.3)
def ignores_every_signal_and_loops() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        pass


# ----------------------------------------------------------------------- exceptions


class Unspeakable(Exception):
    """Cannot be pickled, shown or repr'ed."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.lock = threading.Lock()

    def __reduce__(self) -> NoReturn:
        raise TypeError("not pickled")

    def __str__(self) -> NoReturn:
        raise ValueError("not shown")

    __repr__ = __str__


@act("exceptions", "Unspeakable: <exception str\\(\\) failed>")
def raises_what_cannot_be_shown() -> None:
    raise Unspeakable(lambda: None)


@act("exceptions", "SystemExit: 7")
def exits_by_exception() -> None:
    sys.exit(7)


@act("exceptions", "GeneratorExit")
def raises_generator_exit() -> None:
    raise GeneratorExit


@act("exceptions", "RecursionError")
def recurses() -> None:
    recurses()


@act("exceptions", "MemoryError")
def runs_out_of_memory() -> None:
    limit = _virtual_size() + (64 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    bytearray(1 << 30)


# To read what it has put out takes memory, of which pytest has none either, bare as well.
@act(
    "exceptions", "MemoryError|" + _EXITED.format(1) + "|" + killed_by("SIG(SEGV|ABRT)"),
    keeps_output=False,
)  # fmt: skip
def holds_on_to_all_of_its_memory() -> None:
    limit = _virtual_size() + (16 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    held: list[object] = []
    for size in (1 << 20, 1 << 12, 64):
        with contextlib.suppress(MemoryError):
            while True:
                held.append(bytearray(size))
    _hold_for_ever.append(held)
    raise MemoryError


_hold_for_ever: list[object] = []


def _virtual_size() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * mmap.PAGESIZE


@act("exceptions", "a very long report")
def fails_with_a_long_message() -> None:
    raise AssertionError("a very long report" + "x" * 3_000_000)


@act("exceptions", "it is in the way")
def fails_with_a_lone_surrogate() -> None:
    raise AssertionError("it is in the way: \udcff \x00 \x1b[31m")


# ----------------------------------------------------------------------- processes


@act("processes")
def leaves_a_daemon() -> None:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(300)
        os._exit(0)
    os.wait()


@act("processes", phases=("call",))
def leaves_300_children_that_hold_the_pipe() -> None:
    for _ in range(300):
        if os.fork() == 0:
            time.sleep(300)
            os._exit(0)


@act("processes", phases=("call",))
def is_a_fork_bomb() -> None:
    # RLIMIT_NPROC does not bind root: so a counter that all of them share bounds it.
    count = mmap.mmap(-1, mmap.PAGESIZE)
    limit, me = 300, os.getpid()
    resource.setrlimit(resource.RLIMIT_NPROC, (2000, 2000))
    while count[0] * 256 + count[1] < limit:
        number = count[0] * 256 + count[1] + 1
        count[0], count[1] = divmod(number, 256)
        with contextlib.suppress(OSError):
            os.fork()
    if os.getpid() != me:
        time.sleep(300)
        os._exit(0)


@act("processes")
def kills_all_it_may() -> None:
    child = subprocess.Popen(["sleep", "300"])
    os.kill(-1, signal.SIGKILL)
    assert child.wait(10) == -signal.SIGKILL


@act("processes")
def kills_init() -> None:
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGSEGV):
        os.kill(1, number)


@act("processes")
def has_a_child_that_comes_back() -> None:
    if os.fork():
        os.wait()


# The copy of pytest takes the output for its own report, which nobody hears.
@act("processes", killed_by("SIGKILL"), keeps_output=False)
def dies_after_a_child_that_came_back() -> None:
    if os.fork():
        os.wait()
        os.kill(os.getpid(), signal.SIGKILL)


@act("processes")
def leaves_a_thread_that_never_ends() -> None:
    threading.Thread(target=time.sleep, args=(300,), daemon=False).start()


# ----------------------------------------------------------------------- the filesystem


def fill(path: str, limit: int) -> None:
    """Write as much to a new file as is allowed, at most so many bytes."""
    block = b"x" * (1 << 20)
    with open(f"{path}/{LEFT}-full", "wb", buffering=0) as file:
        for _ in range(limit >> 20):
            file.write(block)


def reserve_too_much(path: str) -> None:
    """Ask for more than a quarter of the memory; to be refused that uses none."""
    size = os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE // 4 + mmap.PAGESIZE
    with open(f"{path}/{LEFT}-full", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)


@act("files", tmp_size="8M")
def fills_tmp() -> None:
    refused((errno.ENOSPC,), fill, "/tmp", 9 << 20)


@act("files")
def asks_tmp_for_more_than_there_is() -> None:
    refused((errno.ENOSPC,), reserve_too_much, "/tmp")


@act("files")
def asks_shared_memory_for_more_than_there_is() -> None:
    refused((errno.ENOSPC,), reserve_too_much, "/dev/shm")


@act("files")
def asks_the_root_filesystem_for_more_than_there_is() -> None:
    refused((errno.ENOSPC,), reserve_too_much, "/var/tmp")
    refused((errno.ENOSPC,), reserve_too_much, os.environ["NSBOX_CHAOS_VICTIM"])


@act("files")
def removes_most_of_the_system() -> None:
    # Not /usr/lib, /var and /root: deleting some 300,000 files takes half a minute.
    for path in ("/bin", "/boot", "/etc", "/home", "/sbin", "/tmp", "/usr/bin", "/usr/sbin"):
        shutil.rmtree(os.path.realpath(path), ignore_errors=True)
    assert not os.path.exists("/etc/passwd")


@act("files")
def removes_pytest() -> None:
    import _pytest

    import pytest_nsbox

    for module in (_pytest, pytest_nsbox, json, acts_module()):
        place = os.path.dirname(module.__file__ or "")
        shutil.rmtree(place, ignore_errors=True)
        assert not os.path.exists(place)


def acts_module() -> Any:
    return sys.modules[__name__]


@act("files")
def renames_and_replaces_directories() -> None:
    victim = os.environ["NSBOX_CHAOS_VICTIM"]
    for path in (victim, "/etc", os.getcwd(), "/usr/lib"):
        try:
            os.rename(path, f"{path}.{LEFT}")
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EBUSY):
                raise
        else:
            os.mkdir(path)
            assert os.listdir(path) == []


@act("files")
def replaces_a_directory_by_a_symlink() -> None:
    victim = os.environ["NSBOX_CHAOS_VICTIM"]
    shutil.rmtree(victim)
    os.symlink("/etc", victim)


@act("files")
def changes_the_metadata_of_files() -> None:
    victim = os.environ["NSBOX_CHAOS_VICTIM"]
    for path in (f"{victim}/file", victim, "/etc"):
        os.chmod(path, 0o7000)
        with contextlib.suppress(PermissionError, OSError):
            os.chown(path, 1234, 1234)
        with contextlib.suppress(OSError):
            os.setxattr(path, "user.nsbox", b"chaos")
        os.utime(path, (0, 0))


@act("files")
def writes_to_every_file_of_the_host_it_is_given() -> None:
    victim = os.environ["NSBOX_CHAOS_VICTIM"]
    with open(f"{victim}/file", "w") as file:
        file.write("chaos")
    os.unlink(f"{victim}/file")
    os.mkfifo(f"{victim}/file")


@act("files")
def leaves_files_wherever_it_may() -> None:
    for place in ("/tmp", "/dev/shm", "/var/tmp", "/", "/etc", "/usr"):
        with open(f"{place}/{LEFT}-left", "w") as file:
            file.write("left")


# ----------------------------------------------------------------------- the process itself


@act("itself")
def sets_a_umask_that_allows_nothing() -> None:
    os.umask(0o777)


@act("itself")
def changes_to_a_directory_that_it_removes() -> None:
    os.mkdir("/tmp/gone")
    os.chdir("/tmp/gone")
    os.rmdir("/tmp/gone")


@act("itself")
def changes_its_root() -> None:
    with contextlib.suppress(PermissionError):  # rootless
        os.chroot("/tmp")
        os.chdir("/")


@act("itself")
def becomes_another_user() -> None:
    with contextlib.suppress(OSError):  # rootless: EINVAL
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


@act("itself")
def unblocks_and_ignores_every_signal() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)


@act("itself")
def turns_faulthandler_off() -> None:
    faulthandler.disable()


@act("itself")
def lowers_its_limits() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


# ----------------------------------------------------------------------- the kernel


MNT_DETACH, MS_BIND, MS_REMOUNT = 2, 4096, 32
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x20000, 0x10000000, 0x20000000
_libc = ctypes.CDLL(None, use_errno=True)


def _is_refused(call: str, *args: object) -> None:
    """A system call that must fail."""
    ctypes.set_errno(0)
    result = getattr(_libc, call)(*args)
    assert result == -1, f"{call}{args} was allowed"
    code = ctypes.get_errno()
    assert code in (errno.EPERM, errno.EACCES), (call, errno.errorcode[code])


@act("kernel")
def tries_to_mount() -> None:
    _is_refused("mount", b"tmpfs", b"/tmp", b"tmpfs", 0, None)
    _is_refused("mount", b"/etc", b"/tmp", None, MS_BIND, None)
    _is_refused("mount", None, b"/sys", None, MS_REMOUNT | MS_BIND, None)
    _is_refused("mount", None, b"/proc/sys", None, MS_REMOUNT | MS_BIND, None)
    for path in (b"/", b"/proc", b"/sys", b"/tmp", b"/proc/sys"):
        _is_refused("umount2", path, MNT_DETACH)
    _is_refused("pivot_root", b"/", b"/tmp")


@act("kernel")
def tries_to_leave_its_namespaces() -> None:
    for flag in (CLONE_NEWNS, CLONE_NEWPID):
        _is_refused("unshare", flag)
    for kind in ("mnt", "pid", "ipc", "uts"):
        try:
            fd = os.open(f"/proc/1/ns/{kind}", os.O_RDONLY)
        except PermissionError:
            continue
        _is_refused("setns", fd, 0)


@act("kernel")
def looks_for_a_way_out_in_a_user_namespace() -> None:
    if _libc.unshare(CLONE_NEWUSER | CLONE_NEWNS):
        return  # a kernel that allows none
    for path in (b"/proc", b"/sys", b"/proc/sys", b"/"):
        assert _libc.umount2(path, MNT_DETACH) == -1, path  # locked together: EINVAL
    assert _libc.mount(None, b"/sys", None, MS_REMOUNT | MS_BIND, None) == -1


@act("kernel")
def opens_what_leads_out() -> None:
    absent = (errno.ENOENT, errno.EACCES)
    for path in ("/dev/mem", "/dev/vda", "/dev/sda", "/dev/kmsg", "/dev/fuse", "/dev/loop-control"):
        refused(absent, os.open, path, os.O_RDWR)
    # Opened, never written to.
    for path in ("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern"):
        refused((errno.EROFS, errno.EACCES, errno.ENOENT), os.open, path, os.O_WRONLY)
    assert not os.path.exists("/.nsbox-host")
    if os.access("/proc/1/root", os.R_OK | os.X_OK):
        assert os.path.samefile("/proc/1/root/etc", "/etc")


def open_node(path: str) -> None:
    os.mknod(path, stat.S_IFBLK | 0o666, os.makedev(254, 0))
    os.open(path, os.O_RDONLY)


@act("kernel")
def makes_a_device_node() -> None:
    for place in ("/tmp", "/var/tmp", "/dev/shm", "/"):
        refused((errno.EPERM, errno.EACCES), open_node, f"{place}/{LEFT}-node")


@act("kernel")
def writes_the_settings_of_the_kernel() -> None:
    # What is there already, so that a sandbox that lets it through does no harm.
    for path in ("/proc/sys/kernel/panic", "/proc/sys/vm/swappiness", "/sys/kernel/mm/ksm/run"):
        if os.path.exists(path):
            refused((errno.EROFS, errno.EACCES), Path(path).write_text, Path(path).read_text())


@act("kernel")
def writes_the_memory_of_init() -> None:
    with contextlib.suppress(PermissionError):  # it may trace its equal
        os.close(os.open("/proc/1/mem", os.O_RDWR))


# ----------------------------------------------------------------------- what we are made of


def _replace(owner: Any, name: str, value: object) -> None:
    """Set and never set back, as a test that forgets its clean-up does."""
    assert hasattr(owner, name)
    setattr(owner, name, value)


def _broken(*args: object, **kwargs: object) -> NoReturn:
    raise RuntimeError("replaced by the test")


@act("replacements")
def replaces_what_reads_and_writes() -> None:
    for name in ("read", "write", "pipe"):
        _replace(os, name, _broken)
    for name in ("dumps", "loads"):
        _replace(json, name, _broken)


@act("replacements")
def replaces_the_clock() -> None:
    _replace(time, "time", lambda: -1.0)
    _replace(time, "monotonic", lambda: 0.0)
    _replace(time, "perf_counter", lambda: 0.0)
    _replace(time, "sleep", _broken)


@act("replacements")
def replaces_its_pid() -> None:
    _replace(os, "getpid", lambda: 1234)


@act("replacements")
def replaces_exit() -> None:
    _replace(os, "_exit", lambda status: None)
    _replace(sys, "exit", _broken)


@act("replacements")
def replaces_standard_output() -> None:
    _replace(sys, "stdout", None)
    _replace(sys, "stderr", 17)


@act("replacements")
def replaces_signals() -> None:
    for name in ("signal", "getsignal", "pthread_sigmask"):
        _replace(signal, name, _broken)


@act("replacements", "replaced by the test")
def replaces_open_and_fails() -> None:
    import builtins

    _replace(builtins, "open", _broken)
    open("/etc/passwd").close()


@act("replacements")
def replaces_the_environment() -> None:
    current = os.environ["PYTEST_CURRENT_TEST"]  # without which pytest itself raises KeyError
    os.environ.clear()
    os.environ["PYTEST_CURRENT_TEST"] = current


@act("replacements")
def forgets_its_modules() -> None:
    for name in [name for name in sys.modules if name.startswith(("pytest_nsbox", "json"))]:
        del sys.modules[name]


@act("replacements")
def freezes_the_time() -> None:
    from freezegun import freeze_time

    freeze_time("2001-02-03").start()


# ----------------------------------------------------------------------- the pipe home

_LOST = "the test has closed the pipe to pytest, or put something else in its place"


@act("pipe", _LOST)
def closes_every_descriptor() -> None:
    os.closerange(3, 65536)


@act("pipe", _LOST)
def puts_something_else_on_every_descriptor() -> None:
    for fd in _descriptors():
        null = os.open("/dev/null", os.O_RDWR)
        if null != fd:
            os.dup2(null, fd)
            os.close(null)


@act("pipe", _LOST)
def puts_a_file_of_its_own_on_every_descriptor() -> None:
    own = os.open("/tmp/own", os.O_RDWR | os.O_CREAT)
    for fd in _descriptors():
        if fd != own:
            os.dup2(own, fd)


@act("pipe", "not a message: b'garbage")
def writes_garbage_to_every_descriptor() -> None:
    for fd in _descriptors():
        with contextlib.suppress(OSError):
            os.write(fd, b"garbage" * 9)
    time.sleep(60)


def _descriptors() -> list[int]:
    return [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2]


def _pipe() -> int:
    """The end of the pipe on which reports go home."""
    from pytest_nsbox.run import test_process

    current = test_process.current
    assert current is not None
    return current.home.reports.fd


def _frame(message: object, size: int | None = None) -> bytes:
    payload = json.dumps(message).encode()
    return b"nsbx" + (len(payload) if size is None else size).to_bytes(4, "big") + payload


_REPORT: dict[str, Any] = {
    "nodeid": "test_inner.py::test_act[other]",
    "location": ("test_inner.py", 1, "test_act[other]"),
    "keywords": {}, "outcome": "passed", "longrepr": None, "when": "call",
    "user_properties": [], "sections": [], "duration": 0, "start": 0, "stop": 0,
    "$report_type": "TestReport",
}  # fmt: skip


def _forge(
    name: str,
    told: str,
    data: bytes | Callable[[], bytes],
    phases: tuple[str, ...] = ("call",),
) -> None:
    """An act that sends something on the pipe that is not for the test to send."""

    def forge() -> None:
        view = memoryview(data() if callable(data) else data)
        while view:
            view = view[os.write(_pipe(), view) :]
        time.sleep(60)  # a message that is refused ends the test

    forge.__name__ = name
    act("forgery", told, phases=phases)(forge)


def _report(**changes: object) -> Callable[[], bytes]:
    def make() -> bytes:
        nodeid = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
        return _report_frame({**_REPORT, "nodeid": nodeid, **changes})

    return make


def _report_frame(data: object) -> bytes:
    from pytest_nsbox.run import wire

    return wire.encode({"type": "report", "data": data})


def _message(**values: object) -> bytes:
    return _frame(values)


_forge(
    "sends_a_report_of_another_test",
    "another test",
    lambda: _report_frame({**_REPORT, "nodeid": _innocent()}),
    PHASES,
)


def _innocent() -> str:
    nodeid = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
    return f"{nodeid[:-1]}-after]"


_forge("sends_a_length_that_is_negative", "not a message", b"nsbx\xff\xff\xff\xff")
_forge("sends_a_frame_that_ends_too_early", "not a message", _frame({"type": "end"}, size=3))
_forge("sends_no_object", "not a message", _frame([1, 2]))
_forge("sends_no_type", "not a message", _frame({}))
_forge("sends_a_type_that_is_no_string", "not a message", _frame({"type": 3}))
_forge("sends_an_unknown_type", "not a message", _message(type="hello"))
_forge("sends_an_end_without_values", "not a message", _message(type="end"))
_forge("sends_a_report_without_data", "not a message", _message(type="report"))
_forge("sends_a_report_that_is_no_object", "not a message", _message(type="report", data=[]))
_forge("sends_an_empty_report", "not a report", lambda: _report_frame({}))
_forge("sends_a_warning_without_text", "not a message", _message(type="warning"))
_forge("sends_an_exit_with_a_bad_code", "not a message",
       _message(type="exit", reason="x", returncode="y"))  # fmt: skip
_forge("sends_an_interrupt_with_bad_frames", "not a message",
       _message(type="interrupt", text=[], frames=[["file", "line", 3]]))  # fmt: skip
_forge("sends_an_interrupt_with_endless_frames", "not a message",
       _message(type="interrupt", text=[], frames=[["file", 1 << 60, "f"]] * 10_000))  # fmt: skip
_forge("sends_deep_json", "not a message", _frame({"type": "end"})[:4] + (200_000).to_bytes(4, "big")
       + b"[" * 200_000)  # fmt: skip

for _name, _value in {
    "outcome": 3, "when": "never", "duration": "long", "longrepr": 17,
    "sections": [["a"]], "location": "here", "keywords": 3, "user_properties": 5,
    "wasxfail": 3, "nodeid": None,
}.items():  # fmt: skip
    _forge(f"sends_a_report_with_a_bad_{_name}", "not a report", _report(**{_name: _value}))
_forge("sends_a_report_with_a_bad_traceback", "not a report", _report(
    outcome="failed", longrepr={"reprcrash": None, "reprtraceback": 3, "sections": []}))  # fmt: skip


@act("forgery", "not a message|exited with status 0 before its test had ended")
def says_that_it_has_ended_and_exits() -> None:
    os.write(
        _pipe(),
        _frame(
            {
                "type": "end",
                "screen": None,
                "shouldfail": False,
                "shouldstop": False,
                "added": [],
                "goes_on": True,
                "timing": None,
            }
        ),
    )
    os._exit(0)


# ----------------------------------------------------------------------- volume


@act("volume", phases=("call",))
def puts_out_500_mb() -> None:
    block = b"x" * (1 << 20)
    for _ in range(500):
        os.write(1, block)


@act("volume", "a very long report", phases=("call",))
def has_a_report_of_100_mb() -> None:
    raise AssertionError("a very long report" + "x" * 100_000_000)


@act("volume", "not a message|Timeout", phases=("call",), timeout=20)
def sends_a_frame_without_end() -> None:
    header = b"nsbx" + ((1 << 30) - 1).to_bytes(4, "big")
    block = b" " * (1 << 20)
    os.write(_pipe(), header)
    for _ in range(2048):
        os.write(_pipe(), block)
