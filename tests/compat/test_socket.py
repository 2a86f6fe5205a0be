"""pytest-socket: what a test may not open does not keep a sandbox from its test."""

from __future__ import annotations

import re

import pytest

from .conftest import Both

pytest.importorskip("pytest_socket")

PLUGINS = ("socket",)

SUITE = """
    import multiprocessing
    import socket
    import pytest

    @pytest.fixture(scope="module")
    def server():
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield server.getsockname()

    def test_forbidden():
        socket.socket()

    def test_pair():
        one, two = socket.socketpair()
        one.close(), two.close()

    @pytest.mark.enable_socket
    def test_marked():
        socket.socket().close()

    def test_fixture(socket_enabled):
        socket.socket().close()

    def test_disabled_by_fixture(socket_disabled):
        with pytest.raises(RuntimeError):
            socket.socket()

    @pytest.mark.allow_hosts(["127.0.0.1"])
    def test_host(socket_enabled):
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname()).close()

    @pytest.mark.allow_hosts(["127.0.0.2"])
    def test_other_host(socket_enabled):
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname())

    def test_processes():
        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert pool.apply(len, ["four"]) == 4

    def test_forbidden_to_its_fixture(server):
        pass

    @pytest.mark.enable_socket
    def test_server(server):
        assert server[0] == "127.0.0.1"
"""


def test_options_markers_and_fixtures(pytester: pytest.Pytester, both: Both) -> None:
    pytester.makepyfile(SUITE)
    varying = [(re.compile(r"\b\d{5}\b"), "<port>"), (re.compile(r"fileno = \d+"), "<fileno>")]
    disabled, without_unix, hosts = both(
        ["-v", "--disable-socket"],
        ["-v", "--disable-socket", "--allow-unix-socket"],
        ["-v", "--allow-hosts=127.0.0.1"],
        varying=varying,
    ).runs
    disabled.assert_outcomes(passed=6, failed=2, errors=2)
    without_unix.assert_outcomes(passed=7, failed=1, errors=2)
    hosts.assert_outcomes(passed=10)
