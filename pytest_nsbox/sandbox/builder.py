"""Sandboxes, made in the staging area: each a plan carried out, in namespaces that are new."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from pytest_nsbox.kernel.syscalls import (
    MNT_DETACH,
    MS_NODEV,
    MS_NOSUID,
    SyscallError,
    in_words,
    mount,
    sethostname,
    umount,
)
from pytest_nsbox.sandbox import channel, degrade, init, rootfs, steps
from pytest_nsbox.sandbox.belongings import PLACES
from pytest_nsbox.sandbox.namespaces import KINDS, Home
from pytest_nsbox.sandbox.network import bring_up_loopback
from pytest_nsbox.sandbox.outsiders import Outsider
from pytest_nsbox.sandbox.pid_namespaces import BuildError, PidNamespace, PidNamespaces

# What the host may refuse, or take away meanwhile.
_OF_THE_HOST = (steps.Overlay, steps.ReadOnlyBind, steps.Socket, steps.Copy)


class Ready(NamedTuple):
    """A sandbox that nobody has joined, or one in use."""

    number: int
    plan: rootfs.Plan
    pids: PidNamespace
    box: steps.Box
    message: channel.Message
    fds: list[int]


class Wish(NamedTuple):
    """What a kind of sandbox is to have; as the client has said it, taken apart."""

    request: rootfs.Request
    without: str  # that changes from test to test, as JSON
    sockets: list[str]
    belongings: list[str]
    outsiders: list[Outsider]
    hostname: str | None
    network: str


@lru_cache(maxsize=8)
def read(kind: str) -> Wish:
    """The wish, which comes again and again."""
    said = json.loads(kind)
    sockets = [path for path, _ in said.pop("sockets")]
    belongings = [path for path, _, _ in said.pop("belongings")]
    outsiders = [Outsider(*each) for each in said.pop("outsiders")]
    without = json.dumps(said)
    hostname, network = said.pop("hostname"), said.pop("network")
    return Wish(rootfs.Request(**said), without, sockets, belongings, outsiders, hostname, network)


class Builder:
    """What makes sandboxes, and takes them away."""

    def __init__(
        self, planner: rootfs.Planner, keep_capabilities: int, lacks: dict[str, str]
    ) -> None:
        """``keep_capabilities``: of an init; ``lacks``: parts that are refused, see ``degrade``."""
        self._planner = planner
        self._lacks = lacks
        self._pids = PidNamespaces(keep_capabilities, own_proc="proc" not in lacks)
        self._home = Home()
        self._plans: dict[str, rootfs.Plan] = {}  # by kind, without what changes from test to test
        self._number = 0

    def build(self, said: str) -> Ready:
        """A new sandbox, of a kind as the client says it.

        Raises OSError, which names the system call that was refused.
        """
        wish = read(said)
        basis = self._plans.get(wish.without)
        if basis is None:
            basis = self._plans[wish.without] = self._planner.plan(wish.request)
        plan = basis
        if wish.sockets or wish.belongings:
            plan = self._planner.reach(basis, wish.sockets, wish.belongings)
        if "uts" in self._lacks and wish.hostname is not None:
            raise BuildError(errno.EPERM, f"hostname={wish.hostname!r}: {self._lacks['uts']}")
        network = "host" if "network" in self._lacks else wish.network
        kinds = [kind for kind in KINDS if kind not in self._lacks]
        if network == "host":
            kinds.remove("net")
        self._number += 1
        with contextlib.ExitStack() as undo:
            pids = self._pids.take(wish.outsiders)
            undo.callback(self._pids.give_back, pids)
            proc = pids.open_proc()
            undo.callback(os.close, proc)
            box = make_box(self._number, plan, proc)
            undo.callback(remove_box, box)
            fds: list[int] = []
            undo.callback(close, fds)
            with self._home.left_for_new(kinds):
                if network == "loopback":
                    loopback()
                left_out, notes = execute(plan, box)
                init.enter(box.root)
                if wish.hostname is not None:
                    sethostname(wish.hostname)
                joined = [*kinds, *["user"] * self._planner.rootless]
                for kind in joined:
                    fds.append(self._home.open(kind))
                fds.append(os.dup(pids.fd))
                fds.append(os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            undo.pop_all()
            os.close(proc)
        if left_out or notes:
            plan = mend(plan, left_out, notes)
            self._plans[wish.without] = mend(basis, left_out, notes)
        lacks = [part for part in self._lacks if part != "network" or wish.network != "host"]
        answer = {
            "sandbox": self._number,
            "kinds": [*joined, "pid"],
            "notes": [*plan.notes, *(degrade.note(part, self._lacks[part]) for part in lacks)],
            "lacks": lacks,
        }
        return Ready(self._number, plan, pids, box, answer, fds)

    def take_away(self, ready: Ready) -> None:
        """Let go of all that a sandbox had; what runs in it is killed."""
        close(ready.fds)
        self._pids.give_back(ready.pids)
        remove_box(ready.box)

    def reap(self) -> bool:
        """Forget the children that have gone; whether there are more to come."""
        return self._pids.reap()


def make_box(number: int, plan: rootfs.Plan, proc: int) -> steps.Box:
    """The directories of a sandbox: a tmpfs for its layers, and one for its /tmp."""
    box = steps.Box(f"{steps.BOXES}/{number}", proc)
    os.mkdir(box.path)
    mount("tmpfs", box.path, "tmpfs", MS_NOSUID | MS_NODEV, f"mode=755,{steps.TMPFS_SIZE}")
    for name in ("upper", "work", "root", "tmp"):
        os.mkdir(f"{box.path}/{name}")
    # An overlay's statfs(2) is that of its upper layer, and no disk has nothing on it.
    with open(f"{box.path}/used", "wb", buffering=0) as file:
        file.write(b"1")
    mount("tmpfs", box.tmp, "tmpfs", MS_NOSUID | MS_NODEV, plan.tmp_options)
    return box


def remove_box(box: steps.Box) -> None:
    umount(box.path, MNT_DETACH)
    os.rmdir(box.path)


def close(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())


def loopback() -> None:
    try:
        bring_up_loopback()
    except OSError as error:
        text = f'network="loopback": cannot set lo up: {error}'
        raise BuildError(error.errno or 0, text) from error


def execute(plan: rootfs.Plan, box: steps.Box) -> tuple[list[int], list[str]]:
    """Mount the plan in ``box``; which of its steps had to be left out, and notes about all trouble.

    A mount of the host's that cannot be shown must not cost the user the run: an overlay falls back
    to a read-only bind, and that to nothing, said in a note.  A step of our own does raise, and so
    does a root filesystem of which nothing is copy-on-write.
    """
    left_out: list[int] = []
    notes: list[str] = []
    refusal: SyscallError | None = None  # the first of the root filesystem
    is_writable = False  # whether any of that is copy-on-write
    for number, step in enumerate(plan.steps):
        try:
            step.execute(box)
        except SyscallError as error:
            if not isinstance(step, _OF_THE_HOST) or step.target == "/":
                raise
            if error.errno == errno.ENOENT and steps.within(step.target, PLACES):
                left_out.append(number)  # it went away meanwhile; what came since is another
                continue
            if isinstance(step, steps.Overlay) and step.of_root:
                refusal = refusal or error
            mended = _fall_back(step, box)
            how = mended.describe() if mended else "left out"
            # The same words for every sandbox: no path of this one.
            why = f"{error.syscall}: {in_words(error.errno or 0)}"
            notes.append(f"{step.target}: {how}, since {why}")
            if mended is None:
                left_out.append(number)
        else:
            is_writable |= isinstance(step, steps.Overlay) and step.of_root
    if refusal and not is_writable:
        raise refusal
    return left_out, notes


def _fall_back(step: steps.Step, box: steps.Box) -> steps.Step | None:
    if isinstance(step, steps.Overlay):
        bind = steps.ReadOnlyBind(step.target, step.lower[-1], recursive=True)
        try:
            bind.execute(box)
        except OSError:
            return None
        return bind
    return None


def mend(plan: rootfs.Plan, left_out: Iterable[int], notes: Iterable[str]) -> rootfs.Plan:
    """The plan without the steps that had to be left out, and with notes of it."""
    left = tuple(step for number, step in enumerate(plan.steps) if number not in left_out)
    return plan._replace(steps=left, notes=tuple(dict.fromkeys((*plan.notes, *notes))))
