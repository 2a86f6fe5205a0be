"""The same run bare and sandboxed: hooks of a conftest, reports, and the XML of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

SameAsBare = Callable[..., pytest.RunResult]

EVERY_HOOK = """
    import pytest

    WRAPPED = {
        "pytest_runtest_protocol": "item",
        "pytest_runtest_logstart": "nodeid",
        "pytest_runtest_setup": "item",
        "pytest_runtest_call": "item",
        "pytest_runtest_teardown": "item",
        "pytest_runtest_makereport": "item",
        "pytest_runtest_logreport": "report",
        "pytest_runtest_logfinish": "nodeid",
        "pytest_fixture_setup": "fixturedef",
        "pytest_fixture_post_finalizer": "fixturedef",
        "pytest_pyfunc_call": "pyfuncitem",
        "pytest_report_teststatus": "report",
        "pytest_warning_recorded": "nodeid",
        "pytest_exception_interact": "node",
    }

    def told(value):
        if isinstance(value, pytest.TestReport):
            return f"{value.when} {value.outcome}"
        return getattr(value, "name", None) or getattr(value, "argname", value)

    def wrapper(name, argument):
        namespace = {"told": told}
        exec(
            f"def {name}({argument}):\\n"
            f"    print('<', {name!r}, told({argument}))\\n"
            f"    result = yield\\n"
            f"    print('>', {name!r}, told({argument}))\\n"
            f"    return result\\n",
            namespace,
        )
        return pytest.hookimpl(wrapper=True)(namespace[name])

    globals().update({name: wrapper(name, argument) for name, argument in WRAPPED.items()})
