"""Test processes that are forked ahead of their turn: they make no difference but of time."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.host import Host, until

from pytest_nsbox.kernel.syscalls import MADV_COLLAPSE, madvise

Run = Callable[..., pytest.RunResult]
Start = Callable[..., "subprocess.Popen[str]"]

TIMING = "--nsbox-debug=timing"


def forked_ahead(result: pytest.RunResult) -> bool:
    """Whether a test process of that run, which had TIMING, waited for the order to run its item."""
    return any(re.match(r"  order +[\d.]+$", line) for line in result.outlines)


MANY = """
    import pytest

    @pytest.mark.parametrize("number", range(8))
    def test_number(number):
        pass
"""


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_the_tests_of_a_module_are(pytester: pytest.Pytester, run_pytest: Run, jobs: str) -> None:
    pytester.makepyfile(MANY)
    result = run_pytest("--nsbox=all", TIMING, f"--nsbox-jobs={jobs}")
    result.assert_outcomes(passed=8)
    assert forked_ahead(result)


def modules(pytester: pytest.Pytester, source: str, *, many: int = 8) -> None:
    pytester.makepyfile(**{f"test_{number}": source for number in range(many)})


THREE = """
    import os
    import pytest

    seen = []

    @pytest.mark.parametrize("number", range(3))
    def test_number(number):
        seen.append(os.getpid())
        assert len(seen) == number + 1 and len(set(seen)) == 1
"""


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_those_of_modules_are_that_share_a_sandbox(
    pytester: pytest.Pytester, run_pytest: Run, jobs: str
) -> None:
    modules(pytester, THREE)
    arguments = ["--nsbox=all", TIMING, f"--nsbox-jobs={jobs}", "-o", "nsbox_scope=module"]
    result = run_pytest(*arguments)
    result.assert_outcomes(passed=24)
    assert forked_ahead(result)


def test_those_of_modules_are_copies_of_what_others_have_written_to(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    pytester.makeconftest(TEACHING)
    modules(pytester, THREE, many=20)
    result = run_pytest("--nsbox=all", "-o", "nsbox_scope=module")
    result.assert_outcomes(passed=60)
    (line,) = [line for line in result.outlines if line.startswith("populated: ")]
    assert 36 <= int(line.split()[1]) <= 51


def test_what_a_module_told_before_it_died_is_not_lost(
    pytester: pytest.Pytester, run_pytest: Run, host: Host
) -> None:
    """It is held, in memory that the test process of the module before had, too."""
    modules(
        pytester,
        """
        import os, signal
        import pytest

        @pytest.fixture
        def finished():
            yield
            os.kill(os.getpid(), signal.SIGKILL)

        def test_passes(): pass
        def test_passes_and_dies(finished): pass
        def test_goes_on(): pass
        def test_dies(): os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    result = run_pytest("--nsbox=all", TIMING, "-o", "nsbox_scope=module", "-rA")
    result.assert_outcomes(passed=24, errors=8, failed=8)
    assert forked_ahead(result)
    host.assert_clean()


