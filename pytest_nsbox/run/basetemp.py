"""pytest's directory of temporary ones: who makes it, who uses it, how those in it are numbered."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_NAME_LENGTH = 30  # of what tmp_path takes of a test's name: _mk_tmp in _pytest/tmpdir.py
_NO_WORD = re.compile(r"\W")  # here: each forked process would compile it anew
_NAMED = {"tmp_path", "tmpdir", "pytester", "testdir"}  # after their test
_FACTORIES = {"tmp_path_factory", "tmpdir_factory"}


def basetemp_of(config: pytest.Config) -> str | None:
    """Where pytest keeps this session's temporary directories, once that is decided."""
    basetemp = getattr(_factory_of(config), "_basetemp", None)
    return None if basetemp is None else os.path.realpath(basetemp)


def make_basetemp(config: pytest.Config) -> str | None:
    """The same, and decide it: a test process would number a private one."""
    factory = _factory_of(config)
    if factory is not None:
        with contextlib.suppress(Exception):  # tmp_path itself will say it better
            factory.getbasetemp()
    return basetemp_of(config)


def uses_basetemp(item: pytest.Item) -> bool:
    """Whether the item asks by name for a directory there; it still may do so at run time."""
    return not (_NAMED | _FACTORIES).isdisjoint(getattr(item, "fixturenames", ()))


def directories_of(item: pytest.Item) -> set[str]:
    """By which names the item may make numbered directories in basetemp; "" for any.

    Two items that use one must not run at the same time: each would see, and take, the same number.
    """
    wanted = set(getattr(item, "fixturenames", ()))
    names = set()
    if not wanted.isdisjoint(_NAMED | {"request"}):  # request.getfixturevalue("tmp_path")
        names.add(_name_of(item))
    if not wanted.isdisjoint(_FACTORIES) and _asks_itself(item):
        names.add("")
    return names


def _asks_itself(item: Any) -> bool:
    """Whether the test, or a fixture that is set up for it alone, asks for a factory of directories."""
    asked = set(item._fixtureinfo.argnames)
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        if definitions[-1].scope == "function":
            asked.update(definitions[-1].argnames)
    return not asked.isdisjoint(_FACTORIES)


class Use:
    """What a test process does with the directory; it asks the controller where that is."""

    def __init__(self, config: pytest.Config, ask: Callable[[], str | None]) -> None:
        self.is_used = False
        factory = _factory_of(config)
        if factory is None:
            return
        original = factory.getbasetemp

        def getbasetemp() -> Path:
            self.is_used = True
            if factory._basetemp is None and (path := ask()) is not None:
                # The sandbox is older than the directory, which may be hidden in here.
                os.makedirs(path, mode=0o700, exist_ok=True)
                factory._basetemp = Path(path)
            found: Path = original()
            return found

        factory.getbasetemp = getbasetemp


def next_number(item: pytest.Item) -> int:
    """With which number the next directory of the item's name is tried, since pytest 9.2."""
    numbers: dict[str, int] = getattr(_factory_of(item.config), "_next_number", {})
    return numbers.get(_name_of(item).lower(), 0) if numbers else 0


def adopt_number(item: pytest.Item, number: int) -> None:
    """Go on where another process is: of a test that has passed pytest may remove the directory."""
    numbers: dict[str, int] = getattr(_factory_of(item.config), "_next_number", {})
    if number and number > next_number(item):
        numbers[_name_of(item).lower()] = number


def _name_of(item: pytest.Item) -> str:
    """As tmp_path makes it."""
    return _NO_WORD.sub("_", item.name)[:_NAME_LENGTH]


def _factory_of(config: pytest.Config) -> Any:
    return getattr(config, "_tmp_path_factory", None)
