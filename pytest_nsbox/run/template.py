"""A template: a copy of the controller that forks test processes ahead of their turn.

A fork write-protects the memory of the process that forks, who then pays a page fault for each page
that it writes to; the controller would, for every test.  A template is forked from the controller once,
and does nothing but fork.  What it forks enters its sandbox and waits to be told its item, which costs
no time that a test would have to wait for, as long as there is a second processor.

A template is what the controller was when it was made: it serves as long as nothing in there changes
that a test could tell, and is ended with whatever it has made before a fixture runs in the controller.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import traceback
from collections import deque
from collections.abc import Callable
from functools import partial
from posix import _exit  # not os._exit: a test may replace that, coverage saves its data in it
from typing import Any, NamedTuple, NoReturn

import pytest

from pytest_nsbox.kernel.syscalls import PR_SET_PDEATHSIG, prctl
from pytest_nsbox.options import SandboxOptions
from pytest_nsbox.run import forked, start, timing, wire
from pytest_nsbox.run import test_process as child
from pytest_nsbox.run.places import current_directory
from pytest_nsbox.run.running import Running
from pytest_nsbox.sandbox import channel, descriptors, heap, pages
from pytest_nsbox.sandbox.client import Client, Kind, Sandbox, SandboxError

_ANSWER_SECONDS = 60.0
_PAGES = b"p"  # begins a packet of that; those that ask for a fork are of ``channel``

#: What a test process that waits is for: items with these options, which need this kind of sandbox.
Key = tuple[SandboxOptions, Kind]


class Ready(NamedTuple):
    """A test process that waits for its item."""

    sandbox: Sandbox
    running: Running
    ends: start.Ends
    held: wire.Held | None


class _Memory(NamedTuple):
    """What a test process shares with its controller."""

    words: wire.LastWords
    held: wire.Held

    def reset(self) -> None:
        """Be another process's."""
        self.words.reset()
        self.held.reset()


