"""``scope``: one sandbox for the tests of a class, a module, a package or the session."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from helpers.host import Host
from helpers.speakers import speakers

Run = Callable[..., pytest.RunResult]
SameAsBare = Callable[..., pytest.RunResult]

SCOPES = ["class", "module", "package", "session"]

every_scope = pytest.mark.parametrize("scope", SCOPES)

# Each fixture tells of itself; a wider one than the sandbox is asked for by the first test of a module.
SPEAKERS = speakers(["session", "module", "class", "function"])

PACKAGE = """
    import pytest

    @pytest.fixture(scope="package")
    def package():
        print("package up")
        yield
        print("package down")
"""

ALL_KINDS = """
    import unittest
    import warnings
    import pytest

    state = []

    def setup_module(): print("module set up")
    def teardown_module(): print("module torn down")
    def setup_function(): print("function set up")

    def test_first(session, module, function, tmp_path): print(session, module, function)

    class TestClass:
        @classmethod
        def setup_class(cls): print("class set up")
        @classmethod
        def teardown_class(cls): raise RuntimeError("in the teardown of the class")
        def test_one(self, request, **kwargs): request.getfixturevalue("function")
        def test_two(self, module, function): print("by print"); assert not "as meant"
        class TestInner:
            def test_three(self, function): pass

    class TestOther:
        def test_class_params(self, class_param, function_param): print(class_param)
        @pytest.mark.skip(reason="of a mark")
        def test_skipped(self): pass

    class TestUnit(unittest.TestCase):
        @classmethod
        def setUpClass(cls): print("unit's class set up")
        @classmethod
        def tearDownClass(cls): print("unit's class torn down")
        def test_unit(self): self.assertTrue(True)
        def test_unit_fails(self): self.assertTrue(False)

    def test_module_params(module_param, function): print(module_param)

    @pytest.fixture(scope="module")
    def broken():
        print("before it breaks")
        raise ValueError("broken")

    def test_setup_fails(broken): pass
    def test_setup_fails_again(broken): pass

    @pytest.mark.xfail(strict=True)
    def test_expected(): pass
    @pytest.mark.xfail(run=False)
    def test_not_run(): pass
    def test_skips(): pytest.skip("by itself")

    @pytest.mark.filterwarnings("error")
    def test_a_warning_is_an_error(): warnings.warn("no")
    def test_a_warning_is_none(tmp_path): warnings.warn("yes"); print(tmp_path.name)

    @pytest.fixture(scope="module")
    def breaks_at_the_end():
        yield
        raise ValueError("at the end")

    def test_last(breaks_at_the_end, caplog, tmp_path):
        import logging
        logging.getLogger().warning("a record")
        print(tmp_path.name)
        assert caplog.messages == ["a record"]
"""


@every_scope
def test_a_suite_of_all_kinds(
    pytester: pytest.Pytester, same_as_bare: SameAsBare, scope: str
) -> None:
    pytester.makeconftest(SPEAKERS)
    pytester.makepyfile(
        **{
            "package/__init__": "def setup_module(module): print('package set up')",
            "package/conftest": PACKAGE,
            "package/test_in_package": """
                def test_one(package, module): pass
                class TestClass:
                    def test_two(self, package): pass
                """,
            "package/inner/__init__": "def setup_module(module): print('inner package set up')",
            "package/inner/test_inner": "def test_inner(package): pass",
            "package/test_other": "def test_one(package): pass",
        }
    )
    pytester.makepyfile(test_a=ALL_KINDS, test_b=ALL_KINDS)
    result = same_as_bare("-rA", "-o", f"nsbox_scope={scope}")
    result.assert_outcomes(passed=28, failed=8, skipped=4, xfailed=2, errors=8, warnings=2)


def test_a_run_that_stops_or_shows_more(
    pytester: pytest.Pytester, same_as_bare: SameAsBare
) -> None:
    pytester.makeconftest(SPEAKERS)
    pytester.makepyfile(test_a=ALL_KINDS)
    same_as_bare("-v", "-x", "-o", "nsbox_scope=module")
    same_as_bare("-v", "--maxfail=3", "-o", "nsbox_scope=class")
    same_as_bare("-v", "-s", "-p", "no:warnings", "-o", "nsbox_scope=module")
    same_as_bare("-rA", "-k", "unit or params or last", "-o", "nsbox_scope=module")
    same_as_bare("--setup-show", "-o", "nsbox_scope=module")


SHARING = """
    import os
    import socket
    from pathlib import Path

    import pytest

    state = []
    NOTE = Path("/tmp/note")

    @pytest.fixture(scope="module")
    def module():
        yield os.getpid(), os.readlink("/proc/self/ns/mnt")

    def test_first(module, outside):
        assert not NOTE.exists()  # nobody else's sandbox
        NOTE.write_text("x")
        Path("written").write_text("x")
        state.append(os.getpid())
        assert outside != module

    class TestSecond:
        def test_second(self, module):
            assert NOTE.exists() and Path("written").exists()
            assert module == (os.getpid(), os.readlink("/proc/self/ns/mnt"))
            state.append(os.getpid())

    def test_third(module, sandbox):
        assert state == [os.getpid()] * 2
        assert [(Path(path).name, kind) for path, kind in sandbox.changes()] == [("written", "added")]