def test_one_that_dies_before_it_has_told_anything_tells_nothing_of_the_module_before(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    modules(
        pytester,
        """
        import os, signal
        import pytest

        @pytest.fixture(autouse=True)
        def dies(request):
            if request.module.__name__[-1] in "57":
                os.kill(os.getpid(), signal.SIGKILL)

        def test_first(): pass
        """,
    )
    result = run_pytest("--nsbox=all", TIMING, "-o", "nsbox_scope=module")
    result.assert_outcomes(passed=6, errors=2)
    result.stdout.fnmatch_lines(["*ERROR at setup of test_first*", "*killed by SIGKILL*"])
    assert forked_ahead(result)


def test_a_module_with_a_fixture_that_outlives_it_has_what_is_set_up_outside(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    pytester.makeconftest(
        """
        import os
        import pytest

        @pytest.fixture(scope="session")
        def pid():
            return os.getpid()

        @pytest.fixture(scope="module")
        def inside():
            return os.getpid()

        @pytest.fixture(scope="session", autouse=True)
        def marked():
            os.environ["MARKED"] = str(os.getpid())
        """
    )
    plain = (
        "import os\ndef test_it(inside): assert inside == os.getpid() != int(os.environ['MARKED'])"
    )
    late = "import os\ndef test_it(pid): assert pid == int(os.environ['MARKED']) != os.getpid()"
    pytester.makepyfile(
        **{f"test_{number}": late if number in (4, 5) else plain for number in range(9)}
    )
    result = run_pytest("--nsbox=all", TIMING, "-o", "nsbox_scope=module")
    result.assert_outcomes(passed=9)
    assert forked_ahead(result)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_where_an_item_is_has_been_looked_up_before_its_test(
    pytester: pytest.Pytester, run_pytest: Run, jobs: str
) -> None:
    """As bare, where the line with its name needs it; a test may change directories."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(8))
        def test_number(number, request):
            assert vars(request.node)["location"][1:] == (2, f"test_number[{number}]")
        """
    )
    result = run_pytest("--nsbox=all", TIMING, f"--nsbox-jobs={jobs}")
    result.assert_outcomes(passed=8)
    assert forked_ahead(result)


@pytest.mark.parametrize(
    "conftest",
    [
        "def pytest_runtest_logreport(report): pass",
        "def pytest_nsbox_apply(item): pass",
        "import pytest\n@pytest.hookimpl(wrapper=True)\ndef pytest_runtest_protocol(): return (yield)",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
    ],
    ids=["hears reports", "applies", "is around tests", "has a thread"],
)
def test_none_is_where_the_controller_may_change_from_test_to_test(
    pytester: pytest.Pytester, run_pytest: Run, conftest: str
) -> None:
    pytester.makeconftest(conftest)
    pytester.makepyfile(MANY)
    result = run_pytest("--nsbox=all", TIMING)
    result.assert_outcomes(passed=8)
    assert not forked_ahead(result)


COUNT_TEMPLATES = """
    from pytest_nsbox.run.template import Template

    made = []
    init = Template.__init__

    def __init__(self, *args, **kwargs):
        made.append(self)
        init(self, *args, **kwargs)

    Template.__init__ = __init__

    def pytest_unconfigure():
        print("templates made:", len(made))
"""

SEVERAL = """
    import pytest

    def test_alone(request):
        assert request.node.parent.name == "NAME.py"

    class TestOne:
        count = 0

        @pytest.mark.parametrize("number", range(4))
        def test_it(self, number, request):
            type(self).count += 1
            assert self.count == 1
            assert [node.name for node in request.node.listchain()][-3:-1] == ["NAME.py", "TestOne"]

    class TestOther:
        class TestInside:
            def test_it(self, request):
                names = [node.name for node in request.node.listchain()]
                assert names[-4:-1] == ["NAME.py", "TestOther", "TestInside"]
"""


def test_those_after_a_package_in_which_a_conftest_hears_are_copies_of_what_it_has_left(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    """The package's first tests, which one looks at to know, are not those that it hears of."""
    module = """
        import builtins

        def test_it():
            assert len(getattr(builtins, "heard", [])) == {expected}
    """
    files = {f"p{number}/test_a": module.format(expected=0) for number in range(5)}
    files |= {f"p{number}/test_a": module.format(expected=3) for number in range(5, 9)}
    files |= {f"p{number}/__init__": "" for number in range(9)}
    files["p4/zsub/__init__"] = ""
    files["p4/zsub/test_b"] = module.format(expected=0)
    files["p4/zsub/conftest"] = """
        import builtins

        def pytest_runtest_logreport(report):
            builtins.heard = [*getattr(builtins, "heard", []), report.when]
    """
    for directory in ("p4/zsub", *(f"p{number}" for number in range(9))):
        (pytester.path / directory).mkdir(parents=True, exist_ok=True)
    pytester.makepyfile(**files)
    result = run_pytest("--nsbox=all", TIMING, "-o", "nsbox_scope=package")
    result.assert_outcomes(passed=10)
    assert forked_ahead(result)


@pytest.mark.parametrize("scope", ["function", "module"])
def test_those_after_tests_that_a_conftest_hears_of_are_copies_of_what_it_has_left(
    pytester: pytest.Pytester, run_pytest: Run, scope: str
) -> None:
    """Those before are of one template, those after of another."""
    module = """
        import builtins
        import pytest

        @pytest.mark.sandbox(scope="{scope}")
        @pytest.mark.parametrize("number", range(8))
        def test_number(number):
            assert len(builtins.heard) == {expected}
    """
    of_b = "number" if scope == "function" else 0  # of a sandbox that began with the module
    pytester.makepyfile(
        **{
            "test_a": module.format(expected=0, scope="function"),
            "test_ab": module.format(expected=0, scope=scope),
            "test_b/conftest": """
                import builtins

                builtins.heard = []

                def pytest_runtest_logreport(report):
                    if report.when == "call":
                        builtins.heard.append(report.nodeid)
            """,
            "test_b/test_b": module.format(expected=of_b, scope=scope),
            "test_c": module.format(expected=8, scope="function"),
            "count_templates": COUNT_TEMPLATES,
        }
    )
    result = run_pytest("--nsbox=all", "-p", "count_templates")
    result.assert_outcomes(passed=32)
    result.stdout.fnmatch_lines("templates made: 2")


def make_several(pytester: pytest.Pytester) -> None:
    names = ("test_a", "test_b", "test_c")
    pytester.makepyfile(**{name: SEVERAL.replace("NAME", name) for name in names})


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_one_template_serves_several_modules_and_classes(
    pytester: pytest.Pytester, run_pytest: Run, jobs: str
) -> None:
    pytester.makeconftest(COUNT_TEMPLATES)
    make_several(pytester)
    result = run_pytest("--nsbox=all", TIMING, f"--nsbox-jobs={jobs}")
    result.assert_outcomes(passed=18)
    assert forked_ahead(result)
    result.stdout.fnmatch_lines("templates made: 1")


def test_a_module_with_a_fixture_of_its_own_gets_another_one(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    pytester.makeconftest(COUNT_TEMPLATES)
    make_several(pytester)
    fixture = """
        from test_a import *
        import os

        @pytest.fixture(scope="module", autouse=True)
        def of_the_module():
            os.environ["OF_THE_MODULE"] = "there"
            yield
            del os.environ["OF_THE_MODULE"]

        def test_alone(): assert "OF_THE_MODULE" in os.environ
        class TestOne:
            def test_it(self): assert "OF_THE_MODULE" in os.environ
        class TestOther:
            def test_it(self): assert "OF_THE_MODULE" in os.environ
            def test_other(self): assert "OF_THE_MODULE" in os.environ
    """
    after = """
        import os
        import pytest

        @pytest.mark.parametrize("number", range(8))
        def test_it(number): assert "OF_THE_MODULE" not in os.environ
    """
    pytester.makepyfile(test_b=fixture, test_c=after)
    result = run_pytest("--nsbox=all", TIMING)
    result.assert_outcomes(passed=18)
    assert forked_ahead(result)
    result.stdout.fnmatch_lines("templates made: 3")


def test_collectors_with_a_setup_of_their_own_are_set_up_outside(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    pytester.makeconftest(
        """
        import os
        import pytest

        os.environ["OUTSIDE"] = str(os.getpid())

        class Module(pytest.Module):
            def setup(self): os.environ["IN"] = f"{os.getpid()} {self.name}"
            def teardown(self): del os.environ["IN"]

        def pytest_pycollect_makemodule(module_path, parent):
            return Module.from_parent(parent, path=module_path)
        """
    )
    module = """
        import os
        import pytest

        @pytest.mark.parametrize("number", range(5))
        def test_it(number):
            pid, name = os.environ["IN"].split()
            assert name == "NAME.py"
            assert pid == os.environ["OUTSIDE"]
    """
    names = ("test_a", "test_b")
    pytester.makepyfile(**{name: module.replace("NAME", name) for name in names})
    result = run_pytest("--nsbox=all", TIMING)
    result.assert_outcomes(passed=10)
    assert forked_ahead(result)


TEACHING = """
    from pytest_nsbox.sandbox import pages

    populated = False
    populate = pages.Pages.populate

    def told(self):
        global populated
        populate(self)
        populated = True

    pages.Pages.populate = told

    def pytest_runtest_call(item):
        if populated:
            item.user_properties.append(("populated", True))

    def pytest_terminal_summary(terminalreporter):
        passed = terminalreporter.stats["passed"]
        print("populated:", sum(("populated", True) in report.user_properties for report in passed))
"""


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_after_two_tests_they_have_copies_of_what_tests_write_to(
    pytester: pytest.Pytester, run_pytest: Run, jobs: str
) -> None:
    pytester.makeconftest(TEACHING)
    pytester.makepyfile(MANY.replace("range(8)", "range(40)"))
    result = run_pytest("--nsbox=all", f"--nsbox-jobs={jobs}")
    result.assert_outcomes(passed=40)
    (line,) = [line for line in result.outlines if line.startswith("populated: ")]
    # The first is no template's, two teach, and for some a process was waiting already.
    assert 25 <= int(line.split()[1]) <= 37


def test_what_a_test_has_replaced_is_not_needed_for_that(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    pytester.makeconftest(TEACHING)
    pytester.makepyfile(
        """
        import os
        import pytest

        @pytest.mark.parametrize("number", range(40))
        def test_number(number):
            os.open = os.pread = None
        """
    )
    result = run_pytest("--nsbox=all")
    result.assert_outcomes(passed=40)
    (line,) = [line for line in result.outlines if line.startswith("populated: ")]
    assert int(line.split()[1]) >= 25


def test_for_a_few_tests_nothing_is_learnt(pytester: pytest.Pytester, run_pytest: Run) -> None:
    pytester.makeconftest(TEACHING)
    pytester.makepyfile(MANY.replace("range(8)", "range(6)"))
    result = run_pytest("--nsbox=all")
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines("populated: 0")


def test_a_test_that_tells_of_no_pages_is_one_that_has_written_something_else(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    pytester.makeconftest(
        """
        from pytest_nsbox.sandbox import pages

        pages.written = lambda ranges: ["not", "pages"]
        """
    )
    pytester.makepyfile(MANY.replace("range(8)", "range(40)"))
    result = run_pytest("--nsbox=all")
    outcomes = result.parseoutcomes()
    assert outcomes["passed"] >= 39
    result.stdout.fnmatch_lines("*not a message: its pages are*")


@pytest.mark.parametrize("is_the_projects_own", [True, False])
def test_they_are_where_a_plugin_hears_of_reports_that_is_not_the_projects_own(
    pytester: pytest.Pytester,
    run_pytest: Run,
    monkeypatch: pytest.MonkeyPatch,
    short_tmp: Path,
    is_the_projects_own: bool,
) -> None:
    directory = pytester.path if is_the_projects_own else short_tmp
    (directory / "hearer.py").write_text("def pytest_runtest_logreport(report): pass")
    monkeypatch.setenv("PYTHONPATH", str(directory))
    pytester.makepyfile(MANY)
    result = run_pytest("--nsbox=all", TIMING, "-p", "hearer")
    result.assert_outcomes(passed=8)
    assert forked_ahead(result) != is_the_projects_own


def test_none_is_where_the_ini_forbids_it(pytester: pytest.Pytester, run_pytest: Run) -> None:
    pytester.makepyfile(MANY)
    result = run_pytest("--nsbox=all", TIMING, "-o", "nsbox_fork_ahead=never")
    result.assert_outcomes(passed=8)
    assert not forked_ahead(result)


def test_none_is_where_tests_write_on_the_terminal(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    pytester.makepyfile(MANY)
    assert not forked_ahead(run_pytest("--nsbox=all", TIMING, "-s"))


SHARED = """
    import os
    import pytest

    STATE = []

    @pytest.fixture(scope="module", params=["a", "b"])
    def param(request):
        STATE.append(request.param)
        yield request.param
        STATE.remove(request.param)

    @pytest.mark.parametrize("number", range(5))
    def test_first(number, param):
        assert STATE == [param]

    class TestIn:
        @pytest.fixture(scope="class", autouse=True)
        def of_class(self):
            STATE.append("class")

        @pytest.mark.parametrize("number", range(5))
        def test_class(self, number):
            assert STATE == ["b", "class"]

    @pytest.mark.sandbox
    @pytest.mark.parametrize("number", range(5))
    def test_after(number):
        assert STATE == ["b", "class"]
"""


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_they_have_what_broad_fixtures_have_set_up_and_torn_down(
    pytester: pytest.Pytester, run_pytest: Run, jobs: str
) -> None:
    pytester.makepyfile(SHARED)
    result = run_pytest("--nsbox=all", TIMING, f"--nsbox-jobs={jobs}")
    result.assert_outcomes(passed=20)
    assert forked_ahead(result)


def test_they_have_what_a_bare_test_has_changed(pytester: pytest.Pytester, run_pytest: Run) -> None:
    pytester.makepyfile(
        """
        import os
        import pytest

        STATE = []
        sandboxed = pytest.mark.sandbox
        five = pytest.mark.parametrize("number", range(5))

        @sandboxed
        @five
        def test_before(number): assert STATE == []

        def test_bare(): STATE.append(os.getpid())

        @sandboxed
        @five
        def test_after(number): assert STATE and STATE != [os.getpid()]
        """
    )
    result = run_pytest(TIMING)
    result.assert_outcomes(passed=11)
    assert forked_ahead(result)


def test_they_know_how_many_tests_have_failed(pytester: pytest.Pytester, run_pytest: Run) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(8))
        def test_number(number, request):
            assert request.session.testsfailed == (number + 1) // 2
            assert number % 2
        """
    )
    result = run_pytest("--nsbox=all", TIMING, "--tb=line")
    result.assert_outcomes(passed=4, failed=4)
    assert forked_ahead(result)


def test_each_has_its_own_options(pytester: pytest.Pytester, run_pytest: Run) -> None:
    pytester.makepyfile(
        """
        import os
        import pytest

        @pytest.mark.parametrize("number", [
            pytest.param(n, marks=pytest.mark.sandbox(env={"X": str(n % 2)}) if n % 3 else ())
            for n in range(12)
        ])
        def test_number(number):
            assert os.environ.get("X") == (str(number % 2) if number % 3 else None)
        """
    )
    run_pytest("--nsbox=all", TIMING).assert_outcomes(passed=12)


def test_their_timeout_begins_with_their_turn(pytester: pytest.Pytester, run_pytest: Run) -> None:
    pytester.makepyfile(
        """
        import time
        import pytest

        @pytest.mark.parametrize("number", range(5))
        def test_number(number): time.sleep(0.8)
        """
    )
    result = run_pytest("--nsbox=all", TIMING, "-o", "nsbox_timeout=1.5")
    result.assert_outcomes(passed=5)
    assert forked_ahead(result)


ALIKE = """
    import os
    import pytest

    def look():
        status = open("/proc/self/status").read()
        fields = ("Cap", "NoNewPrivs", "Seccomp:", "Uid", "Gid", "Groups", "Sig", "Shd")
        found = [line for line in status.splitlines() if line.startswith(fields)]
        found = [line for line in found if not line.startswith("SigQ")]  # of all the user's processes
        found.append((os.getpid(), os.getppid(), os.getpgrp(), os.getcwd(), os.umask(0)))
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        found.append(sorted(
            os.readlink(link).rstrip("[]0123456789") for link in links if os.path.islink(link)
        ))
        found.append(os.stat("/proc/self/fd").st_uid)
        return found

    @pytest.mark.parametrize("number", range(6))
    def test_number(number):
        import gc, random, threading, signal, faulthandler
        found = [*look(), random.random(), threading.get_native_id(), gc.isenabled()]
        found += [signal.getsignal(signal.SIGINT), faulthandler.is_enabled()]
        with open("found", "a") as file:
            print(found, file=file)
"""


def test_they_are_as_one_that_is_forked_when_it_is_needed(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    pytester.makepyfile(ALIKE)
    found = pytester.path / "found"
    result = run_pytest("--nsbox=all", TIMING, "-o", f"nsbox_keep={found}")
    result.assert_outcomes(passed=6)
    assert forked_ahead(result)
    first, *others = found.read_text().splitlines()
    assert others == [first] * 5


FAULTS = {
    "the template is killed": "os.kill(template._pid, signal.SIGKILL)",
    "it stands still for a while": """os.kill(template._pid, signal.SIGSTOP)
    subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -CONT {template._pid}"])""",
    "what waits is killed": """template._collect()
    template.ready[0][1].running.kill()""",
    "the supervisor is killed": """template._collect()
    signal.pidfd_send_signal(client._supervisor, signal.SIGKILL)
    select.select([template.ready[0][1].running.pidfd], [], [])""",
}


_HARM = """
import os, select, signal, subprocess
from pytest_nsbox.run.template import Template
from pytest_nsbox.sandbox.client import Client

ask, acquire = Template.ask, Client.acquire
client, count = None, 0

def harm(template):
    HARM

def ask_and_harm(self, *args, **kwargs):
    global count
    asked = ask(self, *args, **kwargs)
    count += 1
    if count == 3:
        harm(self)
    return asked

def acquire_and_remember(self, *args, **kwargs):
    global client
    client = self
    return acquire(self, *args, **kwargs)

Template.ask, Client.acquire = ask_and_harm, acquire_and_remember
"""


@pytest.mark.parametrize("fault", FAULTS)
def test_what_ends_before_its_turn_is_replaced(
    pytester: pytest.Pytester, run_pytest: Run, host: Host, fault: str
) -> None:
    pytester.makeconftest(_HARM.replace("HARM", FAULTS[fault]))
    pytester.makepyfile(MANY)
    result = run_pytest("--nsbox=all", TIMING)
    outcomes = result.parseoutcomes()
    if fault == "the supervisor is killed":  # and with it the test that runs
        assert outcomes.pop("passed") >= 7
        assert sum(outcomes.values()) <= 1
        assert result.stdout.str().count("was killed by SIGKILL") <= 1
    else:
        assert outcomes == {"passed": 8}
    assert forked_ahead(result)
    host.assert_clean()


def test_a_template_that_cannot_fork_is_done_without_and_told(
    pytester: pytest.Pytester, run_pytest: Run, host: Host
) -> None:
    pytester.makeconftest(
        """
        import errno
        from pytest_nsbox.sandbox.client import Client

        def refused(self, *args):
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

        Client.fork_sibling = refused
        """
    )
    pytester.makepyfile(MANY)
    result = run_pytest("--nsbox=all")
    result.assert_outcomes(passed=8)
    result.stdout.fnmatch_lines(
        ["test processes are no longer forked ahead of time: cannot fork into the sandbox: *"]
    )
    host.assert_clean()


def test_a_test_that_dies_is_told_and_the_next_ones_run(
    pytester: pytest.Pytester, run_pytest: Run, host: Host
) -> None:
    pytester.makepyfile(
        """
        import os, signal
        import pytest

        @pytest.mark.parametrize("number", range(9))
        def test_number(number):
            if number % 3 == 1:
                os.kill(os.getpid(), signal.SIGSEGV)
        """
    )
    result = run_pytest("--nsbox=all", TIMING)
    result.assert_outcomes(passed=6, failed=3)
    assert forked_ahead(result)
    host.assert_clean()


IN_THE_MIDDLE = """
    import os, time
    import pytest

    @pytest.mark.parametrize("number", range(9))
    def test_number(number):
        if number == 4:
            print("here", flush=True)
            open("here", "w").close()
            time.sleep(60)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_nothing_is_left_when_the_controller_is_ended(
    pytester: pytest.Pytester, start_pytest: Start, host: Host, name: str
) -> None:
    pytester.makepyfile(IN_THE_MIDDLE)
    process = start_pytest("-p", "nsbox", "--nsbox=all", "-o", f"nsbox_bind={pytester.path}:rw")
    assert until((pytester.path / "here").exists, 30)
    os.kill(process.pid, signal.Signals[name])
    process.communicate(timeout=30)
    host.assert_clean()


def test_under_xdist_each_worker_has_its_own(
    pytester: pytest.Pytester, run_pytest: Run, host: Host
) -> None:
    pytester.makepyfile(MANY.replace("range(8)", "range(40)"))
    run_pytest("--nsbox=all", "-n2").assert_outcomes(passed=40)
    host.assert_clean()


BIG_AND_MANY = """
    import pytest

    SIXTEEN_MB = b"memory" * 2_800_000  # that no test writes to

    @pytest.mark.parametrize("number", range(120))
    def test_number(number, capsys):
        if number % 10 == 9:
            with open("/proc/self/smaps_rollup") as file:
                (huge,) = [line for line in file if line.startswith("AnonHugePages:")]
            with capsys.disabled():
                print("huge:", huge.split()[1])
"""


def test_the_memory_of_those_that_are_many_is_in_huge_pages_if_it_may_be(
    pytester: pytest.Pytester, run_pytest: Run
) -> None:
    def kilobytes(wanted: str) -> int:
        result = run_pytest("--nsbox=all", "-o", f"nsbox_huge_pages={wanted}")
        result.assert_outcomes(passed=120)
        # The most, since what others do in /tmp meanwhile may end a template: the next is for less.
        return max(map(int, re.findall(r"huge: (\d+)", result.stdout.str())))

    pytester.makepyfile(BIG_AND_MANY)
    few, many = kilobytes("never"), kilobytes("auto")
    if huge_pages_can_be_made():
        assert many >= few + 8192


def huge_pages_can_be_made() -> bool:
    """Not before Linux 6.1; nor is there a difference where all are made without being asked for."""
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not enabled.exists() or "[always]" in enabled.read_text():
        return False
    with mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        for offset in range(0, len(memory), mmap.PAGESIZE):
            memory[offset] = 1
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        start += -start % (2 << 20)
        try:
            madvise(start, 2 << 20, MADV_COLLAPSE)
        except OSError:
            return False
    return True
