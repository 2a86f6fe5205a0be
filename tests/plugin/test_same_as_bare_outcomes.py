"""The same run bare and sandboxed: outcomes, warnings and what ends a run early."""

from __future__ import annotations

from collections.abc import Callable

import pytest

SameAsBare = Callable[..., pytest.RunResult]


def test_skips_and_xfails_in_every_phase(
    pytester: pytest.Pytester, same_as_bare: SameAsBare
) -> None:
    pytester.makepyfile(
        """
        import pytest

        def fixture(name, scope, before=lambda: None, after=lambda: None):
            @pytest.fixture(name=name, scope=scope)
            def made():
                before()
                yield
                after()
            return made

        def raises(): raise ValueError("raised")
        def skips(): pytest.skip("skipped")
        def xfails(): pytest.xfail("xfailed")

        for scope in ("function", "module"):
            for action in (raises, skips, xfails):
                for when in ("before", "after"):
                    name = f"{scope}_{action.__name__}_{when}"
                    globals()[name] = fixture(name, scope, **{when: action})

        FIXTURES = [name for name in globals() if name.startswith("function_")]

        @pytest.mark.parametrize("name", FIXTURES)
        def test_fixture(request, name): request.getfixturevalue(name)

        def test_module_raises(module_raises_before): pass
        def test_module_skips(module_skips_before): pass
        def test_module_xfails(module_xfails_before): pass
        def test_function_raises(function_raises_before): pass
        def test_function_skips(function_skips_before): pass
        def test_function_xfails(function_xfails_before): pass
        def test_late_raises(function_raises_after): pass
        def test_late_skips(function_skips_after): pass
        def test_late_xfails(function_xfails_after): pass
        @pytest.mark.xfail
        def test_marked_broad(module_raises_before): pass
        @pytest.mark.xfail(raises=ValueError)
        def test_as_expected(): raises()
        @pytest.mark.xfail(raises=TypeError, reason="another")
        def test_not_as_expected(): raises()
        @pytest.mark.xfail(strict=True, reason="strict")
        def test_strict(): pass
        @pytest.mark.xfail(run=False)
        def test_not_run(): pass
        @pytest.mark.xfail("1 +")
        def test_bad_condition(): pass
        @pytest.mark.skipif("not 0", reason="a string")
        def test_skipif(): pass
        def test_importorskip(): pytest.importorskip("nowhere")
        def test_marks_itself(request):
            request.node.add_marker(pytest.mark.xfail(reason="in the test"))
            raises()
        def test_exits(): raise SystemExit(3)
        def test_base(): raise BaseException("of the base")
        async def test_async(): pass
        def test_returns(): return 1
        """
    )
    same_as_bare("-rA", "--tb=short")
    same_as_bare("--runxfail", "-rA", "--tb=line")


WARNING_SUITE = """
    import contextlib, gc, threading, warnings
    import pytest

    class OwnWarning(UserWarning): pass
    class Needy(UserWarning):
        def __init__(self, one, two): super().__init__(f"{one} and {two}")

    class Broken:
        def __del__(self): raise ValueError("in del")

    def thread_that_dies():
        def die(): raise ValueError("in a thread")
        thread = threading.Thread(target=die, name="mortal")
        thread.start()
        thread.join()

    @pytest.fixture(scope="module")
    def broad():
        warnings.warn("broad up")
        yield
        warnings.warn("broad down")

    @pytest.fixture
    def narrow():
        warnings.warn("narrow up")
        yield
        warnings.warn("narrow down")

    @pytest.fixture(scope="module")
    def broad_unraisable():
        broken = Broken(); broken = None
        yield
        broken = Broken(); broken = None

    @pytest.fixture(scope="class")
    def broad_thread():
        thread_that_dies()
        yield
        thread_that_dies()

    def test_fixtures(broad, narrow): pass
    def test_own(): warnings.warn(OwnWarning("own"))
    def test_needy(): warnings.warn(Needy("this", "that"))
    def test_local():
        class Local(UserWarning): pass
        warnings.warn("local", Local)
    @pytest.mark.parametrize("n", range(2))
    def test_same_place(n): warnings.warn("of one place", DeprecationWarning)
    def test_warns():
        with pytest.warns(UserWarning, match="expected"):
            warnings.warn("expected")
    def test_does_not_warn():
        with pytest.warns(UserWarning): pass
    def test_recwarn(recwarn):
        warnings.warn("recorded")
        assert str(recwarn.pop().message) == "recorded"
    def test_deprecated():
        with pytest.deprecated_call(): warnings.warn("old", DeprecationWarning)
    @pytest.mark.filterwarnings("error:strict")
    def test_filter(): warnings.warn("strict")
    @pytest.mark.filterwarnings("ignore")
    def test_ignore(): warnings.warn("ignored")
    def test_unraisable():
        broken = Broken(); broken = None
    def test_cycle():
        broken = Broken(); broken.itself = broken; broken = None
        gc.collect()
    def test_broad_unraisable(broad_unraisable): pass
    def test_resource(): open(__file__)
    def test_thread(): thread_that_dies()
    class TestIt:
        def test_broad_thread(self, broad_thread): pass
        def test_narrow(self, broad_thread): pass
    def test_last(): pass
"""


