"""Settings: the defaults, then the site's file, then the user's; and the fixed places in /tmp."""

from __future__ import annotations

import configparser
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

LOCK_FILE = Path("/tmp/larder.lock")
PID_FILE = Path("/tmp/larder.pid")
SOCKET_FILE = Path("/tmp/larder.sock")

SECTION = "larder"
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


class ConfigError(Exception):
    """A configuration file that cannot be used, and why."""


def default_cache_dir() -> Path:
    return Path.home() / ".cache" / "larder"


@dataclass(frozen=True)
class Settings:
    cache_dir: Path = field(default_factory=default_cache_dir)
    port: int = 48620
    max_bytes: int = 512 * UNITS["M"]
    # Seconds without a request after which the daemon goes away by itself.
    idle_timeout: float = 600.0

    def describe(self) -> str:
        return "\n".join(f"{f.name} = {getattr(self, f.name)}" for f in fields(self))


def site_file() -> Path:
    """The administrator's file; who is no administrator has a prefix of his own in ~/.local."""
    prefix = Path("/") if os.geteuid() == 0 else Path.home() / ".local"
    return prefix / "etc" / "larder.conf"


def user_file() -> Path:
    return Path.home() / ".config" / "larder" / "config.ini"


def load_settings() -> Settings:
    settings = Settings()
    for file in (site_file(), user_file()):
        settings = replace(settings, **read_file(file))
    return settings


def read_file(file: Path) -> dict[str, Any]:
    """The values `file` sets, by the names of `Settings`; none if there is no such file."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(file)
    except configparser.Error as error:
        raise ConfigError(f"{file}: {error}") from error
    if not parser.has_section(SECTION):
        return {}
    return {key: parse(file, key, text) for key, text in parser.items(SECTION)}


def write_value(file: Path, key: str, text: str) -> None:
    """Set one key of `file` and keep the others."""
    parse(file, key, text)
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(file)
    if not parser.has_section(SECTION):
        parser.add_section(SECTION)
    parser.set(SECTION, key, text)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as stream:
        parser.write(stream)


def parse(file: Path, key: str, text: str) -> Any:
    try:
        parser = PARSERS[key]
    except KeyError:
        known = ", ".join(PARSERS)
        raise ConfigError(f"{file}: unknown key {key!r}. Known keys: {known}.") from None
    try:
        return parser(text)
    except ValueError as error:
        raise ConfigError(f"{file}: {key} = {text!r}: {error}") from error


def parse_size(text: str) -> int:
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "")
    if not number.isdigit():
        raise ValueError(f"not a size such as 300, 64K, 512M or 2G: {text!r}")
    return int(number) * UNITS.get(unit, 1)


def parse_port(text: str) -> int:
    port = int(text)
    if not 0 < port < 2**16:
        raise ValueError("not a port between 1 and 65535")
    return port


PARSERS: dict[str, Callable[[str], Any]] = {
    "cache_dir": lambda text: Path(text).expanduser(),
    "port": parse_port,
    "max_bytes": parse_size,
    "idle_timeout": float,
}
