"""Running items: fixtures, outcomes and deaths, as the report of pytest tells them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

RunPytest = Callable[..., pytest.RunResult]


def log_of(pytester: pytest.Pytester) -> list[str]:
    """What broad fixtures wrote to the host."""
    return (pytester.path / "log").read_text().split()


# ----------------------------------------------------------------------- fixtures


@pytest.mark.parametrize("scope", ["class", "module", "package", "session"])
def test_a_broad_fixture_is_set_up_once_and_torn_down_once_outside(
    pytester: pytest.Pytester, run_pytest: RunPytest, scope: str
) -> None:
    pytester.makepyfile(
        f"""
        import os
        from pathlib import Path
        import pytest

        def log(word):
            with open({str(pytester.path / "log")!r}, "a") as file:
                print(word, os.getpid() == controller, file=file)

        controller = os.getpid()

        @pytest.fixture(scope={scope!r})
        def broad():
            log("up")
            yield "value"
            log("down")

        @pytest.mark.sandbox
        class TestIt:
            def test_one(self, broad): assert broad == "value"
            def test_two(self, broad): assert broad == "value"
        """
    )
    run_pytest().assert_outcomes(passed=2)
    assert log_of(pytester) == ["up", "True", "down", "True"]


def test_a_broad_fixture_sees_which_test_it_is_set_up_and_torn_down_for(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        f"""
        import os
        import pytest

        def log():
            with open({str(pytester.path / "log")!r}, "a") as file:
                print(os.environ["PYTEST_CURRENT_TEST"], file=file)

        @pytest.fixture(scope="module")
        def broad():
            log()
            yield
            log()

        @pytest.mark.sandbox
        @pytest.mark.parametrize("number", range(2))
        def test_it(broad, number):
            pass

        def test_after():
            log()
        """
    )
    run_pytest().assert_outcomes(passed=3)
    name = next(pytester.path.glob("test_*.py")).name
    assert (pytester.path / "log").read_text().splitlines() == [
        f"{name}::test_it[0] (setup)",
        f"{name}::test_after (call)",
        f"{name}::test_after (teardown)",
    ]


def test_a_function_fixture_is_set_up_and_torn_down_in_the_test_process(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
        import os
        import pytest

        @pytest.fixture
        def narrow():
            assert os.getpid() == 2
            yield
            assert os.getpid() == 2
            print("torn down by", os.getpid())

        @pytest.mark.sandbox
        def test_it(narrow): pass
        """
    )
    result = run_pytest("-rP")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["torn down by 2"])


def test_what_a_test_does_to_a_broad_fixture_the_next_one_does_not_see(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="module")
        def numbers(): return []

        @pytest.mark.sandbox
        @pytest.mark.parametrize("n", range(3))
        def test_it(numbers, n):
            assert numbers == []
            numbers.append(n)
        """
    )
    run_pytest().assert_outcomes(passed=3)


def test_a_broad_fixture_is_shared_by_marked_and_unmarked_tests(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
        import os
        import pytest

        made = []

        @pytest.fixture(scope="module")
        def broad():
            made.append(os.getpid())
            return os.getpid()

        def test_bare(broad): assert broad == os.getpid()

        @pytest.mark.sandbox
        def test_boxed(broad): assert (os.getpid(), len(made)) == (2, 1) and broad != 2

        def test_bare_again(broad): assert broad == os.getpid() and len(made) == 1
        """
    )
    run_pytest().assert_outcomes(passed=3)


def test_a_broad_fixture_that_fails_is_an_error_of_each_test(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="module")
        def broad(): raise ValueError("no broad fixture")

        @pytest.mark.sandbox
        @pytest.mark.parametrize("n", range(2))
        def test_it(broad, n): pass

        @pytest.mark.sandbox
        def test_other(): pass
        """
    )
    result = run_pytest()
    result.assert_outcomes(errors=2, passed=1)
    result.stdout.fnmatch_lines(["E *ValueError: no broad fixture"])


def test_a_broad_teardown_that_fails_is_an_error_of_the_last_test(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="module")
        def broad():
            yield
            raise ValueError("no teardown")

        @pytest.mark.sandbox
        @pytest.mark.parametrize("n", range(2))
        def test_it(broad, n): pass
        """
    )
    result = run_pytest()
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_it?1?*"])


def test_a_fixture_asked_for_at_run_time_is_there(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def broad(): return 1

        @pytest.fixture
        def narrow(broad): return broad + 1

        @pytest.mark.sandbox
        def test_it(request): assert request.getfixturevalue("narrow") == 2
        """
    )
    run_pytest().assert_outcomes(passed=1)


def test_the_directory_of_a_test_is_found_where_pytest_leaves_it(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.sandbox
        def test_it(tmp_path): (tmp_path / "deep").mkdir(); (tmp_path / "deep/file").write_text("x")
        """
    )
    basetemp = pytester.path / "basetemp"
    run_pytest("--basetemp", str(basetemp)).assert_outcomes(passed=1)
    assert (basetemp / "test_it0/deep/file").read_text() == "x"


