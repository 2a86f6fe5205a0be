"""The same run bare and sandboxed: tests of other kinds than functions, and subtests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

SameAsBare = Callable[..., pytest.RunResult]


@pytest.mark.parametrize(
    "args", [["-rA", "--capture=sys"], ["-s", "-v", "--tb=short"]], ids=" ".join
)
def test_unittest(pytester: pytest.Pytester, same_as_bare: SameAsBare, args: list[str]) -> None:
    pytester.makepyfile(
        """
        import asyncio, unittest
        import pytest

        def setUpModule(): print("module up")
        def tearDownModule(): print("module down")

        class TestAll(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                print("class up")
                cls.addClassCleanup(print, "class cleanup")
                cls.value = 1
            @classmethod
            def tearDownClass(cls): print("class down")
            def setUp(self):
                print("up")
                self.addCleanup(print, "cleanup", self.value)
            def tearDown(self): print("down")
            def test_passes(self): pass
            def test_fails(self): self.assertEqual([1, 2], [1, 3])
            def test_skips(self): self.skipTest("in the test")
            def test_raises_skip(self): raise unittest.SkipTest("raised")
            @unittest.skip("by decorator")
            def test_skipped(self): pass
            @unittest.expectedFailure
            def test_expected(self): self.fail("expected")
            @unittest.expectedFailure
            def test_unexpected(self): pass
            def test_sub(self):
                for n in range(3):
                    with self.subTest("message", n=n, text="t"):
                        self.assertNotEqual(n, 1)
            def test_cleanup_fails(self): self.addCleanup(self.fail, "in cleanup")
            @pytest.fixture(autouse=True)
            def auto(self): self.from_fixture = True
            def test_fixture(self): assert self.from_fixture

        class TestAsync(unittest.IsolatedAsyncioTestCase):
            async def asyncSetUp(self): self.event = asyncio.Event()
            async def test_async(self):
                self.event.set()
                await self.event.wait()
            async def test_async_fails(self): await asyncio.sleep(0); self.fail("async")

        class TestBroken(unittest.TestCase):
            @classmethod
            def setUpClass(cls): raise ValueError("no class")
            def test_one(self): pass
            def test_two(self): pass

        class TestSkipped(unittest.TestCase):
            @classmethod
            def setUpClass(cls): raise unittest.SkipTest("no class today")
            def test_one(self): pass

        @unittest.skip("the whole class")
        class TestNot(unittest.TestCase):
            def test_one(self): pass
        """
    )
    same_as_bare(*args)


@pytest.mark.parametrize("args", [["-rA"], ["-v", "--doctest-continue-on-failure"]], ids=" ".join)
def test_doctests(pytester: pytest.Pytester, same_as_bare: SameAsBare, args: list[str]) -> None:
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture(scope="session", autouse=True)
        def names(doctest_namespace): doctest_namespace["answer"] = 42
        @pytest.fixture
        def narrow(): return "narrow"
        """
    )
    pytester.makepyfile(
        module='''
        """
        >>> answer
        42
        >>> getfixture("narrow")
        'narrow'
        """
        def bad():
            """
            >>> print("put out")
            put out
            >>> 1 + 1
            3
            >>> [][0]
            Traceback (most recent call last):
            IndexError: another message
            """
        def raises():
            """
            >>> 1 / 0
            """
        def skips():
            """
            >>> import pytest; pytest.skip("in a doctest")
            """
        def all_skipped():
            """
            >>> 1 # doctest: +SKIP
            """
        '''
    )
    pytester.maketxtfile(test_text=">>> 'text'\n'other'\n")
    same_as_bare("--doctest-modules", *args)


@pytest.mark.skipif(not hasattr(pytest, "Subtests"), reason="subtests came with pytest 9")
@pytest.mark.parametrize("args", [["-rA"], ["-v", "-s"], ["-x", "--junitxml=xml"]], ids=" ".join)
def test_subtests(pytester: pytest.Pytester, same_as_bare: SameAsBare, args: list[str]) -> None:
    pytester.makepyfile(
        """
        import logging
        import pytest

        def test_it(subtests):
            for n in range(4):
                with subtests.test("message", n=n, text=f"text {n}"):
                    print("sub", n)
                    logging.warning("log %d", n)
                    if n == 1: pytest.skip("one")
                    if n == 2: pytest.xfail("two")
                    assert n != 3
            print("after")
        def test_passes(subtests):
            with subtests.test(): pass
        def test_fails_too(subtests):
            with subtests.test(where=("a", 1)): assert False, "in the subtest"
            assert False, "after the subtest"
        """
    )
    same_as_bare(*args)
