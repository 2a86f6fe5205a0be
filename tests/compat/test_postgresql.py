"""pytest-postgresql: the server of a session fixture, as Debian packages it, answers in a sandbox."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("pytest_postgresql")


@pytest.fixture
def pg_ctl(pytester: pytest.Pytester) -> str:
    """The program that starts a server, which refuses to as root: there it believes not to be."""
    versions = Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")  # Debian keeps them off PATH
    newest = max(versions, key=lambda path: float(path.parts[4]), default=None)
    found = str(newest) if newest else shutil.which("pg_ctl")
    if found is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    if os.geteuid() != 0:
        return found
    if shutil.which("unshare") is None:
        pytest.skip("as root, PostgreSQL takes a user namespace: unshare (util-linux) is not here")
    program = pytester.path / "pg_ctl"
    program.write_text(f'#!/bin/sh\nexec unshare --user --map-user=1000 {found} "$@"\n')
    program.chmod(0o755)
    return str(program)


def test_postgresql_answers_at_all_of_its_addresses(
    pytester: pytest.Pytester,
    run_pytest: Callable[..., pytest.RunResult],
    pg_ctl: str,
    short_tmp: Path,
) -> None:
    pytester.makepyfile(
        f"""
        import os
        from pathlib import Path
        import psycopg
        import pytest
        from pytest_postgresql import factories

        pytestmark = pytest.mark.sandbox

        # pg_ctl leaves the server behind as a daemon.
        DIRECTORIES = ["/tmp", {str(short_tmp)!r}]
        server = factories.postgresql_proc(
            executable={pg_ctl!r}, port=None, unixsocketdir=",".join(DIRECTORIES)
        )
        client = factories.postgresql("server")

        def connect(server, host):
            return psycopg.connect(host=host, port=server.port, user=server.user, dbname="postgres")

        @pytest.mark.parametrize("host", ["127.0.0.1", *DIRECTORIES])
        def test_address(server, host):
            assert os.getpid() == 2
            with connect(server, host) as connection:
                assert connection.execute("SELECT 42").fetchone() == (42,)

        @pytest.mark.sandbox(network="none")
        def test_without_a_network(server):
            with connect(server, "/tmp") as connection:
                assert connection.execute("SELECT 42").fetchone() == (42,)

        @pytest.mark.parametrize("again", [1, 2])
        def test_database_of_a_test(client, again):
            client.execute("CREATE TABLE numbers (number int)")
            client.execute("INSERT INTO numbers VALUES (42)")
            client.commit()
            assert client.execute("SELECT * FROM numbers").fetchall() == [(42,)]

        def test_what_the_server_writes_is_seen(server):
            with connect(server, "/tmp") as connection:
                connection.execute(f"COPY (SELECT 42) TO '{{server.datadir}}/out'")
            assert Path(server.datadir, "out").read_text() == "42\\n"
        """
    )
    run_pytest("-p", "pytest_postgresql").assert_outcomes(passed=7)
