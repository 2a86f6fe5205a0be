"""Container engines, and an image for them: a root filesystem by debootstrap with this checkout in it.

Root gets engines of its own, in a mount and a PID namespace (``OWN_NAMESPACES``): what they start ends
with the namespaces, what they mount or write outside their directory nobody else sees, and a daemon that
the machine runs already is left alone.  An ordinary user gets the engines as they are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".containers"
TAG = "nsbox-smoke"
# The shell is their PID 1: podman waits for its monitor to be gone, which is to be reaped there.
_UNSHARE = "unshare --mount --pid --fork --kill-child --mount-proc"
OWN_NAMESPACES = (
    *f"setpriv --pdeathsig=KILL {_UNSHARE}".split(),
    *("sh", "-c", '"$@"; exit $?', "sh"),
)

_CGROUP = "nsbox-containers"
_CGROUPS = Path("/sys/fs/cgroup")
# Who runs the rootless engine, where we are root: the last uid that Debian gives to a user.
_USER, _SUBIDS = 59999, "1000000:65536"
_DAEMON_STARTS = 60.0  # seconds


class Engine(NamedTuple):
    """A way to start containers."""

    name: str
    client: tuple[str, ...]
    options: tuple[str, ...] = ()  # of each container

    def call(
        self, *arguments: str, stdin: IO[bytes] | None = None
    ) -> subprocess.CompletedProcess[str]:
        # Its user need not be able to look into the checkout.
        return subprocess.run(
            [*self.client, *arguments], stdin=stdin, capture_output=True, text=True, cwd="/"
        )

    def load(self, image: Path) -> None:
        """Have the image; raises a RuntimeError where the engine does not work."""
        with image.open("rb") as file:
            done = self.call("import", "-", TAG, stdin=file)
        if done.returncode:
            raise RuntimeError(done.stderr.strip() or f"it ended with {done.returncode}")

    def run(self, options: tuple[str, ...], *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a container."""
        paths = ("--env=PYTHONPATH=/nsbox/site", "--env=HOME=/tmp", "--workdir=/nsbox/example")
        fixed = ("--rm", "--network=none", "--env=PYTHONDONTWRITEBYTECODE=1", *paths)
        return self.call("run", *fixed, *self.options, *options, TAG, *command)


def build_image(place: Path) -> Path:
    """The root filesystem as a tarball below ``place``; its packages are those of the checkout now."""
    image, extra = place / "image.tar", place / "nsbox"
    shutil.copy(_debian(), image)
    with tarfile.open(image) as archive:
        version = archive.getmember("./usr/bin/python3").linkname.removeprefix("python")
    # The container has no network, and Debian's minimal one no pip.
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", str(ROOT)]
    wheels = [f"--target={extra / 'site'}", f"--python-version={version}", "--only-binary=:all:"]
    subprocess.run([*install, *wheels], check=True)
    shutil.copytree(
        ROOT / "example_project",
        extra / "example",
        ignore=shutil.ignore_patterns("__pycache__", ".*"),
    )
    mode = ["--owner=0", "--group=0", "--mode=a+rX", "--append", f"--file={image}"]
    subprocess.run(["tar", f"--directory={place}", *mode, extra.name], check=True)
    image.chmod(0o644)
    return image


def _debian() -> Path:
    """A minimal root filesystem with Python, of this machine's release; kept for the next time."""
    suite = _os_release()
    kept = CACHE / f"{suite}.tar"
    if kept.exists():
        return kept
    if os.geteuid() != 0:
        raise SystemExit(
            f"{kept} is not there, and debootstrap takes root: run `sudo make test-containers` first"
        )
    CACHE.mkdir(exist_ok=True)
    tree, packing = CACHE / suite, kept.with_suffix(".part")
    shutil.rmtree(tree, ignore_errors=True)
    print(f"containers: making {kept.relative_to(ROOT)} by debootstrap", flush=True)
    bootstrap = [
        "debootstrap",
        "--variant=minbase",
        "--include=python3",
        suite,
        str(tree),
        *_mirror(suite),
    ]
    # In a mount namespace: what it mounts does not outlive it.
    done = subprocess.run(["unshare", "--mount", *bootstrap], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"debootstrap failed: {done.stdout[-2000:]}{done.stderr}")
    # An engine makes its own /dev, and without root could not make these devices.
    useless = [f"--exclude=./{name}/*" for name in ("dev", "var/cache/apt", "var/lib/apt/lists")]
    subprocess.run(
        ["tar", f"--file={packing}", f"--directory={tree}", "--create", *useless, "."], check=True
    )
    packing.rename(kept)
    shutil.rmtree(tree)
    return kept


def _os_release() -> str:
    """The code name of the release."""
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    raise SystemExit(
        "this is no Debian nor Ubuntu with a code name, so that debootstrap does not know it"
    )


