"""Run a command where there are more mounts, in a mount namespace of its own.

    python benchmarks/mounts.py NUMBER DIRECTORY COMMAND [ARG...]

The mounts are tmpfs, each on a directory of its own below DIRECTORY. It takes CAP_SYS_ADMIN.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, call: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def main() -> None:
    number, directory, *command = sys.argv[1:]
    check(libc.unshare(CLONE_NEWNS), "unshare(CLONE_NEWNS)")
    check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount(MS_PRIVATE)")
    for i in range(int(number)):
        target = Path(directory, str(i))
        target.mkdir(parents=True, exist_ok=True)
        check(libc.mount(b"tmpfs", bytes(target), b"tmpfs", 0, None), f"mount({target})")
    os.execvp(command[0], command)


main()
