"""What can be wrong with what a stage makes, found without asking the stage."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from paramsurvey.engine.columns import HOLE, RESERVED, unpack
from paramsurvey.fingerprint import typed_bytes
from paramsurvey.stages.base import Rows
from paramsurvey.testing.claims import claim, short_repr
from paramsurvey.testing.examples import table_given

if TYPE_CHECKING:
    from paramsurvey.tables import Table


MOST_PIECES: Final = 10_000
"""A stage that yields more for one slice is taken to go on for ever."""

Line: TypeAlias = "tuple[int, dict[Hashable, Any]]"
"""A row that was made, behind the position of its parent."""


def lines(made: Sequence[Rows]) -> Iterator[Line]:
    """Yield the rows with their parents."""
    for rows in made:
        yield from zip(rows.parents.tolist(), rows.table.dicts(), strict=True)


def must_be_the_same_lines(pieces: Sequence[Line], whole: Sequence[Line], size: int) -> None:
    """Claim that slices give the rows that the whole gives."""
    where = f"in slices of {size} rows"
    for (parent, pset), (expected_parent, expected) in zip(pieces, whole, strict=False):
        if parent != expected_parent or typed_bytes(pset) != typed_bytes(expected):
            row = min(parent, expected_parent)
            one, other = (_of_row(row, lines) for lines in (pieces, whole))
            claim(False, f"{where}, row {row} makes {one}, and among all {other}")
    claim(len(pieces) == len(whole), f"{where} there are {len(pieces)} rows in the end, and of all {len(whole)}")


def _of_row(row: int, lines: Sequence[Line]) -> str:
    return ", ".join(short_repr(pset) for parent, pset in lines if parent == row) or "nothing"


def wrong_with_rows(made: Sequence[Any], given: Table) -> str:
    """Say what is wrong with what a row-wise stage yields for a slice; nothing if all is well."""
    """Say what is wrong with what a row-wise stage has made of a table; nothing if nothing is."""
    if len(made) == MOST_PIECES:
        return f"rows() has yielded {MOST_PIECES} pieces of {given.count} rows, and would go on"
    last = 0
    for rows in made:
        if not isinstance(rows, Rows):
            return f"rows() gave {short_repr(rows)}: it yields Rows(table, parents)"
        wrong = wrong_with_table(rows.table) or wrong_with_parents(rows.parents, rows.table.count, 0, given.count)
        if wrong:
            return f"rows() has yielded Rows, but {wrong}"
        if (np.diff(rows.parents, prepend=last) < 0).any():
            return f"the parents do not ascend: after {last} there are {rows.parents.tolist()!r}"
        last = int(rows.parents[-1]) if len(rows.parents) else last
    return ""


def wrong_with_parents(parents: Any, count: int, least: int, total: int) -> str:
    """Say what is wrong with the positions of parents."""
    if not isinstance(parents, np.ndarray) or parents.dtype != np.int64 or parents.ndim != 1:
        return f"its parents are {short_repr(parents)}, not an array of int64"
    if len(parents) != count:
        return f"there are {len(parents)} parents of {count} rows"
    outside = parents[(parents < least) | (parents >= total)]
    return f"the parent {outside[0]} is no position in a table of {total} rows" if len(outside) else ""


def wrong_with_table(table: Any) -> str:
    """Say what is wrong with a table that a stage has made itself; nothing if nothing is."""
    from paramsurvey.tables import Table

    if not isinstance(table, Table):
        return f"its table is {short_repr(table)}, no Table"
    if len(set(table.keys)) < len(table.keys) or len(table.columns) != len(table.keys):
        return f"its table has {len(table.columns)} columns with the names {table.keys!r}"
    if not RESERVED.isdisjoint(table.keys):
        return f"its table has a column {min(RESERVED.intersection(table.keys))!r}, which is a name of ours"
    column: Any
    for key, column in zip(table.keys, table.columns, strict=True):
        if not isinstance(column, list | array | np.ndarray | memoryview):
            return f"the column {key!r} of its table is {short_repr(column)}: it is a list or an array"
        if len(column) != table.count:
            return f"the column {key!r} of its table of {table.count} rows has {len(column)} values"
    return _wrong_with_typed(table)


def _wrong_with_typed(table: Table) -> str:
    """Say whether the columns as a frame has them are other ones: what users see would not be what workers get."""
    for key, series in table.typed.items():
        if key not in table.keys or len(series) != table.count:
            return f"its table has {len(series)} typed values for the column {key!r}"
        shown = unpack(table_given(series.to_frame(name="values")).column("values"))
        for row, (value, own) in enumerate(zip(unpack(table.column(key)), shown, strict=True)):
            if value is not HOLE and typed_bytes(value) != typed_bytes(own):
                value_of_row = f"{short_repr(value)} for the column {key!r} of row {row}"
                return f"its table has {value_of_row}, and typed {short_repr(own)}"
    return ""


def wrong_with_origins(parents: Any, count: int, tables: tuple[Table, ...]) -> str:
    """Say what is wrong with the parents that a whole-table stage tells."""
    if not isinstance(parents, tuple) or len(parents) != len(tables):
        return (
            f"the parents in Made are {short_repr(parents)}, not a tuple of one array for each of {len(tables)} tables"
        )
    wrong = (wrong_with_parents(each, count, -1, table.count) for each, table in zip(parents, tables, strict=True))
    return next(filter(None, wrong), "")
