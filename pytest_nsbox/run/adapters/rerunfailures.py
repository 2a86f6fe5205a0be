"""pytest-rerunfailures: decides on another attempt by what it has noted down on the item.

It does that in ``pytest_runtest_makereport``, and so in the test process.  Before the teardown of a test
that it will repeat it takes the broad-scoped finalizers away, which are the controller's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import pytest_rerunfailures as plugin

_KEY = "rerunfailures"
# By phase: whether it failed, by an error that forbids another attempt, or as was expected.
_NOTES = ("_test_failed_statuses", "_terminal_errors", "_test_xfailed")


class Adapter:
    """Carries the notes, and has the controller's finalizers taken away as well."""

    def __init__(self, config: pytest.Config) -> None:
        pass

    @pytest.hookimpl
    def pytest_nsbox_repeats(self, item: pytest.Item) -> bool:
        return plugin.get_reruns_count(item) is not None

    @pytest.hookimpl
    def pytest_nsbox_enter(self) -> None:
        plugin.suspended_finalizers.clear()  # an earlier attempt's, and the controller's

    @pytest.hookimpl
    def pytest_nsbox_collect(self, item: pytest.Item) -> dict[str, Any] | None:
        if not hasattr(item, "execution_count"):  # not one that it repeats
            return None
        # What the test process itself has set up of a broad scope, nobody else will tear down.
        plugin._restore_suspended_finalizers(item)
        item.session._setupstate.teardown_exact(None)
        notes = {name: getattr(item, name, {}) for name in _NOTES}
        return {_KEY: {"notes": notes, "conditions": _conditions(item)}}

    @pytest.hookimpl
    def pytest_nsbox_apply(
        self, item: pytest.Item, nextitem: pytest.Item | None, data: Mapping[str, Any]
    ) -> None:
        if not hasattr(item, "execution_count"):
            return
        if _KEY in data:
            for name, note in data[_KEY]["notes"].items():
                setattr(item, name, note)
            item._rerun_condition_excinfos = {}  # type: ignore[attr-defined]
            item._rerun_condition_results = {  # type: ignore[attr-defined]
                (phase, index): result for phase, index, result in data[_KEY]["conditions"]
            }
        plugin.pytest_runtest_teardown(item, nextitem)
        if getattr(item, "_finalizers_suspended", False) and not _may_repeat(item):
            item._finalizers_suspended = False  # type: ignore[attr-defined]
            plugin._restore_suspended_finalizers(item)


def _may_repeat(item: Any) -> bool:
    """What it decides when it has the report of the teardown."""
    failures = plugin._get_reruns_condition_failures(item)
    forbidden = item._terminal_errors.get("teardown", False)
    return not forbidden and bool(plugin.get_reruns_condition(item, failures))


def _conditions(item: pytest.Item) -> list[tuple[str, int, bool]]:
    """What the marker's ``condition`` says to each failure, which only the test process can ask."""
    if not hasattr(plugin, "_get_reruns_condition_failures"):  # before pytest-rerunfailures 16
        return []
    plugin.get_reruns_condition(item, plugin._get_reruns_condition_failures(item))
    results = getattr(item, "_rerun_condition_results", {})
    return [(phase, index, result) for (phase, index), result in results.items()]
