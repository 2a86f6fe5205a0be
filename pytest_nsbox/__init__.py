"""pytest-nsbox: a machine of its own for a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_nsbox.inside import Change, Process, Sandbox, SandboxError
    from pytest_nsbox.options import SandboxOptions

__version__ = "0.1.0"
__all__ = ["Change", "Process", "Sandbox", "SandboxError", "SandboxOptions", "__version__"]


def __getattr__(name: str) -> Any:
    # Not imported before it is asked for: the plugin costs a run without sandboxes nothing, and the
    # supervisor imports this package too.
    if name == "SandboxOptions":
        from pytest_nsbox.options import SandboxOptions

        return SandboxOptions
    if name in __all__:
        from pytest_nsbox import inside

        return getattr(inside, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
