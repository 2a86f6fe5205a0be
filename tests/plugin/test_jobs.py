"""``--nsbox-jobs``: several sandboxed tests at once, and a run that looks as if it were one by one."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

Run = Callable[..., pytest.RunResult]


def shown(result: pytest.RunResult) -> list[str]:
    """What a run prints, without its times and addresses."""
    return [re.sub(r"\b\d+\.\d+s\b|0x[0-9a-f]+|pytest-\d+", "X", line) for line in result.outlines]


MANY = """
    import os
    import time
    import pytest

    @pytest.fixture(scope="session")
    def session():
        print("session up")
        yield "the session's"
        print("session down")

    @pytest.fixture(scope="module")
    def module():
        print("module up")
        yield {}
        print("module down")

    @pytest.fixture
    def function(module):
        print("function up")
        yield
        print("function down")

    @pytest.mark.parametrize("number", range(12))
    def test_number(number, session, module, function, request):
        print("number", number)
        os.write(1, b"by the fd\\n")
        module["number"] = module.get("number", number)
        assert module["number"] == number
        time.sleep(0.02 * (number % 3))
        assert number % 5, "a multiple"

    class TestClass:
        @pytest.fixture(scope="class")
        def of_class(self):
            print("class up")
            yield
            print("class down")
            raise ValueError("in the teardown of a class")

        def test_first(self, of_class):
            time.sleep(0.1)

        def test_second(self, of_class, tmp_path):
            print("in", tmp_path.name)

    def test_second(tmp_path, session):
        print("in", tmp_path.name)

    @pytest.mark.skip(reason="no")
    def test_skipped():
        pass

    @pytest.mark.xfail(strict=True)
    def test_expected():
        assert False

    def test_warns():
        import warnings
        warnings.warn("look out")
"""


@pytest.mark.parametrize("options", [("-v",), ("-rA",), ("-x",), ("--maxfail=2", "-q")])
def test_a_run_prints_the_same_whatever_the_jobs(
    pytester: pytest.Pytester, run_pytest: Run, options: tuple[str, ...]
) -> None:
    pytester.makepyfile(test_one=MANY, test_two=MANY.replace("range(12)", "range(1, 5)"))
    one, three = (run_pytest("--nsbox=all", f"--nsbox-jobs={n}", *options) for n in (1, 3))
    assert [line for line in shown(three) if not line.startswith("nsbox: ")] == [
        line for line in shown(one) if not line.startswith("nsbox: ")
    ]
    assert three.ret == one.ret


def test_where_a_run_stops_nobody_is_told_of_the_fixtures_of_tests_after_that(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    pytester.makepyfile(
        """
        import os
        import warnings
        from pathlib import Path
        import pytest

        reading, writing = os.pipe()

        def test_fails():
            assert os.read(reading, 1) != b"x"  # when the class is set up

        class TestClass:
            @pytest.fixture(scope="class", autouse=True)
            def of_class(request):
                warnings.warn("in the setup")
                os.write(writing, b"x")
                yield
                Path("torn down").touch()
                print("in the teardown")
                raise ValueError("in the teardown")

            def test_one(self): pass
        """
    )
    result = run_pytest("--nsbox=all", "--nsbox-jobs=2", "-x")
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*in the setup*")
    result.stdout.no_fnmatch_line("*in the teardown*")
    assert (pytester.path / "torn down").exists()


def test_tests_that_write_on_the_terminal_run_one_by_one(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    pytester.makepyfile(MANY)
    one, three = (run_pytest("--nsbox=all", f"--nsbox-jobs={n}", "-s", "-v") for n in (1, 3))
    text = shown(three)
    (said,) = (line for line in text if line.startswith("one job, not several"))
    assert [line for line in shown(one) if "nsbox" not in line and "===" not in line] == [
        line for line in text if line != said and "nsbox" not in line and "===" not in line
    ]


MEETING = """
    import socket
    import pytest

    @pytest.fixture(scope="module")
    def meeting_point():
        a, b = socket.socketpair()
        yield a, b

    @pytest.mark.sandbox(timeout=20)
    def test_one(meeting_point):
        meeting_point[0].send(b"1")
        assert meeting_point[0].recv(1) == b"2"

    @pytest.mark.sandbox(timeout=20)
    def test_two(meeting_point):
        meeting_point[1].send(b"2")
        assert meeting_point[1].recv(1) == b"1"
