"""What a sandbox is to show of what broad-scoped fixtures have done outside."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial

import pytest

from pytest_nsbox.kernel import procstat
from pytest_nsbox.options import SandboxOptions
from pytest_nsbox.run import children, fixtures
from pytest_nsbox.run.basetemp import basetemp_of
from pytest_nsbox.run.places import Places
from pytest_nsbox.sandbox.belongings import Belongings
from pytest_nsbox.sandbox.client import Kind
from pytest_nsbox.sandbox.outsiders import Outsiders
from pytest_nsbox.sandbox.sockets import Sockets


class Surroundings:
    """Of one run: looked at before each test, for what is there may have changed."""

    def __init__(self, config: pytest.Config, places: Places, belongings: Belongings) -> None:
        self.config = config
        self._session: pytest.Session = config.pluginmanager.getplugin("session")
        self._pid = os.getpid()
        self._places = places
        self._belongings = belongings
        self._sockets = Sockets(partial(fixtures.is_started_by, self._session))
        self._outsiders = Outsiders()
        self.generation: object = None  # of broad-scoped fixtures, as it was at the last look

    def look(
        self, ours: Iterable[int], at_other_children: Callable[[], None]
    ) -> Callable[[SandboxOptions], Kind]:
        """The kind of sandbox, by a test's options, that there is to be now.

        ``ours``: children of the controller that no fixture has started; ``at_other_children`` is
        called if there are others than at the last look.
        """
        before, self.generation = self.generation, fixtures.generation(self._session)
        pids = procstat.children()
        outsiders = self._outsiders.look(set(pids or ()).difference(ours))
        started = children.look(each.pid for each in outsiders if each.pid != self._pid)
        if started != self.config.stash.get(children.children_key, {}):
            self.config.stash[children.children_key] = started
            at_other_children()
        belongings = self._belongings.look()
        # A child may serve a new socket at any time.
        anew = self.generation != before or pids is None or bool(started)
        return partial(
            self._places.kind,
            sockets=self._sockets.look(anew=anew),
            belongings=belongings,
            outsiders=outsiders,
            shared=self._outsiders.directories(
                [path for path, _, _ in belongings], basetemp_of(self.config)
            ),
        )
