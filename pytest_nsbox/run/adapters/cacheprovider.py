"""pytest's own cache: what a test sets, the next run reads."""

from __future__ import annotations

import pytest


class Adapter:
    """Keeps the cache directory."""

    def __init__(self, config: pytest.Config) -> None:
        pass

    @pytest.hookimpl
    def pytest_nsbox_keep(self, config: pytest.Config) -> list[str]:
        return [str(config.cache._cachedir)] if config.cache is not None else []
