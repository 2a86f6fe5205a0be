"""The supervisor: builds sandboxes ahead of need, closes them, answers questions about them.

One lean process per controller, executed anew (so that it shares no memory and no lock with pytest)
and single-threaded.  It lives in a mount namespace of its own, the *staging area*: a tmpfs as root,
the host's mounts below ``steps.HOST``, and symlinks beside it, so that every path of the host's
still works in here.  Rootless, it also lives in a user namespace, which every sandbox shares.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections import deque
from typing import NamedTuple

from pytest_nsbox.kernel import mountinfo
from pytest_nsbox.kernel.syscalls import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    MNT_DETACH,
    MS_BIND,
    MS_MOVE,
    MS_NODEV,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    SyscallError,
    drop_bounding,
    fork,
    in_words,
    mount,
    pivot_root,
    set_name,
    umount,
    unshare,
)
from pytest_nsbox.sandbox import carry, changes, channel, degrade, init, privileges, rootfs, steps

_BUILD_SECONDS = 30  # a mount that hangs for so long will hang for ever
_PROBE_SECONDS = 1.0  # for all suspicious mounts together
_MAX_KINDS = 4  # of sandboxes to keep in stock
# That are made with a sandbox, in the order in which one joins them; its user namespace is ours.
_NAMESPACES = {
    "mnt": CLONE_NEWNS,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "pid": CLONE_NEWPID,
    "net": CLONE_NEWNET,
}


class Ready(NamedTuple):
    """A sandbox that nobody has joined, or one in use."""

    number: int
    plan: rootfs.Plan
    init: int  # pid
    leash: socket.socket  # init ends when this closes
    box: steps.Box
    message: channel.Message
    fds: list[int]


class Supervisor:
    """The requests of one client, and the sandboxes made for them."""

    def __init__(self, requests: socket.socket, controller: int, setup: channel.Message) -> None:
        self.requests = requests
        self.controller = controller  # pidfd
        self.rootless: bool = setup["rootless"]
        self.keep_capabilities: int = setup["keep_capabilities"]
        self.planner = stage(rootless=self.rootless)
        # Parts that a sandbox has not got, since the machine refuses them and the user lets it.
        self.lacks = degrade.refused(setup["degrade"], steps.TEMPLATES)
        self.planner.own_proc = "proc" not in self.lacks
        # Of us, who execute nothing, for every init to inherit.
        drop_bounding(privileges.all_but(self.keep_capabilities))
        self.plans: dict[str, rootfs.Plan] = {}  # by kind, without what changes from test to test
        self.stock: dict[str, deque[Ready]] = {}
        self.in_use: dict[int, Ready] = {}
        self.ahead = 0
        self.latest = ""
        self.number = 0
        self.zombies: set[int] = set()
        self.failures: list[str] = []  # to copy out, not yet told

    def serve(self) -> None:
        """Answer requests until the client has gone."""
        poll = select.poll()
        poll.register(self.requests, select.POLLIN)
        poll.register(self.controller, select.POLLIN)
        while True:
            self.reap()
            idle = not self.refill()
            timeout = (100 if self.zombies else None) if idle else 0
            ready = dict(poll.poll(timeout))
            if self.controller in ready:
                return
            if self.requests.fileno() in ready:
                try:
                    message, fds = channel.receive(self.requests)
                except EOFError:
                    return
                for fd in fds:
                    os.close(fd)
                answer = {
                    "acquire": self.acquire,
                    "changes": self.changes,
                    "close": self.close,
                    "settle": self.settle,
                }
                answer[message["request"]](message)

    # ------------------------------------------------------------------ requests

    def acquire(self, message: channel.Message) -> None:
        """Hand a sandbox out: from stock, or made now."""
        kind = message["kind"] or self.latest
        self.ahead, self.latest = message["ahead"], kind
        stock = self.stock.pop(kind, deque())
        self.stock[kind] = stock  # the most recently used kind last
        while len(self.stock) > _MAX_KINDS:
            for ready in self.stock.pop(next(iter(self.stock))):
                self.end(ready)
        try:
            ready = stock.popleft() if stock else self.build(kind)
        except (OSError, EOFError) as error:
            channel.send(self.requests, {"error": str(error), "errno": getattr(error, "errno", 0)})
            return
        self.in_use[ready.number] = ready
        channel.send(self.requests, ready.message, ready.fds)
        for fd in ready.fds:
            os.close(fd)
        ready.fds.clear()

    def changes(self, message: channel.Message) -> None:
        """What a sandbox holds that the host does not."""
        ready = self.in_use[message["sandbox"]]
        found: list[changes.Change] = []
        left_out = [*message["except"], *(s.target for s in ready.plan.steps if is_opening(s))]
        for step in ready.plan.overlays():
            upper = ready.box.upper(step.layer)
            for change in changes.changes(upper, step.lower[0], step.target):
                if not rootfs.within(change.path, left_out):
                    found.append(change)
        channel.send(self.requests, {"changes": sorted(set(found))})

    def close(self, message: channel.Message) -> None:
        """End a sandbox, after carrying out of it what was asked for."""
        ready = self.in_use.pop(message["sandbox"])
        # Nothing may change any more what we are about to copy.
        kill(ready.init)
        for pattern, whole in message["carry"]:
            copy = carry.carry_path if whole else carry.carry_new
            for place, path in rootfs.written(ready.plan, ready.box, pattern):
                failed = copy(place, steps.HOST + path)
                self.failures += [f"{f.path}: {f.error}" for f in failed]
        self.take_away(ready)
        if message["answer"]:
            self.settle(message)

    def settle(self, message: channel.Message) -> None:
        """Say that everything asked before is done, and what could not be copied meanwhile."""
        channel.send(self.requests, {"failures": self.failures})
        self.failures = []

    # ------------------------------------------------------------------ sandboxes

    def refill(self) -> bool:
        """Build one sandbox of the kind last asked for, if there is not enough of it in stock."""
        stock = self.stock.get(self.latest)
        if stock is None or len(stock) >= self.ahead:
            return False
        try:
            stock.append(self.build(self.latest))
        except (OSError, EOFError):
            self.ahead = 0  # whoever asks for it next will hear of it
            return False
        return True

    def build(self, kind: str) -> Ready:
        """A new sandbox. Raises OSError, which names the system call that was refused."""
        wish = json.loads(kind)
        sockets = [path for path, _ in wish.pop("sockets")]
        belongings = [path for path, _, _ in wish.pop("belongings")]
        without = json.dumps(wish)
        hostname = wish.pop("hostname")
        network = wanted_network = wish.pop("network")
        request = rootfs.Request(**wish)
        basis = self.plans.get(without)
        if basis is None:
            basis = self.plans[without] = self.planner.plan(request)
        plan = self.planner.reach(basis, sockets, belongings) if sockets or belongings else basis
        if "network" in self.lacks:
            network = "host"
        if "uts" in self.lacks and hostname is not None:
            raise BuildError(errno.EPERM, f"hostname={hostname!r}: {self.lacks['uts']}")
        self.number += 1
        box = make_box(self.number, plan)
        own_network = network != "host"
        if network == "loopback":
            import_network()
        here, there = channel.pair()
        kinds = [kind for kind in _NAMESPACES if kind not in self.lacks and kind != "net"]
        kinds += ["net"] * own_network
        flags = sum(_NAMESPACES[kind] for kind in kinds)
        kinds += ["user"] * self.rootless
        pid = 0
        try:
            pid = fork(flags)
            if pid == 0:
                try:
                    if network == "loopback":
                        loopback(there)
                    init.run(
                        there,
                        plan,
                        box,
                        hostname,
                        self.keep_capabilities,
                        kinds,
                    )
                finally:
                    os._exit(1)
            there.close()
            here.settimeout(_BUILD_SECONDS)
            message, fds = channel.receive(here)
            if "error" in message:
                raise BuildError(message["errno"] or 0, message["error"])
        except BaseException as error:
            here.close()
            there.close()
            if pid:
                os.kill(pid, signal.SIGKILL)
                self.zombies.add(pid)
            remove_box(box)
            if isinstance(error, TimeoutError):
                text = f"a sandbox was not ready after {_BUILD_SECONDS} s: does a mount hang?"
                raise BuildError(error.errno or 110, text) from error
            if isinstance(error, EOFError):
                text = "the init of a sandbox has died while it made it"
                raise BuildError(errno.ECHILD, text) from error
            raise
        if message["left_out"] or message["notes"]:
            plan = mend(plan, message)
            self.plans[without] = mend(basis, message)
        lacks = [part for part in self.lacks if part != "network" or wanted_network != "host"]
        notes = [*plan.notes, *(degrade.note(part, self.lacks[part]) for part in lacks)]
        answer = {"sandbox": self.number, "kinds": kinds, "notes": notes, "lacks": lacks}
        return Ready(self.number, plan, pid, here, box, answer, fds)

    def end(self, ready: Ready) -> None:
        kill(ready.init)
        self.take_away(ready)

    def take_away(self, ready: Ready) -> None:
        """Let go of all that a sandbox had, once its init is killed."""
        ready.leash.close()
        for fd in ready.fds:
            os.close(fd)
        # Not waited for: an init is gone only when the client has reaped its test process.
        self.zombies.add(ready.init)
        remove_box(ready.box)

    def reap(self) -> None:
        """Forget the inits that have gone."""
        while self.zombies:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            self.zombies.discard(pid)


def kill(init_pid: int) -> None:
    """SIGKILL for an init, and with it for its sandbox; it may have died, and been reaped, before."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(init_pid, signal.SIGKILL)


