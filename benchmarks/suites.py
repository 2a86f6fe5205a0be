"""The suites that are timed: each is written into a directory of its own, with its own ini file."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

HEAVY_MB = 400
SESSION_SECONDS = 2.0
CPU_MS = 20
FILES = 100
REAL = "tinydb==4.8.2"  # pure Python, no dependencies, its tests are in its sdist
REAL_SHA256 = "f7dfc39b8d7fda7a1ca62a8dbb449ffd340a117c1206b68c50b1a481fb95181d"

_TEST = "def test_{i}():\n    pass\n\n\n"

_HEAP = """\
def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * {page} / 2**20


HEAP = []
while resident_mb() < {megabytes}:
    start = len(HEAP)
    HEAP += ({{"id": i, "name": str(i)}} for i in range(start, start + 10_000))
"""

_FILES_TEST = """\
@pytest.mark.parametrize("i", range({tests}))
def test_files(i, tmp_path):
    for name in range({files}):
        (tmp_path / str(name)).write_text("x")
    subprocess.run(["true"], check=True)
"""

_SESSION = """\
@pytest.fixture(scope="session", autouse=True)
def slow():
    time.sleep({seconds})
"""

_CPU_TEST = """\
@pytest.mark.parametrize("i", range({tests}))
def test_cpu(i):
    until = time.process_time() + {seconds}
    while time.process_time() < until:
        pass
"""


class Unusable(Exception):
    """Something cannot run on this machine; the text says why."""


class Suite(NamedTuple):
    """A suite in a directory, and how many of its tests pass."""

    title: str
    directory: Path
    tests: int
    is_whole: bool = False  # judged by its wall time, not by what is added to each test
    args: tuple[str, ...] = ()
    modules: tuple[Path, ...] = ()  # directories to import from


def _write(directory: Path, source: str, conftest: str = "") -> Path:
    directory.mkdir()
    # An ini file of its own: no other one, found above, takes part.
    (directory / "pytest.ini").write_text("[pytest]\n")
    (directory / "conftest.py").write_text(conftest)
    (directory / "test_it.py").write_text(source)
    return directory


def _noops(tests: int) -> str:
    return "".join(_TEST.format(i=i) for i in range(tests))


def noop(directory: Path, tests: int) -> Suite:
    """No-op tests in a process as small as pytest's can be (some 35 MB)."""
    return Suite(f"{tests} no-op tests", _write(directory, _noops(tests)), tests)


def heap(directory: Path, tests: int, megabytes: int) -> Suite:
    """No-op tests in a process of so many MB, full of small dicts."""
    conftest = _HEAP.format(megabytes=megabytes, page=4096)
    return Suite(f"{megabytes} MB", _write(directory, _noops(tests), conftest), tests)


def heavy(directory: Path, tests: int, modules: Path) -> Suite:
    """No-op tests in a process with numpy, pandas and 400 MB; ``modules``: where the two are."""
    conftest = "import numpy\nimport pandas\n\n\n" + _HEAP.format(megabytes=HEAVY_MB, page=4096)
    title = f"{tests} no-op tests, numpy and pandas, {HEAVY_MB} MB"
    return Suite(title, _write(directory, _noops(tests), conftest), tests, modules=(modules,))


def files(directory: Path, tests: int) -> Suite:
    """Tests that each write 100 files below tmp_path and run a program."""
    source = "import subprocess\n\nimport pytest\n\n\n"
    source += _FILES_TEST.format(tests=tests, files=FILES)
    title = f"{tests} tests: {FILES} files and a subprocess each"
    return Suite(title, _write(directory, source), tests)


def session(directory: Path, tests: int) -> Suite:
    """No-op tests behind a session fixture that takes 2 s."""
    conftest = "import time\n\nimport pytest\n\n\n" + _SESSION.format(seconds=SESSION_SECONDS)
    title = f"{tests} no-op tests, a session fixture of {SESSION_SECONDS:g} s"
    return Suite(title, _write(directory, _noops(tests), conftest), tests, is_whole=True)


def cpu(directory: Path, tests: int) -> Suite:
    """Tests that each use a processor for 20 ms."""
    source = "import time\n\nimport pytest\n\n\n"
    source += _CPU_TEST.format(tests=tests, seconds=CPU_MS / 1000)
    return Suite(f"{tests} tests of {CPU_MS} ms CPU", _write(directory, source), tests, True)


def real(directory: Path) -> Suite:
    """A suite that is nobody's here, from its sdist. Raises Unusable if the index does not have it."""
    with tempfile.TemporaryDirectory(prefix="nsbox-bench-") as download:
        _fetch(Path(download))
        directory.mkdir()
        (sdist,) = Path(download).glob("*.tar.gz")
        with tarfile.open(sdist) as archive:
            archive.extractall(directory, filter="data")
    (root,) = directory.iterdir()
    (root / "pytest.ini").write_text("[pytest]\n")
    suite = Suite(f"the suite of {REAL}", root, 0, True, args=("tests",), modules=(root,))
    return suite._replace(tests=_passing(suite))


def _fetch(directory: Path) -> None:
    """The sdist of REAL, whose hash is known."""
    requirements = directory / "requirements.txt"
    requirements.write_text(f"{REAL} --hash=sha256:{REAL_SHA256}\n")
    name = REAL.partition("==")[0]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name]
    pip += ["--dest", str(directory), "-r", str(requirements)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unusable(f"cannot fetch {REAL}: {last_line(done.stderr)}")


def _passing(suite: Suite) -> int:
    """How many of its tests pass, bare."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:nsbox"]
    environ = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(suite.directory)}
    done = subprocess.run(
        [*command, *suite.args],
        cwd=suite.directory, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"(\d+) passed", done.stdout)
    if done.returncode or found is None:
        raise Unusable(f"{suite.title} fails bare: {last_line(done.stdout + done.stderr)}")
    return int(found[1])


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"