class _Slot:
    """Memory for one test process after the other."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.memory = _Memory(wire.LastWords(), wire.Held())
        self.is_asked = False
        self.user: Running | None = None

    def is_free(self) -> bool:
        if self.user is None:
            return not self.is_asked
        return self.user.is_gone and self.memory.words.is_heard


class _Asked(NamedTuple):
    """A test process that is to come."""

    key: Key
    sandbox: Sandbox
    ends: start.Ends
    slot: _Slot
    holds: bool

    def give_up(self) -> None:
        self.ends.close()
        _close(self.sandbox)


class Template:
    """The controller's side of one."""

    def __init__(
        self,
        config: pytest.Config,
        client: Client,
        options_of: Callable[[pytest.Item], object],
        generation: object,
        filters: list[Any],
        *,
        many: int,
        collapses: bool,
        learns: bool,
        in_child: Callable[[], None],
    ) -> None:
        """``many``: test processes that there may be of it; ``collapses``: it has huge pages.

        ``learns``: they have copies of what the first have written to, see ``sandbox.pages``.
        Raises OSError, SandboxError.
        """
        self.config = config
        self.generation = generation
        self._learns = learns
        self._pages: set[int] = set()  # that one has written to
        self.is_ending = False  # for there is nothing more for it to do
        self.asked: deque[_Asked] = deque()
        self.ready: deque[tuple[Key, Ready]] = deque()
        # Of all of them, made now: memory that is not shared by a fork would need an fd.
        self._slots = [_Slot(number) for number in range(many)]
        self._socket, theirs = channel.pair()
        self._socket.settimeout(_ANSWER_SECONDS)
        server = _Server(config, client, options_of, filters, theirs, collapses, learns)
        memory = [slot.memory for slot in self._slots]

        def serve() -> NoReturn:
            self._socket.close()
            in_child()
            server.serve(memory)

        assert client.forker is not None
        try:
            with theirs:
                self._pid = client.forker.fork(serve)
        except BaseException:
            self._socket.close()
            raise

    def ask(self, index: int, key: Key, sandbox: Sandbox, *, own_output: bool, holds: bool) -> bool:
        """Have a test process made in the sandbox; False if that cannot be now. Raises SandboxError.

        ``index``: in session.items of an item with the options of ``key``; ``own_output``: as for
        ``start.connect``; ``holds``: whether it has where to hold messages.
        """
        free = next((slot for slot in self._slots if slot.is_free()), None)
        if free is None:
            return False
        free.memory.reset()
        free.is_asked, free.user = True, None
        request = {
            "item": index,
            "slot": free.number,
            "holds": holds,
            "sandbox": sandbox.number,
            "kinds": sandbox.kinds,
        }
        try:
            ends, theirs = start.connect(self.config, own_output=own_output)
        except OSError as error:
            _close(sandbox)
            raise SandboxError(f"cannot make pipes for a test process: {error}") from error
        asked = _Asked(key, sandbox, ends, free, holds)
        try:
            channel.send(self._socket, request, [*theirs.fds(), *sandbox.fds()])
        except OSError as error:
            asked.give_up()
            raise SandboxError(f"the template of test processes has gone: {error}") from error
        finally:
            theirs.close_pipes()
        self.asked.append(asked)
        return True

    @property
    def stock(self) -> int:
        """How many test processes there are, or will be."""
        return len(self.asked) + len(self.ready)

    def pids(self) -> list[int]:
        """Of the template, and of what is ready. Raises SandboxError."""
        while self.asked and _is_readable(self._socket.fileno()):
            self._collect()
        return [self._pid, *(ready.running.pid for _, ready in self.ready)]

    def wait(self) -> None:
        """Until there is one to be taken, if one is being made. Raises SandboxError."""
        if not self.ready and self.asked:
            self._collect()

    def take(self, key: Key) -> Ready | None:
        """The next test process that is ready, if it is alive and as the key says."""
        while self.ready:
            found, ready = self.ready.popleft()
            if found == key and not _is_readable(ready.running.pidfd):
                return ready
            _discard(ready)
        return None

    def _collect(self) -> None:
        """Take in the answer to the oldest question: a pid, or why there is none."""
        try:
            answer, _ = channel.take(self._socket)
        except (EOFError, OSError) as error:  # what was asked is given up in ``end``
            self._socket.close()
            raise SandboxError(f"the template of test processes has gone: {error}") from error
        asked = self.asked.popleft()
        if not answer.isdigit():
            asked.give_up()
            raise SandboxError(channel.read(answer, [])[0]["error"])
        try:
            running = asked.ends.running(int(answer), asked.slot.memory.words)
        except OSError as error:
            _close(asked.sandbox)
            raise SandboxError(f"cannot use a test process of the template: {error}") from error
        asked.slot.is_asked, asked.slot.user = False, running
        held = asked.slot.memory.held if asked.holds else None
        self.ready.append((asked.key, Ready(asked.sandbox, running, asked.ends, held)))

    @property
    def learn(self) -> Callable[[list[int]], None] | None:
        """Where the next test process is to tell what pages it has written to, if it is to."""
        return self._learn if self._learns else None

    def _learn(self, numbers: list[int]) -> None:
        """Have the pages copied that two have written to. Raises Garbled."""
        if not self._learns:
            return
        try:
            if numbers and not self._pages:
                self._pages.update(numbers)
                return
            self._learns = False
            both = pages.packed(self._pages.intersection(numbers))
        except (TypeError, struct.error) as error:
            raise wire.Garbled(f"not a message: its pages are {numbers!r:.80}") from error
        if both:
            with contextlib.suppress(OSError):  # the next who asks for something will be told
                self._socket.send(_PAGES + both)

    def let_end(self) -> None:
        """Have it ended while there is something else to do: an exit takes a millisecond."""
        self.is_ending = True
        os.kill(self._pid, signal.SIGKILL)

    def end(self) -> None:
        """End it, and what it has made that nobody has taken."""
        with contextlib.suppress(SandboxError):
            while self.asked:
                self._collect()
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        # Only now: nobody may fork any more into one that is closed, whose PID namespace goes on.
        while self.asked:
            self.asked.popleft().give_up()
        while self.ready:
            _discard(self.ready.popleft()[1])

    def close_fds(self) -> None:
        """In a forked child: let go of what is the controller's."""
        self._socket.close()
        for asked in self.asked:
            asked.ends.close()
            asked.sandbox.close_fds()
        for _, ready in self.ready:
            ready.running.close_fds()
            ready.sandbox.close_fds()
            if ready.ends.output is not None:
                ready.ends.output.close()


