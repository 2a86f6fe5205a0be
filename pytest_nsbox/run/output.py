"""The files that a test process' captured output goes into: with several in flight, its own.

``--capture=fd`` keeps what is put out in two files, which a fork shares, their offsets too.  One test
process at a time may use them; with several each would read what the others wrote.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from io import FileIO
from typing import Any

import pytest
from _pytest.capture import EncodedFile, FDCapture


class Output:
    """Two files in place of the session's; made before the fork, used after it."""

    def __init__(self, config: pytest.Config, fds: Sequence[int] | None = None) -> None:
        """``fds``: of those that another process has made."""
        self.captures = _captures(config)
        self.replaced: list[object] = []
        # Like pytest's own: without a name, on the host, for they may grow large.
        if fds is None:
            fds = [_unnamed() for _ in self.captures]
        self.files = [FileIO(fd, "r+b") for fd in fds]

    def use(self) -> None:
        """In the test process: capture into them. Capturing is suspended between two items."""
        for capture, file in zip(self.captures, self.files, strict=True):
            self.replaced.append(capture.tmpfile)  # to let go of it unclosed is a ResourceWarning
            capture.tmpfile = capture.syscapture.tmpfile = EncodedFile(
                file, encoding="utf-8", errors="replace", newline="", write_through=True
            )

    def read(self) -> list[str]:
        """What nobody in the test process has read."""
        return [
            os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")
            for file in self.files
        ]

    def close(self) -> None:
        for file in self.files:
            file.close()


def _unnamed() -> int:
    """An fd of a new file without a name; not by ``tempfile``, which a fixture may have faked."""
    directory = os.environ.get("TMPDIR", "/tmp")
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # some filesystems have no such files
        path = os.path.join(directory, f"nsbox-{os.getpid()}-{os.urandom(8).hex()}")
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        os.unlink(path)
        return fd


def _captures(config: pytest.Config) -> list[Any]:
    manager: Any = config.pluginmanager.getplugin("capturemanager")
    capturing = manager._global_capturing if manager is not None else None
    found = (capturing.out, capturing.err) if capturing is not None else ()
    return [capture for capture in found if isinstance(capture, FDCapture)]
