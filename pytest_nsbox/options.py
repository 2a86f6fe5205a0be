"""The options of a sandbox: from marker, ini-file and command line to one validated value."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

Network = Literal["host", "loopback", "none"]
Scope = Literal["function", "class", "module", "package", "session"]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# ASCII, for "K" would match the Kelvin sign too; few digits, for int() refuses very many.
_SIZE = re.compile(r"(\d{1,19})\s*([KMGT]?)(?:I?B)?", re.IGNORECASE | re.ASCII)
_SIZE_LIMIT = 1 << 63  # the kernel wraps silently at 2**64
_TIMEOUT_MAX = (2**31 - 1) // 1000  # seconds: poll(2) takes milliseconds in an int
_HOST_NAME_MAX = 64  # bytes, gethostname(2)
# What a sandbox makes itself: nothing may be put over it, nor may it be hidden.  A device node
# below /dev may be bound, such as /dev/kvm.
_OWN = ("/", "/dev", "/proc", "/sys", "/dev/pts", "/dev/shm")
_OWN_BELOW = ("/proc/", "/sys/", "/dev/pts/", "/dev/shm/")


class OptionError(ValueError):
    """A bad option: says what was given, what is allowed and the way out."""


class Bind(NamedTuple):
    """A path that is let through to the host. Both paths are absolute and normalised."""

    source: str  # on the host
    target: str  # in the sandbox
    read_only: bool

    def __str__(self) -> str:
        target = "" if self.target == self.source else f":{self.target}"
        return f"{self.source}{target}{':ro' if self.read_only else ''}"


# No dataclasses here and above: to make the three would be half of what the plugin adds to a start.
class SandboxOptions(NamedTuple):
    """What one test's sandbox is to be. Hashable; a field for each of KEYS."""

    tmp_size: int | None = None  # bytes; None: a quarter of the memory
    network: Network = "host"
    timeout: float | None = None  # seconds; None: for ever
    env: Mapping[str, str] = MappingProxyType({})
    bind: tuple[Bind, ...] = ()
    hide: tuple[str, ...] = ()
    hostname: str | None = None
    keep: tuple[str, ...] = ()
    serial: bool = False
    scope: Scope = "function"

    def __hash__(self) -> int:
        # A read-only view cannot be hashed (before 3.12). Equal options have equal hashes without it.
        return hash((*self[:3], *self[4:]))

    def describe(self) -> str:
        """The options that are not the default, such as ``tmp_size=64M, network=loopback``."""
        default = SandboxOptions()
        return ", ".join(
            f"{name}={key.show(value)}"
            for name, key in KEYS.items()
            if (value := getattr(self, name)) != getattr(default, name)
        )


class Key(NamedTuple):
    """One key of the marker, of the ini-file (as ``nsbox_NAME``) and of ``nsbox run``."""

    name: str
    help: str
    ini_type: Literal["string", "linelist"]
    check: Callable[[Any], object]
    check_text: Callable[[Any], object] | None = None  # where text is not what a marker takes
    show: Callable[[Any], str] = str

    def parse(self, value: object) -> object:
        """The value that a marker gives, normalised. Raises OptionError."""
        return self._named(self.name, self.check, value)

    def parse_ini(self, value: object, name: str = "") -> object:
        """The same for text: a string, or a list of lines. Raises OptionError, naming ``name``."""
        return self._named(name or self.name, self.check_text or self.check, value)

    def _named(self, name: str, check: Callable[[Any], object], value: object) -> object:
        try:
            return check(value)
        except OptionError as error:
            raise OptionError(f"{name}={error}") from None


# ----------------------------------------------------------------------- values


def parse_size(value: object) -> int:
    """A number of bytes: an int, or "64M" with K, M, G or T for powers of 1024 (KiB, KB alike).

    Raises OptionError.
    """
    size = 0
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        size = int(match[1]) * _UNITS[match[2].upper()]
    if not 0 < size < _SIZE_LIMIT:
        raise OptionError(
            f"{value!r} is not a size; write a number of bytes above 0 and below 2**63, or one "
            "with K, M, G or T, such as '64M'"
        )
    return size


def _show_size(size: int) -> str:
    """The shortest that parse_size takes."""
    suffix = max((u for u, n in _UNITS.items() if size % n == 0), key=_UNITS.__getitem__)
    return f"{size // _UNITS[suffix]}{suffix}"


