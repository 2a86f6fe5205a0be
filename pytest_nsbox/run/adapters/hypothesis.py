"""hypothesis: its database of failing examples lives in a directory."""

from __future__ import annotations

import pytest
from hypothesis.configuration import storage_directory


class Adapter:
    """Keeps the database."""

    def __init__(self, config: pytest.Config) -> None:
        pass

    @pytest.hookimpl
    def pytest_nsbox_keep(self) -> list[str]:
        found = storage_directory(intent_to_write=False)
        return [str(getattr(found, "path", found))]  # a Path itself in older releases
