"""The kind of sandbox that options ask for: where the words of a test meet those of the engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from pytest_nsbox.options import SandboxOptions
from pytest_nsbox.sandbox.client import Kind


def kind_of(
    options: SandboxOptions,
    visible: Iterable[str],
    real: Callable[[str], str] = os.path.realpath,
) -> Kind:
    """The kind for these options, in which the paths ``visible`` are there too.

    ``real`` resolves the paths of the options: a sandbox mounts at a path, not at a symlink.
    """
    return Kind(
        visible=tuple(visible),
        tmp_size=options.tmp_size,
        bind=tuple((real(b.source), real(b.target), b.read_only) for b in options.bind),
        hide=tuple(real(path) for path in options.hide),
        network=options.network,
        hostname=options.hostname,
    )
