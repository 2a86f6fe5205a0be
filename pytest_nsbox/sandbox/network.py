"""The network of a sandbox that does not use the host's. The only importer of pyroute2."""

from __future__ import annotations

from pytest_nsbox.kernel.syscalls import SyscallError


def bring_up_loopback() -> None:
    """Set ``lo`` up in the caller's network namespace; 127.0.0.1 and ::1 come with it.

    Raises OSError when the kernel refuses: it takes CAP_NET_ADMIN in the user namespace that owns
    the network namespace.
    """
    # 150 to 200 ms to import (docs/dependencies.md): only where it is needed.
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as route:
            route.link("set", index=1, state="up")  # lo is always the first
    except NetlinkError as error:
        raise SyscallError(error.code, "RTM_NEWLINK", "lo, up") from error
