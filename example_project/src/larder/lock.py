"""A lock file that says who holds it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType


class Locked(Exception):
    """The lock is taken, and stayed so for as long as we were ready to wait."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(
            f"the cache is locked by pid {holder or '?'}; "
            f"if no larder is running, remove {path} and try again"
        )
        self.path = path
        self.holder = holder


class FileLock:
    """Held while the file exists, as with git's index.lock.

    A file, not flock(): a holder on another host of a shared home directory counts too, and people
    can see who it is. The price is that a holder that was killed has to be cleaned up by hand.
    """

    def __init__(self, path: Path, timeout: float = 0.3) -> None:
        self.path = path
        self.timeout = timeout

    def __enter__(self) -> FileLock:
        deadline = time.monotonic() + self.timeout
        while not self._create():
            if time.monotonic() >= deadline:
                raise Locked(self.path, self._holder())
            time.sleep(0.02)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.path.unlink(missing_ok=True)

    def _create(self) -> bool:
        try:
            fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(fd, "w") as stream:
            stream.write(f"{os.getpid()}\n")
        return True

    def _holder(self) -> str:
        try:
            return self.path.read_text().strip()
        except FileNotFoundError:
            return ""
