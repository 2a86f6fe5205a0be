"""The command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from larder import __version__
from larder.cache import Cache
from larder.config import ConfigError, load_settings, site_file, user_file, write_value
from larder.daemon import DaemonError, start, stop
from larder.lock import Locked
from larder.protocol import Refused, Unreachable, call

NOT_RUNNING = 3  # as systemctl status has it


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="larder", description="A download cache.")
    parser.add_argument("--version", action="version", version=f"larder {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    fetch = commands.add_parser("fetch", help="print the path of a copy, downloaded if need be")
    fetch.add_argument("--fresh", action="store_true", help="download, even if there is a copy")
    fetch.add_argument("url", nargs="+")

    commands.add_parser("list", help="what the cache holds, least recently used first")
    commands.add_parser("gc", help="make the cache as small as max_bytes")
    commands.add_parser("purge", help="empty the cache")
    commands.add_parser("start", help="start the daemon, if it does not run")
    commands.add_parser("status", help="say whether the daemon runs")
    commands.add_parser("stop", help="stop the daemon")

    config = commands.add_parser("config", help="print the settings, or set one")
    config.add_argument("--site", action="store_true", help="set it for everybody on this host")
    config.add_argument("assignment", nargs="?", metavar="KEY=VALUE")
    return parser


def run(arguments: argparse.Namespace) -> int:
    cache = Cache(load_settings().cache_dir)
    match arguments.command:
        case "fetch":
            start()
            for url in arguments.url:
                print(call("fetch", url=url, fresh=arguments.fresh)["path"])
        case "list":
            for entry in cache.entries():
                print(f"{entry.size:>10}  {entry.url}")
        case "gc":
            removed = cache.evict(load_settings().max_bytes)
            print(f"removed {len(removed)}, kept {len(cache.entries())}")
        case "purge":
            print(f"removed {len(cache.purge())}")
        case "start":
            print(f"running, pid {start()}")
        case "status":
            return status()
        case "stop":
            pid = stop()
            print("not running" if pid is None else f"stopped pid {pid}")
        case "config":
            return config(arguments.assignment, site=arguments.site)
    return 0


def status() -> int:
    try:
        answer = call("status")
    except Unreachable:
        print("not running")
        return NOT_RUNNING
    print(
        f"running, pid {answer['pid']}, http://127.0.0.1:{answer['port']}, "
        f"entries: {answer['entries']}, bytes: {answer['bytes']}"
    )
    return 0


def config(assignment: str | None, *, site: bool) -> int:
    if assignment is None:
        print(load_settings().describe())
        return 0
    key, equals, value = assignment.partition("=")
    if not equals:
        raise ConfigError(f"{assignment!r} is not of the form KEY=VALUE")
    write_value(site_file() if site else user_file(), key.strip(), value.strip())
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    try:
        return run(arguments)
    except Locked as error:
        print(f"larder: {error}", file=sys.stderr)
        return os.EX_TEMPFAIL
    except (ConfigError, OSError, Refused, DaemonError, Unreachable) as error:
        print(f"larder: {error}", file=sys.stderr)
        return 1
