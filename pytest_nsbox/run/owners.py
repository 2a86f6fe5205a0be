"""Whose code an implementation of a hook is: the project's own, or that of pytest and of plugins."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pytest

_INSTALLED = {"site-packages", "dist-packages"}


def is_of(function: Any, *packages: str) -> bool:
    """Whether the function comes from one of the packages; what ``exec`` has made has no module."""
    return (getattr(function, "__module__", None) or "").startswith(packages)


def any_own(config: pytest.Config, implementations: Iterable[Any]) -> bool:
    """Whether one of them is the project's, which may keep there what its tests look at.

    That is a conftest, or a plugin in the rootdir that is not installed there (in a ``.venv``).
    """
    return any(_is_own(config, implementation.function) for implementation in implementations)


def _is_own(config: pytest.Config, function: Any) -> bool:
    code = getattr(function, "__code__", None)
    if code is None:
        return True  # who knows
    path = os.path.abspath(code.co_filename)
    if is_of(function, "_pytest.", "pytest_nsbox."):
        return False  # also where they are what the project is
    is_conftest = os.path.basename(path) == "conftest.py"
    is_inside = os.path.commonpath([path, config.rootpath]) == str(config.rootpath)
    return is_conftest or (is_inside and _INSTALLED.isdisjoint(path.split(os.sep)))
