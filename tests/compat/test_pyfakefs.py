"""pyfakefs: fakes of every scope; those of the broad scopes are as they were for each test."""

from __future__ import annotations

import pytest

from .conftest import Both

pytest.importorskip("pyfakefs")

PLUGINS = ("fakefs",)

SUITE = """
    import os
    import shutil
    import tempfile
    from pathlib import Path
    import pytest

    def test_function(fs):
        fs.create_file("/fake/file", contents="fake")
        assert Path("/fake/file").read_text() == "fake"
        shutil.rmtree("/fake")
        assert not os.path.exists("/etc/passwd")

    def test_gone():
        assert os.path.exists("/etc/passwd")
        assert not os.path.exists("/fake")

    def test_fails(fs):
        print("printed under the fake")
        fs.create_file("/fake/file")
        assert os.listdir("/fake") == []

    def test_real_files(fs):
        fs.add_real_file(__file__)
        assert "test_real_files" in Path(__file__).read_text()

    def test_tmp_path(tmp_path, fs):
        assert not tmp_path.exists()
        with tempfile.TemporaryDirectory() as name:
            assert os.listdir(name) == []

    def test_pause(fs):
        from pyfakefs.fake_filesystem_unittest import Pause
        with Pause(fs):
            assert os.path.exists("/etc/passwd")
        assert not os.path.exists("/etc/passwd")

    class TestClass:
        @pytest.fixture(scope="class", autouse=True)
        def prepared(self, fs_class):
            fs_class.create_file("/prepared", contents="a class'")
            yield
            print("class' end:", sorted(os.listdir("/")))

        def test_prepared(self):
            assert Path("/prepared").read_text() == "a class'"

        def test_again(self, fs_class):
            assert Path("/prepared").read_text() == "a class'"
            assert not os.path.exists("/etc/passwd")

        def test_fails(self):
            print(sorted(os.listdir("/")))
            assert os.path.exists("/not/there")

        def test_after_a_failure(self):
            assert os.path.exists("/prepared")

    def test_after_the_class():
        assert os.path.exists("/etc/passwd")
"""

MODULE = """
    import os
    from pathlib import Path
    import pytest

    @pytest.fixture(scope="module", autouse=True)
    def prepared(fs_module):
        fs_module.create_file("/prepared", contents="a module's")
        yield
        print("module's end:", sorted(os.listdir("/")))

    @pytest.mark.parametrize("number", range(2))
    def test_prepared(number):
        assert Path("/prepared").read_text() == "a module's"
        assert not os.path.exists("/etc/passwd")

    class TestClass:
        @pytest.fixture(scope="class", autouse=True)
        def of_class(self):
            Path("/of_class").write_text("another")  # while the module's fake was paused
            yield
            os.remove("/of_class")

        def test_prepared(self):
            assert sorted(os.listdir("/")) == ["of_class", "prepared", "tmp"]

    def test_last():
        assert sorted(os.listdir("/")) == ["prepared", "tmp"]
"""

CONFTEST = """
    import os
    import pytest

    @pytest.fixture(scope="session", autouse=True)
    def prepared(fs_session):
        fs_session.create_file("/prepared")
        yield
        print("session's end:", sorted(os.listdir("/")))
"""

SESSION = """
    import os

    def test_a():
        assert sorted(os.listdir("/")) == ["prepared", "tmp"]

    def test_b():
        assert sorted(os.listdir("/")) == ["prepared", "tmp"]
"""


@pytest.fixture(params=["--nsbox-jobs=1", "--nsbox-jobs=2"])
def jobs(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_fakes_of_function_and_class(pytester: pytest.Pytester, both: Both, jobs: str) -> None:
    pytester.makepyfile(SUITE)
    both(["-v", jobs]).runs[0].assert_outcomes(passed=9, failed=2)


def test_fakes_of_a_module(pytester: pytest.Pytester, both: Both, jobs: str) -> None:
    pytester.makepyfile(test_a=MODULE, test_b="import os\ndef test_b(): os.stat('/etc/passwd')")
    both(["-v", jobs]).runs[0].assert_outcomes(passed=5)
    assert not (pytester.path / "of_class").exists()


def test_a_fake_of_the_session(pytester: pytest.Pytester, both: Both, jobs: str) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_a=SESSION, test_b=SESSION)
    both(["-v", jobs]).runs[0].assert_outcomes(passed=4)
