"""The options of a sandbox: from marker, ini-file and command line to one validated value."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

Network = Literal["host", "loopback", "none"]

_NETWORKS = ("host", "loopback", "none")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+)\s*([KMGT]?)(?:I?B)?", re.IGNORECASE)
_HOST_NAME_MAX = 64  # bytes, gethostname(2)
# What a sandbox makes itself: nothing may be put over it, nor may it be hidden.
_OWN = ("/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm")


class OptionError(ValueError):
    """A bad option: says what was given, what is allowed and the way out."""


@dataclass(frozen=True)
class Bind:
    """A path that is let through to the host. Both paths are absolute and normalised."""

    source: str  # on the host
    target: str  # in the sandbox
    read_only: bool


@dataclass(frozen=True)
class SandboxOptions:
    """What one test's sandbox is to be."""

    tmp_size: int | None = None  # bytes; None: the kernel's default, half of the memory
    network: Network = "host"
    timeout: float | None = None  # seconds
    env_items: tuple[tuple[str, str], ...] = ()
    bind: tuple[Bind, ...] = ()
    hide: tuple[str, ...] = ()
    hostname: str | None = None
    keep: tuple[str, ...] = ()

    @property
    def env(self) -> Mapping[str, str]:
        """The variables that are set for the test."""
        return MappingProxyType(dict(self.env_items))

    def describe(self) -> str:
        """The options that are not the default, as ``name=value, ...``."""
        default = SandboxOptions()
        names = ("tmp_size", "network", "timeout", "env", "bind", "hide", "hostname", "keep")
        return ", ".join(
            f"{name}={getattr(self, name)!s}"
            for name in names
            if getattr(self, name) != getattr(default, name)
        )


@dataclass(frozen=True)
class Key:
    """One key of the marker, of the ini-file (as ``nsbox_NAME``) and of ``nsbox run``."""

    name: str
    help: str
    ini_type: Literal["string", "linelist"]
    check: Callable[[Any], object]
    from_text: Callable[[Any], object] = lambda value: value

    def parse(self, value: object) -> object:
        """The value that a marker gives, normalised. Raises OptionError."""
        return self._named(self.name, lambda: self.check(value))

    def parse_ini(self, value: object, name: str = "") -> object:
        """The same for text: a string, or a list of lines. Raises OptionError."""
        return self._named(name or self.name, lambda: self.check(self.from_text(value)))

    def _named(self, name: str, parse: Callable[[], object]) -> object:
        try:
            return parse()
        except OptionError as error:
            raise OptionError(f"{name}={error}") from None


# ----------------------------------------------------------------------- values


def parse_size(value: object) -> int:
    """A number of bytes: an int, or "64M" with K, M, G or T for powers of 1024 (KiB, KB alike)."""
    size = 0
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        size = int(match[1]) * _UNITS[match[2].upper()]
    if size <= 0:
        raise OptionError(
            f"{value!r} is not a size; write a number of bytes above 0, or one with "
            "K, M, G or T, such as '64M'"
        )
    return size


def _network(value: object) -> object:
    if value not in _NETWORKS:
        raise OptionError(
            f"{value!r} is not a network; choose from {', '.join(map(repr, _NETWORKS))}"
        )
    return value


def _timeout(value: object) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:  # type: ignore[arg-type,operator]
        raise OptionError(f"{value!r} is not a timeout; write a number of seconds above 0")
    return float(value)  # type: ignore[arg-type]


def _number(text: object) -> object:
    try:
        return float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return text


def _env(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping):
        raise OptionError(f"{value!r} is not an environment; write a dict, such as {{'TZ': 'UTC'}}")
    for name, text in value.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise OptionError(
                f"{dict(value)!r} has the name {name!r}; a name is a string, not empty, "
                "without '=' and NUL"
            )
        if not isinstance(text, str) or "\0" in text:
            raise OptionError(
                f"{dict(value)!r} has {text!r} for {name}; a value is a string without NUL, "
                f"such as {str(text)!r}"
            )
    return tuple(value.items())


def _env_lines(lines: Iterable[str]) -> object:
    found = {}
    for line in lines:
        name, equals, text = line.partition("=")
        if not equals:
            raise OptionError(f"{line!r} has no '='; write NAME=VALUE, one a line")
        found[name.strip()] = text
    return found


