"""Interleaved rounds of every row in every column, and the figures that come of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from runners import FLOOR, Row, progress, run
from suites import Suite, Unusable


class Column(NamedTuple):
    """A suite, the rows that run it, and a command that runs them."""

    key: str
    suite: Suite
    rows: tuple[Row, ...]
    around: tuple[str, ...] = ()


class Cell(NamedTuple):
    """One row's figures in one column; each a median over the rounds, with the least and the most."""

    wall_s: float
    wall_s_min: float
    wall_s_max: float
    added_ms: float  # per test, over the bare run of the same round
    added_ms_min: float
    added_ms_max: float
    times_bare: float  # the wall time
    times_floor: float | None  # what is added; None where the floor was not measured
    is_scaled: bool  # up from a few tests


class Measured(NamedTuple):
    """A column's cells by row, and why others have none."""

    column: Column
    cells: dict[str, Cell]
    left_out: dict[str, str]


def measure(columns: Sequence[Column], rounds: int) -> list[Measured]:
    """Run everything so many times. Within a column a round has its rows in an order of its own.

    So a noisy moment hits every row alike. What fails once is left out from then on.
    """
    times: list[dict[str, list[float]]] = [{} for _ in columns]
    left_out: list[dict[str, str]] = [{} for _ in columns]
    for column in columns:
        _warm_up(column)
    for number in range(rounds):
        for column, walls, failed in zip(columns, times, left_out, strict=True):
            progress(f"round {number + 1} of {rounds}: {column.key}, {column.suite.title}")
            for row in random.sample(column.rows, len(column.rows)):
                _time(row, column, walls, failed)
    progress("")
    return [
        Measured(column, _cells(column, walls), failed)
        for column, walls, failed in zip(columns, times, left_out, strict=True)
    ]


def _warm_up(column: Column) -> None:
    """Once and not counted: writes the bytecode, warms the page cache."""
    for row in column.rows:
        if row.name == row.baseline:
            _time(row, column, {}, {})


def _time(row: Row, column: Column, walls: dict[str, list[float]], failed: dict[str, str]) -> None:
    if row.name in failed:
        return
    try:
        seconds = run(row, column.suite, column.around)
    except Unusable as error:
        failed[row.name] = str(error)
        walls.pop(row.name, None)
    else:
        walls.setdefault(row.name, []).append(seconds)


def _cells(column: Column, times: dict[str, list[float]]) -> dict[str, Cell]:
    added = {
        row.name: _differences(times[row.name], times[row.baseline], column.suite.tests)
        for row in column.rows
        if row.name in times and row.baseline in times
    }
    floor = median(added[FLOOR]) if FLOOR in added else None
    return {
        row.name: _cell(times[row.name], added[row.name], times[row.baseline], floor, row.each)
        for row in column.rows
        if row.name in added
    }


def _differences(walls: list[float], bare: list[float], tests: int) -> list[float]:
    """What each round took longer than the bare run beside it, in milliseconds per test."""
    return [(wall - base) * 1000 / tests for wall, base in zip(walls, bare, strict=True)]


def _cell(
    walls: list[float], added: list[float], bare: list[float], floor: float | None, scaled: bool
) -> Cell:
    return Cell(
        wall_s=median(walls),
        wall_s_min=min(walls),
        wall_s_max=max(walls),
        added_ms=median(added),
        added_ms_min=min(added),
        added_ms_max=max(added),
        times_bare=median(wall / base for wall, base in zip(walls, bare, strict=True)),
        times_floor=None if floor is None or floor <= 0 else median(added) / floor,
        is_scaled=scaled,
    )
