"""The command ``nsbox``: ``doctor`` and ``run``."""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from pytest_nsbox import __version__
from pytest_nsbox.options import KEYS, OptionError, SandboxOptions, merge

if TYPE_CHECKING:
    from pytest_nsbox.sandbox.probe import Outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; the exit status."""
    arguments = _parser().parse_args(argv)
    if sys.platform != "linux" and arguments.function is not doctor:
        print(f"nsbox: a sandbox needs Linux, this is {sys.platform}", file=sys.stderr)
        return 1
    return int(arguments.function(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nsbox", description="Sandboxes: can this machine make one, and run a command in one."
    )
    parser.add_argument("--version", action="version", version=f"pytest-nsbox {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    doctor_ = commands.add_parser(
        "doctor",
        help="try every step that a sandbox needs, and say what to do where one is refused",
    )
    doctor_.add_argument("--json", action="store_true", help="for machines")
    doctor_.set_defaults(function=doctor)
    run_ = commands.add_parser(
        "run",
        help="run a command in the sandbox that a test would get",
        usage="nsbox run [options] -- CMD [ARG...]",
        description="Exit status: CMD's; 128 + N if signal N ended it; 125 if there is no sandbox, "
        "126 if CMD cannot be executed, 127 if it is not found.",
    )
    run_.add_argument("--network", help=KEYS["network"].help)
    run_.add_argument("--tmp-size", metavar="SIZE", help=KEYS["tmp_size"].help)
    run_.add_argument("--hostname", metavar="NAME", help=KEYS["hostname"].help)
    run_.add_argument("--timeout", metavar="SECONDS", help=KEYS["timeout"].help)
    for name, metavar in (("bind", "SRC[:DST][:ro]"), ("hide", "PATH"), ("env", "NAME=VALUE")):
        run_.add_argument(
            f"--{name}", metavar=metavar, action="append", help=f"{KEYS[name].help}; repeatable"
        )
    run_.add_argument("command", nargs="+", metavar="CMD")
    run_.set_defaults(function=run, parser=run_)
    return parser


def doctor(arguments: argparse.Namespace) -> int:
    """Print the outcome of every step; 0 only if a full sandbox works."""
    from pytest_nsbox.sandbox import privileges, probe

    if not arguments.json and sys.platform == "linux":
        how = "as root" if privileges.is_privileged() else "rootless"
        print(f"pytest-nsbox {__version__}, Linux {os.uname().release}, {how}")
    outcomes = []
    for outcome in probe.steps():
        outcomes.append(outcome)
        if not arguments.json:
            _print_outcome(outcome)
    refused = [outcome.name for outcome in outcomes if not outcome.ok]
    if arguments.json:
        found = {"works": not refused, "steps": [o._asdict() for o in outcomes]}
        print(json.dumps(found, indent=1))
    elif not refused:
        print("A sandbox works here.")
    elif set(refused) <= set(probe.PARTIAL):
        print(f"A sandbox works here, but {' and '.join(probe.PARTIAL[r] for r in refused)}.")
    else:
        print("No sandbox can be made here.")
    return 1 if refused else 0


def _print_outcome(outcome: Outcome) -> None:
    print(f"{'ok' if outcome.ok else 'REFUSED':8} {outcome.name}")
    if outcome.ok and outcome.detail:
        print(f"         note: {outcome.detail}")
    if not outcome.ok:
        print(f"         {outcome.detail}")
        print(f"         likely cause: {outcome.cause}")
        print(f"         remedy: {outcome.remedy}")


def run(arguments: argparse.Namespace) -> int:
    """Run a command in a sandbox; its exit status, as a shell gives it."""
    try:
        options = _options(arguments)
    except OptionError as error:
        arguments.parser.error(str(error))
    from pytest_nsbox.kind import kind_of
    from pytest_nsbox.sandbox.advice import explain
    from pytest_nsbox.sandbox.client import Client, SandboxError

    client = Client()
    try:
        sandbox = client.acquire(kind_of(options, _sources()))
        for note in client.notes:
            print(f"nsbox: {note}", file=sys.stderr)
        enter = functools.partial(sandbox.enter, os.getcwd())
        pid = sandbox.fork(lambda: _execute(enter, arguments.command, options))
        status = _wait(pid, options.timeout)
        sandbox.close(wait=True)
    except SandboxError as error:
        print(f"nsbox: {explain(error)}", file=sys.stderr)
        return 125
    finally:
        client.stop()
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


def _options(arguments: argparse.Namespace) -> SandboxOptions:
    given = {
        name: key.parse_ini(value)
        for name, key in KEYS.items()
        if (value := getattr(arguments, name, None)) is not None
    }
    return merge(given, [])


def _sources() -> list[str]:
    """What must be there although /tmp is private: where we are, and what runs us."""
    cwd = os.path.realpath(os.getcwd())
    return sorted({os.path.realpath(p) for p in (sys.prefix, sys.base_prefix)} | {cwd} - {"/tmp"})


def _execute(enter: Callable[[], None], command: list[str], options: SandboxOptions) -> NoReturn:
    """In the forked process: become the command."""
    from pytest_nsbox.sandbox.terminal import foreground

    status = 125
    try:
        enter()
        foreground(os.getpgrp())
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGTTOU):
            signal.signal(number, signal.SIG_DFL)
        os.environ.update(options.env)
        found = "/" in command[0] or shutil.which(command[0]) is not None
        status = 126 if found else 127
        if not found:  # execvp would name the first directory of PATH that it may not search
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        os.execvp(command[0], command)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            status = 127
        print(f"nsbox: {command[0]}: {error.strerror or error}", file=sys.stderr)
    finally:
        os._exit(status)


def _wait(pid: int, timeout: float | None) -> int:
    """Wait for the command, handing on what signals us; its wait status."""
    import select

    from pytest_nsbox.sandbox.terminal import foreground

    pidfd = os.pidfd_open(pid)

    def hand_on(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
    before = [(number, signal.signal(number, hand_on)) for number in numbers]
    try:
        if not select.select([pidfd], [], [], timeout)[0]:
            print(f"nsbox: the command had not ended after {timeout:g} s; killed", file=sys.stderr)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return os.waitpid(pid, 0)[1]
    finally:
        foreground(os.getpgrp())
        for number, handler in before:
            signal.signal(number, handler)
        os.close(pidfd)


if __name__ == "__main__":
    sys.exit(main())
