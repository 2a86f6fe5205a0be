"""What the tests share: the command line in this process, something to fetch, a daemon."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from larder.cli import main


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Larder = Callable[..., Result]


@pytest.fixture
def larder(capsys: pytest.CaptureFixture[str]) -> Larder:
    """Call the command line with these arguments."""

    def run(*argv: str) -> Result:
        code = main(argv)
        captured = capsys.readouterr()
        return Result(code, captured.out.strip(), captured.err.strip())

    return run


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """The file that there is to be fetched, where a server would have it."""
    path = tmp_path / "wheel-1.0.tar.gz"
    path.write_bytes(b"bytes of a wheel")
    return path


@pytest.fixture
def daemon(larder: Larder) -> Iterator[None]:
    assert larder("start").code == 0
    yield
    larder("stop")
