"""The same run bare and sandboxed: what tests put out and log, and what pytest shows of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

SameAsBare = Callable[..., pytest.RunResult]

# Everything speaks, on all channels, in every phase.
SPEAKING = {
    "conftest": """
        import logging, sys
        import pytest

        def say(text):
            print("out:", text)
            print("err:", text, file=sys.stderr)
            logging.getLogger("suite").warning("log: %s", text)

        def speaker(scope):
            @pytest.fixture(scope=scope, name=scope)
            def fixture(request):
                say(f"{scope} up")
                yield say
                say(f"{scope} down")
            return fixture

        session, package, module, cls, function = map(
            speaker, ["session", "package", "module", "class", "function"]
        )
        """,
    "test_speaking": """
        import pytest

        class TestOne:
            def test_passes(self, function, module): function("passes")
            def test_fails(self, session, function):
                function("fails")
                local = {"key": "value"}
                assert local == {}
            @pytest.mark.parametrize("n", [0, 1])
            def test_param(self, request, n): request.getfixturevalue("function")(f"param {n}")
        class TestTwo:
            def test_error(self, module, function, undefined): pass
            def test_skips(self, module):
                module("skips")
                pytest.skip("not today")
        def test_quiet(): pass
        def test_last(function, session):
            try:
                raise ValueError("the cause")
            except ValueError as error:
                raise RuntimeError("the effect") from error
        """,
    "test_two": """
        def test_one(session, module, function): session("in another module")
        def test_two(): pass
        """,
}


@pytest.mark.parametrize(
    "args",
    [
        ["-s"],
        ["-s", "-v"],
        ["-rA"],
        ["--capture=sys", "-rA"],
        ["--capture=tee-sys", "-rA"],
        ["--show-capture=stdout"],
        ["--show-capture=stderr"],
        ["--show-capture=log"],
        ["--show-capture=all", "--log-level=DEBUG", "--log-date-format=%Y"],
        ["--log-cli-level=INFO"],
        ["--log-cli-level=INFO", "-v", "-s"],
        ["--log-file=log.txt", "--log-file-level=DEBUG", "--log-format=%(message)s"],
        ["--setup-show"],
        ["--setup-show", "-s", "-v"],
        ["--setup-only"],
        ["--setup-plan"],
        ["-p", "no:logging", "-o", "console_output_style=count"],
    ],
    ids=" ".join,
)
def test_a_suite_that_speaks_in_every_phase(
    pytester: pytest.Pytester, same_as_bare: SameAsBare, args: list[str]
) -> None:
    pytester.makeconftest(SPEAKING["conftest"])
    pytester.makepyfile(**{name: text for name, text in SPEAKING.items() if name != "conftest"})
    same_as_bare(*args)


@pytest.mark.parametrize(
    "args",
    [
        ["--tb=long", "--showlocals"],
        ["--tb=short", "--show-capture=no"],
        ["--tb=line"],
        ["--tb=native", "--color=yes"],
        ["--full-trace", "-vv", "-k", "not endless"],
    ],
    ids=" ".join,
)
def test_tracebacks_of_every_style(
    pytester: pytest.Pytester, same_as_bare: SameAsBare, args: list[str]
) -> None:
    pytester.makepyfile(
        helper="""
        def check(left, right):
            __tracebackhide__ = True
            assert left == right, "not the same"
        def deep(n):
            if n == 0:
                check({"a": [1, 2, 3], "b": "x" * 100}, {"a": [1, 2, 4]})
            deep(n - 1)
        """,
        test_it="""
        import pytest
        from helper import check, deep

        def test_hidden(): check(1, 2)
        def test_deep(): deep(3)
        def test_endless():
            def endless(n): return endless(n)
            endless(1)
        def test_group():
            raise ExceptionGroup("several", [ValueError("one"), TypeError("two")])
        def test_note():
            error = ValueError("with a note")
            error.add_note("the note")
            raise error
        def test_fail(): pytest.fail("said so")
        def test_fail_short(): pytest.fail("said so", pytrace=False)
        def test_fixture(nowhere): pass
        def test_chain():
            try:
                1 / 0
            except ZeroDivisionError:
                raise KeyError("x")
        class Odd:
            def __repr__(self): raise ValueError("no repr")
        def test_odd(): odd = Odd(); assert odd is None
        """,
        test_docs='''
        def bad():
            """
            >>> 1 + 1
            3
            >>> [][0]
            """
        ''',
    )
    same_as_bare("--doctest-modules", *args)


@pytest.mark.parametrize("capture", ["fd", "sys", "no", "tee-sys"])
def test_fixtures_that_capture(
    pytester: pytest.Pytester, same_as_bare: SameAsBare, capture: str
) -> None:
    pytester.makepyfile(
        """
        import os, sys
        import pytest

        @pytest.fixture
        def noisy(capsys):
            print("noisy up")
            yield
            print("noisy down")

        def test_sys(capsys):
            print("to capsys")
            print("to err", file=sys.stderr)
            assert capsys.readouterr() == ("to capsys\\n", "to err\\n")
            print("not read")
            with capsys.disabled():
                print("around capsys")
            assert False

        def test_fd(capfd):
            os.write(1, b"to capfd\\n")
            assert capfd.readouterr().out == "to capfd\\n"
            with capfd.disabled():
                print("around capfd", flush=True)

        def test_bytes(capsysbinary):
            sys.stdout.buffer.write(b"\\xff\\xfe")
            assert capsysbinary.readouterr().out == b"\\xff\\xfe"

        def test_fd_bytes(capfdbinary):
            os.write(2, b"\\xff")
            assert capfdbinary.readouterr().err == b"\\xff"

        def test_tee(capteesys):
            print("to the tee")
            assert capteesys.readouterr().out == "to the tee\\n"

        def test_programs(capfd):
            assert os.system("echo of the shell; echo its error >&2") == 0
            assert capfd.readouterr() == ("of the shell\\n", "its error\\n")
            assert False

        def test_noisy(noisy): assert False
        def test_both(capsys, capfd): pass
        """
    )
    same_as_bare(f"--capture={capture}", "-rA")


def test_caplog_in_every_phase(pytester: pytest.Pytester, same_as_bare: SameAsBare) -> None:
    pytester.makepyfile(
        """
        import logging
        import pytest

        @pytest.fixture(scope="module")
        def broad():
            logging.info("broad up")
            yield
            logging.info("broad down")

        @pytest.fixture
        def narrow(caplog, broad):
            logging.info("narrow up")
            assert caplog.messages == ["broad up", "narrow up"]
            yield
            print([record.message for record in caplog.get_records("call")])
            print([record.message for record in caplog.get_records("setup")])
            assert False, "to be seen"

        def test_it(narrow, caplog):
            caplog.set_level(logging.DEBUG, "deep")
            logging.getLogger("deep").debug("from the deep")
            with caplog.at_level(logging.ERROR):
                logging.warning("not heard")
            with caplog.filtering(lambda record: False):
                logging.error("filtered")
            caplog.handler.setFormatter(logging.Formatter("%(message)s"))
            logging.error("ends")
            assert caplog.record_tuples[-1] == ("root", logging.ERROR, "ends")
            print(caplog.text)
        """
    )
    same_as_bare("--log-level=INFO", "-rA").assert_outcomes(passed=1, errors=1)


@pytest.mark.parametrize(
    "args",
    [
        ["-vv"],
        ["--assert=plain"],
        ["-o", "truncation_limit_lines=2"],
        ["-o", "enable_assertion_pass_hook=true", "-s"],
    ],
    ids=" ".join,
)
def test_assertions_that_are_explained(
    pytester: pytest.Pytester, same_as_bare: SameAsBare, args: list[str]
) -> None:
    pytester.makeconftest(
        """
        import pytest

        pytest.register_assert_rewrite("helper")

        class Point:
            def __init__(self, x): self.x = x
            def __eq__(self, other): return self.x == other.x

        def pytest_assertrepr_compare(config, op, left, right):
            if isinstance(left, Point): return ["points:", f"  {left.x} {op} {right.x}"]

        def pytest_assertion_pass(item, lineno, orig, expl):
            print("passed", item.name, lineno, orig, expl)
        """
    )
    pytester.makepyfile(
        helper="def check(a, b):\n    assert a == b, 'in the helper'",
        late="def check(a, b):\n    assert a == b, 'in the late one'",
        test_it="""
        import pytest
        from conftest import Point

        @pytest.fixture(scope="module")
        def broad():
            import helper
            helper.check(1, 1)
            return helper
        @pytest.fixture(scope="class")
        def broken():
            values = list(range(50))
            assert values == values[1:]

        def test_points(): assert Point(1) == Point(2)
        def test_helper(broad): broad.check([1, 2], [1, 3])
        def test_late():
            pytest.register_assert_rewrite("late")
            import late
            late.check({1}, {2})
        def test_broken(broken): pass
        def test_text(): assert "a\\n" * 20 == "b\\n" * 20
        def test_walrus(): assert (x := 5) and x == 6
        def test_passes(): assert 1 + 1 == 2
        def test_approx(): assert [0.1 + 0.2, 1] == pytest.approx([0.3, 2])
        """,
    )
    same_as_bare(*args).assert_outcomes(passed=1, failed=6, errors=1)
