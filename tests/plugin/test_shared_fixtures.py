"""Which broad-scoped fixtures tests share, and what those put out while a test runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

RunPytest = Callable[..., pytest.RunResult]


def test_a_fixture_announced_by_the_hook_is_set_up_once(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makeconftest(
        """
        import os
        import pytest

        @pytest.fixture(scope="session")
        def late():
            yield os.getpid()
            print("torn down in", os.getpid() == 2)

        @pytest.fixture(autouse=True)
        def asks(request):
            return request.getfixturevalue("late")

        def pytest_nsbox_fixtures(item):
            return {"late": True}
        """
    )
    pytester.makepyfile(
        """
        import os
        def test_a(asks):
            assert asks != os.getpid()
        def test_b(asks):
            assert asks != os.getpid()
        """
    )
    result = run_pytest("--nsbox=all", "-rA")
    result.assert_outcomes(passed=2)
    assert str(result.stdout).count("torn down in False") == 1


def test_a_fixture_that_is_not_shared_sees_the_memory_of_its_test(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
        import queue, threading
        import pytest

        SEEN = []

        @pytest.fixture(scope="module")
        def server():
            questions, answers = queue.Queue(), queue.Queue()
            def serve():
                while questions.get():
                    answers.put(list(SEEN))
            threading.Thread(target=serve, daemon=True).start()
            def ask():
                questions.put(True)
                return answers.get(timeout=20)
            yield ask
            questions.put(False)

        @pytest.mark.parametrize("number", [1, 2])
        def test_number(server, number):
            SEEN.append(number)
            assert server() == [number]
        """
    )
    pytester.makeconftest("def pytest_nsbox_fixtures(item): return {'server': False}")
    run_pytest("--nsbox=all").assert_outcomes(passed=2)


@pytest.mark.parametrize("end", ["assert False", "os._exit(3)"])
def test_a_failure_names_the_threads_that_the_test_does_not_have(
    end: str, pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        f"""
        import os, threading
        import pytest

        @pytest.fixture(scope="session")
        def watcher():
            ends = threading.Event()
            thread = threading.Thread(target=ends.wait, name="the watcher")
            thread.start()
            yield
            ends.set()
            thread.join()

        def test_it(watcher):
            {end}
        """
    )
    run_pytest("--nsbox=all").stdout.fnmatch_lines(
        [
            "*- sandbox -*",
            "1 thread of broad-scoped fixtures outside (pytest_nsbox_fixtures can have it in here):",
            "  the watcher",
        ]
    )


@pytest.mark.parametrize("capture", ["fd", "sys", "tee-sys"])
def test_what_a_thread_of_a_broad_fixture_prints_belongs_to_the_test(
    capture: str, pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
        import os, threading
        import pytest

        @pytest.fixture(scope="module")
        def printer():
            asked, asking = os.pipe()
            answered, answering = os.pipe()
            def serve():
                while (word := os.read(asked, 100)) != b"end":
                    print("printed by the thread:", word.decode())
                    os.write(answering, b"done")
            thread = threading.Thread(target=serve)
            thread.start()
            def ask(word):
                os.write(asking, word)
                os.read(answered, 100)
            yield ask
            os.write(asking, b"end")
            thread.join()

        def test_print(printer):
            # Once is not enough: what comes while pytest shows a report is not captured.
            for _ in range(50):
                printer(b"word")
        """
    )
    result = run_pytest("--nsbox=all", "-rA", f"--capture={capture}")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*Captured stdout *", "printed by the thread: word"])


def test_fixtures_and_bare_tests_find_no_child_that_is_not_theirs(
    pytester: pytest.Pytester, run_pytest: Callable[..., pytest.RunResult]
) -> None:
    pytester.makepyfile(
        """
        import os
        import pytest

        def assert_no_child():
            with pytest.raises(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)

        @pytest.fixture(scope="module")
        def first():
            assert_no_child()
            yield
            assert_no_child()

        @pytest.fixture(scope="class")
        def second():
            assert_no_child()
            yield
            assert_no_child()

        @pytest.mark.sandbox
        @pytest.mark.parametrize("n", range(10))
        def test_one(n): pass

        @pytest.mark.sandbox
        def test_two(first): pass

        class TestThree:
            @pytest.mark.sandbox
            def test_it(self, second): pass

            def test_bare(self, second): assert_no_child()

        @pytest.mark.sandbox
        def test_four(first): pass

        def test_bare(first): assert_no_child()
        """
    )
    run_pytest().assert_outcomes(passed=15)
