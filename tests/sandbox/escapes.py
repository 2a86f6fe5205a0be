"""Attempts to get out of a sandbox, each with how it has to end; test_escapes runs them inside.

An attempt is refused with an errno, or it is *contained*: the call succeeds, and what it does stays in
the sandbox.  Some do *reach* something, which is known, and said in docs/explanation/security.md.
Each has a directory of the host's, ``world.place(name)``, that must stay as it was.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pytest_nsbox.kernel.syscalls import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    MS_BIND,
    MS_REC,
    OPEN_TREE_CLONE,
    capset,
    mount,
    move_mount,
    open_tree,
    pivot_root,
    prctl,
    sethostname,
    setns,
    umount,
    unshare,
)
from pytest_nsbox.sandbox import privileges

CLONE_NEWCGROUP = 0x2000000
# linux/pidfd.h (6.11), linux/nsfs.h (4.9 and 6.12)
PIDFD_GET_MNT_NAMESPACE = 0xFF03
NS_GET_PARENT, NS_MNT_GET_PREV = 0xB702, 0x8010B70C
CONTAINED, REACHED = "contained", "reached"
CONTENT, MODE = "the host's", 0o644  # of a file in every place

# Numbers of system calls that have no function in every C library: x86_64, and the others.
_NUMBERS = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "init_module": (175, 105),
    "kexec_load": (246, 104),
    "open_by_handle_at": (304, 265),
    "pidfd_getfd": (438, 438),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "tgkill": (234, 131),
    "fsopen": (430, 430),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "msgget": (68, 186),
    "shmget": (29, 194),
}
_libc = ctypes.CDLL(None, use_errno=True)


class World(NamedTuple):
    """What is outside, and what broad-scoped fixtures have left open; made before the fork."""

    canary: str  # a directory of the host's, visible inside
    pid_namespace: str
    disk: int  # st_dev of the root filesystem
    controller: int  # pid
    pidfd: int
    root: int
    directory: int  # the canary's
    directory_path: int  # with O_PATH
    hidden: int  # a directory of the host's /tmp
    log: int  # a file in the canary, opened for writing
    files: dict[str, int]  # attempt -> its file, opened for reading
    socket_path: int  # of a stranger's socket, with O_PATH
    abstract: str  # the name of another one
    namespaces: list[int]
    key: int  # of System V objects
    queue: bytes  # of POSIX
    descriptors: list[str]  # all that there are when this is made

    def place(self, name: str) -> Path:
        """The host's directory that only this attempt tries to change."""
        return Path(self.canary, name)


class Attempt(NamedTuple):
    """What is tried, and how it has to end."""

    function: Callable[[World, Path], object]
    root: str
    rootless: str
    marker: dict[str, object]  # of the sandbox


ATTEMPTS: dict[str, Attempt] = {}


def attempt(
    root: str, rootless: str = "", **marker: object
) -> Callable[[Callable[[World, Path], object]], None]:
    """Register an attempt; ``root`` and ``rootless`` are the outcomes allowed, by their names."""

    def register(function: Callable[[World, Path], object]) -> None:
        ATTEMPTS[function.__name__] = Attempt(function, root, rootless or root, marker)

    return register


def outcome(name: str, world: World) -> str:
    """Make the attempt: the errno's name, ``contained``, or ``reached`` and what."""
    # Some of these harm the machine that they get out to: be sure where we are.
    assert os.getpid() == 2
    assert os.readlink("/proc/self/ns/pid") != world.pid_namespace
    try:
        reached = ATTEMPTS[name].function(world, world.place(name))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return CONTAINED if reached is None else f"{REACHED} {reached}"


