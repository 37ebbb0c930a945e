"""Rows and columns that stages pick out of tables, and how they put them side by side."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import attrs
import numpy as np

from paramsurvey.engine.columns import HOLE, Column, Hole, has_holes, pack, unpack
from paramsurvey.errors import StageError
from paramsurvey.options import shown
from paramsurvey.stages.base import Columns, Parents, absent
from paramsurvey.tables import Table, series_with_holes


def columns_in(table: Table) -> Columns:
    """Return the columns of a table; one without rows might have had others."""
    return Columns(table.keys, open=table.count == 0)


def positions(rows: Iterable[int]) -> Parents:
    """Return numbers of rows as an array."""
    return np.fromiter(rows, dtype=np.int64)


def picked(table: Table, rows: Parents) -> Table:
    """Return these rows, numbered anew; a row at -1 is all holes."""
    if not len(rows) or rows.min() >= 0:
        return attrs.evolve(table.take(rows), index=None)
    columns = [_with_holes(column, rows) for column in table.columns]
    wide = ((key, series_with_holes(series, rows)) for key, series in table.typed.items())
    typed = {key: series for key, series in wide if series is not None}
    return Table(table.keys, columns, len(rows), None, typed)


def _with_holes(column: Column, rows: Parents) -> Column:
    values = unpack(column)
    return pack([values[row] if row >= 0 else HOLE for row in rows.tolist()])


def side_by_side(parts: Sequence[Table], count: int) -> Table:
    """Make one table of the columns of several, all with so many rows."""
    whole = Table((), [], count)
    for part in parts:
        whole = whole.beside(part)
    return whole


def without(table: Table, names: Iterable[Hashable]) -> Table:
    """Return the rows without these columns, which they may lack."""
    gone = set(names)
    return table.only([key for key in table.keys if key not in gone])


def with_room(table: Table, names: Iterable[Hashable], stage: str) -> Table:
    """Make room for columns; refuse them if a row has one already."""
    there = [name for name in names if name in table.keys]
    if not there:
        return table
    for name in there:
        if set(map(type, unpack(table.column(name)))) - {Hole}:
            Columns((name,)).refuse([name], stage)
    return without(table, there)


def refuse_holes(table: Table, name: Hashable, where: str, remedy: str) -> None:
    """Refuse rows that lack a column."""
    if not table.count:
        return
    if name not in table.keys:
        raise StageError(f"{where} {absent(name, table.keys)}")
    column = table.column(name)
    if has_holes(column):
        row = next(row for row, value in enumerate(column) if value is HOLE)
        raise StageError(
            f"{where} reads the column {name!r}, which the row {shown(table.pset(row))} does not have: {remedy}"
        )
