"""The command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import larder as package
import pytest
from conftest import Larder

pytestmark = pytest.mark.sandbox(network="loopback")


def test_module_runs_as_a_program() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "larder", "--version"],
        env={**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert process.stdout == f"larder {package.__version__}\n"


def test_status_without_a_daemon(larder: Larder) -> None:
    result = larder("status")
    assert (result.code, result.out) == (3, "not running")


@pytest.mark.usefixtures("daemon")
def test_status_of_a_daemon(larder: Larder) -> None:
    result = larder("status")
    assert result.code == 0
    assert "http://127.0.0.1:48620" in result.out


@pytest.mark.usefixtures("daemon")
def test_fetch_prints_the_path_of_a_copy(larder: Larder, origin: Path) -> None:
    copy = Path(larder("fetch", origin.as_uri()).out)
    assert copy.read_bytes() == origin.read_bytes()
    assert copy != origin


@pytest.mark.usefixtures("daemon")
def test_second_fetch_does_not_need_the_origin(larder: Larder, origin: Path) -> None:
    first = larder("fetch", origin.as_uri())
    origin.unlink()
    assert larder("fetch", origin.as_uri()) == first
    assert larder("fetch", "--fresh", origin.as_uri()).code == 1


@pytest.mark.usefixtures("daemon")
def test_fetch_says_what_it_cannot_fetch(larder: Larder) -> None:
    result = larder("fetch", "gopher://example.org/wheel")
    assert result.code == 1
    assert "the scheme must be one of file, http, https" in result.err


@pytest.mark.usefixtures("daemon")
def test_list_shows_what_was_fetched(larder: Larder, origin: Path) -> None:
    larder("fetch", origin.as_uri())
    assert f"{origin.stat().st_size}  {origin.as_uri()}" in larder("list").out


@pytest.mark.usefixtures("daemon")
def test_purge_empties_the_cache(larder: Larder, origin: Path) -> None:
    larder("fetch", origin.as_uri())
    assert larder("purge").code == 0
    assert larder("list").out == ""