@contextlib.contextmanager
def made_outside(canary: Path, stranger: Path) -> Iterator[World]:
    """In a broad-scoped fixture: the world that the attempts try to get at.

    ``stranger`` is a socket on which somebody listens whom the controller has not started.
    """
    key = int.from_bytes(os.urandom(3), "little")
    queue = b"nsbox-%d" % key
    for name in ATTEMPTS:
        (canary / name).mkdir(parents=True)
        (canary / name / "file").write_text(CONTENT)
        (canary / name / "file").chmod(MODE)
    disk = os.stat("/").st_dev
    with contextlib.ExitStack() as stack:

        def opened(path: str | Path, flags: int) -> int:
            fd = os.open(path, flags | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            return fd

        # A name by which it counts as another session's.
        hidden = stack.enter_context(tempfile.TemporaryDirectory(prefix="pytest-of-", dir="/tmp"))
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(f"\0nsbox-{key}")
        listening.listen()
        with contextlib.suppress(OSError):  # a seccomp filter of a container
            call("keyctl", 1, None, 0, 0, 0)  # KEYCTL_JOIN_SESSION_KEYRING: have one to lose
        log = stack.enter_context(open(canary / "log", "a", buffering=1))
        pidfd = os.pidfd_open(os.getpid())
        stack.callback(os.close, pidfd)
        _libc.shmctl.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
        segment = call("shmget", key, 4096, 0o1600)
        stack.callback(_libc.shmctl, segment, 0, None)
        messages = call("msgget", key, 0o1600)
        stack.callback(_libc.msgctl, messages, 0, None)
        os.close(call("mq_open", queue, os.O_RDWR | os.O_CREAT, 0o600, None))
        stack.callback(call, "mq_unlink", queue)
        yield World(
            canary=str(canary),
            pid_namespace=os.readlink("/proc/self/ns/pid"),
            disk=disk,
            controller=os.getpid(),
            pidfd=pidfd,
            root=opened("/", os.O_RDONLY | os.O_DIRECTORY),
            directory=opened(canary, os.O_RDONLY | os.O_DIRECTORY),
            directory_path=opened(canary, os.O_PATH),
            hidden=opened(hidden, os.O_RDONLY | os.O_DIRECTORY),
            log=log.fileno(),
            files={name: opened(canary / name / "file", os.O_RDONLY) for name in ATTEMPTS},
            socket_path=opened(stranger, os.O_PATH),
            abstract=f"nsbox-{key}",
            namespaces=[opened(path, os.O_RDONLY) for path in Path("/proc/self/ns").iterdir()],
            key=key,
            queue=queue,
            descriptors=os.listdir("/proc/self/fd"),
        )


# ----------------------------------------------------------------------- how it is done


def call(name: str, *arguments: int | bytes | None) -> int:
    """The raw system call; raises OSError."""
    number = _NUMBERS[name][platform.machine() != "x86_64"]
    values = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    _libc.syscall.restype = ctypes.c_long
    result: int = _libc.syscall(ctypes.c_long(number), *values)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def in_a_child(function: Callable[[], object]) -> None:
    """Call it in a forked process; raises the OSError that it did."""
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            function()
            status = 0
        except OSError as error:
            status = error.errno or 255
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, "in the child")


def nested(function: Callable[[], object], more: int = 0) -> None:
    """Call it as the root of a user namespace of our own, with a mount namespace copied from ours."""

    def child() -> None:
        uid = os.geteuid()
        unshare(CLONE_NEWUSER | CLONE_NEWNS | more)
        # An uid 0 without CAP_SETFCAP may not map itself; the capabilities are there without that.
        with contextlib.suppress(OSError):
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        assert privileges.effective() >> privileges.CAP_SYS_ADMIN & 1
        if more & CLONE_NEWPID:
            in_a_child(function)
        else:
            function()

    in_a_child(child)


def write(path: str | Path, dir_fd: int | None = None) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, dir_fd=dir_fd)
    os.write(fd, b"the test's")
    os.close(fd)


def write_only(path: str | Path) -> str:
    """Open it for writing, and no more than that: it may be one that must not be written to."""
    os.close(os.open(path, os.O_WRONLY))
    return f"{path} for writing"


def capabilities_of(program: str) -> str | None:
    """What the copy of cat(1) may do that a test may not."""
    status = subprocess.run([program, "/proc/self/status"], stdout=subprocess.PIPE, check=True)
    found = re.findall(r"Cap(?:Prm|Eff|Bnd):\s*(\w+)", status.stdout.decode())
    allowed = int(privileges.read_status("CapBnd"), 16)
    more = [value for value in found if int(value, 16) & ~allowed]
    return f"capabilities {more}" if more else None


def copy_of_cat(place: Path) -> str:
    return shutil.copy(shutil.which("cat") or "/bin/cat", str(place / "cat"))


# ----------------------------------------------------------------------- descriptors


@attempt(CONTAINED)
def write_below_an_inherited_directory(world: World, place: Path) -> None:
    write(f"{place.name}/new", world.directory)
    assert (place / "new").exists()


