"""What modules and broad-scoped fixtures have put into /tmp and /dev/shm is there in a sandbox."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

RunPytest = Callable[..., pytest.RunResult]

# /tmp is to have nothing to do with where the suite lies.
pytestmark = pytest.mark.usefixtures("suite_elsewhere")

IN_TMP = '''
import os, sys

def in_tmp():
    """What is right in /tmp, but for the way to what this Python imports, if that lies there."""
    ways = {path.split("/")[2] for path in [*sys.path, sys.prefix] if path.startswith("/tmp/")}
    return sorted(set(os.listdir("/tmp")) - ways)
'''

FIXTURE = """
import os, shutil, tempfile
import pytest
from elsewhere import in_tmp

@pytest.fixture(scope="module")
def made():
    top = tempfile.mkdtemp(dir="/tmp")
    open(f"{top}/a", "w").close()
    fd, file = tempfile.mkstemp(dir="/tmp")
    os.write(fd, b"pristine")
    os.close(fd)
    os.chmod(file, 0o640)
    yield top, file
    assert os.listdir(top) == ["a"]
    assert open(file).read() == "pristine"
    shutil.rmtree(top)
    os.unlink(file)
"""


@pytest.fixture
def suite_elsewhere(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the suite in a directory that is not below /tmp, and no basetemp there either."""
    with TemporaryDirectory(dir="/var/tmp") as directory:
        monkeypatch.chdir(directory)
        for name in ("HOME", "USERPROFILE"):  # which pytester has set to where it was
            monkeypatch.setenv(name, directory)
        monkeypatch.setattr(pytester, "_path", type(pytester.path)(directory))
        pytester.makepyfile(elsewhere=IN_TMP)
        yield


def test_each_test_finds_them_as_the_fixture_made_them(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        FIXTURE
        + """
@pytest.mark.parametrize("attempt", range(2))
def test(made, attempt):
    top, file = made
    assert in_tmp() == sorted(os.path.basename(path) for path in made)
    assert os.listdir(top) == ["a"]
    assert open(file).read() == "pristine"
    assert os.stat(file).st_mode & 0o777 == 0o640
    open(f"{top}/b", "w").close()
    open(file, "w").close()
    os.unlink(file)
"""
    )
    run_pytest("--nsbox=all").assert_outcomes(passed=2)


