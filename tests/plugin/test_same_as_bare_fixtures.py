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
            (tmp_path / "deep").mkdir(mode=0o750)
            (tmp_path / "deep/file").write_text((shared / "data").read_text())
            (tmp_path / "deep/file").chmod(0o541)
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


@pytest.mark.parametrize("args", [["-rA"], ["--basetemp=base", "-rA"]], ids=" ".join)
def test_temporary_directories_asked_for_at_run_time(
    pytester: pytest.Pytester, same_as_bare: SameAsBare, args: list[str]
) -> None:
    pytester.makepyfile(
        test_it='''
        import pytest

        @pytest.mark.parametrize("n", ["x" * 50 + "1", "x" * 50 + "2"])
        def test_names(request, n):
            path = request.getfixturevalue("tmp_path")
            (path / "file").write_text(n[-1])
            print(path)
        @pytest.mark.parametrize("n", range(3))
        def test_factory(request, n):
            path = request.getfixturevalue("tmp_path_factory").mktemp("own")
            (path / "file").write_text(str(n))
            print(path)
            assert n != 1
        def documented():
            """
            >>> path = getfixture("tmp_path")
            >>> path.joinpath("of the doctest").write_text("x")
            1
            """
        def test_asks_by_name(tmp_path): print(tmp_path)
        '''
    )
    for _ in range(2):
        same_as_bare("--doctest-modules", *args).assert_outcomes(passed=6, failed=1)