@attempt(CONTAINED)
def write_below_an_inherited_root(world: World, place: Path) -> None:
    write(str(place / "new")[1:], world.root)
    assert (place / "new").exists()


@attempt(CONTAINED)
def write_below_an_inherited_o_path_directory(world: World, place: Path) -> None:
    write(f"{place.name}/new", world.directory_path)
    assert (place / "new").exists()


@attempt(CONTAINED)
def write_from_an_inherited_directory_upwards(world: World, place: Path) -> None:
    up = "../" * len(place.parts)
    write(f"{up}{place}/new", world.directory)


@attempt(CONTAINED)
def change_to_an_inherited_directory(world: World, place: Path) -> None:
    os.fchdir(world.directory)
    write(f"{place.name}/new")


@attempt(CONTAINED)
def unlink_below_an_inherited_directory(world: World, place: Path) -> None:
    os.unlink(f"{place.name}/file", dir_fd=world.directory)


@attempt("ENOTDIR")
def write_below_an_inherited_directory_that_is_hidden(world: World, place: Path) -> None:
    write("new", world.hidden)


@attempt(CONTAINED)
def change_the_mode_of_an_inherited_file(world: World, place: Path) -> None:
    os.fchmod(world.files[place.name], 0o777)


@attempt(CONTAINED)
def reopen_an_inherited_file_for_writing(world: World, place: Path) -> None:
    write(f"/proc/self/fd/{world.files[place.name]}")


@attempt("ECONNREFUSED")
def connect_through_an_inherited_o_path_socket(world: World, place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"/proc/self/fd/{world.socket_path}")


@attempt("EINVAL")
def signal_through_an_inherited_pidfd(world: World, place: Path) -> None:
    signal.pidfd_send_signal(world.pidfd, 0)


@attempt("EPERM")
def take_a_descriptor_of_the_controller(world: World, place: Path) -> object:
    return os.readlink(f"/proc/self/fd/{call('pidfd_getfd', world.pidfd, world.root, 0)}")


@attempt("EPERM")
def join_the_namespaces_of_the_controller(world: World, place: Path) -> None:
    setns(world.pidfd, CLONE_NEWNS)


@attempt("EACCES EPERM ENOTTY EINVAL")
def open_a_namespace_of_the_controller(world: World, place: Path) -> object:
    return os.readlink(f"/proc/self/fd/{fcntl.ioctl(world.pidfd, PIDFD_GET_MNT_NAMESPACE, 0)}")


@attempt("EPERM")
def open_the_parent_of_the_own_pid_namespace(world: World, place: Path) -> object:
    own = os.open("/proc/self/ns/pid", os.O_RDONLY)
    return os.readlink(f"/proc/self/fd/{fcntl.ioctl(own, NS_GET_PARENT)}")


@attempt("ENOENT ENOTTY EPERM EINVAL")
def open_the_next_mount_namespace(world: World, place: Path) -> object:
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    return os.readlink(f"/proc/self/fd/{fcntl.ioctl(own, NS_MNT_GET_PREV, bytearray(64))}")


@attempt("EPERM")
def join_an_inherited_namespace(world: World, place: Path) -> object:
    return joined_one_of(world)


def joined_one_of(world: World) -> str | None:
    first = None
    for fd in world.namespaces:
        try:
            setns(fd)
        except OSError as error:
            first = first or (error if error.errno != errno.EINVAL else None)
        else:
            return os.readlink(f"/proc/self/fd/{fd}")
    if first is not None:
        raise first
    return None


@attempt(CONTAINED)
def find_a_descriptor_of_the_controllers(world: World, place: Path) -> object:
    found = []
    for name in set(os.listdir("/proc/self/fd")) - set(world.descriptors):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            if not re.match(
                "pipe:|/dev/|/memfd:nsbox-stacks|/tmp/#",
                link := os.readlink(f"/proc/self/fd/{name}"),
            ):
                found.append(link)
    return found or None


# ----------------------------------------------------------------------- /proc


@attempt("EACCES")
def write_through_the_root_of_init(world: World, place: Path) -> None:
    write(f"/proc/1/root{place}/new")


@attempt("EACCES")
def write_through_the_working_directory_of_init(world: World, place: Path) -> None:
    write(f"/proc/1/cwd{place}/new")


@attempt("EACCES")
def open_a_descriptor_of_init(world: World, place: Path) -> object:
    return write_only("/proc/1/fd/2")