def _mirror(suite: str) -> list[str]:
    """Where apt gets the release from; nothing if that is not known, for debootstrap's own default."""
    asked = ["apt-get", "indextargets", "--format", "$(CODENAME) $(RELEASE) $(REPO_URI)"]
    done = subprocess.run(asked, capture_output=True, text=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    return [line[2] for line in lines if suite in line[:2]][:1]


@contextlib.contextmanager
def engines(place: Path) -> Iterator[list[Engine]]:
    """The engines there are, each to be tried yet: root's own, in OWN_NAMESPACES, or the user's."""
    here = [name for name in ("docker", "podman") if shutil.which(name)]
    if os.geteuid() != 0:
        names = {"podman": "rootless podman"}
        yield [Engine(names.get(name, name), (name,)) for name in here]
        return
    _hide_what_they_write(place)
    found = []
    with contextlib.ExitStack() as stack:
        if "docker" in here and shutil.which("dockerd"):
            socket = stack.enter_context(_docker_daemon(place / "docker"))
            found.append(Engine("docker", ("docker", f"--host=unix://{socket}")))
        if "podman" in here:
            # It asks for higher limits than a root without CAP_SYS_RESOURCE may set.
            limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096", "--cgroups=disabled")
            found.append(Engine("podman", ("podman", f"--root={place}/podman"), limits))
            found.append(Engine("rootless podman", (*_as_user(place / "user"), "podman")))
        yield found


def _hide_what_they_write(place: Path) -> None:
    """Give this mount namespace a /run, /etc … of its own, and the user of ``_as_user``."""
    os.environ["HOME"] = os.environ["TMPDIR"] = str(place)
    _mount("tmpfs", "/run", "tmpfs", "mode=755")
    _mount("tmpfs", "/dev/shm", "tmpfs", "mode=1777")  # podman's locks
    # They write, besides: /etc/docker/key.json, /opt/containerd, /var/lib/containers/cache.
    for path in ("/etc", "/opt", "/var/lib"):
        upper, work = (Path(f"/run/{kind}{path}") for kind in ("upper", "work"))
        upper.mkdir(parents=True)
        work.mkdir(parents=True)
        _mount("overlay", path, "overlay", f"lowerdir={path},upperdir={upper},workdir={work}")
    for name, line in {
        "passwd": f"nsbox:x:{_USER}:{_USER}::{place}/user:/bin/sh\n",
        "group": f"nsbox:x:{_USER}:\n",
        "subuid": f"nsbox:{_SUBIDS}\n",
        "subgid": f"nsbox:{_SUBIDS}\n",
    }.items():
        with open(f"/etc/{name}", "a") as file:
            file.write(line)
    if os.path.ismount(_CGROUPS / "unified"):  # crun takes version 1 or 2, but not both
        subprocess.run(["umount", str(_CGROUPS / "unified")], check=True)


def _mount(source: str, target: str, fstype: str, options: str) -> None:
    subprocess.run(["mount", "-t", fstype, "-o", options, source, target], check=True)


def _as_user(home: Path) -> tuple[str, ...]:
    """What to put before a command that an ordinary user runs, at home there."""
    # The usual place, and a short one: podman has sockets there, whose paths may have 107 characters.
    runtime = Path(f"/run/user/{_USER}")
    for path in (home, runtime):
        path.mkdir(mode=0o700, parents=True)
        os.chown(path, _USER, _USER)
    variables = {
        "HOME": home,
        "TMPDIR": home,
        "XDG_RUNTIME_DIR": runtime,
        "PATH": os.environ["PATH"],
        "STORAGE_DRIVER": "overlay",  # Debian 12's podman has vfs for a default
    }
    ids = (f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups")
    return ("setpriv", *ids, "env", "-i", *(f"{key}={value}" for key, value in variables.items()))


@contextlib.contextmanager
def _docker_daemon(place: Path) -> Iterator[Path]:
    """A dockerd without a network, as long as the context lasts; its socket."""
    place.mkdir()
    socket, log = place / "docker.sock", place / "log"
    options = {
        "--host": f"unix://{socket}",
        "--data-root": place / "data",
        "--exec-root": place / "exec",
        "--pidfile": place / "pid",
        "--config-file": place / "daemon.json",
        "--exec-opt": "native.cgroupdriver=cgroupfs",
        "--cgroup-parent": f"/{_CGROUP}",
        "--bridge": "none",
        "--iptables": "false",
        "--ip6tables": "false",
    }
    # runsc has no network of its own for a container that is to have none.
    (place / "daemon.json").write_text(
        '{"runtimes": {"runsc": {"path": "runsc", "runtimeArgs": ["--network=none"]}}}'
    )
    with log.open("wb") as file:
        command = ["dockerd", *(f"{name}={value}" for name, value in options.items())]
        daemon = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + _DAEMON_STARTS
        while subprocess.run(
            ["docker", f"--host=unix://{socket}", "info"], capture_output=True
        ).returncode:
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"dockerd does not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield socket
    finally:
        daemon.terminate()
        daemon.wait()


def remove_cgroups() -> None:
    """What dockerd leaves of the cgroups that its containers were in; theirs, too, if it was killed."""
    for pattern in (f"*/{_CGROUP}/**/", f"{_CGROUP}/**/"):
        for path in sorted(_CGROUPS.glob(pattern), reverse=True):  # the inner ones first
            with contextlib.suppress(OSError):
                path.rmdir()
