"""``scope``: one sandbox for the tests of a class, a module, a package or the session."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from helpers.host import Host

Run = Callable[..., pytest.RunResult]
SameAsBare = Callable[..., pytest.RunResult]

SCOPES = ["class", "module", "package", "session"]

every_scope = pytest.mark.parametrize("scope", SCOPES)

# Each fixture tells of itself; a wider one than the sandbox is asked for by the first test of a module.
SPEAKERS = """
    import os
    import pytest

    def speaker(scope, name, params=None):
        @pytest.fixture(scope=scope, name=name, params=params)
        def fixture(request):
            value = f"{name} {getattr(request, 'param', '')}"
            print(value, "up", os.environ["PYTEST_CURRENT_TEST"])
            request.addfinalizer(lambda: print(value, "finalized"))
            yield value
            print(value, "down", os.environ["PYTEST_CURRENT_TEST"])
        return fixture

    for scope in ("session", "module", "class", "function"):
        globals()[scope + "_fixture"] = speaker(scope, scope)
        globals()[scope + "_param"] = speaker(scope, scope + "_param", ["a", "b"])
"""

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

    def test_first(session, module, function): print(session, module, function)

    class TestClass:
        @classmethod
        def setup_class(cls): print("class set up")
        @classmethod
        def teardown_class(cls): raise RuntimeError("in the teardown of the class")
        def setup_method(self): print("method set up")
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
    result.assert_outcomes(
        passed=25, failed=8, skipped=4, xfailed=2, errors=12, warnings=2
    )


def test_the_order_of_events(pytester: pytest.Pytester, same_as_bare: SameAsBare) -> None:
    pytester.makeconftest(SPEAKERS)
    pytester.makepyfile(test_a=ALL_KINDS)
    same_as_bare("-v", "-x", "-o", "nsbox_scope=module")
    same_as_bare("-v", "--maxfail=2", "-o", "nsbox_scope=class")
    same_as_bare("-v", "-s", "-p", "no:warnings", "-o", "nsbox_scope=module")
    same_as_bare("-rA", "-k", "unit or params or last", "-o", "nsbox_scope=module")
    same_as_bare("--setup-show", "-o", "nsbox_scope=module")
