"""pytest-asyncio: a loop and fixtures that outlive a test belong to the controller."""

from __future__ import annotations

import pytest

from .conftest import Both

pytest.importorskip("pytest_asyncio")

PLUGINS = ("asyncio",)

SUITE = """
    import asyncio
    import pytest
    import pytest_asyncio

    @pytest_asyncio.fixture
    async def ready():
        await asyncio.sleep(0)
        yield "ready"
        await asyncio.sleep(0)
        print("no longer ready")

    @pytest.mark.asyncio
    async def test_fixture(ready):
        print("in the test")
        assert ready == "ready"

    @pytest.mark.asyncio
    async def test_fails(ready):
        await asyncio.sleep(0)
        assert ready == "steady"

    @pytest.mark.asyncio
    async def test_subprocess(tmp_path):
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", "echo $0", "word", stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert (out, process.returncode) == (b"word\\n", 0)

    @pytest.mark.asyncio
    async def test_threads():
        loop = asyncio.get_running_loop()
        assert await asyncio.to_thread(lambda: 5) == 5
        assert await loop.run_in_executor(None, lambda: 6) == 6

    @pytest.mark.asyncio
    async def test_forgotten_task():
        asyncio.create_task(asyncio.sleep(60), name="forgotten")

    @pytest.mark.asyncio(loop_scope="function")
    @pytest.mark.parametrize("number", [1, 2])
    async def test_number(number):
        await asyncio.sleep(0)
        assert number == 1

    def test_no_loop_is_left():
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
"""

# Broad-scoped async fixtures, on a loop that the controller has and a test process inherits.
BROAD = """
    import asyncio
    import pytest
    import pytest_asyncio

    pytestmark = pytest.mark.asyncio(loop_scope="module")

    @pytest_asyncio.fixture(scope="session", loop_scope="session")
    async def session_value():
        await asyncio.sleep(0)
        yield "session"
        await asyncio.sleep(0)
        print("session's end")

    @pytest_asyncio.fixture(scope="module", loop_scope="module")
    async def server():
        async def answer(reader, writer):
            writer.write((await reader.readline()).upper())
            await writer.drain()
            writer.close()
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        yield server.sockets[0].getsockname()
        server.close()
        await server.wait_closed()
        print("server's end")

    @pytest_asyncio.fixture(loop_scope="module")
    async def loop():
        return asyncio.get_running_loop()

    async def test_value(session_value):
        assert session_value == "session"

    @pytest.mark.parametrize("word", [b"a", b"b"])
    async def test_echo(server, word, session_value, loop):
        assert asyncio.get_running_loop() is loop
        reader, writer = await asyncio.open_connection(*server)
        writer.write(word + b"\\n")
        assert await reader.readline() == word.upper() + b"\\n"
        writer.close()

    class TestClass:
        @pytest_asyncio.fixture(scope="class", loop_scope="class", autouse=True)
        async def prepared(self, request):
            await asyncio.sleep(0)
            request.cls.word = "prepared"
            yield
            print("class' end")

        @pytest.mark.asyncio(loop_scope="class")
        async def test_prepared(self):
            await asyncio.sleep(0)
            assert self.word == "prepared"

    @pytest.mark.asyncio(loop_scope="session")
    async def test_on_the_session_s_loop(session_value):
        await asyncio.sleep(0.01)
        assert session_value == "session"
"""


def test_tests_and_fixtures_of_function_scope(pytester: pytest.Pytester, both: Both) -> None:
    pytester.makepyfile(SUITE)
    seen = both(["-v", "-o", "asyncio_default_fixture_loop_scope=function"])
    seen.runs[0].assert_outcomes(passed=6, failed=2)


def test_broad_scoped_fixtures_and_loops(pytester: pytest.Pytester, both: Both) -> None:
    pytester.makepyfile(BROAD)
    both(["-v"]).runs[0].assert_outcomes(passed=5)


def test_auto_mode_and_debug(pytester: pytest.Pytester, both: Both) -> None:
    pytester.makepyfile(
        """
        import asyncio
        async def test_debug():
            assert asyncio.get_running_loop().get_debug()
        """
    )
    both(["--asyncio-mode=auto", "--asyncio-debug"]).runs[0].assert_outcomes(passed=1)
