"""What was measured, as tables in Markdown and as values for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rounds import Cell, Measured

_LEGEND = """\
Each figure is a median over {rounds} rounds, with the least and the most. Where tests are judged, it is
the milliseconds that a row adds to each, over the bare run of the same round, and how many times the
fork floor that is, and the milliseconds of processor time: so many processors, so much less it may
take at best. Where a suite is judged as a whole, its seconds, and how many times the bare run.
~: scaled up from {each} tests. -: left out; the reason is below."""


def legend(rounds: int, each: int) -> str:
    return _LEGEND.format(rounds=rounds, each=each)


def lines(corner: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table whose columns are aligned."""
    grid = [[corner, *heads], *map(list, rows)]
    widths = [max(len(row[i]) for row in grid) for i in range(len(grid[0]))]
    said = [_line(row, widths) for row in grid]
    said.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return said


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (text.ljust(width) for text, width in zip(row, widths, strict=True))
    return f"| {' | '.join([first, *others])} |"


def main_table(measured: Sequence[Measured], rows: Sequence[str]) -> list[str]:
    """Rows by columns."""
    heads = [each.column.key for each in measured]
    body = [[row, *(_text(each, row) for each in measured)] for row in rows]
    return [*lines("", heads, body), *titles(measured)]


def titles(measured: Iterable[Measured]) -> list[str]:
    return ["", *(f"  {each.column.key}: {each.column.suite.title}" for each in measured)]


def growth_table(points: Sequence[tuple[str, Measured]]) -> list[str]:
    """Points by rows."""
    heads = list(dict.fromkeys(row.name for _, each in points for row in each.column.rows))
    body = [[label, *(_text(each, row) for row in heads)] for label, each in points]
    return lines("how it grows with", heads, body)


def left_out(measured: Iterable[Measured]) -> list[str]:
    """Why a cell is empty."""
    return [
        f"left out: {row}, {each.column.key}: {reason}"
        for each in measured
        for row, reason in each.left_out.items()
    ]


def _text(measured: Measured, row: str) -> str:
    cell = measured.cells.get(row)
    if cell is None:
        return "-"
    return _format(cell, measured, row)


def _format(cell: Cell, measured: Measured, row: str) -> str:
    approximate = "~" if cell.is_scaled else ""
    if any(each.name == row and each.baseline == row for each in measured.column.rows):
        return f"{cell.wall_s:.2f} s ({cell.wall_s_min:.2f} to {cell.wall_s_max:.2f})"
    if measured.column.suite.is_whole:
        spread = f"({cell.wall_s_min:.2f} to {cell.wall_s_max:.2f})"
        return f"{approximate}{cell.wall_s:.2f} s {spread} x{cell.times_bare:.2f}"
    spread = f"({cell.added_ms_min:.2f} to {cell.added_ms_max:.2f})"
    times = "" if cell.times_floor is None else f" x{cell.times_floor:.2f}"
    return f"{approximate}{cell.added_ms:.2f} {spread}{times}, cpu {cell.cpu_ms:.1f}"


def as_json(measured: Measured) -> dict[str, Any]:
    """A column: what it is, its cells by row, and why others have none."""
    return {
        "column": measured.column.key,
        "title": measured.column.suite.title,
        "tests": measured.column.suite.tests,
        "rows": {name: cell._asdict() for name, cell in measured.cells.items()},
        "left_out": measured.left_out,
    }
