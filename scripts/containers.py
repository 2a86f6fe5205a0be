"""Run a smoke suite in containers, as engines start them by default and as docs/how-to/ci.md has it.

    python scripts/containers.py [--engine docker|podman|'rootless podman']

In each container `nsbox doctor` must say what is expected there; where that is "it works", the example
project's suite must pass as well. An engine that is not here is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from engines import OWN_NAMESPACES, TAG, Engine, build_image, engines, remove_cgroups

WORKS = ""

DOCTOR = ("python3", "-m", "pytest_nsbox", "doctor", "--json")
SUITE = ("python3", "-m", "pytest", "-q", "-p", "no:cacheprovider")

NO_APPARMOR = ("--security-opt=apparmor=unconfined",)
NO_SECCOMP = ("--security-opt=seccomp=unconfined", *NO_APPARMOR)
NO_MASKS = ("--security-opt=systempaths=unconfined",)
UNMASK = ("--security-opt=unmask=ALL",)
SYS_ADMIN = ("--cap-add=SYS_ADMIN",)
ADMIN = (*SYS_ADMIN, "--cap-add=NET_ADMIN")
NO_CAPS = ("--cap-drop=ALL",)
PRIVILEGED = ("--privileged",)
USER = ("--user=1000:1000",)
KEEP_ID = ("--userns=keep-id",)
GVISOR = ("--runtime=runsc",)


class Case(NamedTuple):
    """Options of a container, and a part of the cause that the doctor must name in it."""

    options: tuple[str, ...]
    cause: str


SECCOMP = "a seccomp filter forbids new namespaces"
MASKS = "parts of this /proc are covered"
NO_LOOPBACK = "takes CAP_NET_ADMIN"
NO_MAP = "uid 0 without CAP_SETFCAP"
ROOTLESS_PODMAN = [
    Case((), MASKS),
    Case(USER, MASKS),
    Case(UNMASK, WORKS),
    Case((*UNMASK, *USER), WORKS),
    Case((*UNMASK, *KEEP_ID), WORKS),
    Case(SYS_ADMIN, MASKS),
    Case(ADMIN, MASKS),
    Case((*ADMIN, *USER), MASKS),
    Case((*UNMASK, *ADMIN), WORKS),
    Case((*UNMASK, *ADMIN, *USER), WORKS),
    Case((*UNMASK, *NO_CAPS), NO_MAP),
    Case((*UNMASK, *NO_CAPS, *USER), WORKS),
    Case(PRIVILEGED, WORKS),
    Case((*PRIVILEGED, *USER), WORKS),
]
CASES = {
    "docker": [
        Case((), SECCOMP),
        Case(USER, SECCOMP),
        Case((*SYS_ADMIN, *NO_APPARMOR), NO_LOOPBACK),
        Case((*ADMIN, *NO_APPARMOR), WORKS),
        Case((*ADMIN, *NO_APPARMOR, *USER), MASKS),
        Case((*ADMIN, *NO_SECCOMP), WORKS),
        Case((*ADMIN, *NO_SECCOMP, *NO_MASKS), WORKS),
        Case(NO_SECCOMP, MASKS),
        Case((*NO_SECCOMP, *USER), MASKS),
        Case((*NO_SECCOMP, *NO_MASKS), WORKS),
        Case((*NO_SECCOMP, *NO_MASKS, *USER), WORKS),
        Case((*NO_SECCOMP, *NO_MASKS, *NO_CAPS), NO_MAP),
        Case((*NO_SECCOMP, *NO_MASKS, *NO_CAPS, "--cap-add=SETFCAP"), WORKS),
        Case((*NO_SECCOMP, *NO_MASKS, *NO_CAPS, *USER), WORKS),
        Case(PRIVILEGED, WORKS),
        Case((*PRIVILEGED, *USER), WORKS),
        Case(GVISOR, "this is gVisor"),
    ],
    # Root's podman keeps no id, and differs where a capability is one of the machine's.
    "podman": [
        *(case for case in ROOTLESS_PODMAN if not {*KEEP_ID, *SYS_ADMIN} & {*case.options}),
        Case(SYS_ADMIN, NO_LOOPBACK),
        Case(ADMIN, WORKS),
        Case((*ADMIN, *USER), MASKS),
        Case((*UNMASK, *ADMIN, *USER), WORKS),
    ],
    "rootless podman": ROOTLESS_PODMAN,
}


def complaint(engine: Engine, case: Case) -> str:
    """What is not as expected in such a container, "" if all is."""
    done = engine.run(case.options, *DOCTOR)
    try:
        told = json.loads(done.stdout)
    except ValueError:
        return f"no doctor: {done.stdout}{done.stderr}"
    causes = [step["cause"] for step in told["steps"] if not step["ok"]]
    if case.cause != WORKS:
        is_told = len(causes) == 1 and case.cause in causes[0]
        return "" if is_told else f"expected {case.cause!r} to be the cause, not {causes}"
    if causes:
        return f"refused: {causes}"
    done = engine.run(case.options, *SUITE)
    return "" if done.returncode == 0 else f"the suite failed:\n{done.stdout}{done.stderr}"


def obstacle(engine: Engine, case: Case) -> str:
    """Why there can be no such container here, "" if there can."""
    if engine.name != "docker":
        return ""
    if case.options == GVISOR and shutil.which("runsc") is None:
        return "no runsc on this machine"
    if case.options == PRIVILEGED and (absent := absent_capabilities()):
        return f"runc wants all capabilities for it, and root here lacks {absent} (EPERM of capset)"
    return ""


def absent_capabilities() -> str:
    """The numbers of the capabilities that nobody has here, see linux/capability.h."""
    status = Path("/proc/self/status").read_text().splitlines()
    bounding = next(int(line.split()[1], 16) for line in status if line.startswith("CapBnd:"))
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    return ", ".join(str(number) for number in range(last + 1) if not bounding >> number & 1)


def try_all(engine: Engine, image: Path) -> bool:
    """Try the engine's containers and say how each was; whether all were as expected."""
    try:
        engine.load(image)
    except RuntimeError as error:
        print(f"skipped  {engine.name}: {error}")
        return True
    good = True
    for case in CASES[engine.name]:
        container = " ".join((engine.name, *case.options))
        if why := obstacle(engine, case):
            print(f"skipped  {container}: {why}", flush=True)
            continue
        start = time.monotonic()
        found = complaint(engine, case)
        seconds = time.monotonic() - start
        expected = f"refuses: {case.cause}" if case.cause else "works"
        print(
            f"{'FAILED' if found else 'ok':8} {container}: {expected} ({seconds:.1f} s)", flush=True
        )
        if found:
            good = False
            print(found)
    engine.call("rmi", "--force", TAG)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a smoke suite in containers.")
    parser.add_argument("--engine", choices=list(CASES), help="only this one")
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)  # of main's second run
    options = parser.parse_args()
    if options.place is None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # an end that cleans up
        with tempfile.TemporaryDirectory(prefix="nsbox-containers-", dir="/var/tmp") as name:
            os.chmod(name, 0o755)  # for the user of the rootless engine
            build_image(Path(name))
            around = OWN_NAMESPACES if os.geteuid() == 0 else ()
            again = [sys.executable, __file__, *sys.argv[1:], f"--place={name}"]
            try:
                return subprocess.run([*around, *again]).returncode
            finally:
                remove_cgroups()
    with engines(options.place) as found:
        wanted = [options.engine] if options.engine else list(CASES)
        here = {engine.name: engine for engine in found}
        results = []
        for name in wanted:
            if name in here:
                results.append(try_all(here[name], options.place / "image.tar"))
            else:
                print(f"skipped  {name}: not on this machine")
    return int(not all(results))


if __name__ == "__main__":
    raise SystemExit(main())
