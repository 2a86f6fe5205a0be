"""The supervisor: has sandboxes made ahead of need, closes them, answers questions about them.

One lean process per controller, executed anew (so that it shares no memory and no lock with pytest)
and single-threaded.  It lives in the staging area.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import sys
from collections import deque

from pytest_nsbox.kernel.syscalls import drop_bounding, set_name
from pytest_nsbox.sandbox import carry, changes, channel, degrade, privileges, steps, upper
from pytest_nsbox.sandbox.builder import Builder, Ready
from pytest_nsbox.sandbox.staging import stage

_MAX_KINDS = 4  # of sandboxes to keep in stock


class Supervisor:
    """The requests of one client, and the sandboxes made for them."""

    def __init__(self, requests: socket.socket, controller: int, setup: channel.Message) -> None:
        self.requests = requests
        self.controller = controller  # pidfd
        planner = stage(rootless=setup["rootless"])
        # Parts that a sandbox has not got, since the machine refuses them and the user lets it.
        lacks = degrade.refused(setup["degrade"], steps.TEMPLATES)
        # Of us, who execute nothing, for every init to inherit.
        keep: int = setup["keep_capabilities"]
        drop_bounding(privileges.all_but(keep))
        # By which an init says which pid comes next; it gives no power over other processes.
        keep |= privileges.effective() & 1 << privileges.CAP_CHECKPOINT_RESTORE
        self.builder = Builder(planner, keep, lacks)
        self.stock: dict[str, deque[Ready]] = {}
        self.in_use: dict[int, Ready] = {}
        self.ahead = 0
        self.latest = ""
        self.failures: list[str] = []  # to copy out, not yet told

    def serve(self) -> None:
        """Answer requests until the client has gone."""
        poll = select.poll()
        poll.register(self.requests, select.POLLIN)
        poll.register(self.controller, select.POLLIN)
        while True:
            has_zombies = self.builder.reap()
            idle = not self.refill()
            timeout = (100 if has_zombies else None) if idle else 0
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
                self.builder.take_away(ready)
        try:
            ready = stock.popleft() if stock else self.builder.build(kind)
        except OSError as error:
            channel.send(self.requests, {"error": str(error), "errno": error.errno})
            return
        self.in_use[ready.number] = ready
        channel.send(self.requests, ready.message, ready.fds)

    def changes(self, message: channel.Message) -> None:
        """What a sandbox holds that the host does not."""
        ready = self.in_use[message["sandbox"]]
        found: list[changes.Change] = []
        left_out = [*message["except"], *(s.target for s in ready.plan.steps if is_opening(s))]
        for step in ready.plan.overlays():
            upper = ready.box.upper(step.layer)
            for change in changes.changes(upper, step.lower[0], step.target):
                if not steps.within(change.path, left_out):
                    found.append(change)
        channel.send(self.requests, {"changes": sorted(set(found))})

    def close(self, message: channel.Message) -> None:
        """End a sandbox, after carrying out of it what was asked for."""
        ready = self.in_use.pop(message["sandbox"])
        if any(written(ready, pattern) for pattern, _ in message["carry"]):
            # Nothing may change any more what we look at now, and are about to copy.
            ready.pids.is_vacated()
            for pattern, whole in message["carry"]:
                copy = carry.carry_path if whole else carry.carry_new
                for place, path in written(ready, pattern):
                    failed = copy(place, steps.HOST + path)
                    self.failures += [f"{f.path}: {f.error}" for f in failed]
        self.builder.take_away(ready)
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
            stock.append(self.builder.build(self.latest))
        except OSError:
            self.ahead = 0  # whoever asks for it next will hear of it
            return False
        return True


def is_opening(step: steps.Step) -> bool:
    """Whether the step lets a path of the host's through, or hides it: no change of the test's."""
    return isinstance(step, (steps.Bind, steps.Hide, steps.Socket))


def written(ready: Ready, pattern: str) -> list[tuple[str, str]]:
    """What a sandbox has in its upper layers of what is to be copied out: places and paths."""
    return list(upper.written(ready.plan, ready.box, pattern))


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