def test_temporary_directories_asked_for_at_run_time_by_several_jobs(
    pytester: pytest.Pytester, same_as_bare: SameAsBare
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("n", [f"{'x' * 50}{n}" for n in range(8)])
        def test_names(request, n):
            (request.getfixturevalue("tmp_path") / "file").write_text(n)
        """
    )
    same_as_bare("--nsbox-jobs=4").assert_outcomes(passed=8)


@pytest.mark.parametrize("policy", ["all", "failed", "none"])
def test_temporary_directories_of_one_name(
    pytester: pytest.Pytester, same_as_bare: SameAsBare, policy: str
) -> None:
    pytester.makeini(f"[pytest]\ntmp_path_retention_policy = {policy}")
    suite = """
        import pytest

        @pytest.mark.parametrize("n", ["x" * 50 + str(n) for n in range(6)])
        def test_many(tmp_path, n): print(tmp_path.name)
        def test_passes(tmp_path): print(tmp_path.name)
        def test_fails(tmp_path):
            (tmp_path / "file").write_text("of the failure")
            print(tmp_path.name)
            assert False
        def test_factory(tmp_path_factory):
            print(tmp_path_factory.mktemp(__name__, numbered=False).name)
            print([tmp_path_factory.mktemp("own").name for _ in range(2)])
        """
    pytester.makepyfile(test_one=suite, test_two=suite, test_three=suite)
    same_as_bare("-rA").assert_outcomes(passed=24, failed=3)


def test_fixtures_asked_for_at_run_time(
    pytester: pytest.Pytester, same_as_bare: SameAsBare
) -> None:
    pytester.makeconftest(SPEAKERS)
    pytester.makepyfile(
        """
        import pytest

        SCOPES = ["session", "package", "module", "class", "function"]

        @pytest.fixture(scope="class")
        def of_class(request): return [request.getfixturevalue(scope) for scope in SCOPES[:4]]
        @pytest.fixture(scope="module")
        def of_module(request): return request.getfixturevalue("session")

        class TestClass:
            def test_by_fixtures(self, of_class, of_module): print(of_class, of_module)
            @pytest.mark.parametrize("name", SCOPES)
            def test_by_itself(self, request, name): print(request.getfixturevalue(name))
            def test_twice(self, request):
                assert request.getfixturevalue("function") is request.getfixturevalue("function")
                with pytest.raises(pytest.FixtureLookupError):
                    request.getfixturevalue("nowhere")
            def test_in_a_finalizer(self, request):
                request.addfinalizer(lambda: print("late", request.getfixturevalue("session")))
        """
    )
    same_as_bare("-s", "-v").assert_outcomes(passed=8)


@pytest.mark.parametrize("scope", ["session", "module", "class"])
def test_a_broad_fixture_that_the_last_test_asks_for_at_run_time(
    pytester: pytest.Pytester, same_as_bare: SameAsBare, scope: str
) -> None:
    pytester.makeconftest(SPEAKERS)
    pytester.makepyfile(
        f"""
        def test_first(package): pass
        def test_last(request): print(request.getfixturevalue({scope!r}))
        """
    )
    same_as_bare("-s", "-v").assert_outcomes(passed=2)


def test_fixtures_that_nobody_asks_for(pytester: pytest.Pytester, same_as_bare: SameAsBare) -> None:
    pytester.makeini("[pytest]\nusefixtures = module_ini")
    pytester.makeconftest(
        """
        import pytest

        def auto(scope, where, autouse=True):
            @pytest.fixture(scope=scope, autouse=autouse, name=f"{scope}_{where}")
            def fixture(request):
                print(scope, where, "up", request.node.nodeid)
                yield
                print(scope, where, "down")
            return fixture

        for scope in ("session", "package", "module", "class", "function"):
            globals()[scope] = auto(scope, "conftest")
        ini = auto("module", "ini", autouse=False)
        """
    )
    pytester.makepyfile(
        **{
            "package/__init__": "",
            "package/test_in": """
                def test_in(): pass
                class TestIn:
                    def test_in(self): pass
                """,
        },
        test_it="""
        import unittest
        from conftest import auto

        of_module = auto("module", "module")
        def test_one(): pass
        def test_two(): pass
        class TestClass:
            def test_one(self): pass
            def test_two(self): assert False
        class TestCase(unittest.TestCase):
            def test_one(self): pass
            def test_two(self): pass
        """,
    )
    same_as_bare("-s", "-v").assert_outcomes(passed=7, failed=1)


def test_items_that_a_plugin_has_scattered(
    pytester: pytest.Pytester, same_as_bare: SameAsBare
) -> None:
    pytester.makeconftest(
        SPEAKERS
        + """
    def pytest_collection_modifyitems(items):
        items[:] = items[::3] + items[1::3] + items[2::3]
    """
    )
    suite = """
        import pytest

        def test_one(module, session): pass
        class TestClass:
            def test_class(self, request, module, function): request.getfixturevalue("function")
            def test_two(self, session): print("two")
            @pytest.mark.parametrize("class_indirect", [1, 2], indirect=True)
            def test_param(self, class_indirect): pass
        def test_params(module_param, session_param): pass
        def test_last(function, package): assert False
        """
    pytester.makepyfile(test_a=suite, test_b=suite)
    same_as_bare("-s", "-v", "--tb=line").assert_outcomes(passed=18, failed=2)


def test_patches(pytester: pytest.Pytester, same_as_bare: SameAsBare) -> None:
    pytester.makepyfile(
        """
        import os, sys
        import pytest

        class Thing:
            value = 1

        @pytest.fixture(scope="class")
        def broad():
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("BROAD", "1")
                patch.setattr(Thing, "value", 2)
                yield
            print("BROAD" in os.environ, Thing.value)

        class TestClass:
            def test_patches(self, broad, monkeypatch):
                assert (os.environ["BROAD"], Thing.value) == ("1", 2)
                monkeypatch.delenv("BROAD")
                monkeypatch.setattr("os.path.sep", "|")
                monkeypatch.setitem(sys.modules, "fake", Thing)
                monkeypatch.delattr(Thing, "value")
            def test_again(self, broad):
                assert (os.environ["BROAD"], Thing.value, os.path.sep) == ("1", 2, "/")
                assert "fake" not in sys.modules
        def test_path(monkeypatch, tmp_path):
            (tmp_path / "fresh.py").write_text("x = 1")
            monkeypatch.syspath_prepend(tmp_path)
            monkeypatch.chdir(tmp_path)
            import fresh
            assert fresh.x == 1
        def test_undone(monkeypatch):
            monkeypatch.setattr(Thing, "value", 5)
            monkeypatch.undo()
            assert Thing.value == 1
            monkeypatch.setattr(Thing, "nothing", 5)
        def test_last():
            assert Thing.value == 1
            assert os.environ["PYTEST_CURRENT_TEST"].endswith("(call)")
        """
    )
    same_as_bare("-rA").assert_outcomes(passed=4, failed=1)


def test_what_pytester_offers(pytester: pytest.Pytester, same_as_bare: SameAsBare) -> None:
    pytester.makeconftest("pytest_plugins = ['pytester']")
    pytester.makepyfile(
        """
        SUITE = '''
        import pytest
        @pytest.fixture(scope="module")
        def broad(): yield
        def test_a(broad): pass
        def test_b(tmp_path): assert 0
        '''

        def test_inline(pytester):
            pytester.makepyfile(SUITE)
            run = pytester.inline_run("-p", "nsbox", "--nsbox=off")
            assert [len(reports) for reports in run.listoutcomes()] == [1, 0, 1]
            seen = [call.item.name for call in run.getcalls("pytest_runtest_setup")]
            assert seen == ["test_a", "test_b"]
        def test_items(pytester):
            items, _ = pytester.inline_genitems(pytester.makepyfile(SUITE))
            assert [item.name for item in items] == ["test_a", "test_b"]
            assert pytester.getitem("def test_x(): pass", "test_x").name == "test_x"
        def test_programs(pytester):
            result = pytester.runpytest("--collect-only", "-q", pytester.makepyfile(SUITE))
            result.stdout.fnmatch_lines(["*::test_a"])
            assert pytester.runpython_c("print('word')").outlines == ["word"]
        def test_terminal(pytester):
            import pexpect
            child = pytester.spawn("echo word")
            child.expect("word")
            child.expect(pexpect.EOF)  # all of it is in spawn.out
            assert child.wait() == 0
        def test_files(pytester):
            pytester.makefile(".txt", data="text")
            pytester.mkpydir("package")
            print(sorted(path.name for path in pytester.path.iterdir()))
            assert 0
        """
    )
    same_as_bare("-rA", "--show-capture=no").assert_outcomes(passed=4, failed=1)
