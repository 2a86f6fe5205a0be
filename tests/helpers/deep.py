"""Trees that are deeper than a path is long, or than a stack."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def nest(top: Path, name: str, levels: int) -> None:
    """Make directories in one another, also where a path is too long to do it."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)


@contextmanager
def little_stack() -> Iterator[None]:
    """Frames for pytest and some more, but not for one per level of a deep tree."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
