"""hypothesis: its database of failing examples lives in a directory."""

from __future__ import annotations

import os
import sys

import pytest


class Adapter:
    """Keeps the database."""

    def __init__(self, config: pytest.Config) -> None:
        self.cwd = config.invocation_params.dir

    @pytest.hookimpl
    def pytest_nsbox_keep(self) -> list[str]:
        # Its plugin does not import it (0.2 s), nor do we: some tests may, when they run, or none.
        configuration = sys.modules.get("hypothesis.configuration")
        if configuration is None:
            return [
                str(self.cwd / (os.environ.get("HYPOTHESIS_STORAGE_DIRECTORY") or ".hypothesis"))
            ]
        found = configuration.storage_directory(intent_to_write=False)
        return [str(getattr(found, "path", found))]  # a Path itself in older releases