def test_what_a_module_makes_when_it_is_imported_is_there(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
        import atexit, os, shutil, tempfile
        from elsewhere import in_tmp
        TOP = tempfile.mkdtemp(dir="/tmp")
        atexit.register(shutil.rmtree, TOP)
        fd, SHARED = tempfile.mkstemp(dir="/dev/shm")
        os.write(fd, b"shared")
        atexit.register(os.unlink, SHARED)
        os.symlink("nowhere", f"{TOP}.link")
        atexit.register(os.unlink, f"{TOP}.link")
        os.mkfifo(f"{TOP}.fifo")
        atexit.register(os.unlink, f"{TOP}.fifo")

        def test():
            assert os.path.isdir(TOP)
            assert open(SHARED).read() == "shared"
            assert os.readlink(f"{TOP}.link") == "nowhere"
            assert len(in_tmp()) == 3
        """
    )
    run_pytest("--nsbox=all").assert_outcomes(passed=1)


def test_what_the_fixture_of_a_test_without_a_sandbox_makes_is_there_later(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        FIXTURE
        + """
def test_bare(made):
    pass

@pytest.mark.sandbox
def test_boxed(made):
    assert in_tmp() == sorted(os.path.basename(path) for path in made)
"""
    )
    run_pytest().assert_outcomes(passed=2)


def test_what_a_test_without_a_sandbox_leaves_is_not_there(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        """
        import atexit, os, tempfile
        import pytest
        from elsewhere import in_tmp

        def test_bare():
            fd, path = tempfile.mkstemp(dir="/tmp")
            atexit.register(os.unlink, path)

        @pytest.mark.sandbox
        def test_boxed():
            assert in_tmp() == []
        """
    )
    run_pytest().assert_outcomes(passed=2)


def test_what_the_fixture_has_taken_away_is_no_longer_there(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        FIXTURE,
        test_b="""
        from elsewhere import in_tmp
        def test_after():
            assert in_tmp() == []
        """,
    )
    pytester.makepyfile(test_a=FIXTURE + "def test(made): pass")
    run_pytest("--nsbox=all").assert_outcomes(passed=2)


def test_a_large_file_is_there_to_be_read(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    pytester.makepyfile(
        """
        import os
        import pytest

        @pytest.fixture(scope="module")
        def large():
            path = f"/tmp/nsbox-large-{os.getpid()}"
            with open(path, "wb") as file:
                file.truncate(65 << 20)
            yield path
            os.unlink(path)

        def test(large):
            assert os.path.getsize(large) == 65 << 20
            with pytest.raises(OSError, match="Read-only"):
                open(large, "r+")
        """
    )
    run_pytest("--nsbox=all").assert_outcomes(passed=1)


def test_what_the_user_hides_stays_hidden(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    path = f"/tmp/nsbox-hidden-{os.getpid()}"
    pytester.makepyfile(
        f"""
        import os
        import pytest

        @pytest.fixture(scope="module")
        def made():
            os.mkdir({path!r})
            open({path!r} + "/secret", "w").close()
            yield
            os.unlink({path!r} + "/secret")
            os.rmdir({path!r})

        @pytest.mark.sandbox(hide=[{path!r}])
        def test(made):
            assert not os.path.exists({path!r} + "/secret")
        """
    )
    run_pytest().assert_outcomes(passed=1)


def test_jobs_find_them_too(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    pytester.makepyfile(
        FIXTURE
        + """
@pytest.mark.parametrize("n", range(4))
def test(made, n):
    top, file = made
    assert os.listdir(top) == ["a"]
    assert open(file).read() == "pristine"
    open(f"{top}/b", "w").close()
"""
    )
    run_pytest("--nsbox=all", "--nsbox-jobs=2").assert_outcomes(passed=4)


def test_what_goes_away_while_a_sandbox_is_made_is_not_told_of(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytester.makepyfile(
        come_and_go="""
        import itertools, os, signal, sys, time

        ends = []
        signal.signal(signal.SIGTERM, lambda *_: ends.append(True))
        names = [f"/tmp/nsbox-comes-and-goes-{os.getpid()}-{n}" for n in range(8)]
        for name in names:
            os.mkdir(name)
        while not ends:
            for name in names:
                os.rmdir(name)
                time.sleep(0.002)
                os.mkdir(name)
        for name in names:
            os.rmdir(name)
        """
    )
    pytester.makeconftest(
        """
        import subprocess, sys

        def pytest_configure(config):
            config.other = subprocess.Popen([sys.executable, "come_and_go.py"])

        def pytest_unconfigure(config):
            config.other.terminate()
            config.other.wait()
        """
    )
    pytester.makepyfile(
        """
        import time
        import pytest

        @pytest.fixture(scope="module", params=range(30))
        def broad(request): time.sleep(0.01)
        def test(broad): pass
        """
    )
    result = run_pytest("--nsbox=all")
    result.assert_outcomes(passed=30)
    result.stdout.no_fnmatch_line("*nsbox-comes-and-goes*")


def test_what_keep_names_there_is_copied_out(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    with TemporaryDirectory(dir="/tmp") as directory:
        kept = f"{directory}-kept"
        pytester.makepyfile(
            f"""
            import os
            import pytest

            @pytest.mark.sandbox(keep=[{kept!r}, "{kept}.*"])
            def test_directory():
                os.makedirs({f"{kept}/deep"!r})
                for name in ("/deep/file", ".xml", ".json"):
                    with open({kept!r} + name, "w") as file:
                        file.write(name)

            @pytest.mark.sandbox(keep=[{directory!r}], bind=[{directory!r}])
            def test_what_is_bound_is_the_host_s_anyway():
                with open({f"{directory}/file"!r}, "w") as file:
                    file.write("bound")
            """
        )
        run_pytest().assert_outcomes(passed=2)
        names = [f"{kept}.json", f"{kept}.xml", f"{kept}/deep/file"]
        texts = [Path(name).read_text() for name in names]
        assert Path(directory, "file").read_text() == "bound"
        shutil.rmtree(kept)
        for name in names[:2]:
            os.unlink(name)
    assert texts == [".json", ".xml", "/deep/file"]
