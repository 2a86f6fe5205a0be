"""The root filesystem of a sandbox, as a plan: which mounts, in which order.

A plan is data, made of ``steps``.  One is made per kind of sandbox, in the staging area, and executed
for every sandbox of that kind.

As root the plan begins with one overlay of the host's ``/``, which a rootless caller is refused: the
kernel does not clone a mount that has locked children (EINVAL; commit 427215d85e8d, for
CVE-2021-3732).  There a *scaffold* takes its place: an overlay of a skeleton of empty directories,
and on these an overlay for every directory without submounts.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from pytest_nsbox.kernel.mountinfo import Mount
from pytest_nsbox.kernel.syscalls import (
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    in_words,
)
from pytest_nsbox.sandbox.belongings import PLACES
from pytest_nsbox.sandbox.farms import farms, is_used_itself, mounts_of
from pytest_nsbox.sandbox.steps import (
    HOST,
    TEMPLATES,
    TMPFS_SIZE,
    Bind,
    Copy,
    Directory,
    Hide,
    Overlay,
    Private,
    PrivateTmp,
    Proc,
    ReadOnlyBind,
    Socket,
    Step,
    Template,
    within,
)

# What is mounted below these is not the host's filesystem, or is made anew in every sandbox.
SPECIAL = ("/proc", "/sys", "/dev", "/tmp")

# Asking a dead server hangs; what automount(8) watches must not be woken: looked at with care.
REMOTE = {
    "9p",
    "afs",
    "ceph",
    "cifs",
    "coda",
    "glusterfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "smb3",
}

# Everyone's, and not the caller's own: overlayfs cannot copy such a directory up for a rootless
# caller (EOVERFLOW: its owner has no mapping), so that it is to be the top of an overlay.
SHARED_DIRECTORIES = ("/var/tmp", "/run/lock", "/var/crash", "/run/user", "/var/lock")

_MAX_SCAFFOLD_FILES = 200
_KEPT_OPTIONS = {"nosuid": MS_NOSUID, "noexec": MS_NOEXEC}


class Plan(NamedTuple):
    """The steps of one kind of sandbox, and in words what of the host it leaves out."""

    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    tmp_options: str  # of the tmpfs on /tmp

    def overlays(self) -> Iterator[Overlay]:
        return (step for step in self.steps if isinstance(step, Overlay))


class Request(NamedTuple):
    """What a kind of sandbox is to have; plain values, for it comes as JSON."""

    visible: tuple[str, ...]  # paths that must be there also where /tmp is private
    tmp_size: int | None = None  # bytes; None: steps.TMPFS_SIZE
    bind: tuple[tuple[str, str, bool], ...] = ()  # source, target, read-only
    hide: tuple[str, ...] = ()
    own_network: bool = False


class Planner:
    """Makes plans in the staging area, for a mount table that was read before it was built."""

    def __init__(
        self, mounts: Iterable[Mount], *, rootless: bool, unusable: dict[str, str]
    ) -> None:
        # From the top down, so that a mount point is there when its turn comes.
        self.mounts = sorted(mounts, key=lambda mount: mount.point.count("/"))
        self.rootless = rootless
        self.unusable = unusable  # mount point -> why it is not to be touched
        self.farms = farms(self.mounts, SPECIAL, unusable)
        self.options = "index=off,metacopy=off,xino=on"
        self.options += ",userxattr" if rootless else ",redirect_dir=on,volatile"
        self._skeletons = 0

    def plan(self, request: Request) -> Plan:
        """The plan for one kind of sandbox."""
        used = (*request.visible, os.path.expanduser("~"))
        shown = [farm for farm in self.farms if not is_used_itself(farm, self.mounts, used)]
        build = _Build(self, farms=shown, used=used)
        if self.rootless:
            build.scaffold()
        else:
            build.overlay("/")
            for mounted in self.mounts:
                if mounted.point != "/" and not within(mounted.point, (*SPECIAL, *build.farms)):
                    build.submount(mounted)
            for farm in build.farms:
                build.farm(farm)
        build.pseudo_filesystems(request)
        for path in _tops(request.visible):
            build.visible(path)
        for path in request.visible if self.rootless else ():
            build.writable(path)
        for path in request.hide:
            build.steps.append(Hide(path))
        for source, target, read_only in request.bind:
            build.steps.append(Bind(target, HOST + source, read_only))
        size = f"size={request.tmp_size}" if request.tmp_size else TMPFS_SIZE
        return Plan(tuple(build.steps), tuple(build.notes), f"mode=1777,{size}")

    def reach(self, plan: Plan, sockets: Iterable[str], belongings: Iterable[str]) -> Plan:
        """The plan with these sockets and belongings of the host's, after its other steps."""
        build = _Build(self, plan)
        for path in belongings:
            with contextlib.suppress(OSError):  # it went away while we were looking
                build.belonging(path)
        for path in sockets:
            with contextlib.suppress(OSError):  # likewise
                build.socket(path)
        return Plan(tuple(build.steps), tuple(build.notes), plan.tmp_options)

    def has_submounts(self, path: str) -> bool:
        prefix = path.rstrip("/") + "/"
        return any(mounted.point.startswith(prefix) for mounted in self.mounts)

    def new_skeleton(self) -> str:
        self._skeletons += 1
        path = f"{TEMPLATES}/skeleton-{self._skeletons}"
        os.mkdir(path)
        return path