@attempt("EACCES")
def open_the_program_of_init(world: World, place: Path) -> object:
    return write_only("/proc/1/exe")


@attempt("EACCES")
def open_the_memory_of_init(world: World, place: Path) -> object:
    return write_only("/proc/1/mem")


@attempt("EACCES")
def open_the_namespaces_of_init(world: World, place: Path) -> None:
    setns(os.open("/proc/1/ns/mnt", os.O_RDONLY))


@attempt("ETXTBSY", "ETXTBSY EACCES")
def open_the_own_program(world: World, place: Path) -> object:
    return write_only("/proc/self/exe")


@attempt("EPERM")
def open_a_mapped_library(world: World, place: Path) -> object:
    for name in sorted(os.listdir("/proc/self/map_files")):
        return write_only(f"/proc/self/map_files/{name}")
    return None


@attempt(CONTAINED)
def write_through_the_own_root(world: World, place: Path) -> None:
    write(f"/proc/2/root/proc/self/task/2/root{place}/new")


@attempt(CONTAINED)
def write_above_the_root(world: World, place: Path) -> None:
    write("/" + "../" * 50 + f"{place}/new")


@attempt("EROFS", "EROFS EACCES")
def open_a_sysctl(world: World, place: Path) -> object:
    return write_only("/proc/sys/kernel/core_pattern")


@attempt("EROFS ENOENT", "EROFS EACCES ENOENT")
def open_sysrq_trigger(world: World, place: Path) -> object:
    return write_only("/proc/sysrq-trigger")


@attempt(CONTAINED)
def open_any_file_of_proc_beside_the_processes(world: World, place: Path) -> object:
    found = []
    for directory, directories, names in os.walk("/proc"):
        if directory == "/proc":
            # A trigger of pressure stall information is the descriptor's that it was written to.
            directories[:] = [d for d in directories if not d.isdigit() and d != "pressure"]
        for path in (f"{directory}/{name}" for name in names):
            with contextlib.suppress(OSError):
                # What nobody may write to, root opens in vain; ns_last_pid is the PID namespace's own.
                if os.stat(path).st_mode & 0o222 and not path.endswith("/ns_last_pid"):
                    found.append(write_only(path))
    return found or None


@attempt("EROFS", "EROFS EACCES")
def open_a_file_of_sysfs(world: World, place: Path) -> object:
    return write_only(
        "/sys/kernel/uevent_helper"
        if os.path.exists("/sys/kernel/uevent_helper")
        else "/sys/kernel/profiling"
    )


@attempt("EROFS ENOENT", "EROFS EACCES ENOENT")
def open_a_file_of_a_cgroup(world: World, place: Path) -> object:
    for directory, _, names in os.walk("/sys/fs/cgroup"):
        if "cgroup.procs" in names:
            return write_only(f"{directory}/cgroup.procs")
    raise FileNotFoundError(errno.ENOENT, "no cgroup filesystem is mounted")


# ----------------------------------------------------------------------- mounts


@attempt(CONTAINED, "EPERM")
def break_out_of_a_chroot(world: World, place: Path) -> None:
    # The classic: a root that lies below where one is does not stop "..".
    os.chdir("/")
    os.mkdir("/tmp/jail")
    os.chroot("/tmp/jail")
    for _ in range(50):
        os.chdir("..")
    os.chroot(".")
    assert "jail" in os.listdir("/tmp")
    write(place / "new")


@attempt("EPERM")
def unmount_the_root(world: World, place: Path) -> None:
    umount("/")


@attempt("EPERM")
def unmount_the_private_tmp(world: World, place: Path) -> None:
    umount("/tmp")


@attempt("EPERM")
def remount_sysfs_writable(world: World, place: Path) -> None:
    mount(None, "/sys", None, MS_BIND | 0x20)


@attempt("EPERM")
def bind_a_directory(world: World, place: Path) -> None:
    mount("/", str(place), None, MS_BIND)


@attempt("EPERM")
def mount_an_overlay(world: World, place: Path) -> None:
    mount("overlay", "/mnt", "overlay", 0, "lowerdir=/etc:/usr")


@attempt("EPERM")
def mount_proc(world: World, place: Path) -> None:
    mount("proc", str(place), "proc")


@attempt("EPERM")
def mount_devpts(world: World, place: Path) -> None:
    mount("devpts", str(place), "devpts")


