"""The cache on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from larder.cache import Cache
from larder.config import load_settings

pytestmark = pytest.mark.sandbox

URL = "https://example.org/wheel-1.0.tar.gz"


@pytest.fixture
def cache() -> Cache:
    return Cache(load_settings().cache_dir)


def test_a_new_cache_is_empty(cache: Cache) -> None:
    assert cache.entries() == []


def test_storing_adds_one_entry(cache: Cache) -> None:
    before = len(cache.entries())
    cache.store(URL, b"first")
    assert len(cache.entries()) == before + 1


def test_what_was_stored_is_found(cache: Cache) -> None:
    cache.store(URL, b"the bytes")
    entry = cache.lookup(URL)
    assert entry is not None
    assert entry.path.read_bytes() == b"the bytes"


def test_storing_again_replaces(cache: Cache) -> None:
    cache.store(URL, b"first")
    assert cache.store(URL, b"second").path.read_bytes() == b"second"


def test_an_unknown_url_is_a_miss(cache: Cache) -> None:
    assert cache.lookup("https://example.org/never-fetched") is None


def test_eviction_removes_what_was_not_used_for_longest(tmp_path: Path) -> None:
    cache = Cache(tmp_path, tmp_path / "lock")
    for name in ("a", "b", "c"):
        cache.store(name, b"1234")
    cache.lookup("a")
    assert [entry.url for entry in cache.evict(max_bytes=8)] == ["b"]
    assert [entry.url for entry in cache.entries()] == ["c", "a"]