class _Build:
    """One plan in the making, from nothing or from another plan."""

    def __init__(
        self,
        planner: Planner,
        plan: Plan | None = None,
        *,
        farms: Collection[str] = (),
        used: Collection[str] = (),
    ) -> None:
        """``farms``: directories whose mounts are not copied, but for those with a path of ``used``."""
        self.planner = planner
        self.steps = list(plan.steps) if plan else []
        self.notes = list(plan.notes) if plan else []
        self.layers = sum(isinstance(step, Overlay) for step in self.steps)
        self.farms = farms
        self.used = used

    def overlay(
        self, path: str, *, flags: int = 0, lower: str | None = None, of_root: bool = False
    ) -> None:
        status = os.stat(HOST + path)
        self.steps.append(
            Overlay(
                target=path,
                lower=(lower or HOST + path,),
                layer=self.layers,
                # A device node that a test may make (root keeps CAP_MKNOD) must open nothing.
                flags=flags | MS_NODEV,
                mode=self.mode_for_us(HOST + path, status),
                owner=self.owner(status),
                options=self.planner.options,
                of_root=of_root,
            )
        )
        self.layers += 1

    def owner(self, status: os.stat_result) -> tuple[int, int] | None:
        """To whom to give what we make, None for nobody else."""
        if self.planner.rootless:
            return None  # chown to an id without a mapping is EINVAL
        owner = (status.st_uid, status.st_gid)
        return None if owner == (os.geteuid(), os.getegid()) else owner

    def mode_for_us(self, path: str, status: os.stat_result) -> int:
        """The mode of an upper directory: its owner is the caller, whoever the lower's is.

        So where that is somebody else, what the caller may do must stand in the owner's bits.
        """
        mode = stat.S_IMODE(status.st_mode)
        if not self.planner.rootless or status.st_uid == os.geteuid():
            return mode
        ours = sum(bit for bit in (os.R_OK, os.W_OK, os.X_OK) if os.access(path, bit))
        return mode & ~0o700 | ours << 6

    def submount(self, mounted: Mount) -> None:
        """Attach a mount of the host's again."""
        path = mounted.point
        if reason := self.planner.unusable.get(path):
            self.notes.append(f"{path} ({mounted.fstype}) is left empty: {reason}")
            return
        try:
            is_directory = stat.S_ISDIR(os.stat(HOST + path).st_mode)
        except OSError as error:
            self.notes.append(f"{path} is left empty: stat: {in_words(error.errno or 0)}")
            return
        if mounted.read_only or not is_directory:
            self.steps.append(ReadOnlyBind(path, HOST + path, self.planner.rootless))
            return
        flags = sum(flag for name, flag in _KEPT_OPTIONS.items() if name in mounted.options)
        self.overlay(path, flags=flags)

    def farm(self, path: str) -> None:
        """Show a directory with all its mounts as one, but for the mounts that are used."""
        self.steps.append(ReadOnlyBind(path, HOST + path, recursive=True))
        found = mounts_of(path, self.planner.mounts)
        points = [mounted.point for mounted in found if mounted.point != path]
        used = [point for point in points if any(within(place, (point,)) for place in self.used)]
        for mounted in found:
            if within(mounted.point, used):
                self.submount(mounted)
        if writable := sum(not mounted.read_only for mounted in found):
            self.notes.append(
                f"{path}: its mounts are read-only, as {writable} are too many to copy"
            )

    def scaffold(self) -> None:
        """A skeleton of what "/" holds, and an overlay on every directory without submounts."""
        skeleton = self.planner.new_skeleton()
        self.overlay("/", lower=skeleton)
        self._fill("/", skeleton)
        for path in SHARED_DIRECTORIES:
            if os.path.realpath(HOST + path) == HOST + path and os.path.isdir(HOST + path):
                self.overlay(path)

    def _fill(self, directory: str, skeleton: str) -> None:
        """The skeleton's ``directory``, and the steps that mount what the host has in there."""
        mounted_at = {mounted.point: mounted for mounted in self.planner.mounts}
        try:
            entries = sorted(os.scandir(HOST + directory), key=lambda entry: entry.name)
        except OSError as error:
            self.notes.append(f"{directory} is left empty: {in_words(error.errno or 0)}")
            return
        files = 0
        for entry in entries:
            path = f"{directory.rstrip('/')}/{entry.name}"
            place = skeleton + path
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), place)
            elif path in SPECIAL:
                os.mkdir(place)
            elif path in self.planner.unusable:  # not even to be asked what it is
                os.mkdir(place)
                self.submount(mounted_at[path])
            elif entry.is_dir():
                os.mkdir(place)
                if path in self.farms:
                    self.farm(path)
                elif self.planner.has_submounts(path):
                    os.chmod(place, self.mode_for_us(entry.path, entry.stat()))
                    self._fill(path, skeleton)
                elif path in mounted_at:
                    self.submount(mounted_at[path])
                else:
                    self.overlay(path, of_root=True)
            else:
                files += 1
                if files <= _MAX_SCAFFOLD_FILES:
                    os.close(os.open(place, os.O_CREAT | os.O_WRONLY))
                    self.steps.append(ReadOnlyBind(path, entry.path, recursive=False))
        if files > _MAX_SCAFFOLD_FILES:
            left_out = files - _MAX_SCAFFOLD_FILES
            self.notes.append(f"{directory}: {left_out} files beside a mount point are left out")

    def pseudo_filesystems(self, request: Request) -> None:
        """/proc, /sys, /dev and /tmp."""
        self.steps.append(Proc("/proc"))
        self.steps.append(Template("/sys", f"{TEMPLATES}/sys"))
        self.steps.append(Template("/dev", f"{TEMPLATES}/dev"))
        # gid 5 is tty everywhere, but has no mapping in our user namespace (EINVAL).
        group = "" if self.planner.rootless else ",gid=5"
        data = f"newinstance,ptmxmode=0666,mode=620{group}"
        self.steps.append(Private("/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, data))
        self.steps.append(
            Private("/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,{TMPFS_SIZE}")
        )
        self.steps.append(PrivateTmp("/tmp"))

    def visible(self, path: str) -> None:
        """A directory that must be there, copy-on-write, although something hides it."""
        if not within(path, ("/tmp", "/dev")) or not os.path.isdir(HOST + path):
            return
        for parent in _parents(path):
            if parent not in ("/tmp", "/dev", "/dev/shm"):
                status = os.stat(HOST + parent)
                mode = self.mode_for_us(HOST + parent, status)
                step = Directory(parent, mode, self.owner(status))
                if step not in self.steps:
                    self.steps.append(step)
        if path != "/tmp":
            status = os.stat(HOST + path)
            self.steps.append(Directory(path, stat.S_IMODE(status.st_mode), None))
        self.overlay(path)
        for mounted in self.planner.mounts:
            if mounted.point.startswith(path + "/"):
                self.submount(mounted)

    def writable(self, path: str) -> None:
        """A directory that the caller may write in: an overlay of its own, where it takes one.

        What lies on the way to it is copied up with it, and of somebody else's that cannot be: its
        ids have no mapping (EOVERFLOW).
        """
        tops = [step.target for step in self.steps if isinstance(step, Overlay)]
        top = max((top for top in tops if within(path, (top,))), key=len, default=path)
        on_the_way = [place for place in _parents(path + "/.") if len(place) > len(top)]
        if os.access(HOST + path, os.W_OK) and os.path.isdir(HOST + path):
            ours = (os.geteuid(), os.getegid())
            owners = {(s.st_uid, s.st_gid) for s in map(os.stat, (HOST + p for p in on_the_way))}
            if owners - {ours}:
                self.overlay(path)
                for mounted in self.planner.mounts:
                    if mounted.point.startswith(path + "/"):
                        self.submount(mounted)

    def belonging(self, path: str) -> None:
        """What lies in a private place, as it is there, copy-on-write.

        What the user binds or hides stays as the user has it.
        """
        if within(path, (*self.shown(), *self.of_the_user())):
            return
        if any(within(step.target, (path,)) for step in self.steps):
            return  # it would cover that
        if stat.S_ISDIR(os.lstat(HOST + path).st_mode):
            self.visible(path)
        else:
            self.steps.append(Copy(path))

    def shown(self) -> list[str]:
        """What is there copy-on-write, beside the root."""
        return [s.target for s in self.steps if isinstance(s, Overlay) and s.target != "/"]

    def of_the_user(self) -> list[str]:
        """What the user binds or hides."""
        return [step.target for step in self.steps if isinstance(step, (Bind, Hide))]

    def socket(self, path: str) -> None:
        """A socket of the host's; with its directory, where a private /tmp hides that.

        What the user binds or hides stays as the user has it.
        """
        targets = [step.target for step in self.steps]
        if within(path, self.of_the_user()):
            return
        if within(path, PLACES) and not within(path, self.shown()):
            for parent in _parents(path):
                # What would cover a mount that is there, or a directory on the way to one, is not
                # shown as a whole.
                if not any(within(target, (parent,)) for target in targets):
                    self.visible(parent)
                    break
        self.steps.append(Socket(path))


def _tops(paths: Iterable[str]) -> list[str]:
    """The paths that lie in none of the others."""
    tops: list[str] = []
    for path in sorted(set(paths)):
        if not within(path, tops):
            tops.append(path)
    return tops


def _parents(path: str) -> list[str]:
    parts = path.strip("/").split("/")[:-1]
    return ["/" + "/".join(parts[: i + 1]) for i in range(len(parts))]
