"""Run a smoke suite in containers, as engines start them by default and as docs/how-to/ci.md has it.

    python scripts/containers.py [--engine docker|podman] [--image python:3.13-slim]

In each container `nsbox doctor` must say what is expected there; where that is "it works", the example
project's suite must pass as well. An engine that is not here is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TAG = "nsbox-smoke"
WORKS = ""

CONTAINERFILE = """\
FROM {image}
COPY . /src
RUN pip install --quiet --root-user-action=ignore /src
ENV HOME=/tmp PYTHONPATH=/src/example_project/src PYTHONDONTWRITEBYTECODE=1
WORKDIR /src/example_project
"""
DOCTOR = ["nsbox", "doctor", "--json"]
SUITE = ["pytest", "-q", "-p", "no:cacheprovider"]

NO_SECCOMP = ("--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined")
NO_MASKS = ("--security-opt=systempaths=unconfined",)
ADMIN = ("--cap-add=SYS_ADMIN", "--cap-add=NET_ADMIN")
USER = ("--user=1000:1000",)


class Case(NamedTuple):
    """A way to start a container, and a part of the cause that the doctor must name in it."""

    engine: str
    options: tuple[str, ...]
    cause: str


CASES = [
    Case("docker", (), "seccomp"),
    Case("docker", USER, "seccomp"),
    Case("docker", (*ADMIN, "--security-opt=apparmor=unconfined"), WORKS),
    Case("docker", (*ADMIN, *NO_SECCOMP, *NO_MASKS), WORKS),
    Case("docker", NO_SECCOMP, "/proc are covered"),
    Case("docker", (*NO_SECCOMP, *USER), "/proc are covered"),
    Case("docker", (*NO_SECCOMP, *NO_MASKS), WORKS),
    Case("docker", (*NO_SECCOMP, *NO_MASKS, *USER), WORKS),
    Case("podman", (), "/proc are covered"),
    Case("podman", ("--security-opt=unmask=ALL",), WORKS),
    Case("podman", ("--security-opt=unmask=ALL", *ADMIN), WORKS),
]


def missing(engine: str) -> str:
    """Why the engine cannot be used here, "" if it can."""
    if shutil.which(engine) is None:
        return "not on this machine"
    done = subprocess.run([engine, "info"], capture_output=True, text=True)
    # Docker's client alone says "Cannot connect to the Docker daemon".
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["fails"])[-1]


def build(engine: str, image: str) -> None:
    """An image that has this checkout installed."""
    command = [engine, "build", "--quiet", "--tag", TAG, "--file", "-", str(ROOT)]
    subprocess.run(command, input=CONTAINERFILE.format(image=image), text=True, check=True)


def complaint(case: Case) -> str:
    """What is not as expected in such a container, "" if all is."""
    start = [case.engine, "run", "--rm", *case.options, TAG]
    done = subprocess.run([*start, *DOCTOR], capture_output=True, text=True)
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
    done = subprocess.run([*start, *SUITE], capture_output=True, text=True)
    return "" if done.returncode == 0 else f"the suite failed:\n{done.stdout}{done.stderr}"


def main() -> int:
    engines = sorted({case.engine for case in CASES})
    parser = argparse.ArgumentParser(description="Run a smoke suite in containers.")
    parser.add_argument("--engine", choices=engines, help="only this one")
    parser.add_argument("--image", default="python:3.13-slim", help="with Python (%(default)s)")
    options = parser.parse_args()
    failed = False
    for engine in [options.engine] if options.engine else engines:
        if why := missing(engine):
            print(f"skipped  {engine}: {why}")
            continue
        build(engine, options.image)
        for case in (case for case in CASES if case.engine == engine):
            found = complaint(case)
            expected = "works" if case.cause == WORKS else f"refuses: {case.cause}"
            print(f"{'FAILED' if found else 'ok':8} {engine} {' '.join(case.options)}: {expected}")
            if found:
                failed = True
                print(found)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