"""


@pytest.mark.parametrize("options", [(), ("--nsbox-jobs=2",), ("-n2", "--dist=loadfile")], ids=str)
def test_the_tests_of_a_module_share_one_process_and_nobody_else_does(
    pytester: pytest.Pytester, run_pytest: Run, host: Host, options: tuple[str, ...]
) -> None:
    pytester.makeconftest(
        """
        import os
        import pytest

        @pytest.fixture(scope="session")
        def outside():
            yield os.getpid(), os.readlink("/proc/self/ns/mnt")
            assert not os.path.exists("written")
        """
    )
    pytester.makepyfile(test_a=SHARING, test_b=SHARING, test_c="def test_it(): pass")
    pytester.makeini("[pytest]\nnsbox = all\nnsbox_scope = module")
    run_pytest(*options).assert_outcomes(passed=7)
    host.assert_clean()


def test_a_sandbox_serves_those_that_follow_each_other_and_want_the_same(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    pytester.makepyfile(
        """
        import os
        import pytest

        pytestmark = pytest.mark.sandbox(scope="module")
        ns = lambda: os.readlink("/proc/self/ns/mnt")
        seen = []

        def test_one(): seen.append(1)
        def test_same(): assert seen == [1]
        @pytest.mark.sandbox(hostname="other")
        def test_other_options(): assert seen == []; seen.append(2)
        @pytest.mark.sandbox(scope="function")
        def test_function(): assert seen == []
        def test_again(): assert seen == []; seen.append(3)
        @pytest.mark.skip
        def test_skipped(): pass
        def test_after_a_skipped(): assert seen == [3]
        """
    )
    run_pytest().assert_outcomes(passed=6, skipped=1)


def test_scattered_items_are_right_in_several_sandboxes(
    pytester: pytest.Pytester, same_as_bare: SameAsBare
) -> None:
    pytester.makeconftest(
        SPEAKERS
        + """
    def pytest_collection_modifyitems(items):
        items.sort(key=lambda item: item.name)
        """
    )
    text = """
        def test_1(module): pass
        def test_2(module): assert 0
        class TestClass:
            def test_3(self, module, function): pass
            def test_4(self, module): pass
    """
    pytester.makepyfile(test_a=text, test_b=text)
    same_as_bare("-rA", "-o", "nsbox_scope=module").assert_outcomes(passed=6, failed=2)
    same_as_bare("-rA", "-o", "nsbox_scope=class").assert_outcomes(passed=6, failed=2)


DYING = """
    import os
    import signal
    import time
    import pytest

    @pytest.fixture(scope="module")
    def module():
        print("module up")
        yield []
        print("module down")

    def test_before(module, tmp_path): module.append(1)
    def test_dies(module, tmp_path):
        print("last words")
        assert module == [1]
        {die}
    def test_after(module, tmp_path):
        assert module == []
        module.append(2)
    def test_last(module, tmp_path): assert module == [2]
