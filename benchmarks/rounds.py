"""Interleaved rounds of every row in every column, and the figures that come of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from runners import FLOOR, Row, Times, progress, run
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
    cpu_ms: float  # of processors, likewise
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
    times: list[dict[str, list[Times]]] = [{} for _ in columns]
    left_out: list[dict[str, str]] = [{} for _ in columns]
    for column in columns:
        _warm_up(column)
    for number in range(rounds):
        for column, taken, failed in zip(columns, times, left_out, strict=True):
            progress(f"round {number + 1} of {rounds}: {column.key}, {column.suite.title}")
            for row in random.sample(column.rows, len(column.rows)):
                _time(row, column, taken, failed)
    progress("")
    return [
        Measured(column, _cells(column, taken), failed)
        for column, taken, failed in zip(columns, times, left_out, strict=True)
    ]


def _warm_up(column: Column) -> None:
    """Once and not counted: writes the bytecode, warms the page cache."""
    for row in column.rows:
        if row.name == row.baseline:
            _time(row, column, {}, {})


def _time(row: Row, column: Column, times: dict[str, list[Times]], failed: dict[str, str]) -> None:
    if row.name in failed:
        return
    try:
        taken = run(row, column.suite, column.around)
    except Unusable as error:
        failed[row.name] = str(error)
        times.pop(row.name, None)
    else:
        times.setdefault(row.name, []).append(taken)


def _cells(column: Column, times: dict[str, list[Times]]) -> dict[str, Cell]:
    tests = column.suite.tests
    walls = {name: [each.wall_s for each in found] for name, found in times.items()}
    cpus = {name: [each.cpu_s for each in found] for name, found in times.items()}
    added = {
        row.name: _differences(walls[row.name], walls[row.baseline], tests)
        for row in column.rows
        if row.name in times and row.baseline in times
    }
    floor = median(added[FLOOR]) if FLOOR in added else None
    cells: dict[str, Cell] = {}
    for row in column.rows:
        if row.name in added:
            bare, cpu = walls[row.baseline], _differences(cpus[row.name], cpus[row.baseline], tests)
            cells[row.name] = _cell(walls[row.name], added[row.name], cpu, bare, floor, row.each)
    return cells


def _differences(times: list[float], bare: list[float], tests: int) -> list[float]:
    """What each round took longer than the bare run beside it, in milliseconds per test."""
    return [(time - base) * 1000 / tests for time, base in zip(times, bare, strict=True)]


def _cell(
    walls: list[float],
    added: list[float],
    cpu: list[float],
    bare: list[float],
    floor: float | None,
    scaled: bool,
) -> Cell:
    return Cell(
        wall_s=median(walls),
        wall_s_min=min(walls),
        wall_s_max=max(walls),
        added_ms=median(added),
        added_ms_min=min(added),
        added_ms_max=max(added),
        cpu_ms=median(cpu),
        times_bare=median(wall / base for wall, base in zip(walls, bare, strict=True)),
        times_floor=None if floor is None or floor <= 0 else median(added) / floor,
        is_scaled=scaled,
    )
