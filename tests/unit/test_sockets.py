"""Which unix sockets are servers', and whose processes have them."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_nsbox.kernel import netunix
from pytest_nsbox.run import fixtures
from pytest_nsbox.sandbox import sockets

TABLE = b"""\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 11 /run/listens
0000000000000000: 00000002 00000000 00010000 0005 01    12 /run/seqpacket with spaces
0000000000000000: 00000002 00000000 00000000 0002 01 13 relative/datagram
0000000000000000: 00000003 00000000 00000000 0001 03 14 /run/listens
0000000000000000: 00000002 00000000 00000000 0001 01 15 /run/bound only
0000000000000000: 00000002 00000000 00010000 0001 01 16 @abstract
0000000000000000: 00000002 00000000 00000000 0002 01 17 @abstract datagram
0000000000000000: 00000002 00000000 00010000 0001 01 18
0000000000000000: 00000002 00000000 00010000 0001 01 19 /run/caf\xe9
"""


def test_servers_are_what_listens_at_a_path_and_what_takes_datagrams() -> None:
    assert netunix.servers(TABLE) == [
        (11, "/run/listens"),
        (12, "/run/seqpacket with spaces"),
        (13, "relative/datagram"),
        (19, "/run/caf\udce9"),
    ]


def test_the_file_of_a_socket_is_known_whatever_it_is_called_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # for an address has 108 bytes
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as another:
        server.bind("one")
        another.bind("another")
        os.rename("one", "two")
        inode = os.stat("two").st_ino & 0xFFFFFFFF
        assert netunix.file_inode(os.fstat(server.fileno()).st_ino) == inode
    assert netunix.file_inode(0xFFFFFFF0) is None


def test_a_table_that_has_not_changed_is_not_searched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searched: list[object] = []

    def locate(*args: object) -> dict[int, str]:
        searched.append(args)
        return {}

    tables = iter([TABLE, TABLE, TABLE + b" "])
    monkeypatch.setattr(netunix, "read", lambda: next(tables))
    monkeypatch.setattr(sockets, "_locate", locate)
    found = sockets.Sockets(lambda environment: True)
    for anew in (True, False, True, True):
        assert found.look(anew=anew) == ()
    # The last one has nothing that was not there before.
    assert len(searched) == 1
    assert next(tables, None) is None


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"PYTEST_CURRENT_TEST": "test_a.py::test_it[a (b)] (setup)"}, True),
        ({"PYTEST_CURRENT_TEST": "test_b.py::test_it (setup)"}, False),
        ({"PYTEST_CURRENT_TEST": ""}, False),
        ({}, False),
        (
            {
                "PYTEST_CURRENT_TEST": "test_a.py::test_it[a (b)] (setup)",
                "PYTEST_XDIST_WORKER": "gw1",
            },
            False,
        ),
    ],
)
def test_a_daemon_has_the_environment_of_a_test_of_this_run(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: bool
) -> None:
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)
    session: Any = SimpleNamespace(items=[SimpleNamespace(nodeid="test_a.py::test_it[a (b)]")])
    assert fixtures.is_started_by(session, environment) is expected


def test_the_family_of_this_process_begins_with_itself_and_has_no_ancestor() -> None:
    family = sockets._family(lambda environment: False)
    assert family[0] == os.getpid()
    assert os.getppid() not in family
    assert 1 not in family
