"""Which entries of the places that a sandbox has for itself count as ours."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pytest_nsbox.sandbox import belongings
from pytest_nsbox.sandbox.belongings import Belongings


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "there before").touch()
    monkeypatch.setattr(belongings, "PLACES", (str(tmp_path),))
    return tmp_path


def names(found: Belongings) -> list[str]:
    return [os.path.basename(path) for path, _, _ in found.look()]


def test_what_comes_while_nothing_is_set_up_is_not_ours(place: Path) -> None:
    found = Belongings()
    (place / "of another").touch()
    found.begin()
    (place / "of a fixture").touch()
    found.end()
    (place / "of another, later").touch()
    found.begin()
    found.end()
    assert names(found) == ["of a fixture"]


def test_what_the_end_of_nothing_finds_is_not_ours(place: Path) -> None:
    found = Belongings()
    found.begin()
    found.end()
    (place / "of a test").touch()
    found.end()
    assert names(found) == []


def test_what_another_user_makes_is_not_ours(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Belongings()
    found.begin()
    (place / "x").touch()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    found.end()
    assert names(found) == []


def test_a_name_that_was_ours_once_may_be_another_s(place: Path) -> None:
    found = Belongings()
    found.begin()
    (place / "x").touch()
    found.end()
    (place / "x").unlink()
    assert names(found) == []
    (place / "x").touch()
    assert names(found) == []


def test_a_file_that_is_written_to_is_another_one_and_a_directory_is_not(place: Path) -> None:
    found = Belongings()
    found.begin()
    (place / "file").touch()
    (place / "directory").mkdir()
    found.end()
    before = found.look()
    time.sleep(0.02)  # for the kernel's clock to tick
    os.utime(place / "file", ns=(1, 1))
    (place / "directory" / "new").touch()
    after = found.look()
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_a_place_is_listed_again_only_after_a_change(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(place, ns=(1, 1))
    found = Belongings()
    found.begin()
    found.end()
    monkeypatch.setattr(os, "listdir", lambda _: pytest.fail("listed"))
    found.begin()
    found.end()


def test_a_place_that_is_not_there_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(belongings, "PLACES", ("/no/such/place",))
    found = Belongings()
    found.begin()
    found.end()
    assert found.look() == ()