def test_a_test_has_the_signal_mask_that_pytest_has(
    pytester: pytest.Pytester, same_as_bare: SameAsBare
) -> None:
    pytester.makepyfile(
        """
        import signal
        import pytest

        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGRTMIN + 1])

        @pytest.mark.parametrize("number", range(5))
        def test_mask(number):
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
            assert set(map(int, blocked)) == {signal.SIGUSR1, signal.SIGRTMIN + 1}
        """
    )
    same_as_bare("-v").assert_outcomes(passed=5)


def test_the_garbage_collector_finds_what_is_older_than_the_test(
    pytester: pytest.Pytester, same_as_bare: SameAsBare
) -> None:
    pytester.makepyfile(
        """
        import gc
        import weakref
        import pytest

        class Thing: pass

        @pytest.fixture(scope="module")
        def things():
            thing = Thing()
            thing.itself = thing
            return [thing]

        def test_objects(things):
            assert any(each is things for each in gc.get_objects())

        def test_referrers(things):
            holder = (things[0],)
            found = [each for each in gc.get_referrers(things[0]) if isinstance(each, (list, tuple))]
            assert {id(each) for each in found} == {id(things), id(holder)}

        def test_collect(things):
            seen = weakref.ref(things.pop())
            assert gc.collect()
            assert seen() is None

        def test_referrers_of_a_variable():
            async def coroutine():
                thing = Thing()
                print(*(type(each).__name__ for each in gc.get_referrers(thing)))
            with pytest.raises(StopIteration):
                coroutine().send(None)

        def test_there_is_nothing_else():
            with pytest.raises(AttributeError, match="module 'gc' has no attribute 'gather'"):
                gc.gather
            assert gc.isenabled()
        """
    )
    same_as_bare("-rA").assert_outcomes(passed=5)


@pytest.mark.parametrize(
    "args",
    [[], ["-W", "error"], ["-W", "default"], ["-p", "no:warnings"], ["--disable-warnings"]],
    ids=lambda args: " ".join(args) or "plain",
)
def test_warnings_of_every_kind(
    pytester: pytest.Pytester, same_as_bare: SameAsBare, args: list[str]
) -> None:
    pytester.makepyfile(WARNING_SUITE)
    same_as_bare("--tb=line", *args)


@pytest.mark.parametrize(
    ("phase", "how"),
    [
        ("setup", "pytest.exit('enough')"),
        ("call", "pytest.exit('enough', returncode=42)"),
        ("teardown", "pytest.exit('enough')"),
        ("setup", "raise KeyboardInterrupt"),
        ("call", "raise KeyboardInterrupt('^C')"),
        ("teardown", "raise KeyboardInterrupt"),
        ("setup", "request.session.shouldstop = 'told to stop'"),
        ("call", "request.session.shouldfail = 'told to fail'"),
        ("teardown", "request.session.shouldstop = 'told to stop'"),
    ],
)
def test_the_end_of_a_run(
    pytester: pytest.Pytester, same_as_bare: SameAsBare, phase: str, how: str
) -> None:
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.fixture(scope="module")
        def broad():
            print("broad up")
            yield
            print("broad down")

        @pytest.fixture
        def narrow(request):
            print("narrow up")
            if {phase!r} == "setup": {how}
            yield
            print("narrow down")
            if {phase!r} == "teardown": {how}

        def test_before(broad): pass

        def test_ends(broad, narrow, request):
            print("in the test")
            if {phase!r} == "call": {how}

        def test_after(broad): pass
        """
    )
    same_as_bare("-s")
