"""syrupy: writes snapshots and says which were used at the end, from what assertions have noted down."""

from __future__ import annotations

import base64
import importlib
from collections.abc import Mapping
from functools import reduce
from typing import Any

import pytest
from syrupy.assertion import AssertionResult, SnapshotAssertion
from syrupy.location import PyTestLocation

_KEY = "syrupy"
_RESULT = ("snapshot_location", "snapshot_name", "created", "updated", "success")


class Adapter:
    """Carries what was asserted, and what is to be written."""

    def __init__(self, config: pytest.Config) -> None:
        self.session: Any = config._syrupy  # type: ignore[attr-defined]
        self.inherited = 0
        self.writes: list[Any] = []
        self.has_entered = False  # in a test process, which may run several items

    @pytest.hookimpl
    def pytest_nsbox_enter(self) -> None:
        self.inherited = len(self.session._assertions)
        self.writes.clear()
        if self.has_entered:
            return
        self.has_entered = True
        queue = self.session.queue_snapshot_write

        def note_and_queue(
            extension: object, test_location: object, data: str | bytes, index: object
        ) -> None:
            self.writes.append([_name(type(extension)), _pack(data), index])
            queue(extension=extension, test_location=test_location, data=data, index=index)

        self.session.queue_snapshot_write = note_and_queue

    @pytest.hookimpl
    def pytest_nsbox_collect(self) -> dict[str, Any] | None:
        new = self.session._assertions[self.inherited :]
        if not new:
            return None
        assertions = [
            [
                _name(type(assertion.extension)),
                [
                    [getattr(result, name) for name in _RESULT]
                    for result in assertion.executions.values()
                ],
            ]
            for assertion in new
        ]
        return {_KEY: {"assertions": assertions, "writes": self.writes}}

    @pytest.hookimpl
    def pytest_nsbox_apply(self, item: pytest.Item, data: Mapping[str, Any]) -> None:
        if _KEY not in data:
            return
        location = PyTestLocation(item)
        for extension, results in data[_KEY]["assertions"]:
            assertion = SnapshotAssertion(
                session=self.session,
                extension_class=_find(extension),
                test_location=location,
                update_snapshots=self.session.update_snapshots,
            )
            for number, values in enumerate(results):
                assertion.executions[number] = AssertionResult(
                    **dict(zip(_RESULT, values, strict=True)),
                    asserted_data=None,
                    recalled_data=None,
                    exception=None,
                    test_location=location,
                )
        for extension, packed, index in data[_KEY]["writes"]:
            self.session.queue_snapshot_write(
                extension=_find(extension)(),
                test_location=location,
                data=_unpack(packed),
                index=index,
            )


def _name(extension: type) -> list[str]:
    return [extension.__module__, extension.__qualname__]


def _find(name: list[str]) -> Any:
    module, qualname = name
    try:
        return reduce(getattr, qualname.split("."), importlib.import_module(module))
    except (ImportError, AttributeError):
        pytest.fail(
            f"nsbox: {module}.{qualname} is made in a function, so that its snapshots cannot be "
            "written outside of the sandbox; define the extension at the top of a module",
            pytrace=False,
        )


def _pack(data: str | bytes) -> list[str]:
    if isinstance(data, bytes):
        return ["bytes", base64.b64encode(data).decode("ascii")]
    return ["str", data]


def _unpack(packed: list[str]) -> str | bytes:
    kind, text = packed
    return base64.b64decode(text) if kind == "bytes" else text
