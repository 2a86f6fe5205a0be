"""pytest-subprocess: no process is started, in here nor by us."""

from __future__ import annotations

import pytest

from .conftest import Both

pytest.importorskip("pytest_subprocess")

PLUGINS = ("pytest-subprocess",)


def test_registered_commands_and_others(pytester: pytest.Pytester, both: Both) -> None:
    pytester.makepyfile(
        """
        import asyncio
        import os
        import subprocess
        import pytest

        def test_registered(fp):
            fp.register(["git", "branch"], stdout=["* main", "  other"])
            out = subprocess.check_output(["git", "branch"], text=True)
            assert out == "* main\\n  other\\n"
            assert fp.call_count(["git", "branch"]) == 1

        def test_not_registered(fp):
            subprocess.run(["git", "push", "--force"])

        def test_failing(fake_process):
            fake_process.register("make", returncode=2, stderr="no rule")
            with pytest.raises(subprocess.CalledProcessError) as info:
                subprocess.run("make", check=True)
            assert info.value.returncode == 2

        def test_passed_through(fp):
            fp.allow_unregistered(True)
            assert subprocess.check_output(["sh", "-c", "echo real"]) == b"real\\n"

        def test_callback_and_wait(fp):
            calls = []
            fp.register("sleep 9", callback=lambda process: calls.append(process.pid))
            fp.register("sleep 8", wait=0.05)
            subprocess.run("sleep 9".split())
            assert len(calls) == 1
            assert subprocess.Popen("sleep 8".split()).wait(5) == 0

        def test_async(fp):
            fp.register("make", stdout="made")
            async def main():
                process = await asyncio.create_subprocess_exec("make", stdout=subprocess.PIPE)
                return await process.communicate()
            assert asyncio.run(main())[0].startswith(b"made")

        def test_nothing_is_faked():
            assert subprocess.check_output(["echo", "word"]) == b"word\\n"
        """
    )
    both(["-v"]).runs[0].assert_outcomes(passed=6, failed=1)
