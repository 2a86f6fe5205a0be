"""pytest-xdist: a worker is a controller of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest

from .conftest import Both

pytest.importorskip("xdist")

SUITE = """
    import os, signal
    import pytest

    pytestmark = pytest.mark.sandbox

    @pytest.mark.parametrize("number", range(8))
    def test_number(number, tmp_path):
        assert os.getpid() == 2
        assert os.listdir("/tmp") != ["left"]
        open("/tmp/left", "w").close()
"""


@pytest.mark.parametrize("dist", ["load", "loadscope", "loadgroup"])
def test_sandboxed_tests_pass_in_workers(
    dist: str, pytester: pytest.Pytester, run_pytest: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(SUITE)
    run_pytest("-n2", f"--dist={dist}").assert_outcomes(passed=8)


def test_a_crashing_sandbox_does_not_take_its_worker(
    pytester: pytest.Pytester, run_pytest: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(
        SUITE
        + """
    def test_crash():
        os.kill(os.getpid(), signal.SIGSEGV)
"""
    )
    result = run_pytest("-n2")
    result.assert_outcomes(passed=8, failed=1)
    result.stdout.fnmatch_lines(["*the test process was killed by SIGSEGV*"])
    result.stdout.no_fnmatch_line("*replacing crashed worker*")


without_groups = pytest.mark.skipif(
    not hasattr(pytest.Item, "_nodeid"),
    reason="pytest-xdist 3.8 groups by Item._nodeid, which pytest 9.2 has no more: not bare either",
)

# Each records where it ran.
SHARED = """
    import os
    import pytest

    pytestmark = pytest.mark.sandbox

    @pytest.fixture(scope="module")
    def of_module():
        return object()

    @pytest.fixture(autouse=True)
    def where(worker_id, request, record_property):
        record_property("worker", worker_id)

    class TestOne:
        @pytest.mark.parametrize("number", range(4))
        def test_a(self, number, of_module): pass

    class TestTwo:
        @pytest.mark.parametrize("number", range(4))
        def test_b(self, number, of_module): pass

    @pytest.mark.xdist_group("group")
    @pytest.mark.parametrize("number", range(4))
    def test_c(number): pass

    @pytest.mark.xdist_group("group")
    def test_d(): pass
"""


@pytest.mark.parametrize(
    ("dist", "together"),
    [
        ("loadscope", ["TestOne", "TestTwo"]),
        pytest.param("loadgroup", ["test_c", "test_d"], marks=without_groups),
        ("loadfile", ["Test", "test_"]),
    ],
)
def test_tests_of_a_scope_stay_in_one_worker(
    dist: str,
    together: list[str],
    pytester: pytest.Pytester,
    run_pytest: Callable[..., pytest.RunResult],
) -> None:
    pytester.makepyfile(SHARED)
    run_pytest("-n2", f"--dist={dist}", "--junitxml=out.xml").assert_outcomes(passed=13)
    cases = ElementTree.parse(pytester.path / "out.xml").iter("testcase")
    ran: dict[str, set[str]] = {}
    for case in cases:
        value = case.find("properties/property[@name='worker']")
        assert value is not None
        name = f"{case.attrib['classname']}.{case.attrib['name']}"
        for scope in together:
            if scope in name:
                key = scope if dist == "loadscope" else "one"
                ran.setdefault(key, set()).add(value.attrib["value"])
    assert [len(workers) for workers in ran.values()] == [1] * len(ran)
    assert ran


def test_maxfail_ends_the_run(
    pytester: pytest.Pytester, run_pytest: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.sandbox
        @pytest.mark.parametrize("number", range(60))
        def test_number(number):
            assert False
        """
    )
    result = run_pytest("-n2", "--maxfail=2")
    result.stdout.fnmatch_lines(["*stopping after 2 failures*"])
    assert 2 <= result.parseoutcomes()["failed"] < 20


def test_output_warnings_and_steal_are_those_of_a_bare_run(
    pytester: pytest.Pytester, both: Both
) -> None:
    pytester.makepyfile(
        """
        import warnings
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_number(number, record_property):
            print("printed", number)
            warnings.warn(f"warned {number}")
            assert number < 3
        """
    )
    # One worker: of several nobody knows which comes first.
    both(["-n1", "--dist=worksteal"]).runs[0].assert_outcomes(passed=3, failed=1, warnings=4)


def test_two_workers_report_the_same_as_bare(
    pytester: pytest.Pytester, run_pytest: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(
        test_it="""
        import logging
        import subprocess
        import sys
        import unittest
        import warnings
        import pytest

        @pytest.fixture(scope="session")
        def shared(tmp_path_factory, worker_id, testrun_uid):
            assert worker_id in ("gw0", "gw1")
            path = tmp_path_factory.mktemp("shared")
            (path / "file").write_text("shared")
            return path

        @pytest.fixture(scope="module")
        def broad(shared):
            yield (shared / "file").read_text()

        @pytest.fixture
        def narrow(broad):
            print("narrow up")
            yield broad
            print("narrow down")

        @pytest.mark.parametrize("number", range(12))
        def test_number(number, narrow, tmp_path, record_property):
            record_property("number", number)
            print("out", number)
            print("err", number, file=sys.stderr)
            logging.warning("log %d", number)
            warnings.warn(f"warned {number}")
            (tmp_path / "file").write_text(narrow)
            assert number % 4, "every fourth"

        def test_skips(broad): pytest.skip("not today")
        @pytest.mark.xfail(strict=True)
        def test_xpass(): pass
        def test_error(nowhere): pass
        def test_program(): assert subprocess.check_output(["echo", "word"]) == b"word\\n"

        class TestCase(unittest.TestCase):
            @classmethod
            def setUpClass(cls): cls.value = 1
            def test_value(self): self.assertEqual(self.value, 2)
        """
    )
    seen = []
    for mode in ("off", "all"):
        args = ["-n2", "-o", "junit_logging=all", "--junitxml=out.xml", f"--nsbox={mode}"]
        result = run_pytest(*args)
        result.assert_outcomes(passed=10, failed=5, skipped=1, errors=1, warnings=12)
        text = (pytester.path / "out.xml").read_text()
        text = re.sub(
            r'-+ sandbox -+\n(?:.+\n)*?(?=---)| time="[^"]*"|popen-gw\d|pytest-\d+', "", text
        )
        text = re.sub(r"0x[0-9a-f]+|gw[01]", "", text)
        cases = ElementTree.fromstring(text).iter("testcase")
        seen.append(sorted(ElementTree.tostring(case, "unicode").strip() for case in cases))
    assert seen[0] == seen[1]
    assert "narrow down" in "".join(seen[1])
