"""What we know of other plugins: one module each, imported only where that plugin is.

An adapter is a plugin like any other and uses nothing but our own hooks (``hookspecs.py``), so that
whoever writes a plugin can do the same without us.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

import pytest

Config = pytest.Config


def _has(plugin: str) -> Callable[[Config], bool]:
    return lambda config: config.pluginmanager.hasplugin(plugin)


def _imported(module: str) -> Callable[[Config], bool]:
    return lambda config: module in sys.modules


_ADAPTERS: dict[str, Callable[[Config], bool]] = {
    "benchmark": _has("benchmark"),
    "cacheprovider": _has("cacheprovider"),
    "coverage": _imported("coverage"),
    "django": _imported("django"),
    "flaky": _has("flaky"),
    "forked": _has("pytest_forked"),
    "httpserver": _has("pytest_httpserver"),
    "hypothesis": _has("hypothesispytest"),
    "pyfakefs": _imported("pyfakefs.fake_filesystem_unittest"),
    "randomly": _has("randomly"),
    "rerunfailures": _has("rerunfailures"),
    "socket": _has("socket"),
    "syrupy": _has("syrupy"),
    "timeout": _has("timeout"),
    "xdist": lambda config: hasattr(config, "workerinput"),
}


def register(config: Config) -> list[str]:
    """Register the adapters of the plugins that are there; which could not be, and why."""
    problems = []
    for name, is_there in _ADAPTERS.items():
        if is_there(config):
            try:
                adapter = importlib.import_module(f"{__name__}.{name}").Adapter(config)
            except Exception as error:  # a release of it that we do not know
                problems.append(
                    f"what {name} notes down in a sandbox is lost, for this release of it is not "
                    f"known here: {type(error).__name__}: {error}"
                )
            else:
                config.pluginmanager.register(adapter, f"nsbox-{name}")
    return problems
