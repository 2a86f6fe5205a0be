"""anyio's plugin: both backends, and a runner that a module's tests share."""

from __future__ import annotations

import pytest

from .conftest import Both

pytest.importorskip("anyio")
pytest.importorskip("trio")

PLUGINS = ("anyio",)


def test_both_backends_with_fixtures_of_each_scope(pytester: pytest.Pytester, both: Both) -> None:
    pytester.makepyfile(
        """
        import anyio
        import pytest

        pytestmark = pytest.mark.anyio

        @pytest.fixture(scope="module", params=["asyncio", "trio"])
        def anyio_backend(request):
            return request.param

        @pytest.fixture(scope="module")
        async def shared(anyio_backend):
            await anyio.sleep(0)
            yield f"shared on {anyio_backend}"
            await anyio.sleep(0)
            print("end of", anyio_backend)

        @pytest.fixture
        async def own(shared):
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 0.01)
                yield shared + ", own"
            print("own end")

        async def test_own(own, anyio_backend):
            assert own == f"shared on {anyio_backend}, own"

        async def test_fails(shared):
            assert shared is None

        async def test_process(shared):
            result = await anyio.run_process(["echo", "word"])
            assert result.stdout == b"word\\n"

        async def test_thread(free_tcp_port):
            async with await anyio.create_tcp_listener(
                local_host="127.0.0.1", local_port=free_tcp_port
            ):
                assert await anyio.to_thread.run_sync(lambda: 5) == 5
        """
    )
    both(["-v"]).runs[0].assert_outcomes(passed=6, failed=2)


def test_the_backend_of_function_scope(pytester: pytest.Pytester, both: Both) -> None:
    pytester.makepyfile(
        """
        import anyio
        import pytest

        @pytest.mark.anyio
        async def test_sleep(anyio_backend_name):
            await anyio.sleep(0.01)
            print(anyio_backend_name)
        """
    )
    both(["-v"]).runs[0].assert_outcomes(passed=2)
