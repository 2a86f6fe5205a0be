"""pytest-trio: a nursery and a clock for each test."""

from __future__ import annotations

import re

import pytest

from .conftest import Both

pytest.importorskip("pytest_trio")

PLUGINS = ("trio",)


def test_fixtures_nursery_and_clock(pytester: pytest.Pytester, both: Both) -> None:
    pytester.makepyfile(
        """
        import pytest
        import trio

        @pytest.fixture
        async def server(nursery):
            async def echo(stream):
                async for chunk in stream:
                    await stream.send_all(chunk.upper())
            listeners = await nursery.start(trio.serve_tcp, echo, 0)
            yield listeners[0].socket.getsockname()[1]
            print("server's end")

        @pytest.mark.trio
        async def test_echo(server):
            stream = await trio.open_tcp_stream("localhost", server)
            await stream.send_all(b"word")
            assert await stream.receive_some() == b"WORD"

        @pytest.mark.trio
        async def test_clock(autojump_clock):
            await trio.sleep(3600)
            assert trio.current_time() >= 3600

        @pytest.mark.trio
        async def test_fails(server):
            await trio.sleep(0)
            assert server == 0

        @pytest.mark.trio
        async def test_process():
            result = await trio.run_process(["echo", "word"], capture_stdout=True)
            assert result.stdout == b"word\\n"
        """
    )
    varying = [(re.compile(r"\b\d{5}\b"), "<port>")]
    both(["-v"], varying=varying).runs[0].assert_outcomes(passed=3, failed=1)
