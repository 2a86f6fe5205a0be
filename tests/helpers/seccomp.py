"""Seccomp filters that refuse system calls as container engines do, see seccomp(2)."""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from typing import NamedTuple

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_RET_ALLOW, _RET_ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _FIRST_ARGUMENT = 0, 16  # offsets in struct seccomp_data; the argument's low half
# CLONE_NEWNS to CLONE_NEWNET and CLONE_NEWCGROUP, as Docker's profile has them.
NEW_NAMESPACES = 0x7E020000
NEW_USER = 0x10000000

# The calls added since Linux 5.1 have one number everywhere.
_NUMBERS = {
    "clone3": (435, 435),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "clone": (56, 220),
    "mount": (165, 40),
    "pivot_root": (155, 41),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "umount2": (166, 39),
    "unshare": (272, 97),
}


class Rule(NamedTuple):
    """A system call, refused with an errno; only where the first argument has one of these bits."""

    call: str
    errno: int = errno.EPERM
    bits: int = 0


# moby's default profile, as it is for a process without CAP_SYS_ADMIN; and with it.
DOCKER = (
    *map(
        Rule, ("unshare", "setns", "mount", "umount2", "open_tree", "move_mount", "mount_setattr")
    ),
    *map(Rule, ("sethostname", "pivot_root")),
    Rule("clone", bits=NEW_NAMESPACES),
    Rule("clone3", errno.ENOSYS),
)
DOCKER_SYS_ADMIN = (Rule("pivot_root"), Rule("clone3", errno.ENOSYS))


def install(*rules: Rule) -> None:
    """Refuse these from now on, to this process and to all that it starts."""
    column = ("x86_64", "aarch64").index(platform.machine())
    code = b""
    for rule in rules:
        body = [(_RETURN, 0, 0, _RET_ERRNO | rule.errno)]
        if rule.bits:
            body = [(_LOAD, 0, 0, _FIRST_ARGUMENT), (_JUMP_ANY_BIT, 0, 1, rule.bits), *body]
        test = (_JUMP_EQUAL, 0, len(body), _NUMBERS[rule.call][column])
        code += b"".join(
            struct.pack("=HBBI", *line) for line in ((_LOAD, 0, 0, _NUMBER), test, *body)
        )
    code += struct.pack("=HBBI", _RETURN, 0, 0, _RET_ALLOW)
    instructions = ctypes.create_string_buffer(code)
    program = struct.pack("HP", len(code) // 8, ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.create_string_buffer(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")
