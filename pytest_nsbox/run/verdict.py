"""A death in words: how a test process ended that sent no report of its end."""

from __future__ import annotations

import os
import resource
import signal

PHASES = ("setup", "call", "teardown")


def describe(status: int, usage: resource.struct_rusage | None = None) -> str:
    """One sentence for a wait status, with what the process had used if that is known.

    >>> describe(11)
    'the test process was killed by SIGSEGV'
    >>> describe(3 << 8)
    'the test process exited with status 3 before its test had ended'
    """
    if os.WIFSIGNALED(status):
        text = f"the test process was killed by {signal_name(os.WTERMSIG(status))}"
        if os.WCOREDUMP(status):
            text += " (core dumped)"
    else:
        text = (
            f"the test process exited with status {os.WEXITSTATUS(status)} "
            "before its test had ended"
        )
    if usage is not None:
        seconds = usage.ru_utime + usage.ru_stime
        text += f" (peak memory {usage.ru_maxrss / 1024:.0f} MiB, {seconds:.2f} s of CPU time)"
    return text


def signal_name(number: int) -> str:
    """``SIGSEGV`` for 11; ``SIGRTMIN+5`` and the like for the nameless."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def timed_out(seconds: float, *, was_stopped: bool = False) -> str:
    """What the report of a test says that its timeout has ended."""
    text = f"Timeout: the test had not ended {seconds:g} s after its setup began; sandbox killed"
    if was_stopped:
        text += " (its process was stopped, by SIGSTOP or by the terminal: it could show no stacks)"
    return text