"""


@pytest.mark.parametrize("args", [["-s"], ["-rA", "-p", "no:terminal"]], ids=" ".join)
def test_wrappers_of_every_hook(
    pytester: pytest.Pytester, same_as_bare: SameAsBare, args: list[str]
) -> None:
    pytester.makeconftest(EVERY_HOOK)
    pytester.makepyfile(
        """
        import unittest, warnings
        import pytest

        @pytest.fixture
        def narrow(): yield
        def test_passes(narrow): pass
        def test_fails(narrow): assert False
        def test_warns(): warnings.warn("look out")
        @pytest.mark.skip
        def test_skipped(narrow): pass
        @pytest.mark.xfail
        def test_xfails(narrow): assert False
        class TestCase(unittest.TestCase):
            def test_method(self): self.fail("no")
        """
    )
    same_as_bare(*args)


def test_a_report_that_plugins_write_on(
    pytester: pytest.Pytester, same_as_bare: SameAsBare
) -> None:
    pytester.makeconftest(
        """
        import pathlib
        import pytest

        key = pytest.StashKey()
        VALUE = (1, [2, (3,)], {4: "four", "five": b"5"}, {6}, frozenset({7}), None, 8.5)

        def pytest_collection_modifyitems(items): items.reverse()

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            item.stash.setdefault(key, []).append(report.when)
            setattr(item, "rep_" + report.when, report)
            report.seen = list(item.stash[key])
            report.value = VALUE
            report.funcargs = sorted(item.funcargs)
            report.where = pathlib.Path("/some/where")
            report.sections.append(("added", f"by a plugin in {report.when}"))
            report.user_properties.append(("phase", (report.when, VALUE)))
            if call.excinfo is not None:
                report.longrepr.addsection("more", "on the failure")
            return report

        def pytest_runtest_logreport(report):
            assert report.value == VALUE
            print("seen", report.when, report.seen, report.funcargs, report.value, report.where)
            print(report.user_properties, report.keywords, report.location, report.sections)

        def pytest_report_teststatus(report, config):
            if report.when == "call" and report.passed:
                return "excellent", "!", ("EXCELLENT", {"green": True})

        @pytest.fixture
        def verdict(request):
            yield
            print("in teardown:", request.node.rep_call.outcome, request.node.rep_setup.when)
        """
    )
    pytester.makepyfile(
        """
        def test_first(verdict, tmp_path): pass
        def test_second(verdict, request): assert request is None
        def test_third(record_property): record_property("own", ("a", 1))
        """
    )
    same_as_bare("-s", "-v")


@pytest.mark.parametrize("scope", ["function", "module"])
def test_reports_that_differ_in_what_those_of_an_item_have_in_common(
    pytester: pytest.Pytester, same_as_bare: SameAsBare, scope: str
) -> None:
    """Of that the second and third say nothing on their way, where they say the same."""
    pytester.makeini(f"[pytest]\nnsbox_scope = {scope}")
    pytester.makeconftest(
        """
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            if item.name == "test_keywords" and report.when == "call":
                report.keywords["only of the call"] = 1
            if item.name == "test_location" and report.when == "teardown":
                report.location = (report.location[0], 99, "elsewhere")
            return report

        def pytest_runtest_logreport(report):
            print(report.nodeid, report.when, report.location, sorted(report.keywords))
            report.keywords[f"told of {report.when}"] = 1
        """
    )
    pytester.makepyfile(
        """
        import pytest

        def test_first(): pass
        def test_keywords(): pass
        def test_location(): pass
        def test_fails(): assert False

        def test_marked(request):
            request.node.add_marker("late")
            request.node.extra_keyword_matches.add("later")
        """
    )
    result = same_as_bare("-v")
    result.stdout.fnmatch_lines(["*test_location teardown ('*', 99, 'elsewhere')*"])


def test_properties_in_the_xml(pytester: pytest.Pytester, same_as_bare: SameAsBare) -> None:
    pytester.makepyfile(
        """
        import pathlib
        import pytest

        @pytest.fixture(scope="session", autouse=True)
        def session(record_testsuite_property):
            record_testsuite_property("from", "a fixture")

        @pytest.fixture(scope="session")
        def broken_late():
            yield
            raise ValueError("late")

        def test_suite(record_testsuite_property): record_testsuite_property("from", "a <test>")
        def test_attribute(record_xml_attribute):
            record_xml_attribute("assertions", 7)
            record_xml_attribute("name", "another name")
        def test_property(record_property):
            record_property("text", "<&>")
            record_property("tuple", (1, "two"))
            record_property("path", pathlib.Path("/some/where"))
            record_property("bytes", b"bytes")
            assert False
        def test_output(): print("put out"); assert False
        def test_error(nowhere): pass
        def test_skips(): pytest.skip("why")
        @pytest.mark.xfail(reason="known")
        def test_xfail(): assert False
        def test_again(record_testsuite_property): record_testsuite_property("again", "yes")
        def test_last(broken_late, record_xml_attribute): record_xml_attribute("status", "odd")
        """
    )
    for family in ("xunit1", "xunit2"):
        same_as_bare(
            *("--junitxml=report.xml", "-o", f"junit_family={family}", "-o", "junit_logging=all"),
        )


def test_a_setup_hook_that_skips(pytester: pytest.Pytester, same_as_bare: SameAsBare) -> None:
    pytester.makeconftest(
        """
        import logging, warnings
        import pytest

        def pytest_runtest_setup(item):
            print("hook")
            logging.warning("log of the hook")
            warnings.warn("warning of the hook")
            if "skipped" in item.name: pytest.skip("by a hook")
            if "failed" in item.name: pytest.fail("by a hook")
        """
    )
    pytester.makepyfile(
        """
        import logging, os
        import pytest

        @pytest.fixture(scope="module")
        def broken():
            print("broken up")
            raise ValueError("no fixture")

        @pytest.fixture(scope="module")
        def broad(request):
            logging.warning("log of the fixture")
            print("broad up for", request.node.name, os.environ["PYTEST_CURRENT_TEST"])
            yield
            print("broad down", os.environ["PYTEST_CURRENT_TEST"])

        @pytest.fixture(scope="module", params=[1, 2])
        def param(request):
            print("param up", request.param)
            yield
            print("param down", request.param)

        def test_skipped(broad): pass
        def test_failed(broad): pass
        def test_runs(broad): pass
        def test_skipped_again(broad): pass
        def test_param(param): pass
        def test_param_skipped(param): pass
        def test_broken(broken): pass
        def test_broken_skipped(broken): pass
        def test_broken_again(broken): pass
        def test_runs_last(broad): pass
        """
    )
    for args in (["-rA"], ["-s", "-v"], ["--log-cli-level=INFO", "--log-file=log.txt"]):
        same_as_bare(*args)


# As they were before pluggy 1.2, made by a function that gives them no module.
OLD_WRAPPERS = """
    import pytest

    def wrapper(name, argument):
        namespace = {"where": __name__}
        exec(
            f"def {name}({argument}):\\n"
            f"    print('<', where, {name!r}, getattr({argument}, 'name', {argument}))\\n"
            f"    outcome = yield\\n"
            f"    print('>', where, {name!r}, outcome.excinfo and outcome.excinfo[0])\\n",
            namespace,
        )
        return pytest.hookimpl(hookwrapper=True, tryfirst=True)(namespace[name])

    for name in ("protocol", "setup", "call", "teardown", "makereport"):
        globals()["pytest_runtest_" + name] = wrapper("pytest_runtest_" + name, "item")
    for name in ("logstart", "logfinish"):
        globals()["pytest_runtest_" + name] = wrapper("pytest_runtest_" + name, "nodeid")
