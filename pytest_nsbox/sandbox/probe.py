"""Whether this machine can make a sandbox: step by step, for real; and why not, and what to do.

Behind both ``nsbox doctor`` and the error that a run gives.  Nothing is predicted from versions or
uids: a step is what a process that was forked for it could do.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pytest_nsbox.kernel.syscalls import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    MNT_DETACH,
    MS_PRIVATE,
    MS_REC,
    in_words,
    mount,
    pivot_root,
    umount,
    unshare,
)
from pytest_nsbox.sandbox import privileges

_PLACE = "/tmp"  # covered by a tmpfs in the probing process's own mount namespace


class Outcome(NamedTuple):
    """What came of one step."""

    name: str
    ok: bool
    detail: str  # the system call that was refused, in words; "" if none was
    cause: str
    remedy: str


class Advice(NamedTuple):
    """The likely cause of a refusal, and the way out."""

    cause: str
    remedy: str


def explain(error: Exception) -> str:
    """A refusal with its likely cause and the remedy, as a report shows it."""
    text = str(error)
    advice = advise(text, getattr(error, "errno", 0) or 0)
    if advice is None:
        return f"{text}\n`nsbox doctor` tries every step that a sandbox needs."
    return f"{text}\nLikely cause: {advice.cause}\nRemedy: {advice.remedy}"


def advise(refusal: str, number: int) -> Advice | None:
    """What probably lies behind a refused system call; None if we cannot tell.

    ``refusal`` is a SyscallError in words, ``number`` its errno.
    """
    if "unshare(" in refusal or "clone(" in refusal:
        return _about_namespaces(number)
    if "_map" in refusal or "setgroups" in refusal:
        return _about_id_maps()
    if "mount(proc" in refusal:
        return Advice(
            "parts of this /proc are covered, as container engines do; the kernel then gives a "
            "user namespace no new one",
            "start the container with `--security-opt systempaths=unconfined` (Docker), "
            "`--security-opt unmask=ALL` (podman) or `procMount: Unmasked` (Kubernetes)",
        )
    if "mount(overlay" in refusal:
        return _about_overlay(number)
    if "mount(" in refusal and number in (errno.EPERM, errno.EACCES):
        return _about_security_module() or Advice(
            "a security module or a seccomp filter forbids mount(2)",
            "run as root with CAP_SYS_ADMIN, or relax that policy for this process",
        )
    if "RTM_NEWLINK" in refusal:
        return Advice(
            "setting an interface up takes CAP_NET_ADMIN, which this container has not",
            "start the container with `--cap-add NET_ADMIN`, or use network='none'",
        )
    return None


def _about_namespaces(number: int) -> Advice | None:
    if number == errno.ENOSPC or _sysctl("user/max_user_namespaces") == "0":
        return Advice(
            "user.max_user_namespaces (or another user.max_*_namespaces) is 0 or used up, or "
            "namespaces are nested 32 deep",
            "`sysctl -w user.max_user_namespaces=15000` as root",
        )
    if _sysctl("kernel/unprivileged_userns_clone") == "0":
        return Advice(
            "kernel.unprivileged_userns_clone is 0 (Debian's switch)",
            "`sysctl -w kernel.unprivileged_userns_clone=1` as root, or run pytest as root",
        )
    if found := _about_security_module():
        return found
    if privileges.read_status("Seccomp") == "2":
        return Advice(
            "a seccomp filter forbids new namespaces: the default profile of Docker, containerd "
            "and Kubernetes does",
            "start the container with `--security-opt seccomp=unconfined` and, to run as root in "
            "it, `--cap-add SYS_ADMIN`; in Kubernetes `seccompProfile: Unconfined`",
        )
    if _in_chroot():
        return Advice(
            "this process lives in a chroot, where the kernel makes no user namespaces",
            "enter it with pivot_root (`systemd-nspawn`, `bwrap`) in place of chroot, or be root",
        )
    if number == errno.EINVAL:
        return Advice(
            "this kernel was built without user namespaces (CONFIG_USER_NS)", "run pytest as root"
        )
    return None


def _about_id_maps() -> Advice:
    if found := _about_security_module():
        return found
    if os.geteuid() == 0 and not privileges.effective() >> privileges.CAP_SETFCAP & 1:
        return Advice(
            "uid 0 without CAP_SETFCAP may not map itself into a user namespace "
            "(Linux 5.12 and later, user_namespaces(7))",
            "run pytest as an ordinary user, or let root keep CAP_SETFCAP "
            "(`setpriv --bounding-set=-all,+setfcap`, `docker run --cap-add SETFCAP`)",
        )
    return Advice(
        "the ids of a user namespace may not be mapped here: /proc may be mounted with hidepid, or "
        "a policy forbids it",
        "run pytest as root with CAP_SYS_ADMIN, or mount /proc without hidepid",
    )


def _about_overlay(number: int) -> Advice:
    if number == errno.EPERM:
        return Advice(
            "this kernel lets only root mount overlayfs (before Linux 5.11, and hardened ones)",
            "run pytest as root",
        )
    if number == errno.ENODEV:
        return Advice("the overlay module is not loaded", "`modprobe overlay` as root")
    return Advice(
        "overlayfs does not take this filesystem as a lower layer, or it already is two overlays "
        "deep; `dmesg` says which",
        "run pytest on another filesystem (in a container: on a volume)",
    )


def _about_security_module() -> Advice | None:
    if _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1" and os.geteuid() != 0:
        return Advice(
            "AppArmor takes every capability from unprivileged user namespaces "
            "(the default since Ubuntu 24.04, GitHub's runners among them)",
            "`sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or run pytest with "
            "sudo, or give the interpreter an AppArmor profile with `userns,`",
        )
    return None


def _sysctl(name: str) -> str:
    try:
        with open(f"/proc/sys/{name}", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _in_chroot() -> bool:
    """Whether our root is not the root of our mount namespace; False where we may not look."""
    try:
        outside = os.stat("/proc/1/root/.")
        inside = os.stat("/")
    except OSError:
        return False
    return (outside.st_dev, outside.st_ino) != (inside.st_dev, inside.st_ino)


# ------------------------------------------------------------------------ steps


def steps() -> Iterator[Outcome]:
    """Try every step that a sandbox needs, in order, up to the first that is refused."""
    if sys.platform != "linux":
        cause = f"this is {sys.platform}"
        yield Outcome("Linux", False, cause, cause, "run the suite on Linux; elsewhere skip")
        return
    for attempt in (_try_mounting, _try_network, _try_whole):
        for outcome in attempt():
            yield outcome
            if not outcome.ok:
                return


def _try_mounting() -> Iterator[Outcome]:
    def work(passed: Callable[[str], None]) -> None:
        from pytest_nsbox.sandbox.supervisor import enter_user_namespace

        if not privileges.is_privileged():
            enter_user_namespace()
            passed("user namespace, own uid and gid mapped")
        unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS)
        passed("mount, PID, IPC and UTS namespaces")
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        mount("tmpfs", _PLACE, "tmpfs", 0, "mode=755")
        passed("tmpfs")
        for name in ("upper", "work", "root", "proc"):
            os.mkdir(f"{_PLACE}/{name}")
        options = f"lowerdir=/usr,upperdir={_PLACE}/upper,workdir={_PLACE}/work,index=off"
        options += "" if privileges_were_ours else ",userxattr"
        mount("overlay", f"{_PLACE}/root", "overlay", 0, options)
        passed("overlay of /usr")
        _replace_directory(f"{_PLACE}/root")
        passed("replacing a directory in the overlay")
        _mount_proc_as_pid_1(f"{_PLACE}/proc")
        passed("/proc of a new PID namespace")
        os.chdir(_PLACE)
        pivot_root(".", ".")
        umount(".", MNT_DETACH)
        passed("pivot_root")

    privileges_were_ours = privileges.is_privileged()
    yield from _attempt(work)


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
    os.rmdir(name)
    os.mkdir(name)


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
        from pytest_nsbox.kernel.syscalls import SyscallError

        raise SyscallError(code, "mount", f"proc, {place}")


def _try_network() -> Iterator[Outcome]:
    def work(passed: Callable[[str], None]) -> None:
        from pytest_nsbox.sandbox import network

        if not privileges.is_privileged():
            unshare(CLONE_NEWUSER | CLONE_NEWNET)
        else:
            unshare(CLONE_NEWNET)
        network.bring_up_loopback()
        passed("network namespace with lo up")

    yield from _attempt(work)


def _try_whole() -> Iterator[Outcome]:
    from pytest_nsbox.sandbox.client import Client, Kind, SandboxError

    name = "a whole sandbox, joined by a process"
    client = Client()
    try:
        sandbox = client.acquire(Kind())
        pid = sandbox.fork()
        if pid == 0:
            code = 1
            try:
                sandbox.enter("/")
                code = 0 if os.getpid() == 2 and stat.S_ISDIR(os.stat("/proc/2").st_mode) else 2
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        sandbox.close()
        if code:
            raise SandboxError(f"a process that joined it ended with {code}")
    except (SandboxError, OSError) as error:
        yield _failed(name, str(error), getattr(error, "errno", 0) or 0)
    else:
        yield Outcome(name, True, "; ".join(client.notes), "", "")
    finally:
        client.stop()


def _attempt(work: Callable[[Callable[[str], None]], None]) -> Iterator[Outcome]:
    """Run ``work`` in a forked process; what it passed, and what it was refused."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)

        def say(*values: object) -> None:
            os.write(writing, json.dumps(values).encode() + b"\n")

        try:
            work(lambda name: say(name, "", 0))
        except OSError as error:
            refusal = str(error) if hasattr(error, "syscall") else _describe(error)
            say("", refusal, error.errno or 0)
        except BaseException as error:
            say("", f"{type(error).__name__}: {error}", 0)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as file:
        lines = [json.loads(line) for line in file]
    os.waitpid(pid, 0)
    for name, refusal, number in lines:
        yield _failed("refused", refusal, number) if refusal else Outcome(name, True, "", "", "")


def _describe(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return where + (in_words(error.errno) if error.errno else str(error))


def _failed(name: str, refusal: str, number: int) -> Outcome:
    advice = advise(refusal, number) or Advice("not one that we know", "please report it")
    return Outcome(name, False, refusal, *advice)