@attempt("EPERM")
def open_a_filesystem(world: World, place: Path) -> None:
    call("fsopen", b"tmpfs", 0)


@attempt("EPERM")
def clone_the_mount_of_an_inherited_directory(world: World, place: Path) -> None:
    open_tree("", OPEN_TREE_CLONE | 0x1000, world.directory)


@attempt("EPERM")
def pivot_to_another_root(world: World, place: Path) -> None:
    pivot_root(".", ".")


@attempt("EPERM")
def make_a_mount_namespace(world: World, place: Path) -> None:
    unshare(CLONE_NEWNS)


@attempt("EPERM")
def open_by_a_handle(world: World, place: Path) -> None:
    # The root directory of nearly every filesystem is inode 2: what broke out of Docker in 2014.
    handle = struct.pack("IiQ", 8, 1, 2)
    with open("/etc/passwd") as file:
        call("open_by_handle_at", file.fileno(), handle, 0)


@attempt(CONTAINED)
def find_a_layer_of_a_sandbox(world: World, place: Path) -> object:
    text = Path("/proc/self/mountinfo").read_text()
    named = re.findall(r"(?:lower|upper|work)dir=([^,\s]+)", text)
    assert named
    paths = {path for value in named for path in value.split(":")} - {"/"}
    paths |= {"/.nsbox-host", "/.nsbox-boxes", "/.nsbox-templates"}
    return [path for path in paths if os.path.lexists(path)] or None


# ----------------------------------------------------------------------- devices


@attempt("EACCES", "ENOENT")
def open_the_disk(world: World, place: Path) -> None:
    name = Path(f"/sys/dev/block/{os.major(world.disk)}:{os.minor(world.disk)}").resolve().name
    os.open(f"/dev/{name}", os.O_RDONLY)


@attempt("ENOENT")
def open_the_memory(world: World, place: Path) -> None:
    os.open("/dev/mem", os.O_RDONLY)


@attempt("ENOENT")
def open_the_kernels_log(world: World, place: Path) -> None:
    os.open("/dev/kmsg", os.O_RDONLY)


@attempt("EACCES", "EPERM")
def make_a_node_of_the_disk(world: World, place: Path) -> None:
    error: OSError | None = None
    for directory in ("/tmp", "/dev/shm", "/var/tmp", "/", place):
        path = f"{directory}/disk"
        try:
            os.mknod(path, stat.S_IFBLK | 0o600, world.disk)
            os.close(os.open(path, os.O_RDONLY))
        except OSError as caught:
            error = caught
            if caught.errno not in (errno.EACCES, errno.EPERM):
                raise
        else:
            raise AssertionError(path)
    assert error is not None
    raise error


@attempt("EROFS")
def make_a_node_in_dev(world: World, place: Path) -> None:
    os.mknod("/dev/disk", stat.S_IFBLK | 0o600, world.disk)


@attempt("EPERM", "EPERM EACCES")
def make_a_node_in_devpts(world: World, place: Path) -> None:
    os.mknod("/dev/pts/disk", stat.S_IFBLK | 0o600, world.disk)


@attempt("EIO")
def type_on_the_terminal(world: World, place: Path) -> None:
    fcntl.ioctl(os.open("/dev/tty", os.O_RDWR), termios.TIOCSTI, b"#")


@attempt("EIO")
def type_on_the_inherited_terminal(world: World, place: Path) -> None:
    terminal = next(fd for fd in range(50) if _is_terminal(fd))
    fcntl.ioctl(terminal, termios.TIOCSTI, b"#")


def _is_terminal(fd: int) -> bool:
    return os.isatty(fd)


# ----------------------------------------------------------------------- processes


@attempt("EPERM")
def trace_init(world: World, place: Path) -> None:
    call("ptrace", 0x4206, 1, 0, 0)  # PTRACE_SEIZE: does not stop it


@attempt("EPERM")
def write_to_the_memory_of_init(world: World, place: Path) -> None:
    buffer = ctypes.create_string_buffer(8)
    vector = struct.pack("PN", ctypes.addressof(buffer), 8)  # of init's: it is a fork of a stranger
    call("process_vm_writev", 1, vector, 1, vector, 1, 0)


@attempt("EPERM")
def take_a_descriptor_of_init(world: World, place: Path) -> None:
    call("pidfd_getfd", os.pidfd_open(1), 2, 0)


