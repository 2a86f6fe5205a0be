"""System calls that Python lacks, by their man-page names; a failure names the call and its arguments.

``os.unshare`` and ``os.setns`` came with Python 3.12, and no version has ``mount(2)`` or
``pivot_root(2)``.  Constants are taken from the Linux headers.  The calls added since Linux 5.1
have the same number on every architecture; the older ones are looked up in glibc or musl, which
export them (``pivot_root`` too).
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from collections.abc import Callable, Sequence

# sched.h
CLONE_VM = 0x100
CLONE_VFORK = 0x4000
CLONE_PARENT = 0x8000
CLONE_NEWNS = 0x20000
CLONE_CHILD_CLEARTID = 0x200000
CLONE_CHILD_SETTID = 0x1000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# sys/mount.h
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

# linux/mount.h
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_FDCWD = -100
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOUNT_ATTR_RDONLY = 0x1

# asm-generic/mman-common.h
MADV_NOHUGEPAGE = 15
MADV_POPULATE_WRITE = 23
MADV_COLLAPSE = 25

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_GET_TID_ADDRESS = 40

_OPEN_TREE, _MOVE_MOUNT, _PROCESS_MADVISE, _MOUNT_SETATTR = 428, 429, 440, 442
_PIDFD_SELF = -10000  # linux/pidfd.h
_MACHINE = os.uname().machine  # taken now: a fixture may replace that
_CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220}
# The order of the last two arguments of the raw clone(2), see its man page.
_CLONE_TID_LAST = {"aarch64", "riscv64"}

_libc = ctypes.CDLL(None, use_errno=True)
_holding_gil = ctypes.PyDLL(None, use_errno=True)
_ENTRY = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_prctl = _holding_gil.prctl  # of arguments that ctypes need not convert
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = [
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.pivot_root.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
_libc.capset.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.sethostname.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


class SyscallError(OSError):
    """A refused system call: ``errno`` as in OSError, ``syscall`` its name, ``filename`` the path.

    ``str()`` gives all of it in words, e.g.
    ``mount(overlay, /home): Invalid argument (EINVAL)``.
    """

    def __init__(self, errno_: int, syscall: str, what: str = "") -> None:
        super().__init__(errno_, os.strerror(errno_))
        self.syscall = syscall
        self.what = what

    def __str__(self) -> str:
        return f"{self.syscall}({self.what}): {in_words(self.errno or 0)}"


def in_words(errno_: int) -> str:
    """``errno`` as people read it: ``Operation not permitted (EPERM)``."""
    return f"{os.strerror(errno_)} ({errno.errorcode.get(errno_, errno_)})"


def _check(result: int, syscall: str, what: str = "") -> int:
    if result < 0:
        raise SyscallError(ctypes.get_errno(), syscall, what)
    return result


def _encode(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def unshare(flags: int) -> None:
    """unshare(2): move the caller into new namespaces of the kinds named by ``CLONE_NEW*``."""
    if _libc.unshare(flags) < 0:  # no words for it before: this is on the path of every test
        _check(-1, "unshare", clone_names(flags))


def setns(fd: int, kind: int = 0) -> None:
    """setns(2): join the namespace that ``fd`` refers to; ``kind`` one of ``CLONE_NEW*`` or 0."""
    if _libc.setns(fd, kind) < 0:
        _check(-1, "setns", clone_names(kind) or f"fd {fd}")


def clone_names(flags: int) -> str:
    """``CLONE_NEW*`` flags by their names, joined by ``|``."""
    names = ("NEWUSER", "NEWNS", "NEWPID", "NEWIPC", "NEWUTS", "NEWNET")
    return "|".join(f"CLONE_{n}" for n in names if flags & globals()[f"CLONE_{n}"])


def mount(
    source: str | None, target: str, fstype: str | None = None, flags: int = 0, data: str = ""
) -> None:
    """mount(2)."""
    result = _libc.mount(
        _encode(source), _encode(target), _encode(fstype), flags, _encode(data) or None
    )
    if result < 0:
        what = ", ".join(filter(None, (fstype or source or "", target, data)))
        _check(result, "mount", what)


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), flags), "umount2", target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _check(
        _libc.pivot_root(os.fsencode(new_root), os.fsencode(put_old)),
        "pivot_root",
        f"{new_root}, {put_old}",
    )


def open_tree(path: str, flags: int, dir_fd: int = AT_FDCWD) -> int:
    """open_tree(2): an fd of a mount, or with ``OPEN_TREE_CLONE`` of a detached copy of it."""
    result = _libc.syscall(
        ctypes.c_long(_OPEN_TREE),
        ctypes.c_int(dir_fd),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.c_uint(flags | OPEN_TREE_CLOEXEC),
    )
    return _check(result, "open_tree", path)


def move_mount(fd: int, target: str) -> None:
    """move_mount(2): attach the detached mount ``fd`` at ``target``."""
    result = _libc.syscall(
        ctypes.c_long(_MOVE_MOUNT),
        ctypes.c_int(fd),
        ctypes.c_char_p(b""),
        ctypes.c_int(AT_FDCWD),
        ctypes.c_char_p(os.fsencode(target)),
        ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH),
    )
    _check(result, "move_mount", target)


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount_setattr(path: str, attr_set: int, *, fd: int = AT_FDCWD, recursive: bool = False) -> None:
    """mount_setattr(2): set ``MOUNT_ATTR_*`` on a mount, or on the detached mount ``fd`` (path "")."""
    attr = _MountAttr(attr_set, 0, 0, 0)
    flags = (AT_RECURSIVE if recursive else 0) | (0 if path else AT_EMPTY_PATH)
    result = _libc.syscall(
        ctypes.c_long(_MOUNT_SETATTR),
        ctypes.c_int(fd),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.c_uint(flags),
        ctypes.byref(attr),
        ctypes.c_size_t(ctypes.sizeof(attr)),
    )
    _check(result, "mount_setattr", path or f"fd {fd}")


def madvise(address: int, length: int, advice: int) -> None:
    """madvise(2), of memory of our own."""
    result = _libc.madvise(address, length, advice)
    _check(result, "madvise", f"{address:#x}, {length}, {advice}")


def process_madvise(iovecs: int, count: int, advice: int) -> None:
    """process_madvise(2), of memory of our own: ``count`` times a struct iovec, at that address.

    At most 1,024 of them. Any advice is allowed since Linux 6.13, to ``PIDFD_SELF`` since 6.14.
    """
    result = _libc.syscall(
        ctypes.c_long(_PROCESS_MADVISE),
        ctypes.c_int(_PIDFD_SELF),
        ctypes.c_void_p(iovecs),
        ctypes.c_ulong(count),
        ctypes.c_int(advice),
        ctypes.c_uint(0),
    )
    _check(result, "process_madvise", f"{count} ranges, {advice}")


def prctl(option: int, argument: int = 0) -> int:
    """prctl(2) with one integer argument; the result."""
    result: int = _libc.prctl(option, argument, 0, 0, 0)
    return result if result >= 0 else _check(result, "prctl", str(option))


def set_name(name: str) -> None:
    """prctl(PR_SET_NAME): what ps(1) calls the process; at most 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode())
    prctl(PR_SET_NAME, ctypes.addressof(buffer))


