"""pytest-redis: the server of a session fixture, as Debian packages it, answers in a sandbox."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("pytest_redis")


def test_redis_answers_at_all_of_its_addresses(
    pytester: pytest.Pytester, run_pytest: Callable[..., pytest.RunResult], short_tmp: Path
) -> None:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("Redis is not installed (apt-get install redis-server)")
    pytester.makepyfile(
        f"""
        import os
        from pathlib import Path
        import pytest
        from redis import Redis
        from pytest_redis import factories

        pytestmark = pytest.mark.sandbox

        server = factories.redis_proc(executable={program!r}, port=None)
        client = factories.redisdb("server")

        def test_network(server):
            assert os.getpid() == 2
            with Redis(server.host, server.port) as redis:
                assert redis.ping()

        @pytest.mark.sandbox(network="none")
        def test_path(server):
            with Redis(unix_socket_path=server.unixsocket) as redis:
                assert redis.ping()

        @pytest.mark.parametrize("again", [1, 2])
        def test_database_of_a_test(client, again):
            assert client.get("key") is None
            client.set("key", "value")
            assert client.get("key") == b"value"

        def test_what_the_server_writes_is_seen(client, server):
            client.set("key", "in the file")
            client.save()
            (dump,) = Path(server.unixsocket).parent.glob("dump.*.rdb")
            assert b"in the file" in dump.read_bytes()
        """
    )
    result = run_pytest("-p", "pytest_redis", "--basetemp", str(short_tmp / "base"))
    result.assert_outcomes(passed=5)