@attempt(CONTAINED)
def kill_init(world: World, place: Path) -> None:
    os.kill(1, signal.SIGKILL)
    time.sleep(0.05)
    os.kill(1, 0)


@attempt(CONTAINED)
def kill_the_controller(world: World, place: Path) -> None:
    os.kill(world.controller, signal.SIGKILL)  # what stands in for it takes no harm either
    os.kill(world.controller, 0)


@attempt("ESRCH")
def signal_a_thread_of_the_controller(world: World, place: Path) -> None:
    call("tgkill", world.controller, world.controller, 0)


@attempt(CONTAINED)
def signal_the_process_group(world: World, place: Path) -> None:
    # Who is not us and hears of it, dies of it.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.kill(0, signal.SIGUSR1)
    os.killpg(os.getpgrp(), signal.SIGUSR1)


@attempt(CONTAINED)
def signal_everybody(world: World, place: Path) -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGUSR1)


@attempt("ENOENT")
def open_a_posix_queue_of_the_hosts(world: World, place: Path) -> None:
    call("mq_open", world.queue, os.O_RDWR, 0, 0)


@attempt("ENOENT")
def find_shared_memory_of_the_hosts(world: World, place: Path) -> None:
    call("shmget", world.key, 0, 0)


@attempt("ENOENT")
def find_a_message_queue_of_the_hosts(world: World, place: Path) -> None:
    call("msgget", world.key, 0)


@attempt("ECONNREFUSED", network="none")
def connect_to_an_abstract_socket_without_a_network(world: World, place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + world.abstract)


# ----------------------------------------------------------------------- privileges


@attempt("EPERM")
def raise_a_capability(world: World, place: Path) -> None:
    full = (1 << 40) - 1
    capset(full, full, 0)


@attempt("EPERM")
def raise_an_ambient_capability(world: World, place: Path) -> None:
    if _libc.prctl(47, 2, privileges.CAP_SYS_ADMIN, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


@attempt(CONTAINED, "EPERM")
def execute_with_other_securebits(world: World, place: Path) -> object:
    prctl(28, 0)
    return capabilities_of("/bin/cat")


@attempt(CONTAINED)
def execute_a_setuid_program(world: World, place: Path) -> object:
    program = copy_of_cat(place)
    os.chmod(program, 0o6755)
    return capabilities_of(program)


@attempt("EPERM")
def execute_a_program_with_file_capabilities(world: World, place: Path) -> object:
    program = copy_of_cat(place)
    # VFS_CAP_REVISION_2, effective; permitted: CAP_SYS_ADMIN
    value = struct.pack("<IIIII", 0x02000001, 1 << privileges.CAP_SYS_ADMIN, 0, 0, 0)
    os.setxattr(program, "security.capability", value)
    return capabilities_of(program)


@attempt("EPERM ENOSYS")
def load_a_module(world: World, place: Path) -> None:
    call("init_module", None, 0, b"")


@attempt("EPERM ENOSYS")
def load_another_kernel(world: World, place: Path) -> None:
    call("kexec_load", 0, 0, None, 0xFFFF)  # flags that no kernel has: harmless with the capability


@attempt("EPERM")
def reboot_the_machine(world: World, place: Path) -> None:
    call("reboot", 0, 0, 0, None)  # without the magic numbers: harmless with the capability


@attempt("EPERM")
def swap_to_a_file(world: World, place: Path) -> None:
    call("swapon", str(place / "nothing").encode(), 0)


@attempt("EPERM")
def account_to_a_file(world: World, place: Path) -> None:
    call("acct", str(place / "nothing").encode())


@attempt("EPERM")
def list_the_bpf_programs(world: World, place: Path) -> None:
    call("bpf", 11, bytes(64), 64)  # BPF_PROG_GET_NEXT_ID


@attempt("EPERM")
def set_the_clock(world: World, place: Path) -> None:
    time.clock_settime(time.CLOCK_REALTIME, time.time())


@attempt("EPERM")
def rename_the_machine(world: World, place: Path) -> None:
    sethostname("escaped")


@attempt("EACCES")
def raise_the_own_priority(world: World, place: Path) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, -5)


# ----------------------------------------------------------------------- nested user namespaces


@attempt("EINVAL")
def uncover_the_proc_of_the_host_in_a_user_namespace(world: World, place: Path) -> None:
    nested(lambda: umount("/proc/sys" if os.path.ismount("/proc/sys") else "/proc"))


