"""The same run bare and sandboxed: fixtures of every scope and kind, and temporary directories."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers.speakers import speakers

SameAsBare = Callable[..., pytest.RunResult]

SCOPES = ["session", "package", "module", "class", "function"]

SPEAKERS = speakers(SCOPES)


def test_fixtures_of_every_scope(pytester: pytest.Pytester, same_as_bare: SameAsBare) -> None:
    pytester.makeconftest(SPEAKERS)
    pytester.makepyfile(
        **{
            "package/__init__": "def setup_module(module): print('package set up')",
            "package/test_in_package": """
                def test_one(package, module): pass
                class TestClass:
                    def test_two(self, package): pass
                """,
        }
    )
    pytester.makepyfile(
        test_it="""
        import pytest

        def test_all(session, package, module, function): print(session, module, function)
        class TestClass:
            def test_one(self, request, **kwargs): request.getfixturevalue("function")
            def test_two(self, function, session): pass
            @pytest.mark.usefixtures("module", "function")
            def test_uses(self): pass
        class TestOther:
            def test_class(self, request): pass
        pytestmark = pytest.mark.usefixtures("session")
        def test_class_scope_without_a_class(request, module_param): pass
        def test_params(session_param, module_param, function_param): pass
        class TestParams:
            def test_class(self, class_param): pass
            def test_other(self, class_param, session_param): pass
        @pytest.mark.parametrize("module_indirect", [1, 2], indirect=True)
        def test_indirect(module_indirect): pass
        @pytest.mark.parametrize("session_indirect", [1, 2], indirect=True, scope="module")
        def test_indirect_scope(session_indirect): pass
        @pytest.mark.parametrize("session_indirect", [3], indirect=True)
        @pytest.mark.parametrize("number", [1, 2], ids=["one", "two"])
        def test_both(session_indirect, number): pass
        """,
    )
    same_as_bare("-s", "-v")


def test_a_current_directory_that_has_been_removed(
    pytester: pytest.Pytester, same_as_bare: SameAsBare
) -> None:
    pytester.makepyfile(
        """
        import os
        import pytest

        class TestClass:
            @pytest.fixture(scope="class", autouse=True)
            def nowhere(request, tmp_path_factory):
                path = tmp_path_factory.mktemp("gone")
                os.chdir(path)
                path.rmdir()

            def test_says_so(self):
                with pytest.raises(FileNotFoundError): os.getcwd()
                assert os.listdir(".") == []

            def test_fails(self):
                with open("file", "w"): pass

        def test_after(): pass
        """
    )
    same_as_bare("-v", "-rA").assert_outcomes(passed=2, failed=1)


def test_xunit_setup_of_every_level(pytester: pytest.Pytester, same_as_bare: SameAsBare) -> None:
    pytester.makepyfile(
        """
        import pytest

        def setup_module(module): print("setup_module")
        def teardown_module(module): print("teardown_module")
        def setup_function(function): print("setup_function")
        def teardown_function(function): print("teardown_function"); assert 0, "in teardown"

        class TestClass:
            @classmethod
            def setup_class(cls): print("setup_class")
            @classmethod
            def teardown_class(cls): print("teardown_class"); assert 0, "in class"
            def setup_method(self, method): print("setup_method", method.__name__)
            def teardown_method(self, method): print("teardown_method")
            def test_one(self): assert False
            def test_two(self): pass

        class TestBroken:
            @classmethod
            def setup_class(cls): raise ValueError("no class")
            def test_one(self): pass
            def test_two(self): pass

        class TestSkipped:
            @classmethod
            def setup_class(cls): pytest.skip("no class today")
            def test_one(self): pass

        @pytest.fixture(autouse=True)
        def auto(): print("auto up"); yield; print("auto down")
        def test_function(): pass
        """
    )
    same_as_bare("-rA", "--tb=short")
    same_as_bare("-s", "--setup-show", "--tb=no")


def test_finalizers_that_fail(pytester: pytest.Pytester, same_as_bare: SameAsBare) -> None:
    pytester.makeconftest(
        """
        import pytest

        def failing(scope, early=False):
            @pytest.fixture(scope=scope, name=f"{scope}_{'early' if early else 'late'}")
            def fixture(request):
                if early: raise ValueError(f"{scope} setup")
                for n in range(2):
                    request.addfinalizer(lambda n=n: finalize(n))
                yield
                raise ValueError(f"{scope} teardown")
            def finalize(n): raise KeyError(f"{scope} finalizer {n}")
            return fixture

        for scope in ("session", "module", "class", "function"):
            globals()[scope + "1"] = failing(scope)
            globals()[scope + "2"] = failing(scope, early=True)

        @pytest.fixture(scope="module")
        def yields_twice(): yield; yield
        """
    )
    pytester.makepyfile(
        test_one="""
        def test_function(function_late): pass
        class TestClass:
            def test_class(self, class_late): pass
        def test_early(function_early): pass
        def test_broad_early(module_early): pass
        def test_broad_again(module_early): pass
        def test_module(module_late): pass
        """,
        test_two="""
        def test_twice(yields_twice): pass
        """,
        test_three="def test_early(session_early): pass",
        test_zlast="def test_session(session_late): pass",
    )
    same_as_bare("--tb=short")
    same_as_bare("--tb=long", "-rA", "--showlocals")


@pytest.mark.parametrize("policy", ["all", "failed", "none"])
def test_temporary_directories(
    pytester: pytest.Pytester, same_as_bare: SameAsBare, policy: str
) -> None:
    pytester.makeini(
        f"[pytest]\ntmp_path_retention_policy = {policy}\ntmp_path_retention_count = 2"
    )
    pytester.makepyfile(
        """
        import pathlib, tempfile
        import pytest

        @pytest.fixture(scope="session")
        def shared(tmp_path_factory):
            path = tmp_path_factory.mktemp("shared")
            (path / "data").write_text("shared")
            return path

        @pytest.fixture(scope="module")
        def numbered(tmp_path_factory):
            return [tmp_path_factory.mktemp("numbered") for _ in range(2)]

        def test_passes(tmp_path, shared):
            (tmp_path / "deep").mkdir()
            (tmp_path / "deep/file").write_text((shared / "data").read_text())
            (tmp_path / "link").symlink_to("deep/file")
            print(tmp_path.name, shared.name)
        def test_fails(tmp_path, numbered):
            (tmp_path / "file").write_text("of the failure")
            print([path.name for path in numbered])
            assert False
        @pytest.mark.parametrize("n", ["a/b", "x" * 50])
        def test_names(tmp_path, n): print(tmp_path.name)
        def test_old_style(tmpdir, tmpdir_factory):
            tmpdir.join("old").write("x")
            tmpdir_factory.mktemp("factory")
        def test_factory(tmp_path_factory): (tmp_path_factory.mktemp("own") / "f").write_text("y")
        def test_skips(tmp_path): pytest.skip("no")
        def test_unused(): pass
        def test_monkeypatch(monkeypatch, tmp_path):
            monkeypatch.chdir(tmp_path)
            monkeypatch.setenv("HOME", "nowhere")
            pathlib.Path("here").write_text("x")
        """
    )
    for _ in range(3):
        same_as_bare("-rA")
    same_as_bare("--basetemp=base", "-q")


def test_pytest_in_pytest(pytester: pytest.Pytester, same_as_bare: SameAsBare) -> None:
    pytester.makeconftest("pytest_plugins = ['pytester']")
    pytester.makepyfile(
        """
        def test_inner(pytester):
            pytester.makepyfile("def test_a(): pass\\ndef test_b(): assert False")
            pytester.makeconftest("def pytest_runtest_setup(item): print('inner hook')")
            for how in (pytester.runpytest_inprocess, pytester.runpytest_subprocess):
                result = how("-p", "nsbox", "--nsbox=off")
                result.assert_outcomes(passed=1, failed=1)
        """
    )
    same_as_bare("-rA", "-o", "tmp_path_retention_policy=none").assert_outcomes(passed=1)