"""


def test_tests_run_at_the_same_time(pytester: pytest.Pytester, run_pytest: Run) -> None:
    pytester.makepyfile(MEETING)
    run_pytest("--nsbox-jobs=2").assert_outcomes(passed=2)


def test_those_run_one_by_one_of_which_a_conftest_hears(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    pytester.makepyfile(
        **{
            "heard/conftest": """
                from pathlib import Path

                def pytest_runtest_logreport(report):
                    if report.when == "call":
                        with Path(__file__).with_name("heard.txt").open("a") as file:
                            print(report.nodeid, file=file)
            """,
            "heard/test_heard": """
                from pathlib import Path
                import pytest

                @pytest.mark.parametrize("number", range(6))
                def test_it(number):
                    file = Path(__file__).with_name("heard.txt")
                    assert (file.read_text() if number else "").count("test_it") == number
            """,
        }
    )
    pytester.makepyfile(test_meeting=MEETING)
    result = run_pytest("--nsbox=all", "--nsbox-jobs=2")
    result.assert_outcomes(passed=8)
    result.stdout.fnmatch_lines("one job, not several, for tests of which a conftest hears*")


@pytest.mark.parametrize(
    ("marks", "setting"),
    [("serial=True", "--nsbox-jobs=4"), ("", "--nsbox-jobs=1")],
    ids=["serial", "one job"],
)
def test_a_serial_test_is_alone(
    pytester: pytest.Pytester, run_pytest: Run, marks: str, setting: str
) -> None:
    pytester.makepyfile(
        f"""
        import fcntl, time
        import pytest

        @pytest.fixture(scope="session")
        def lock_file(tmp_path_factory):
            with open(tmp_path_factory.mktemp("lock") / "lock", "w") as file:
                yield file.name

        @pytest.mark.sandbox({marks})
        @pytest.mark.parametrize("number", range(4))
        def test_alone(number, lock_file, in_flight):
            assert in_flight() == 1
            time.sleep(0.05)
            assert in_flight() == 1

        @pytest.mark.sandbox
        @pytest.mark.parametrize("number", range(4))
        def test_other(number):
            time.sleep(0.05)
        """
    )
    pytester.makeconftest(
        """
        import os, socket
        import pytest

        # Abstract sockets are the host's: each test process holds one while it runs.
        @pytest.fixture(autouse=True)
        def held():
            with socket.socket(socket.AF_UNIX) as mine:
                mine.bind(f"\\0nsbox-jobs-{os.getpgid(0)}-{os.urandom(4).hex()}")
                yield

        @pytest.fixture
        def in_flight():
            def count():
                with open("/proc/net/unix") as table:
                    return sum("@nsbox-jobs-" in line for line in table)
            return count
        """
    )
    run_pytest(setting).assert_outcomes(passed=8)


def test_a_crash_takes_no_other_test_along(pytester: pytest.Pytester, run_pytest: Run) -> None:
    pytester.makepyfile(
        """
        import os, time
        import pytest

        @pytest.mark.parametrize("number", range(12))
        def test_number(number):
            print("before", number)
            os.write(1, b"raw\\n")
            if number % 4 == 1:
                os.kill(os.getpid(), 11)
            time.sleep(0.03)
        """
    )
    result = run_pytest("--nsbox=all", "--nsbox-jobs=4")
    result.assert_outcomes(passed=9, failed=3)
    text = result.stdout.str()
    for number in (1, 5, 9):
        assert f"before {number}\nraw\n" in text
    assert text.count("killed by SIGSEGV") == 3


def test_a_timeout_ends_only_its_own_test(pytester: pytest.Pytester, run_pytest: Run) -> None:
    pytester.makepyfile(
        """
        import time
        import pytest

        @pytest.mark.sandbox(timeout=0.5)
        def test_slow():
            time.sleep(60)

        @pytest.mark.sandbox
        @pytest.mark.parametrize("number", range(6))
        def test_quick(number):
            time.sleep(0.02)
        """
    )
    result = run_pytest("--nsbox-jobs=3", "-v")
    result.assert_outcomes(passed=6, failed=1)
    result.stdout.fnmatch_lines(["*test_slow FAILED*", "*test_quick*0* PASSED*"])


def test_an_unmarked_test_waits_for_those_before(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    pytester.makepyfile(
        """
        import os, socket, time
        import pytest

        @pytest.fixture(scope="module")
        def line():
            a, b = socket.socketpair()
            a.setblocking(False)
            yield a, b

        @pytest.mark.sandbox
        @pytest.mark.parametrize("number", range(3))
        def test_sandboxed(number, line):
            time.sleep(0.2)
            line[1].send(b"x")

        def test_bare(line):
            assert line[0].recv(10) == b"xxx"
        """
    )
    run_pytest("--nsbox-jobs=4").assert_outcomes(passed=4)


def test_jobs_work_inside_the_workers_of_xdist(pytester: pytest.Pytester, run_pytest: Run) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(test_one=MANY, test_two=MANY.replace("range(12)", "range(1, 5)"))
    one, two = (run_pytest("--nsbox=all", "-n2", f"--nsbox-jobs={n}", "-q") for n in (1, 2))
    # Which of them has the error of a class' teardown depends on who runs the last of the class.
    found = [sorted(line for line in shown(run) if line.startswith("FAILED")) for run in (one, two)]
    assert found[0] == found[1] != []
    counts = [run.parseoutcomes() for run in (one, two)]
    assert all(counts[0][name] == counts[1][name] for name in ("passed", "skipped", "xfailed"))


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
def test_a_bad_number_of_jobs_is_refused(
    pytester: pytest.Pytester, run_pytest: Run, value: str
) -> None:
    result = run_pytest(f"--nsbox-jobs={value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{value!r}*a number from 1, or auto*"])


def test_no_warning_is_of_our_own_making(pytester: pytest.Pytester, run_pytest: Run) -> None:
    pytester.makepyfile("def test_a(): print('x')\ndef test_b(): print('y')")
    result = run_pytest("--nsbox=all", "--nsbox-jobs=2", "-W", "error")
    result.assert_outcomes(passed=2)
