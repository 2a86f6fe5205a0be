"""hypothesis: its database of failing examples lives in a directory."""

from __future__ import annotations

import os

import pytest


class Adapter:
    """Keeps the database."""

    def __init__(self, config: pytest.Config) -> None:
        pass

    @pytest.hookimpl
    def pytest_nsbox_keep(self) -> list[str]:
        return [os.path.join(os.getcwd(), ".hypothesis")]
