"""The daemon: downloads once for whoever asks, and serves the cache over HTTP on the loopback."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socketserver
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from larder.cache import Cache, Entry
from larder.config import PID_FILE, SOCKET_FILE, ConfigError, Settings, load_settings
from larder.lock import Locked
from larder.protocol import Message, Refused, Unreachable, call, read_message, write_message

log = logging.getLogger("larder")

SCHEMES = ("file", "http", "https")


class DaemonError(Exception):
    """The daemon did not do as told, and what it said."""


class SocketHandler(socketserver.StreamRequestHandler):
    server: SocketServer

    def handle(self) -> None:
        request: Message = {}
        try:
            request = read_message(self.rfile)
            answer = self.server.daemon.answer(request)
        except (Refused, ValueError) as error:
            answer = {"error": str(error)}
        except Unreachable:  # a client that only looks whether we are there
            return
        with contextlib.suppress(ConnectionError):
            write_message(self.wfile, answer)
        if request.get("op") == "stop":  # only now: it is to have its answer
            self.server.daemon.stop()


class SocketServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, path: Path, daemon: Daemon) -> None:
        super().__init__(str(path), SocketHandler)
        self.daemon = daemon


class HTTPHandler(BaseHTTPRequestHandler):
    server: HTTPServer

    def do_GET(self) -> None:
        entry = self.server.daemon.cache.find(self.path.removeprefix("/"))
        if entry is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        body = entry.path.read_bytes()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        log.info("http: " + format, *args)


# Not http.server's own: that one looks its host name up, which takes seconds where no DNS answers.
class HTTPServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int, daemon: Daemon) -> None:
        super().__init__(("127.0.0.1", port), HTTPHandler)
        self.daemon = daemon


class Daemon:
    """Owns the port, the socket and the pid file, taken in this order.

    Only one process can have the port. So whoever has it may replace a socket and a pid file: they
    were left by a daemon that was killed.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cache = Cache(settings.cache_dir)
        self.http_server = HTTPServer(settings.port, self)
        SOCKET_FILE.unlink(missing_ok=True)
        self.socket_server = SocketServer(SOCKET_FILE, self)
        self._stop = threading.Event()
        self._last_request = time.monotonic()
        # Whoever asks for what is being downloaded waits for that download.
        self._downloads: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def serve(self) -> None:
        """Answer requests until told to stop, or until nobody asks any more."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: self.stop())
        for server in (self.http_server, self.socket_server):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        while not self._stop.wait(min(1.0, self.settings.idle_timeout)):
            if time.monotonic() - self._last_request > self.settings.idle_timeout:
                log.info("idle for %.0f s", self.settings.idle_timeout)
                break
        # The port is ours until we exit: until then, no other daemon touches these two.
        SOCKET_FILE.unlink(missing_ok=True)
        PID_FILE.unlink(missing_ok=True)
        log.info("stopped")

    def stop(self) -> None:
        self._stop.set()

    def answer(self, request: Message) -> Message:
        self._last_request = time.monotonic()
        op = request.get("op")
        log.info("%s %s", op, request.get("url", ""))
        if op == "status":
            return {
                "pid": os.getpid(),
                "port": self.settings.port,
                "entries": len(self.cache.entries()),
                "bytes": self.cache.size(),
            }
        if op == "fetch":
            entry = self.fetch(str(request["url"]), fresh=bool(request.get("fresh")))
            return {"path": str(entry.path), "size": entry.size, "digest": entry.digest}
        if op == "stop":
            return {"pid": os.getpid()}
        raise Refused(f"unknown operation {op!r}")

    def fetch(self, url: str, *, fresh: bool = False) -> Entry:
        with self._downloads[url]:
            entry = None if fresh else self.cache.lookup(url)
            if entry is None:
                entry = self.cache.store(url, download(url))
        if self.cache.size() > self.settings.max_bytes:
            try:
                self.cache.evict(self.settings.max_bytes)
            except Locked as error:  # whoever holds the lock is making room
                log.warning("%s", error)
        return entry


def download(url: str) -> bytes:
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES:
        raise Refused(f"cannot fetch {url!r}: the scheme must be one of {', '.join(SCHEMES)}")
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            data = response.read()
    except (urllib.error.URLError, OSError) as error:
        raise Refused(f"cannot fetch {url!r}: {getattr(error, 'reason', error)}") from error
    assert isinstance(data, bytes)
    return data


def start() -> int:
    """Have a daemon running, and return its pid."""
    try:
        return int(call("status")["pid"])
    except Unreachable:
        pass
    # The same larder as this one, also where it is not installed.
    path = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    process = subprocess.run(
        [sys.executable, "-m", "larder.daemon"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Where another larder has started one at the same time, ours could not have the port; theirs
    # answers in a moment.
    for _ in range(5):
        with contextlib.suppress(Unreachable):
            return int(call("status")["pid"])
        time.sleep(0.05)
    raise DaemonError(process.stderr.strip() or "the daemon did not start")


def stop(timeout: float = 5.0) -> int | None:
    """Stop the daemon, wait until it is gone, and return the pid it had."""
    try:
        pid = int(call("status")["pid"])
        process = os.pidfd_open(pid)
    except (Unreachable, ProcessLookupError):
        return None
    try:
        call("stop")
        if not select.select([process], [], [], timeout)[0]:
            raise DaemonError(f"the daemon, pid {pid}, does not stop")
    finally:
        os.close(process)
    return pid


def detach(log_file: Path) -> int:
    """Go on as a daemon; the process that called returns to its parent when told so.

    The second fork is for this one not to lead its session, so that it never gets a terminal. The
    returned descriptor is to be written to when the daemon is ready.
    """
    ready, tell = os.pipe()
    if os.fork():
        os.close(tell)
        os._exit(0 if os.read(ready, 1) else 1)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with open(os.devnull) as null, log_file.open("a") as output:
        os.dup2(null.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    return tell


def main() -> int:
    try:
        settings = load_settings()
        daemon = Daemon(settings)
    except (ConfigError, OSError) as error:
        print(f"the daemon cannot start: {error}", file=sys.stderr)
        return 1
    tell = detach(settings.cache_dir / "daemon.log")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    PID_FILE.write_text(f"{os.getpid()}\n")
    log.info("pid %d, port %d", os.getpid(), settings.port)
    os.write(tell, b"1")
    os.close(tell)
    daemon.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
