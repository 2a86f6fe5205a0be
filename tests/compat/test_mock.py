"""pytest-mock: patches of each scope; those of the broad scopes are the controller's."""

from __future__ import annotations

import pytest

from .conftest import Both

pytest.importorskip("pytest_mock")

PLUGINS = ("pytest_mock",)


def test_patches_of_every_scope(pytester: pytest.Pytester, both: Both) -> None:
    pytester.makepyfile(
        """
        import os
        import shutil
        import pytest

        @pytest.fixture(scope="session", autouse=True)
        def no_uname(session_mocker):
            return session_mocker.patch("os.uname", return_value="a session's")

        @pytest.fixture(scope="module")
        def module_patch(module_mocker):
            return module_mocker.patch("os.getlogin", return_value="a module's")

        @pytest.fixture(scope="class")
        def class_patch(class_mocker):
            return class_mocker.patch.dict("os.environ", {"WORD": "a class'"})

        def test_function(mocker, module_patch):
            removed = mocker.patch("shutil.rmtree")
            shutil.rmtree("/")
            removed.assert_called_once_with("/")
            assert os.uname() == "a session's"
            assert os.getlogin() == "a module's"
            module_patch.assert_called_once_with()

        def test_spy_and_stub(mocker, module_patch):
            spy = mocker.spy(os.path, "join")
            os.path.join("a", "b")
            assert spy.spy_return == "a/b"
            stub = mocker.stub("a stub")
            stub(1)
            stub.assert_called_once_with(1)

        def test_a_failed_assertion_says_the_difference(mocker):
            stub = mocker.stub("a stub")
            stub(1, word="one")
            stub.assert_called_once_with(2, word="two")

        def test_a_patch_of_our_own_tools(mocker):
            for name in ("os.write", "os.read", "os._exit", "os.getpid", "json.dumps", "json.loads"):
                mocker.patch(name)

        def test_open(mocker):
            mocker.patch("builtins.open", mocker.mock_open(read_data="mocked"))
            assert open("/etc/passwd").read() == "mocked"

        class TestClass:
            def test_environment(self, class_patch):
                assert os.environ["WORD"] == "a class'"

            def test_again(self, class_patch):
                assert os.environ["WORD"] == "a class'"

        def test_gone():
            assert "WORD" not in os.environ
        """
    )
    both(["-v"]).runs[0].assert_outcomes(passed=7, failed=1)