"""

CHANGING = """
    @pytest.hookimpl(hookwrapper=True, specname="pytest_runtest_call", trylast=True)
    def pytest_change_the_outcome(item):
        outcome = yield
        if "rescued" in item.name: outcome.force_result(None)
        if "doomed" in item.name: outcome.force_exception(ValueError("doomed"))

    @pytest.hookimpl(hookwrapper=True, specname="pytest_runtest_makereport")
    def pytest_change_the_report(item, call):
        outcome = yield
        report = outcome.get_result()
        if "reported" in item.name and call.when == "call":
            report.outcome = "skipped"
            report.longrepr = ("file.py", 5, "by a hook")

    @pytest.hookimpl(tryfirst=True, specname="pytest_pyfunc_call")
    def pytest_call_another(pyfuncitem):
        if "called" in pyfuncitem.name:
            print("called in its place")
            return True
"""


@pytest.mark.parametrize(
    "args", [["-s", "-v"], ["-p", "no:terminal", "--junitxml=xml"]], ids=" ".join
)
def test_old_style_wrappers_of_every_conftest(
    pytester: pytest.Pytester, same_as_bare: SameAsBare, args: list[str]
) -> None:
    suite = """
        import pytest

        @pytest.fixture(scope="module")
        def broad(): print("broad up")
        def test_passes(broad): pass
        def test_fails(broad): assert 0
        def test_rescued(): assert 0
        def test_doomed(): pass
        def test_reported(): assert 0
        def test_called(): assert 0
        def test_skips(): pytest.skip("no")
        """
    pytester.makeconftest(OLD_WRAPPERS + CHANGING)
    pytester.makepyfile(
        **{"package/__init__": "", "package/conftest": OLD_WRAPPERS, "package/test_in": suite},
        test_out=suite,
    )
    result = same_as_bare("--tb=short", *args)
    assert str(result.stdout).count("called in its place") == (2 if "-s" in args else 0)


def test_a_report_hook_that_reads_the_values_of_fixtures(
    pytester: pytest.Pytester, same_as_bare: SameAsBare
) -> None:
    pytester.makeconftest(
        """
        import pytest

        key = pytest.StashKey()

        class Browser:
            def __init__(self): self.log = []
            def __repr__(self): return f"<browser {self.log}>"

        @pytest.fixture(scope="session")
        def shared(): return Browser()
        @pytest.fixture
        def browser(request, shared):
            yield Browser()
            reports = request.node.stash[key]
            print({when: report.outcome for when, report in reports.items()})
            print([report.longreprtext for report in reports.values()])

        @pytest.hookimpl(wrapper=True, tryfirst=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            item.stash.setdefault(key, {})[report.when] = report
            if "browser" in item.funcargs:
                seen = [item.funcargs["browser"], item.funcargs["shared"], call.excinfo]
                report.sections.append(("screenshot", repr(seen)))
                of_item = [item.obj.__name__, item.module.__name__, item.keywords["n"].args]
                report.sections.append(("item", repr(of_item)))
            return report

        def pytest_runtest_teardown(item, nextitem):
            print("teardown of", item.name, "next", nextitem and nextitem.name, [*item.funcargs])
        """
    )
    pytester.makeini("[pytest]\nmarkers = n: a number")
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.n(5)
        @pytest.mark.parametrize("n", [1, 2])
        def test_it(browser, shared, n):
            browser.log.append(n)
            assert n == 1
        def test_other(): pass
        def test_error(browser, nowhere): pass
        """
    )
    same_as_bare("-rA", "--tb=short").assert_outcomes(passed=2, failed=1, errors=1)
