"""What keeps two processes from writing the same on one terminal."""

from __future__ import annotations

import os

import pytest

from pytest_nsbox.run import screen


def test_output_is_silenced_where_there_is_no_null_device(
    monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "devnull", "/no/such/device")  # as for a test that has changed its root
    mute = screen.Mute(pytestconfig)
    os.write(1, b"lost")
    mute.end()
    os.write(1, b"kept")
    assert "lost" not in capfd.readouterr().out