def test_the_directories_of_tests_of_one_name_are_apart(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    for name in ("test_a", "test_b"):
        pytester.makepyfile(
            **{
                name: """
                import pytest

                @pytest.mark.sandbox
                def test_it(tmp_path): (tmp_path / __name__).write_text("x")
                """
            }
        )
    basetemp = pytester.path / "basetemp"
    run_pytest("--basetemp", str(basetemp)).assert_outcomes(passed=2)
    found = [str(path.relative_to(basetemp)) for path in sorted(basetemp.glob("test_it[0-9]/*"))]
    assert found == ["test_it0/test_a", "test_it1/test_b"]


# ----------------------------------------------------------------------- outcomes


def test_a_unittest_class_is_set_up_once(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    pytester.makepyfile(
        f"""
        import os, unittest
        import pytest

        @pytest.mark.sandbox
        class TestIt(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                with open({str(pytester.path / "log")!r}, "a") as file: print("class", file=file)
                cls.value = os.getpid()

            def setUp(self): self.own = os.getpid()
            def tearDown(self): assert os.getpid() == 2
            def test_one(self): self.assertEqual((self.own, self.value != 2), (2, True))
            def test_two(self): self.assertEqual(self.own, 2)
            def test_three(self): self.fail("on purpose")
        """
    )
    run_pytest().assert_outcomes(passed=2, failed=1)
    assert log_of(pytester) == ["class"]


def test_a_doctest_runs_in_a_sandbox(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    pytester.makepyfile(
        module='''
        def pid():
            """
            >>> import os
            >>> os.getpid()
            2
            """

        def bad():
            """
            >>> 1 + 1
            3
            """
        '''
    )
    result = run_pytest("--nsbox=all", "--doctest-modules")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["Expected:", "    3", "Got:", "    2"])


def test_captured_output_is_in_the_report(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    pytester.makepyfile(
        """
        import os, subprocess, sys
        import pytest

        @pytest.mark.sandbox
        def test_it():
            print("by print")
            os.write(1, b"by write\\n")
            subprocess.run(["echo", "by child"])
            print("to stderr", file=sys.stderr)
            assert False
        """
    )
    run_pytest().stdout.fnmatch_lines_random(
        ["*Captured stdout call*", "by print", "by write", "by child", "*Captured stderr call*"]
    )


def test_an_interrupted_run_tears_the_broad_fixtures_down(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.fixture(scope="module")
        def broad():
            yield
            with open({str(pytester.path / "log")!r}, "a") as file: print("down", file=file)

        @pytest.mark.sandbox
        def test_it(broad): raise KeyboardInterrupt
        """
    )
    assert run_pytest().ret == pytest.ExitCode.INTERRUPTED
    assert log_of(pytester) == ["down"]


# ----------------------------------------------------------------------- deaths


DEATHS = [
    ("import ctypes; ctypes.string_at(0)", "the test process was killed by SIGSEGV"),
    ("os.kill(os.getpid(), 9)", "the test process was killed by SIGKILL"),
    ("os.abort()", "the test process was killed by SIGABRT"),
    ("os._exit(0)", "the test process exited with status 0 before its test had ended"),
    ("os._exit(3)", "the test process exited with status 3 before its test had ended"),
]


@pytest.mark.parametrize(
    ("body", "told"), DEATHS, ids=["SIGSEGV", "SIGKILL", "abort", "exit0", "exit3"]
)
def test_a_death_is_a_failure_of_its_test_alone(
    pytester: pytest.Pytester, run_pytest: RunPytest, body: str, told: str
) -> None:
    pytester.makepyfile(
        f"""
        import os
        import pytest

        pytestmark = pytest.mark.sandbox

        def test_before(): pass
        def test_dies(): print("last words", flush=True); {body}
        def test_after(): pass
        """
    )
    result = run_pytest()
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines([f"{told}*"])
    result.stdout.fnmatch_lines(["*Captured stdout call*", "last words"])


@pytest.mark.parametrize(
    ("before", "after", "outcomes"),
    [
        ("os._exit(3)", "", {"errors": 1, "passed": 1}),
        ("", "os._exit(3)", {"errors": 1, "passed": 2}),
    ],
    ids=["setup", "teardown"],
)
def test_a_death_outside_the_call_is_an_error(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    before: str,
    after: str,
    outcomes: dict[str, int],
) -> None:
    pytester.makepyfile(
        f"""
        import os
        import pytest

        @pytest.fixture
        def deadly():
            {before or "pass"}
            yield
            {after or "pass"}

        @pytest.mark.sandbox
        def test_dies(deadly): pass
        @pytest.mark.sandbox
        def test_after(): pass
        """
    )
    result = run_pytest()
    assert result.parseoutcomes() == outcomes
    result.stdout.fnmatch_lines(["the test process exited with status 3*"])


def test_a_crash_has_its_stack_in_the_report(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
        import ctypes
        import pytest

        def crash(): ctypes.string_at(0)

        @pytest.mark.sandbox
        def test_it(): crash()
        """
    )
    run_pytest().stdout.fnmatch_lines(
        ["*Python stacks*", "*Segmentation fault*", "*in crash", "*in test_it"]
    )


@pytest.mark.parametrize("phase", ["setup", "call", "teardown"])
def test_a_timeout_names_the_phase_and_carries_the_stacks(
    pytester: pytest.Pytester, run_pytest: RunPytest, phase: str
) -> None:
    pytester.makepyfile(
        f"""
        import threading, time
        import pytest

        def wait_for_godot(): time.sleep(300)

        @pytest.fixture
        def slow():
            if {phase!r} == "setup": wait_for_godot()
            yield
            if {phase!r} == "teardown": wait_for_godot()

        @pytest.mark.sandbox(timeout=0.7)
        def test_it(slow):
            threading.Thread(target=another_thread, daemon=True).start()
            if {phase!r} == "call": wait_for_godot()

        def another_thread(): time.sleep(300)

        @pytest.mark.sandbox
        def test_other(): pass
        """
    )
    result = run_pytest()
    outcomes = result.parseoutcomes()
    expected = {"setup": (1, 0, 1), "call": (1, 1, 0), "teardown": (2, 0, 1)}[phase]
    assert tuple(outcomes.get(k, 0) for k in ("passed", "failed", "errors")) == expected
    title = "*_ test_it _*" if phase == "call" else f"*ERROR at {phase} of test_it*"
    told = "Timeout: the test had not ended 0.7 s after its setup began; sandbox killed"
    result.stdout.fnmatch_lines([title, told, "*Python stacks*", "*in wait_for_godot"])
    if phase != "setup":
        result.stdout.fnmatch_lines(["*in another_thread"])


# ----------------------------------------------------------------------- what is left


def test_a_process_that_is_left_is_killed(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    mark = f"NSBOX_LEFT={pytester.path}"
    pytester.makepyfile(
        f"""
        import os, subprocess
        import pytest

        @pytest.mark.sandbox
        def test_it():
            environ = dict(os.environ, NSBOX_LEFT={str(pytester.path)!r})
            subprocess.Popen(["sleep", "300"], env=environ, start_new_session=True)
        """
    )
    run_pytest("-p", "no:unraisableexception").assert_outcomes(passed=1)
    left = [p for p in Path("/proc").glob("[0-9]*/environ") if mark in _read(p).split("\0")]
    assert left == []


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def test_a_failure_lists_the_changes_and_the_processes(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
        import subprocess, time
        import pytest
        from pathlib import Path

        @pytest.mark.sandbox
        def test_it():
            Path("added").write_text("x")
            global child
            child = subprocess.Popen(["sleep", "300"])
            time.sleep(0.1)
            assert False
        """
    )
    run_pytest().stdout.fnmatch_lines(
        [
            "*- sandbox -*",
            "1 change outside /tmp:",
            f"  added *{pytester.path}/added",
            "1 process left running:",
            "  pid * sleep 300",
        ]
    )


def test_many_changes_are_counted(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pathlib import Path

        @pytest.mark.sandbox
        def test_it():
            for n in range(15): Path(f"added{n:02}").write_text("x")
            assert False
        """
    )
    result = run_pytest()
    result.stdout.fnmatch_lines(["15 changes outside /tmp:", "  added *", "  … and 5 more"])
    assert len(re.findall(r"^  added ", result.stdout.str(), re.MULTILINE)) == 10


def test_a_test_that_passes_has_no_section(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pathlib import Path

        @pytest.mark.sandbox
        def test_it(): Path("added").write_text("x")
        """
    )
    run_pytest("-rA").stdout.no_fnmatch_line("*outside /tmp*")


# ----------------------------------------------------------------------- the interface


def test_every_test_runs_in_a_sandbox_if_that_is_asked_for(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile("import os\ndef test_it(): assert os.getpid() == 2")
    run_pytest("--nsbox=all").assert_outcomes(passed=1)


def test_no_test_runs_in_a_sandbox_if_they_are_off(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
        import os
        import pytest

        @pytest.mark.sandbox
        def test_it(): assert os.getpid() != 2
        """
    )
    run_pytest("--nsbox=off").assert_outcomes(passed=1)


def test_the_command_line_overrules_the_ini_file(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makeini("[pytest]\nnsbox = all\n")
    pytester.makepyfile("import os\ndef test_it(): assert os.getpid() != 2")
    run_pytest("--nsbox=marked").assert_outcomes(passed=1)


def test_markers_of_module_class_and_function_are_merged(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.sandbox(network="none", hostname="module", timeout=50)

        @pytest.mark.sandbox(hostname="class", timeout=40)
        class TestIt:
            @pytest.mark.sandbox(timeout=30)
            def test_it(self, sandbox):
                options = sandbox.options
                assert (options.network, options.hostname) == ("none", "class")
                assert options.timeout == 30
        """
    )
    run_pytest().assert_outcomes(passed=1)


def test_the_marker_is_registered(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    run_pytest("--markers").stdout.fnmatch_lines(["@pytest.mark.sandbox(tmp_size=..., *"])
