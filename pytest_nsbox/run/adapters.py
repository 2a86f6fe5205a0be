"""What other plugins must be told about us, if they are there."""

from __future__ import annotations

import sys


def spare_our_modules() -> None:
    """Have pyfakefs leave our modules their ``os``: a class's fake stays in place between tests."""
    pyfakefs = sys.modules.get("pyfakefs.fake_filesystem_unittest")
    if pyfakefs is not None:
        ours = {name for name in sys.modules if name.partition(".")[0] == "pytest_nsbox"}
        pyfakefs.Patcher.SKIPNAMES.update(ours)
