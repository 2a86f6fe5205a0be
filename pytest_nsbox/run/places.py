"""Which of the host's paths a sandbox shows and what of its own is kept: the kind that an item needs."""

from __future__ import annotations

import os
import sys

import pytest

from pytest_nsbox.kind import kind_of
from pytest_nsbox.options import SandboxOptions
from pytest_nsbox.run.basetemp import basetemp_of
from pytest_nsbox.sandbox.belongings import Belonging
from pytest_nsbox.sandbox.client import Kind
from pytest_nsbox.sandbox.outsiders import Outsider
from pytest_nsbox.sandbox.sockets import Socket


class Places:
    """The paths of one run."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self._real: dict[str, str] = {}
        self._kinds: dict[object, Kind] = {}
        self._keep: list[str] | None = None

    def kind(
        self,
        options: SandboxOptions,
        sockets: tuple[Socket, ...] = (),
        belongings: tuple[Belonging, ...] = (),
        outsiders: tuple[Outsider, ...] = (),
        shared: tuple[str, ...] = (),
    ) -> Kind:
        """The kind of sandbox that an item with these options needs now: of equal ones one object.

        ``shared``: directories that are the host's own in there, and not copies of them.
        """
        basetemp = basetemp_of(self.config)
        places = (current_directory(), basetemp, tuple(sys.path), os.environ.get("TMPDIR"))
        key = (options, places, sockets, belongings, outsiders, shared)
        kind = self._kinds.get(key)
        if kind is None:
            kind = kind_of(options, self.visible(basetemp), self.real)
            kind = kind._replace(
                sockets=sockets,
                belongings=belongings,
                outsiders=outsiders,
                bind=(*((path, path, False) for path in shared), *kind.bind),
            )
            self._kinds[key] = kind
        return kind

    def kept(self, options: SandboxOptions) -> list[str]:
        """What is copied out whole after a test: what plugins keep, and the user's own."""
        if self._keep is None:
            answers = self.config.hook.pytest_nsbox_keep(config=self.config)
            self._keep = [path for answer in answers for path in answer]
        root = str(self.config.rootpath)
        paths = (*self._keep, *options.keep)
        return [self.real(os.path.join(root, os.path.expanduser(path))) for path in paths]

    def visible(self, basetemp: str | None) -> list[str]:
        """The paths that must be there in every sandbox, whatever hides them."""
        config = self.config
        sources = {
            str(config.rootpath),
            str(config.invocation_params.dir),
            sys.prefix,
            sys.base_prefix,
            sys.exec_prefix,
            *(path for path in sys.path if path),
            *([basetemp] if basetemp else []),
        }
        places = {
            *filter(None, [current_directory()]),
            os.environ.get("TMPDIR", "/tmp"),
            os.path.expanduser("~"),
        }
        # A private /tmp is the point: only sources that lie right in it open it up.
        return sorted(
            {self.real(path) for path in sources} | {self.real(path) for path in places} - {"/tmp"}
        )

    def real(self, path: str) -> str:
        found = self._real.get(path)
        if found is None:
            found = self._real[path] = os.path.realpath(path)
        return found


def current_directory() -> str:
    """The process's, "" where a broad-scoped fixture has removed it from under us."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""
