"""What a test may ask of the sandbox it runs in: the value of the ``sandbox`` fixture."""

from __future__ import annotations

from pytest_nsbox.options import SandboxOptions
from pytest_nsbox.run import test_process
from pytest_nsbox.run.test_process import TestProcess
from pytest_nsbox.sandbox.changes import Change
from pytest_nsbox.sandbox.client import SandboxError
from pytest_nsbox.sandbox.processes import Process

__all__ = ["Change", "Process", "Sandbox", "SandboxError"]


class Sandbox:
    """The sandbox of the running test."""

    def __init__(self, options: SandboxOptions) -> None:
        #: What the marker, the ini-file and the defaults come to for this test.
        self.options = options

    def changes(self) -> list[Change]:
        """What the test has changed so far outside ``/tmp`` and its ``tmp_path``, sorted by path.

        Each a ``Change(path, kind)``, kind one of "added", "modified" and "deleted"; what is in
        ``__pycache__`` is left out.  With a wider ``scope`` it is of all tests so far.

        Raises SandboxError in a test that runs bare.
        """
        return [Change(*change) for change in self._test_process().ask("changes")]

    def processes(self) -> list[Process]:
        """What is alive in the sandbox beside its init and the test, as ``Process(pid, command)``.

        Raises SandboxError in a test that runs bare.
        """
        return self._test_process().processes()

    def _test_process(self) -> TestProcess:
        if test_process.current is None:
            raise SandboxError(
                "this test runs bare, where nothing tells its changes and processes from others'; "
                "was it --nsbox=off, or --nsbox-unavailable=run?"
            )
        return test_process.current