def _strings(value: object, example: str) -> list[str]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) and v for v in value):
        raise OptionError(f"{value!r} is not a list of paths; write a list, such as {example}")
    return list(value)


def _bind(value: object) -> tuple[Bind, ...]:
    return tuple(_one_bind(text) for text in _strings(value, "['/data:/mnt/data:ro']"))


def _one_bind(text: str) -> Bind:
    """``SOURCE[:TARGET][:ro|rw]``; a path that has a colon in it cannot be written so."""
    parts = text.split(":")
    read_only = False
    if len(parts) > 1 and not parts[-1].startswith(("/", "~")):
        mode = parts.pop()
        if mode not in ("ro", "rw"):
            raise OptionError(f"{text!r} has the mode {mode!r}; choose 'ro' or 'rw' (the default)")
        read_only = mode == "ro"
    if len(parts) > 2:
        raise OptionError(f"{text!r} has too many parts; write 'SOURCE[:TARGET][:ro|rw]'")
    source, target = _absolute(parts[0], text), _absolute(parts[-1], text)
    if target in _OWN or target.startswith(("/proc/", "/sys/", "/dev/pts/", "/dev/shm/")):
        raise OptionError(
            f"{text!r} is onto {target}, which every sandbox has of its own; "
            f"choose a target outside {', '.join(_OWN)}"
        )
    if not os.path.exists(source):
        raise OptionError(f"{text!r}: {source} does not exist on the host; name a path that does")
    return Bind(source, target, read_only)


def _hide(value: object) -> tuple[str, ...]:
    paths = []
    for text in _strings(value, "['~/.config']"):
        path = _absolute(text, text)
        if path in (*_OWN, "/tmp") or path.startswith(("/proc/", "/sys/")):
            raise OptionError(
                f"{text!r} cannot be hidden, a sandbox has its own; "
                "choose a path outside /, /proc, /sys, /dev and /tmp"
            )
        paths.append(path)
    return tuple(paths)


def _absolute(path: str, given: str) -> str:
    expanded = os.path.expanduser(path)
    if not expanded.startswith("/"):
        raise OptionError(f"{given!r}: {path!r} is relative; write an absolute path, or one with ~")
    return os.path.normpath(expanded)


def _hostname(value: object) -> object:
    if not isinstance(value, str) or not value or "\0" in value or "/" in value:
        raise OptionError(f"{value!r} is not a host name; write a string such as 'box'")
    length = len(os.fsencode(value))
    if length > _HOST_NAME_MAX:
        raise OptionError(f"{value!r} has {length} bytes; at most {_HOST_NAME_MAX} are allowed")
    return value


def _keep(value: object) -> tuple[str, ...]:
    return tuple(_strings(value, "['build/report']"))


KEYS: Mapping[str, Key] = MappingProxyType(
    {
        key.name: key
        for key in (
            Key("tmp_size", "the size of the private /tmp, such as 64M", "string", parse_size),
            Key("network", "host (the default), loopback or none", "string", _network),
            Key("timeout", "seconds until the sandbox is killed", "string", _timeout, _number),
            Key("env", "environment variables (NAME=VALUE)", "linelist", _env, _env_lines),
            Key(
                "bind",
                "paths of the host's to let through, SOURCE[:TARGET][:ro|rw]",
                "linelist",
                _bind,
            ),
            Key("hide", "paths of the host's to replace by nothing", "linelist", _hide),
            Key("hostname", "the host name in the sandbox", "string", _hostname),
            Key("keep", "paths to copy out to the host after the test", "linelist", _keep),
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


def merge(defaults: Mapping[str, object], markers: Sequence[Mapping[str, object]]) -> SandboxOptions:
    """The defaults (normalised already), overruled key by key by markers, the closest last.

    Raises OptionError.
    """
    values = dict(defaults)
    for marker in markers:
        for name, value in marker.items():
            if name not in KEYS:
                close = difflib.get_close_matches(name, KEYS, 1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                raise OptionError(
                    f"unknown key {name!r} of the sandbox marker; {hint}known are {', '.join(KEYS)}"
                )
            values[name] = KEYS[name].parse(value)
    if "env" in values:
        values["env_items"] = values.pop("env")
    return SandboxOptions(**values)  # type: ignore[arg-type]