class BuildError(OSError):
    """What init could not do, in its words."""

    def __str__(self) -> str:
        return str(self.args[1])


def mend(plan: rootfs.Plan, message: channel.Message) -> rootfs.Plan:
    """The plan without the steps that an init had to leave out, and with its notes."""
    left = tuple(s for i, s in enumerate(plan.steps) if i not in message["left_out"])
    notes = tuple(dict.fromkeys((*plan.notes, *message["notes"])))
    return plan._replace(steps=left, notes=notes)


def is_opening(step: steps.Step) -> bool:
    """Whether the step lets a path of the host's through, or hides it: no change of the test's."""
    return isinstance(step, (steps.Bind, steps.Hide, steps.Socket))


def make_box(number: int, plan: rootfs.Plan) -> steps.Box:
    """The directories of a sandbox: a tmpfs for its layers, and one for its /tmp."""
    box = steps.Box(f"{steps.BOXES}/{number}")
    os.mkdir(box.path)
    mount("tmpfs", box.path, "tmpfs", MS_NOSUID | MS_NODEV, f"mode=755,{steps.TMPFS_SIZE}")
    for name in ("upper", "work", "root", "tmp"):
        os.mkdir(f"{box.path}/{name}")
    mount("tmpfs", box.tmp, "tmpfs", MS_NOSUID | MS_NODEV, plan.tmp_options)
    return box