class _SockFilter(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class SockFprog(ctypes.Structure):
    """A BPF program of (code, jt, jf, k); made once, for making its type costs 0.5 ms."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.POINTER(_SockFilter)))

    def __init__(self, program: Sequence[tuple[int, int, int, int]]) -> None:
        filters = (_SockFilter(*instruction) for instruction in program)
        super().__init__(len(program), (_SockFilter * len(program))(*filters))


def set_seccomp_filter(program: SockFprog) -> None:
    """prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER): for good, for the caller and its children.

    The caller needs CAP_SYS_ADMIN in its user namespace, else no_new_privs.
    """
    result = _libc.prctl(PR_SET_SECCOMP, 2, ctypes.addressof(program), 0, 0)
    _check(result, "prctl", "PR_SET_SECCOMP")


def drop_bounding(capabilities: tuple[int, ...]) -> None:
    """prctl(PR_CAPBSET_DROP) for each; on the path of every test, hence no call between the calls."""
    errors = 0
    for capability in capabilities:
        errors |= _prctl(PR_CAPBSET_DROP, capability)
    _check(errors, "prctl", "PR_CAPBSET_DROP")


def tid_address() -> int:
    """prctl(PR_GET_TID_ADDRESS): where the C library keeps this thread's id."""
    address = ctypes.c_void_p()
    result = _libc.prctl(PR_GET_TID_ADDRESS, ctypes.addressof(address), 0, 0, 0)
    _check(result, "prctl", "PR_GET_TID_ADDRESS")
    return address.value or 0


