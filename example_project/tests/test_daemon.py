"""The daemon: how it starts, what it serves, how it goes."""

from __future__ import annotations

import http.client
import os
import select
import signal
import socket
from pathlib import Path

import pytest
from conftest import Larder
from larder.config import PID_FILE, SOCKET_FILE
from larder.protocol import call

pytestmark = pytest.mark.sandbox(network="loopback")

PORT = 48620


def get(path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def kill(pid: int) -> None:
    """Kill the process, and wait until it is dead: until then it may still take a connection."""
    process = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        assert select.select([process], [], [], 10)[0]
    finally:
        os.close(process)


def test_port_in_use_is_reported(larder: Larder) -> None:
    with socket.create_server(("127.0.0.1", PORT)):
        result = larder("start")
    assert result.code == 1
    assert "Address already in use" in result.err


@pytest.mark.usefixtures("daemon")
def test_serves_the_cache_over_http(origin: Path) -> None:
    digest = call("fetch", url=origin.as_uri())["digest"]
    assert get(f"/{digest}") == (200, origin.read_bytes())
    assert get("/no-such-digest")[0] == 404


@pytest.mark.usefixtures("daemon")
def test_starting_again_keeps_the_daemon(larder: Larder) -> None:
    pid = PID_FILE.read_text()
    assert larder("start").code == 0
    assert PID_FILE.read_text() == pid


def test_stop_removes_socket_and_pid_file(larder: Larder) -> None:
    larder("start")
    assert larder("stop").out.startswith("stopped pid")
    assert not SOCKET_FILE.exists()
    assert not PID_FILE.exists()


def test_fetch_starts_the_daemon(larder: Larder, origin: Path) -> None:
    assert larder("fetch", origin.as_uri()).code == 0
    assert larder("status").out.startswith("running")


def test_a_killed_daemon_is_replaced(larder: Larder, origin: Path) -> None:
    larder("start")
    killed = int(PID_FILE.read_text())
    kill(killed)
    assert larder("fetch", origin.as_uri()).code == 0
    assert int(PID_FILE.read_text()) != killed