def remove_box(box: steps.Box) -> None:
    umount(box.path, MNT_DETACH)
    os.rmdir(box.path)


def import_network() -> None:
    """Here, so that every init that needs it finds it imported."""
    import pyroute2  # noqa: F401


def loopback(supervisor: socket.socket) -> None:
    from pytest_nsbox.sandbox import network

    try:
        network.bring_up_loopback()
    except OSError as error:
        text = f'network="loopback": cannot set lo up: {error}'
        channel.send(supervisor, {"error": text, "errno": error.errno})
        os._exit(1)


# ---------------------------------------------------------------------- staging


def stage(*, rootless: bool) -> rootfs.Planner:
    """Enter the staging area; a planner that knows the host's mounts as they were."""
    if rootless:
        enter_user_namespace()
    else:
        unshare(CLONE_NEWNS)
    # Mounts of ours must not appear on the host, nor the host's come and go in a sandbox.
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mounts = mountinfo.visible(mountinfo.read())
    unusable = probe_mounts(mounts)
    place = next(path for path in ("/tmp", "/run", "/mnt", "/var") if os.path.isdir(path))
    names = {name: link_or_directory(name) for name in os.listdir("/")}
    mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    os.mkdir(place + steps.HOST)
    os.chdir(place)
    try:
        pivot_root(".", "." + steps.HOST)
    except SyscallError:  # Docker's seccomp profile: see init.enter
        umount(place)
        mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
        os.mkdir(place + steps.HOST)
        mount("/", place + steps.HOST, None, MS_BIND | MS_REC)
        umount(place + steps.HOST + place)
        os.chdir(place)
        mount(".", "/", None, MS_MOVE)
        os.chroot(".")
    os.chdir("/")
    for name, target in names.items():
        os.symlink(target, f"/{name}")
    os.mkdir(steps.BOXES)
    rootfs.make_templates(rootless=rootless)
    return rootfs.Planner(mounts, rootless=rootless, unusable=unusable)


