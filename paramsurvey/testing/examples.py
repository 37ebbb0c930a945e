"""Tables to try a stage with, made of the user's examples: longer, sliced, emptied, and with odd values."""

from __future__ import annotations

import math
import pickle
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np

from paramsurvey.engine.columns import HOLE, SHORT, typed, unpack
from paramsurvey.engine.pickling import dumps_by_value
from paramsurvey.engine.worker import safe_repr
from paramsurvey.fingerprint import typed_bytes
from paramsurvey.stages.base import Columns

if TYPE_CHECKING:
    from paramsurvey.tables import Table


_LONG: Final = SHORT + 4
"""So many rows have columns of numbers as typed arrays, which a few rows have as lists."""

_ODD_VALUES: Final = (
    *(2**53 + 1, 0.5, None, True, 1, 1.0, "text", HOLE, math.nan, 2**80, -0.0, b"\x00", (1, [2]), HOLE, False, ""),
)


def table_given(psets: Any) -> Table:
    """Return a table of what may be psets."""
    from paramsurvey.tables import Table, table_of

    return psets if isinstance(psets, Table) else table_of(psets)


def columns_in(tables: Sequence[Table]) -> tuple[Columns, ...]:
    """Return what is known of tables; one without rows might have had other columns."""
    return tuple(Columns(table.keys, open=table.count == 0) for table in tables)


def opened(columns: Columns) -> Columns:
    """Return the same columns, of which there may be others."""
    return Columns(columns.names, open=True)


def listed(known: Sequence[Columns]) -> str:
    """Name columns in a message."""
    return ", ".join(map(repr, known))


def unlabelled(table: Table) -> Table:
    """Return the same table as a row-wise stage gets it."""
    return attrs.evolve(table, index=None)


def copied(table: Table) -> Table:
    """Return a table of its own, so that a stage which changes its tables fails by that alone."""
    copy: Table = pickle.loads(dumps_by_value(table))
    return copy


def repeated(table: Table) -> Table:
    """Return the rows of a table again and again, until there are many."""
    if not table.count:
        return table.slice(0, 0)
    rows = np.tile(np.arange(table.count, dtype=np.int64), -(-_LONG // table.count))
    many = unlabelled(table.take(rows))
    return attrs.evolve(
        many, columns=[typed(column) if isinstance(column, list) else column for column in many.columns]
    )


def in_lists(table: Table) -> Table:
    """Return a table that has its columns as lists, as those of a few rows come."""
    return attrs.evolve(table, columns=[list(unpack(column)) for column in table.columns])


def with_odd_values(table: Table, name: Hashable) -> Table:
    """Return a table with one more column, in which no two values are alike."""
    from paramsurvey.tables import Table

    values = [_ODD_VALUES[row % len(_ODD_VALUES)] for row in range(table.count)]
    return table.beside(Table((name,), [values], table.count))


def without_rows(tables: tuple[Table, ...]) -> Iterator[tuple[Table, ...]]:
    """Yield the tables without rows: all of them, and each alone; with their columns, and without."""
    from paramsurvey.tables import Table

    for empty in ([table.slice(0, 0) for table in tables], [Table((), [], 0)] * len(tables)):
        yield tuple(empty)
        for place in range(len(tables)) if len(tables) > 1 else ():
            yield (*tables[:place], empty[place], *tables[place + 1 :])


def described(tables: Sequence[Table]) -> str:
    """Name tables in a message."""
    told = [f"{table.count} rows of {table.keys!r}" if table.keys else f"{table.count} rows" for table in tables]
    return f"a table of {told[0]}" if len(told) == 1 else f"tables of {' and '.join(told)}"


def snapshot(table: Table) -> list[bytes]:
    """Return bytes that change when anything of a table does."""
    columns = [typed_bytes(list(unpack(column))) for column in table.columns]
    own = [typed_bytes((key, str(series.dtype), list(series))) for key, series in table.typed.items()]
    return [typed_bytes((table.keys, table.count)), *columns, *own]


def bytes_of_value(value: Any) -> bytes:
    """Return bytes that are the same for equal values of one type."""
    try:
        return typed_bytes(value)
    except Exception:  # noqa: BLE001 - what cannot be pickled, which is not for the test that compares to find out
        return safe_repr(value).encode()