def _is_readable(fd: int) -> bool:
    """Whether there is something to be read, or a pidfd's process has ended."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _discard(ready: Ready) -> None:
    ready.running.last_words.hear()
    ready.running.end()
    if ready.ends.output is not None:
        ready.ends.output.close()
    _close(ready.sandbox)


def _close(sandbox: Sandbox) -> None:
    with contextlib.suppress(SandboxError):
        sandbox.close()


class _Server:
    """The template's side."""

    def __init__(
        self,
        config: pytest.Config,
        client: Client,
        options_of: Callable[[pytest.Item], object],
        filters: list[Any],
        requests: socket.socket,
        collapses: bool,
        learns: bool,
    ) -> None:
        self.config = config
        self.client = client
        self.options_of = options_of
        self.requests = requests
        self.collapses = collapses
        self.learns = learns
        self.controller = os.getpid()
        self.cwd = current_directory()
        self.process = child.TestProcess(config, filters=filters)  # what all that we fork become
        self.pages: pages.Pages | None = None

    def serve(self, memory: list[_Memory]) -> NoReturn:
        """Fork as often as it is asked to. Never returns, never raises."""
        try:
            os.setpgid(0, 0)  # ^C is for pytest
            self.client.forget()
            self.memory = memory
            self.inherited = descriptors.inherited({self.requests.fileno()})
            self.process.become_ready()
            if self.learns:
                self.process.memory = pages.writable()
            forked.freeze()
            if self.collapses:
                heap.collapse()
            self.be_mortal()
            self.fork_on()
        except EOFError:
            pass
        except BaseException:
            with contextlib.suppress(BaseException):
                channel.send(self.requests, {"error": traceback.format_exc()})
        finally:
            _exit(0)

    def fork_on(self) -> NoReturn:
        """Fork for each packet, until there is nobody any more. Raises EOFError then.

        A page that is written to here is a page fault for each test, and a reference that is counted
        is written: so the packet is not read here but in the child.
        """
        spent = timing.of(self.config)
        requests, client = self.requests, self.client
        while True:
            packet, fds = channel.take(requests)
            if packet.startswith(_PAGES):
                self.pages = pages.Pages(packet[len(_PAGES) :])
                continue
            if spent is not None:
                spent.skip()
            try:
                if not client.is_close:
                    client.come_close(fds)
                    self.be_mortal()
                pid = client.fork_sibling(fds, partial(self.begin, packet, fds))
            except OSError as error:
                text = f"cannot fork into the sandbox: {error}"
                channel.send(requests, {"error": text})
            else:
                requests.send(b"%d" % pid)
            for fd in fds:
                os.close(fd)

    def begin(self, packet: bytes, fds: list[int]) -> NoReturn:
        """Be the test process that is asked for, in the PID namespace of its sandbox already."""
        if self.pages is not None:
            self.pages.populate()
        os.close(self.requests.detach())  # close() would write to 30 pages more
        request, fds = channel.read(packet, fds)
        first = len(fds) - len(request["kinds"]) - 1  # of the sandbox's
        sandbox = Sandbox(self.client, request["sandbox"], request["kinds"], fds[first:])
        sandbox.begin(self.inherited)
        ends = start.Ends.received(self.config, fds[:first])
        words, held = self.memory[request["slot"]]
        start.Beginning.of(ends, words, held if request["holds"] else None).be(
            self.config,
            self.options(request["item"]),
            sandbox.enter,
            self.cwd,
            lambda: self.process,
            child.TestProcess.run_when_told,
        )

    def be_mortal(self) -> None:
        """End with the controller; said again after a change of credentials, which forgets it."""
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self.controller:
            _exit(0)

    def options(self, item: int) -> SandboxOptions:
        found = self.options_of(self.process.session.items[item])
        assert isinstance(found, SandboxOptions)
        return found
