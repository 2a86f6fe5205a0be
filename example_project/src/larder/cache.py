"""The cache on disk: what was downloaded, from where, and what has to go when it gets full."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from larder.config import LOCK_FILE
from larder.lock import FileLock


@dataclass(frozen=True)
class Entry:
    url: str
    path: Path
    size: int
    used: int  # nanoseconds since the epoch

    @property
    def digest(self) -> str:
        return self.path.stem


class Cache:
    """Two files an entry, both named after the digest of its URL: the bytes, and a record.

    An entry exists when its record does. The bytes are in place before the record is, and both are
    renamed into place, so readers need no lock. Removing takes one: two evictions that run at the
    same time would each free the space the other one has counted on.
    """

    def __init__(self, root: Path, lock_file: Path = LOCK_FILE) -> None:
        self.root = root
        self.objects = root / "objects"
        self.lock_file = lock_file

    def lookup(self, url: str) -> Entry | None:
        record = self._record(url)
        try:
            # The order of eviction is that of the records' times.
            os.utime(record, ns=(now := time.time_ns(), now))
        except FileNotFoundError:
            return None
        return self._load(record)

    def find(self, digest: str) -> Entry | None:
        return next((entry for entry in self.entries() if entry.digest == digest), None)

    def store(self, url: str, data: bytes) -> Entry:
        record = self._record(url)
        self.objects.mkdir(parents=True, exist_ok=True)
        self._replace(record.with_suffix(".data"), data)
        self._replace(record, json.dumps({"url": url, "size": len(data)}).encode())
        entry = self.lookup(url)
        assert entry is not None
        return entry

    def entries(self) -> list[Entry]:
        """Least recently used first."""
        return sorted(self._entries(), key=lambda entry: entry.used)

    def size(self) -> int:
        return sum(entry.size for entry in self._entries())

    def evict(self, max_bytes: int) -> list[Entry]:
        """Remove what was not used for the longest time, until the rest fits into `max_bytes`."""
        removed = []
        with FileLock(self.lock_file):
            excess = self.size() - max_bytes
            for entry in self.entries():
                if excess <= 0:
                    break
                self._remove(entry)
                removed.append(entry)
                excess -= entry.size
        return removed

    def purge(self) -> list[Entry]:
        return self.evict(max_bytes=-1)

    def _record(self, url: str) -> Path:
        return self.objects / f"{hashlib.sha256(url.encode()).hexdigest()}.json"

    def _entries(self) -> Iterator[Entry]:
        for record in self.objects.glob("*.json"):
            if (entry := self._load(record)) is not None:
                yield entry

    def _load(self, record: Path) -> Entry | None:
        try:
            used = record.stat().st_mtime_ns
            fields = json.loads(record.read_text())
        except FileNotFoundError:  # evicted since we have listed it
            return None
        return Entry(fields["url"], record.with_suffix(".data"), fields["size"], used)

    def _remove(self, entry: Entry) -> None:
        entry.path.with_suffix(".json").unlink(missing_ok=True)
        entry.path.unlink(missing_ok=True)

    def _replace(self, path: Path, data: bytes) -> None:
        fd, name = tempfile.mkstemp(dir=self.objects, prefix=".incoming-")
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
        Path(name).replace(path)