"""


@pytest.mark.parametrize(
    ("die", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "*test process was killed by SIGKILL*"),
        ("os._exit(0)", "*test process exited with status 0 before its test had ended*"),
        ("time.sleep(60)", "*Timeout: the test had not ended 1 s after*"),
    ],
)
def test_a_death_ends_one_test_and_the_others_go_on_in_a_new_sandbox(
    pytester: pytest.Pytester, run_pytest: Run, host: Host, die: str, says: str
) -> None:
    pytester.makepyfile(DYING.format(die=die))
    timeout = ("-o", "nsbox_timeout=1") if "sleep" in die else ()
    result = run_pytest("--nsbox=all", "-o", "nsbox_scope=module", "-rA", "-v", *timeout)
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*::test_before PASSED*",
            "*::test_dies FAILED*",
            "*::test_after PASSED*",
            "*::test_last PASSED*",
            says,
            "last words",
            "*_ test_after _*",
            "module up",
            "a new sandbox: the test process has died in *::test_dies",
            "module down",
        ]
    )
    host.assert_clean()


def test_a_death_between_two_tests_is_told(pytester: pytest.Pytester, run_pytest: Run) -> None:
    pytester.makepyfile(
        """
        import os, threading, time

        def test_sets_a_trap(): threading.Timer(0.1, os._exit, [3]).start()
        def test_waits_for_it(): time.sleep(10)
        def test_goes_on(): pass
        """
    )
    result = run_pytest("--nsbox=all", "-o", "nsbox_scope=session")
    result.assert_outcomes(passed=2, failed=1)


QUICK = """
    import os, signal
    import pytest

    @pytest.fixture(scope="module")
    def module():
        print("module up")
        yield
        print("module down")

    @pytest.mark.parametrize("number", range(60))
    def test_it(module, number, capfd):
        print("of", number)
        {act}