def clone_vfork(function: Callable[[], None], stack: int) -> int:
    """clone(2) by the C library with ``CLONE_VM | CLONE_VFORK``: its pid, when the child has ended.

    The child runs ``function`` in the memory of the caller, who stands still meanwhile, on a stack of
    its own that ends (grows down from) at the address ``stack``.  Only for a process with one thread.
    """

    def enter(_: object) -> int:
        function()
        return 0

    entry = _ENTRY(enter)
    flags = CLONE_VM | CLONE_VFORK | signal.SIGCHLD
    return _check(
        _holding_gil.clone(entry, ctypes.c_void_p(stack), flags, None), "clone", "CLONE_VM"
    )


def libc_fork() -> int:
    """fork(2) by the C library, with its own at-fork handlers and none of Python's.

    Only for a process with one thread.  The GIL is kept: it is the child's as it was the parent's.
    """
    return _check(_holding_gil.fork(), "fork")


def fork(flags: int) -> int:
    """The raw clone(2), as fork(2) with ``flags``: ``CLONE_NEW*``, ``CLONE_PARENT``.

    Only for a single-threaded process: unlike ``os.fork`` this runs no at-fork handlers.  The child
    stores its thread id where the C library looks for it, as the library's own fork does.
    Fails with ENOSYS where the numbers of this architecture are not known to us.
    """
    if _MACHINE not in _CLONE:
        what = f"{_MACHINE}, where we know it on {', '.join(_CLONE)}"
        raise SyscallError(errno.ENOSYS, "clone", what)
    flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | signal.SIGCHLD
    tail = [0, tid_address()] if _MACHINE in _CLONE_TID_LAST else [tid_address(), 0]
    # (flags, stack, parent_tid, ...): no stack means "go on with a copy of mine".
    arguments = [ctypes.c_long(value) for value in (_CLONE[_MACHINE], flags, 0, 0, *tail)]
    pid: int = _libc.syscall(*arguments)
    # No words for it before, as in setns: here two processes would look for them.
    return pid if pid >= 0 else _check(pid, "clone", clone_names(flags) or "CLONE_PARENT")


def sethostname(name: str) -> None:
    """sethostname(2)."""
    encoded = os.fsencode(name)
    _check(_libc.sethostname(encoded, len(encoded)), "sethostname", name)


_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_CAP_HEADER = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)  # of the calling thread


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) of the calling thread; each set a bit mask of ``1 << CAP_*``."""
    sets = (effective, permitted, inheritable)
    words = [mask >> shift & 0xFFFFFFFF for shift in (0, 32) for mask in sets]
    # Bytes and no structures of ctypes, which cost 0.2 ms in a forked child, the call nothing.
    if _libc.capset(_CAP_HEADER, struct.pack("=6I", *words)) < 0:
        _check(-1, "capset", f"{permitted:#x}")
