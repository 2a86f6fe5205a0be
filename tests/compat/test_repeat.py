"""pytest-repeat: each repetition in a sandbox of its own, in the order of the scope."""

from __future__ import annotations

import pytest

from .conftest import Both

pytest.importorskip("pytest_repeat")

PLUGINS = ("repeat",)

SUITE = """
    import os
    import pytest

    @pytest.fixture(scope="module")
    def broad():
        print("broad setup")
        yield
        print("broad teardown")

    def test_a(broad, tmp_path):
        assert os.listdir(tmp_path) == []
        (tmp_path / "left").touch()

    @pytest.mark.repeat(3)
    def test_b(broad, __pytest_repeat_step_number):
        assert __pytest_repeat_step_number != 1

    class TestClass:
        def test_c(self, broad):
            pass
"""


@pytest.mark.parametrize("scope", ["function", "class", "module", "session"])
def test_repetitions(scope: str, pytester: pytest.Pytester, both: Both) -> None:
    pytester.makepyfile(SUITE)
    run = both(["-v", "--count=2", f"--repeat-scope={scope}"]).runs[0]
    run.assert_outcomes(passed=6, failed=1)


def test_a_repetition_finds_nothing_of_the_one_before(
    pytester: pytest.Pytester, both: Both
) -> None:
    pytester.makepyfile(
        """
        import os, sys
        def test_mark(request):
            if request.config.getoption("--nsbox") == "all":
                assert not os.path.exists("/tmp/left")
                open("/tmp/left", "x").close()
        """
    )
    both(["--count=3"]).runs[0].assert_outcomes(passed=3)