@attempt("EINVAL")
def uncover_tmp_in_a_user_namespace(world: World, place: Path) -> None:
    nested(lambda: umount("/tmp"))


@attempt("EPERM")
def remount_sysfs_in_a_user_namespace(world: World, place: Path) -> None:
    nested(lambda: mount(None, "/sys", None, MS_BIND | 0x20))


@attempt("EINVAL")
def bind_the_root_without_its_submounts_in_a_user_namespace(world: World, place: Path) -> None:
    nested(lambda: mount("/", "/mnt", None, MS_BIND))


@attempt("EPERM", "EPERM contained")
def mount_proc_in_a_user_namespace(world: World, place: Path) -> None:
    nested(lambda: mount_and_open_sysctl(), CLONE_NEWPID)


def mount_and_open_sysctl() -> None:
    mount("proc", "/mnt", "proc")
    try:
        write_only("/mnt/sys/kernel/core_pattern")
    except OSError:
        return
    raise OSError(errno.EXFULL, "a sysctl could be written")


@attempt("EPERM")
def join_an_inherited_namespace_from_a_user_namespace(world: World, place: Path) -> None:
    nested(lambda: joined_one_of(world) and os._exit(errno.EXFULL))


@attempt("EINVAL EPERM")
def clone_an_inherited_mount_in_a_user_namespace(world: World, place: Path) -> None:
    def clone() -> None:
        tree = open_tree("", OPEN_TREE_CLONE | 0x1000, world.hidden)
        move_mount(tree, "/mnt")

    nested(clone)


@attempt("EPERM")
def open_by_a_handle_in_a_user_namespace(world: World, place: Path) -> None:
    handle = struct.pack("IiQ", 8, 1, 2)

    def reach() -> None:
        with open("/etc/passwd") as file:
            call("open_by_handle_at", file.fileno(), handle, 0)

    nested(reach)


@attempt("EPERM")
def make_a_node_in_a_user_namespace(world: World, place: Path) -> None:
    nested(lambda: os.mknod(place / "disk", stat.S_IFBLK | 0o600, world.disk))


@attempt("EACCES EPERM")
def open_the_root_of_init_in_a_user_namespace(world: World, place: Path) -> None:
    nested(lambda: write(f"/proc/1/root{place}/new"))


@attempt(CONTAINED)
def write_in_a_user_namespace(world: World, place: Path) -> None:
    def rebind() -> None:
        mount("/", "/mnt", None, MS_BIND | MS_REC)
        write(f"/mnt{place}/new")

    nested(rebind)


@attempt("EPERM")
def mount_sysfs_in_a_user_namespace(world: World, place: Path) -> None:
    nested(lambda: mount("sysfs", "/mnt", "sysfs"), CLONE_NEWNET)


# ----------------------------------------------------------------------- what gets through


@attempt(REACHED)
def write_to_a_file_inherited_for_writing(world: World, place: Path) -> object:
    os.write(world.log, b"a line\n")
    return "the host's file"


@attempt(f"{REACHED} EPERM EROFS")
def change_the_mode_of_the_own_program(world: World, place: Path) -> object:
    # Into what it is: that changes no more than st_ctime.
    before = os.stat("/proc/self/exe")
    time.sleep(0.02)
    os.chmod("/proc/self/exe", stat.S_IMODE(before.st_mode))
    after = os.stat("/proc/self/exe")
    return "the host's file" if after.st_ctime_ns != before.st_ctime_ns else None


@attempt(REACHED)
def connect_to_an_abstract_socket(world: World, place: Path) -> object:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + world.abstract)
    return "a socket of the host's"


@attempt(f"{REACHED} EPERM ENOSYS")
def add_a_key_to_the_keyring_of_the_session(world: World, place: Path) -> object:
    call("add_key", b"user", b"nsbox-escape", b"x", 1, -3)  # KEY_SPEC_SESSION_KEYRING
    return "the controller's keyring"


@attempt(f"{REACHED} EPERM ENODEV", "ENOSPC")
def mount_the_cgroups_in_a_user_namespace(world: World, place: Path) -> object:
    def reach() -> None:
        mount("cgroup2", "/mnt", "cgroup2")
        write_only("/mnt/cgroup.procs")

    nested(reach, CLONE_NEWCGROUP)
    return "the cgroup of the controller"