def link_or_directory(name: str) -> str:
    """What a symlink in the staging area's root has to say to stand for the host's ``/name``."""
    path = "/" + name
    if os.path.islink(path) and not os.readlink(path).startswith("/"):
        return os.readlink(path)
    return steps.HOST[1:] + path


def enter_user_namespace() -> None:
    """A user namespace in which the caller is who it was, and has every capability."""
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | CLONE_NEWNS)
    # user_namespaces(7): without CAP_SETGID outside, setgroups must be denied before gid_map.
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        path = f"/proc/self/{name}"
        try:
            fd = os.open(path, os.O_WRONLY)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except FileNotFoundError:
            if name != "setgroups":  # Linux < 3.19
                raise
        except OSError as error:
            raise SyscallError(error.errno or 0, "write", f"{path}, {text!r}") from error
    # One of its own is what a test would mount the cgroup filesystem with, and that one writable.
    # Where /proc is read-only, as in a container, so are the cgroups.
    with contextlib.suppress(OSError), open("/proc/sys/user/max_cgroup_namespaces", "w") as file:
        file.write("0")


def probe_mounts(mounts: list[mountinfo.Mount]) -> dict[str, str]:
    """The mounts that must be left alone, and why: a dead server hangs whoever asks.

    Each suspicious one is asked by a process of its own, all at once, for a second.
    """
    unusable: dict[str, str] = {}
    asked: dict[int, str] = {}
    for mounted in mounts:
        if mounted.fstype == "autofs":
            unusable[mounted.point] = "autofs mounts on demand, which a look would trigger"
        elif mounted.fstype in rootfs.REMOTE or mounted.fstype.startswith("fuse"):
            pid = os.fork()
            if pid == 0:
                status = 0
                try:
                    os.stat(mounted.point)
                    os.statvfs(mounted.point)
                except OSError as error:
                    status = error.errno or 255
                finally:
                    os._exit(status)
            asked[pid] = mounted.point
    deadline = time.monotonic() + _PROBE_SECONDS
    while asked:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            if code:
                unusable[asked[pid]] = f"stat: {in_words(code)}"
            del asked[pid]
        elif time.monotonic() > deadline:
            break
        else:
            time.sleep(0.005)
    for pid, point in asked.items():
        unusable[point] = f"it did not answer stat within {_PROBE_SECONDS:g} s"
        os.kill(pid, signal.SIGKILL)
    return unusable


def main() -> None:
    """Serve the client at the other end of the socket that is our standard input."""
    requests = socket.socket(fileno=os.dup(0))
    if pid := os.fork():
        # A suite may kill the children of its process (psutil's does), and we must not be one.
        channel.send(requests, {"started": pid})
        os._exit(0)
    set_name("nsbox")
    # A message to us must not take the processor from who sends it: sched(7), SCHED_BATCH.
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    # The controller's limit may be a fixture's, and for a while.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # Ordinary signals are the terminal's, and so pytest's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o022)
    setup, fds = channel.receive(requests)
    (controller,) = fds
    sys.path += setup["sys_path"]  # for pyroute2
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    try:
        supervisor = Supervisor(requests, controller, setup)
    except OSError as error:
        channel.send(requests, {"error": str(error), "errno": error.errno})
        return
    channel.send(requests, {"ready": True})
    with contextlib.suppress(BrokenPipeError):
        supervisor.serve()
