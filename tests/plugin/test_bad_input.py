"""Bad input: an error of the test that has it, naming what is allowed; the others still run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

RunPytest = Callable[..., pytest.RunResult]


def run_marked(pytester: pytest.Pytester, run_pytest: RunPytest, marker: str) -> pytest.RunResult:
    """A module with one bad test between good ones."""
    pytester.makepyfile(
        test_it=f"""
        import os
        import pytest

        def test_bare():
            pass

        @pytest.mark.sandbox({marker})
        def test_bad():
            raise SystemExit("a bad test must not run")

        @pytest.mark.sandbox
        def test_good():
            assert os.getpid() == 2
        """
    )
    return run_pytest()


@pytest.mark.parametrize(
    ("marker", "told"),
    [
        ("tmpsize='64M'", "did you mean 'tmp_size'? known are tmp_size, network, timeout, env"),
        ("colour='red'", "unknown key 'colour' of the sandbox marker; known are tmp_size, network"),
        ("tmp_size='64Q'", "tmp_size='64Q' is not a size; write a number of bytes above 0"),
        ("tmp_size=0", "tmp_size=0 is not a size; write a number of bytes above 0"),
        ("tmp_size=-1", "tmp_size=-1 is not a size; write a number of bytes above 0"),
        ("tmp_size=[1]", "tmp_size=[1] is not a size; write a number of bytes above 0"),
        ("timeout=0", "timeout=0 is not a timeout; write a number of seconds above 0"),
        ("timeout=-3", "timeout=-3 is not a timeout; write a number of seconds above 0"),
        ("timeout='abc'", "timeout='abc' is not a timeout; write a number of seconds above 0"),
        ("network='wifi'", "network='wifi' is not allowed; choose from 'host', 'loopback', 'none'"),
        ("network=None", "network=None is not allowed; choose from 'host', 'loopback', 'none'"),
        ("bind=['/no/such']", "/no/such does not exist on the host; name a path that does"),
        ("bind=['relative']", "'relative' is relative; write an absolute path, or one with ~"),
        ("bind=['/etc:/mnt/x:rx']", "has the mode 'rx'; choose 'ro' or 'rw'"),
        ("bind=['/etc:/']", "is onto /, which every sandbox has of its own; choose a target"),
        ("bind=['/etc:/proc']", "is onto /proc, which every sandbox has of its own; choose"),
        ("bind=['/proc']", "is onto /proc, which every sandbox has of its own; choose a target"),
        ("bind='/etc'", "bind='/etc' is not a list; write a list, such as ['/etc']"),
        ("bind=[1]", "has the item 1; an item is a string"),
        ("hide=['/']", "'/' is /, which every sandbox has of its own; choose a path"),
        ("hide=['etc']", "'etc' is relative; write an absolute path"),
        ("hide='/etc'", "hide='/etc' is not a list; write a list"),
        ("env={'A=B': '1'}", "{'A=B': ...} has a bad name; a name is a string, not empty, without"),
        ("env={1: '1'}", "{1: ...} has a bad name; a name is a string"),
        ("env={'A': 1}", "{'A': 1} has a bad value; a value is a string without NUL"),
        ("env=['A=1']", "env=['A=1'] is not an environment; write a dict"),
        ("hostname='x' * 65", "has 65 bytes; at most 64 are allowed"),
        ("hostname=5", "hostname=5 is not a host name; write a string of 1 to 64 bytes"),
        ("'64M'", "the sandbox marker takes keywords only, not '64M'; allowed are tmp_size"),
    ],
)
def test_a_bad_marker_is_an_error_of_its_test_alone(
    pytester: pytest.Pytester, run_pytest: RunPytest, marker: str, told: str
) -> None:
    result = run_marked(pytester, run_pytest, marker)
    result.assert_outcomes(passed=2, errors=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (line,) = (line for line in result.outlines if line.startswith("test_it.py::test_bad: "))
    assert told in line


def test_a_bad_marker_of_the_class_is_an_error_of_each_of_its_tests(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.sandbox(network="wifi")
        class TestIt:
            def test_one(self): pass
            def test_two(self): pass

        def test_other(): pass
        """
    )
    run_pytest().assert_outcomes(passed=1, errors=2)


def test_a_bad_marker_does_not_matter_where_sandboxes_are_off(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.sandbox(network="wifi")
        def test_it(): pass
        """
    )
    run_pytest("--nsbox=off").assert_outcomes(passed=1)


def test_collecting_alone_tells_of_a_bad_marker(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.sandbox(network="wifi")
        def test_bad(): pass
        """
    )
    result = run_pytest("--collect-only")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_it.py::test_bad: network='wifi' is not allowed; choose *"])


@pytest.mark.parametrize("option", ["--nsbox=maybe", "--nsbox-unavailable=maybe"])
def test_a_bad_option_of_the_command_line_is_a_usage_error(
    pytester: pytest.Pytester, run_pytest: RunPytest, option: str
) -> None:
    pytester.makepyfile("def test_it(): pass")
    result = run_pytest(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{option.partition('=')[0]}: invalid choice: 'maybe' (*"])
    result.stdout.no_fnmatch_line("*passed*")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("nsbox = maybe", "nsbox = 'maybe' is not allowed; choose from marked, all, off"),
        (
            "nsbox_unavailable = maybe",
            "nsbox_unavailable = 'maybe' is not allowed; choose from error, skip, run",
        ),
        ("nsbox_tmp_size = 64Q", "nsbox_tmp_size='64Q' is not a size; write a number of bytes"),
        ("nsbox_tmp_size = 0", "nsbox_tmp_size='0' is not a size; write a number of bytes"),
        ("nsbox_tmp_size = -1", "nsbox_tmp_size='-1' is not a size; write a number of bytes"),
        ("nsbox_timeout = 0", "nsbox_timeout='0' is not a timeout; write a number of seconds"),
        ("nsbox_timeout = -1", "nsbox_timeout='-1' is not a timeout; write a number of seconds"),
        ("nsbox_timeout = abc", "nsbox_timeout='abc' is not a timeout; write a number of seconds"),
        ("nsbox_network = wifi", "nsbox_network='wifi' is not allowed; choose from 'host', "),
        ("nsbox_bind = /no/such", "/no/such does not exist on the host; name a path that does"),
        ("nsbox_bind = relative", "'relative' is relative; write an absolute path"),
        ("nsbox_bind = /etc:/mnt/x:rx", "has the mode 'rx'; choose 'ro' or 'rw'"),
        ("nsbox_bind = /etc:/proc", "is onto /proc, which every sandbox has of its own"),
        ("nsbox_hide = /", "'/' is /, which every sandbox has of its own"),
        ("nsbox_env = NAME", "'NAME' has no '='; write NAME=VALUE, one a line"),
        ("nsbox_env = =1", "has a bad name; a name is a string, not empty"),
        ("nsbox_hostname = " + "x" * 65, "has 65 bytes; at most 64 are allowed"),
    ],
)
def test_a_bad_value_of_the_ini_file_is_a_usage_error(
    pytester: pytest.Pytester, run_pytest: RunPytest, line: str, told: str
) -> None:
    pytester.makeini(f"[pytest]\n{line}\n")
    pytester.makepyfile("def test_it(): pass")
    result = run_pytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert told in result.stderr.str()
    assert "Traceback" not in result.stderr.str()


def test_a_value_of_the_wrong_kind_in_pyproject_is_a_usage_error(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\nnsbox_bind = 5\n")
    pytester.makepyfile("def test_it(): pass")
    result = run_pytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "nsbox_bind" in result.stderr.str()
    assert "Traceback" not in result.stderr.str()