def _one_of(kind: object) -> Callable[[object], object]:
    allowed = get_args(kind)

    def check(value: object) -> object:
        if value not in allowed:
            choices = ", ".join(map(repr, allowed))
            raise OptionError(f"{value!r} is not allowed; choose from {choices}")
        return value

    return check


def _timeout(value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value <= _TIMEOUT_MAX:  # which refuses a NaN too
        raise _not_a_timeout(value)
    return float(value)


def _timeout_text(text: Any) -> float:
    try:
        return _timeout(float(text))
    except (TypeError, ValueError):  # an OptionError is one, but names the float
        raise _not_a_timeout(text) from None


def _not_a_timeout(value: object) -> OptionError:
    return OptionError(
        f"{value!r} is not a timeout; write a number of seconds above 0 and up to {_TIMEOUT_MAX}"
    )


def _env(value: object) -> Mapping[str, str]:
    # No error shows more than it must: values may be secrets.
    if not isinstance(value, Mapping):
        raise OptionError(f"{value!r} is not an environment; write a dict, such as {{'TZ': 'UTC'}}")
    for name, text in value.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise OptionError(
                f"{{{name!r}: ...}} has a bad name; a name is a string, not empty, "
                "without '=' and NUL"
            )
        if not isinstance(text, str) or "\0" in text:
            raise OptionError(
                f"{{{name!r}: {text!r}}} has a bad value; a value is a string without NUL, "
                "such as '1'"
            )
    return MappingProxyType(dict(value))


def _env_lines(value: object) -> Mapping[str, str]:
    """``NAME=VALUE``, one a line; of two for a name the last one counts."""
    found = {}
    for line in _strings(value, "TZ=UTC"):
        name, equals, text = line.partition("=")
        if not equals:
            raise OptionError(f"{line!r} has no '='; write NAME=VALUE, one a line")
        found[name.strip()] = text
    return _env(found)


def _strings(value: object, example: str) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        # A string is a sequence too, and would silently be one of characters.
        given = value if value and isinstance(value, str) else example
        raise OptionError(f"{value!r} is not a list; write a list, such as {[given]!r}")
    for item in value:
        if not isinstance(item, str) or not item or "\0" in item:
            raise OptionError(
                f"{value!r} has the item {item!r}; an item is a string, not empty, without NUL, "
                f"such as {example!r}"
            )
    return tuple(value)


def _bind(value: object) -> tuple[Bind, ...]:
    return tuple(_one_bind(text) for text in _strings(value, "/data:/mnt/data:ro"))


def _one_bind(text: str) -> Bind:
    """``SOURCE[:TARGET][:ro|rw]``; a path that has a colon in it cannot be written so."""
    parts = text.split(":")
    read_only = False
    if len(parts) > 1 and not parts[-1].startswith(("/", "~")):
        mode = parts.pop()
        if mode not in ("ro", "rw"):
            raise OptionError(
                f"{text!r} has the mode {mode!r}; choose 'ro' or 'rw' (the default), "
                "or write an absolute target"
            )
        read_only = mode == "ro"
    if len(parts) > 2:
        raise OptionError(f"{text!r} has too many parts; write 'SOURCE[:TARGET][:ro|rw]'")
    source, target = _absolute(parts[0], text), _absolute(parts[-1], text)
    if own := _own(target):
        raise OptionError(
            f"{text!r} is onto {own}, which every sandbox has of its own; choose a target that is "
            f"none of {', '.join(_OWN)}, nor below /proc, /sys, /dev/pts or /dev/shm"
        )
    if not os.path.exists(source):
        raise OptionError(f"{text!r}: {source} does not exist on the host; name a path that does")
    return Bind(source, target, read_only)


def _hide(value: object) -> tuple[str, ...]:
    return tuple(_one_hidden(text) for text in _strings(value, "~/.config"))


def _one_hidden(text: str) -> str:
    path = _absolute(text, text)
    if own := _own(path, (*_OWN, "/tmp")):
        raise OptionError(
            f"{text!r} is {own}, which every sandbox has of its own; choose a path that is none "
            f"of {', '.join(_OWN)}, /tmp, nor below /proc, /sys, /dev/pts or /dev/shm"
        )
    return path


def _absolute(path: str, given: str) -> str:
    expanded = os.path.expanduser(path)
    if not expanded.startswith("/"):
        raise OptionError(f"{given!r}: {path!r} is relative; write an absolute path, or one with ~")
    # normpath() keeps two leading slashes, as POSIX has it; to Linux they are one.
    return os.path.normpath("/" + expanded.lstrip("/"))


def _own(path: str, own: tuple[str, ...] = _OWN) -> str | None:
    """Where the path is, if that is what a sandbox makes itself; symlinks lead there too."""
    for place in (path, os.path.realpath(path)):
        if place in own or place.startswith(_OWN_BELOW):
            return place
    return None


def _hostname(value: object) -> object:
    if not isinstance(value, str) or not value or "\0" in value or "/" in value:
        raise OptionError(
            f"{value!r} is not a host name; write a string of 1 to {_HOST_NAME_MAX} bytes "
            "without '/' and NUL, such as 'box'"
        )
    length = len(value.encode(errors="surrogatepass"))
    if length > _HOST_NAME_MAX:
        raise OptionError(f"{value!r} has {length} bytes; at most {_HOST_NAME_MAX} are allowed")
    return value


def _serial(value: object) -> bool:
    if not isinstance(value, bool):
        raise OptionError(f"{value!r} is not allowed; choose True or False")
    return value


def _serial_text(text: Any) -> bool:
    allowed = {"true": True, "false": False}
    if str(text).lower() not in allowed:
        raise OptionError(f"{text!r} is not allowed; choose from {', '.join(allowed)}")
    return allowed[str(text).lower()]


def _keep(value: object) -> tuple[str, ...]:
    return _strings(value, "build/report")


def _show_list(value: Sequence[object]) -> str:
    return ",".join(map(str, value))


def _show_names(env: Mapping[str, str]) -> str:
    return ",".join(env)  # without the values: they may be secrets, and this goes into CI logs


KEYS: Mapping[str, Key] = MappingProxyType(
    {
        key.name: key
        for key in (
            Key(
                "tmp_size",
                "the size of the private /tmp, such as 64M",
                "string",
                parse_size,
                show=_show_size,
            ),
            Key("network", "host (the default), loopback or none", "string", _one_of(Network)),
            Key(
                "timeout",
                "seconds until the sandbox is killed",
                "string",
                _timeout,
                _timeout_text,
                show="{:g}".format,
            ),
            Key(
                "env",
                "environment variables (NAME=VALUE)",
                "linelist",
                _env,
                _env_lines,
                show=_show_names,
            ),
            Key(
                "bind",
                "paths of the host's to let through, SOURCE[:TARGET][:ro|rw]",
                "linelist",
                _bind,
                show=_show_list,
            ),
            Key(
                "hide",
                "paths of the host's to replace by nothing",
                "linelist",
                _hide,
                show=_show_list,
            ),
            Key("hostname", "the host name in the sandbox", "string", _hostname),
            Key(
                "keep",
                "paths to copy out to the host after the test",
                "linelist",
                _keep,
                show=_show_list,
            ),
            Key(
                "serial",
                "whether the test must be alone, with --nsbox-jobs",
                "string",
                _serial,
                _serial_text,
            ),
            Key(
                "scope",
                "which tests share a sandbox: those of a class, module, package or session, one "
                "after the other; function (the default): none",
                "string",
                _one_of(Scope),
            ),
        )
    }
)


def from_ini(get: Callable[[str], object]) -> dict[str, object]:
    """The values that the ini-file has, normalised; ``get`` is ``config.getini``.

    Raises OptionError, which names the ini option.
    """
    found = {}
    for key in KEYS.values():
        name = f"nsbox_{key.name}"
        value = get(name)
        if value not in (None, "", []):
            found[key.name] = key.parse_ini(value, name)
    return found


def merge(
    defaults: Mapping[str, object], markers: Sequence[Mapping[str, object]]
) -> SandboxOptions:
    """The defaults (normalised already), overruled key by key by markers, the closest last.

    A value replaces the one beneath as a whole. Raises OptionError.
    """
    values: dict[str, Any] = dict(defaults)
    for marker in markers:
        for name, value in marker.items():
            if name not in KEYS:
                raise _unknown(name)
            values[name] = KEYS[name].parse(value)
    return SandboxOptions(**values)


def _unknown(name: str) -> OptionError:
    import difflib  # only for an error: not on the way of a start

    close = difflib.get_close_matches(name, KEYS, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return OptionError(
        f"unknown key {name!r} of the sandbox marker; {hint}known are {', '.join(KEYS)}"
    )