"""


def test_a_death_far_ahead_of_what_is_told_is_that_test_s(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    act = 'if number == 40: os.write(1, b"last words"), os.kill(os.getpid(), signal.SIGKILL)'
    pytester.makepyfile(QUICK.format(act=act))
    result = run_pytest("--nsbox=all", "-o", "nsbox_scope=module", "-v")
    result.assert_outcomes(passed=59, failed=1)
    told = [line.split()[0].rpartition("::")[2] for line in result.outlines if "%]" in line]
    assert told == [f"test_it[{number}]" for number in range(60)]
    result.stdout.fnmatch_lines(["*::test_it[[]40] FAILED*", "*killed by SIGKILL*"])


@pytest.mark.parametrize(
    "act",
    [
        "assert number % 7 != 3",
        "if number == 40: pytest.exit('enough')",
        "if number == 40: raise KeyboardInterrupt",
        "if number % 3: pytest.skip('for a reason')",
    ],
)
@pytest.mark.parametrize("options", [(), ("-x",), ("--maxfail=3",), ("--sw",)], ids=str)
def test_what_runs_ahead_is_told_as_bare(
    pytester: pytest.Pytester, same_as_bare: SameAsBare, act: str, options: tuple[str, ...]
) -> None:
    pytester.makepyfile(QUICK.format(act=act))
    same_as_bare("-o", "nsbox_scope=module", "-v", "-rA", *options)


def test_a_plugin_may_end_the_run_at_a_test_that_has_passed(
    pytester: pytest.Pytester, same_as_bare: SameAsBare
) -> None:
    pytester.makepyfile(
        QUICK.format(act="pass"),
        stops="""
        def pytest_runtest_logreport(report):
            if report.when == "call" and "[20]" in report.nodeid:
                session.shouldstop = "enough"

        def pytest_sessionstart(session):
            globals()["session"] = session
        """,
    )
    result = same_as_bare("-o", "nsbox_scope=module", "-v", "-p", "stops")
    result.assert_outcomes(passed=21)


def test_time_is_counted_for_each_test(pytester: pytest.Pytester, run_pytest: Run) -> None:
    pytester.makepyfile(
        """
        import time
        import pytest

        @pytest.mark.sandbox(scope="module", timeout=1)
        @pytest.mark.parametrize("number", range(4))
        def test_rather_slow(number): time.sleep(0.4)
        """
    )
    run_pytest().assert_outcomes(passed=4)


def test_temporary_directories_are_numbered_and_there_afterwards(
    pytester: pytest.Pytester, same_as_bare: SameAsBare
) -> None:
    text = """
        import pytest

        @pytest.fixture(scope="module")
        def shared(tmp_path_factory):
            return tmp_path_factory.mktemp("shared")

        @pytest.mark.parametrize("number", [1, 2])
        def test_it(number, tmp_path, shared):
            (shared / f"{number}").write_text("x")
            (tmp_path / "file").write_text(f"{len(list(shared.iterdir()))} {tmp_path.name}")

        class TestClass:
            def test_it(self, tmp_path): (tmp_path / "file").write_text(tmp_path.name)
    """
    pytester.makepyfile(test_a=text, test_b=text)
    for policy in ("all", "failed"):
        same_as_bare(
            "-o", "nsbox_scope=module", "-o", f"tmp_path_retention_policy={policy}"
        ).assert_outcomes(passed=6)


@pytest.mark.parametrize(
    ("phase", "act"),
    [
        ("call", "session.shouldstop = 'told to'"),
        ("teardown", "session.shouldfail = 'told to'"),
        ("logreport", "session.shouldstop = 'told to'"),
        ("setup", "pytest.exit('told to')"),
        ("call", "raise KeyboardInterrupt"),
    ],
)
def test_a_run_that_is_ended_in_the_middle_tears_down_as_bare(
    pytester: pytest.Pytester, same_as_bare: SameAsBare, act: str, phase: str
) -> None:
    condition = (
        "report.when == 'teardown' and report.nodeid.endswith('two')"
        if phase == "logreport"
        else "False"
    )
    pytester.makeconftest(
        f"""
        def pytest_sessionstart(session):
            globals()["session"] = session

        def pytest_runtest_logreport(report):
            if {condition}:
                {act if phase == "logreport" else "pass"}
        """
    )
    pytester.makepyfile(
        f"""
        from pathlib import Path
        import pytest

        def note(text):
            with open("events", "a") as file:
                file.write(text + "\\n")

        @pytest.fixture(scope="module")
        def module():
            yield
            note("module down")

        @pytest.fixture
        def ends(request):
            session = request.session
            if {phase == "setup"}: {act}
            yield
            if {phase == "teardown"}: {act}

        def test_one(module): pass
        def test_two(ends, request, module):
            session = request.session
            if {phase == "call"}: {act}
        def test_three(): note("goes on")
        """
    )
    same_as_bare("-rA", "-o", "nsbox_scope=module", "-o", "nsbox_keep=events")


def test_a_wider_fixture_is_set_up_once_outside_and_what_it_raises_is_told_where_it_is_asked_for(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    pytester.makeconftest(
        """
        import os
        import pytest

        OUTSIDE = os.getpid()
        made = []

        @pytest.fixture(scope="session")
        def late():
            made.append("late")
            assert os.getpid() == OUTSIDE
            yield made
            assert made == ["late", "broken", "a", "b"]

        @pytest.fixture(scope="session")
        def broken():
            made.append("broken")
            raise ValueError("broken at the first try")

        @pytest.fixture(scope="session", params=["a", "b"])
        def param(request):
            made.append(request.param)
            assert os.getpid() == OUTSIDE
            return request.param
        """
    )
    pytester.makepyfile(
        """
        import os
        import pytest
        seen = []

        def test_one(): seen.append("one")
        def test_two(late): assert seen == ["one"] and late[0] == "late"
        def test_three(broken): pass
        def test_four(broken): pass
        def test_five(): assert seen == ["one"]
        def test_six(param): seen.append(param); assert seen == [param]
        def test_seven(param): assert seen == [param]
        """
    )
    result = run_pytest("--nsbox=all", "-o", "nsbox_scope=module", "-rA")
    result.assert_outcomes(passed=7, errors=2)
    result.stdout.fnmatch_lines(["*ERROR at setup of test_three*", "*ERROR at setup of test_four*"])


def test_what_surrounds_each_test_surrounds_it_once(
    pytester: pytest.Pytester, same_as_bare: SameAsBare
) -> None:
    pytester.makeconftest(
        """
        import os
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_protocol(item):
            print("around", item.name)
            os.environ["AROUND"] = item.name
            return (yield)
        """
    )
    pytester.makepyfile(
        """
        import os
        def test_one(): assert os.environ["AROUND"] == "test_one"
        def test_two(): assert os.environ["AROUND"] == "test_two"
        def test_three(): assert os.environ["AROUND"] == "test_three"
        """
    )
    same_as_bare("-s", "-o", "nsbox_scope=module").assert_outcomes(passed=3)
    same_as_bare("-o", "nsbox_scope=session").assert_outcomes(passed=3)
