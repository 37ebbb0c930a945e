"""Tables: the psets of a survey as columns, its answers as columns, and the frames that users see.

A `Table` is what a survey begins and ends with; `joined` makes the one from the other. In a `Table` every value is the
object that went in; only its `frame` decides on dtypes, once, from all the values of a column.

It needs pandas; `psets`, by which the first psets are on their way before pandas is imported, does not.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import attrs
import numpy as np
import pandas as pd

from paramsurvey.dtypes import column_with_holes, exact_array, exact_column, exact_labels
from paramsurvey.engine.columns import (
    HOLE,
    Column,
    Keys,
    Pset,
    brought,
    columns_of,
    cut,
    has_holes,
    has_remote,
    pack,
    part_of,
    pset_at,
    psets_of,
    spread,
    stacked,
)
from paramsurvey.engine.records import ChunkRows, Part
from paramsurvey.errors import PsetError
from paramsurvey.psets import dicts_of, refuse_reserved


@attrs.frozen(eq=False, repr=False)
class Table:
    """Columns of values, exactly as they were given; a row that lacks a key has `HOLE` there.

    Attributes
    ----------
    keys : tuple
        The names of the columns.
    columns : list
        Their values (`engine.columns`).
    count : int
        The number of rows.
    index : Index or None
        Their labels; None for 0, 1, 2 and so on.
    typed : mapping
        Columns as the user's own frame has them, by key, whose dtypes are kept: those that came from one.
    header : Index or None
        The labels of the columns of that frame; None if the rows did not come from one.
    """

    keys: Keys
    columns: list[Column]
    count: int
    index: pd.Index[Any] | None = None
    typed: Mapping[Hashable, pd.Series[Any]] = attrs.field(factory=dict)
    header: pd.Index[Any] | None = None

    def __reduce__(self) -> tuple[type[Table], tuple[Any, ...]]:
        columns = [part_of(column, 0, len(column)) for column in self.columns]  # lent memory cannot be pickled
        return Table, (self.keys, columns, self.count, self.index, self.typed, self.header)

    def dicts(self) -> Iterator[Pset]:
        """Make a dict of each row, without its holes."""
        return psets_of(self.keys, self.columns, self.count)

    def labels(self) -> list[Any]:
        """Return the labels of its rows."""
        return list(range(self.count)) if self.index is None else self.index.tolist()

    def rows(self, start: int, stop: int, attempt: int) -> ChunkRows:
        """Return some rows as a chunk carries them.

        Parameters
        ----------
        start, stop : int
            From which row on, and up to which.
        attempt : int
            How often they have been tried, with this time.
        """
        return ChunkRows(self.keys, cut(self.columns, start, stop), stop - start, attempt)

    def portable(self) -> tuple[Keys, list[Column]]:
        """Return its columns as they can be pickled."""
        return self.keys, self.rows(0, self.count, 1).columns

    def pset(self, row: int) -> Pset:
        """Make the dict of one row.

        Parameters
        ----------
        row : int
            Its number.
        """
        return pset_at(self.keys, self.columns, row)

    def brought(self) -> Table:
        """Return the same with all values here, also those that are still where they were computed."""
        if not any(map(has_remote, self.columns)):
            return self
        return attrs.evolve(self, columns=[brought(column) for column in self.columns])

    def take(self, rows: np.ndarray[Any, Any] | None) -> Table:
        """Return these rows; None for all of them.

        Parameters
        ----------
        rows : array of int64 or None
            Their numbers, in any order and any number of times.
        """
        if rows is None:
            return self
        if not len(rows):
            return self._without_rows()
        index = pd.Index(rows) if self.index is None else self.index.take(rows)
        typed = {key: _series_taken(series, rows, index) for key, series in self.typed.items()}
        columns = [
            _values_of(typed[key]) if isinstance(column, memoryview) and key in typed else _taken(column, rows)
            for key, column in zip(self.keys, self.columns, strict=True)
        ]
        return Table(self.keys, columns, len(rows), index, typed, self.header)

    def _without_rows(self) -> Table:
        """Return the same columns without rows: of every survey that went well, what is missing."""
        typed = {key: series.iloc[:0] for key, series in self.typed.items()}
        index = _NO_LABELS if self.index is None else self.index[:0]
        return Table(self.keys, [[] for _ in self.keys], 0, index, typed, self.header)

    def slice(self, start: int, stop: int) -> Table:
        """Return some rows that follow one another, without their labels.

        Parameters
        ----------
        start, stop : int
            From which row on, and up to which.
        """
        columns = [_sliced(column, start, stop) for column in self.columns]
        typed = self.typed
        if typed:
            lent = {key for key, column in zip(self.keys, self.columns, strict=True) if isinstance(column, memoryview)}
            typed = {key: series.iloc[start:stop] for key, series in typed.items() if key not in lent}
        return Table(self.keys, columns, stop - start, None, typed, self.header)

    def column(self, key: Hashable) -> Column:
        """Return the values of one column.

        Parameters
        ----------
        key : column name
            Which.
        """
        return self.columns[self.keys.index(key)]

    def only(self, keys: Sequence[Hashable]) -> Table:
        """Return these columns, in this order.

        Parameters
        ----------
        keys : list of column names
            Those that are kept.
        """
        by_key = dict(zip(self.keys, self.columns, strict=True))
        columns = [by_key[key] for key in keys]
        typed = {key: self.typed[key] for key in keys if key in self.typed}
        return Table(tuple(keys), columns, self.count, self.index, typed, _header(self.header, keys))

    def renamed(self, names: Mapping[Hashable, Hashable]) -> Table:
        """Return the same rows with other names for some columns.

        Parameters
        ----------
        names : mapping
            New names by old ones.
        """
        keys = tuple(names.get(key, key) for key in self.keys)
        typed = {names.get(key, key): series for key, series in self.typed.items()}
        return Table(keys, self.columns, self.count, self.index, typed, _header(self.header, keys))

    def beside(self, other: Table) -> Table:
        """Return a table with these columns and those of another one of the same length.

        Parameters
        ----------
        other : Table
            The columns that come after these.
        """
        keys, columns = self.keys + other.keys, self.columns + other.columns
        typed = {**self.typed, **other.typed} if other.typed else self.typed
        return Table(keys, columns, self.count, self.index, typed, _header(self.header, keys))

    def frame(self, index: pd.Index[Any] | None = None) -> pd.DataFrame:
        """Make the DataFrame; the user may change it without changing anything here.

        Parameters
        ----------
        index : Index, optional
            The labels of its rows, if not the table's own.
        """
        if index is None:
            index = pd.RangeIndex(self.count) if self.index is None else self.index
        columns = [
            self.typed[key].copy(deep=not _COPIES_ON_WRITE) if key in self.typed else _column_of_frame(column)
            for key, column in zip(self.keys, self.columns, strict=True)
        ]
        frame = frame_of(self.keys, columns, index)
        if self.header is not None:
            frame.columns = self.header
        return frame


def _header(header: pd.Index[Any] | None, keys: Sequence[Hashable]) -> pd.Index[Any] | None:
    """Return the header of a table with other columns than the user's frame had; several levels cannot be kept."""
    if header is None or (len(header) == len(keys) and header.nlevels > 1 and list(header) == list(keys)):
        return header
    labels = exact_labels(keys)
    return labels if header.nlevels > 1 else labels.rename(header.name)


def frame_of(
    keys: Keys, columns: Sequence[pd.Series[Any] | np.ndarray[Any, Any]], index: pd.Index[Any]
) -> pd.DataFrame:
    """Put columns side by side, under names of any kind, without copying them."""
    bare = {
        position: column if isinstance(column, np.ndarray) else column.set_axis(index)
        for position, column in enumerate(columns)
    }
    frame = pd.DataFrame(bare, index=index, copy=False)
    frame.columns = _labels_of(keys, tuple(map(type, keys))).view()
    return frame


@lru_cache(maxsize=128)
def _labels_of(keys: Keys, _types: tuple[type, ...]) -> pd.Index[Any]:
    """Make labels once; 1 and True are equal keys, and not the same. Each frame needs a view: users may name it."""
    return exact_labels(keys)


def _own(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame that does not change when the other is changed; pandas 3 copies when that happens."""
    return frame.copy(deep=not _COPIES_ON_WRITE)


_NO_LABELS = pd.Index(np.empty(0, np.int64))
_COPIES_ON_WRITE = int(pd.__version__.split(".")[0]) >= 3


def concatenated(tables: Sequence[Table]) -> Table:
    """Put tables under one another, without their labels; a column that one lacks is a hole in its rows.

    A column keeps the dtype that it has in the user's own frames if they agree on it.
    """
    if len(tables) == 1:
        [table] = tables
        return table if table.index is None else attrs.evolve(table, index=None)
    keys = tuple(dict.fromkeys(chain.from_iterable(table.keys for table in tables)))
    if all(table.keys == keys for table in tables):
        columns = [stacked(list(pieces)) for pieces in zip(*(table.columns for table in tables), strict=True)]
    else:
        columns = [stacked([_column_or_holes(table, key) for table in tables]) for key in keys]
    typed: dict[Hashable, pd.Series[Any]] = {}
    for key in dict.fromkeys(chain.from_iterable(table.typed for table in tables)):
        series = _stacked_series([table for table in tables if table.count] or tables, key)
        if series is not None:
            typed[key] = series
    header = next((table.header for table in tables if table.header is not None), None)
    return Table(keys, columns, sum(table.count for table in tables), None, typed, _header(header, keys))


def _column_or_holes(table: Table, key: Hashable) -> Column:
    return table.column(key) if key in table.keys else [HOLE] * table.count


def _stacked_series(tables: Sequence[Table], key: Hashable) -> pd.Series[Any] | None:
    """Put a column of users' frames under one another, if all have it with one dtype, which can have holes if need be.

    Else it is decided from the values: pandas would find a common dtype, and round to fit it.
    """
    holders = [table for table in tables if key in table.keys]
    series = [table.typed[key] for table in holders if key in table.typed]
    if not series or len(series) < len(holders) or any(each.dtype != series[0].dtype for each in series):
        return None
    whole = pd.concat(series, ignore_index=True)
    if len(holders) == len(tables):
        return whole
    has_it = np.repeat([key in table.keys for table in tables], [table.count for table in tables])
    return series_with_holes(whole, np.where(has_it, np.cumsum(has_it) - 1, -1))


def series_with_holes(series: pd.Series[Any], rows: np.ndarray[Any, Any]) -> pd.Series[Any] | None:
    """Take these rows of a series, -1 for none, if its dtype has a missing value; pandas would make floats of ints."""
    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "iub":
        return None
    taken = series.set_axis(pd.RangeIndex(len(series))).reindex(rows)
    return taken if taken.dtype == series.dtype else None


def _column_of_frame(column: Column) -> pd.Series[Any] | np.ndarray[Any, Any]:
    """Do what `typed_column` does; numbers are spared the making of a Series, of which nobody wants one."""
    return np.array(column) if isinstance(column, array | memoryview) else typed_column(column)


def typed_column(column: Column) -> pd.Series[Any]:
    """Decide on the dtype of a column, from all its values (`paramsurvey.dtypes`); it shares no memory with it."""
    if isinstance(column, array | memoryview):
        return pd.Series(np.array(column))
    if isinstance(column, np.ndarray):
        return exact_array(column)
    if not has_holes(column):
        return exact_column(column)
    present = [position for position, value in enumerate(column) if value is not HOLE]
    return column_with_holes([column[position] for position in present], present, len(column))


def _sliced(column: Column, start: int, stop: int) -> Column:
    return column if start == 0 and stop >= len(column) else part_of(column, start, stop)


def _taken(column: Column, rows: np.ndarray[Any, Any]) -> Column:
    if isinstance(column, array):
        return array(column.typecode, np.frombuffer(column, dtype=np.dtype(column.typecode)).take(rows).tobytes())
    if isinstance(column, memoryview):
        return memoryview(np.asarray(column).take(rows))  # type: ignore[arg-type] # a buffer from Python 3.12 on
    if isinstance(column, np.ndarray):
        return column.take(rows)
    return [column[row] for row in rows.tolist()]


def _series_taken(series: pd.Series[Any], rows: np.ndarray[Any, Any], index: pd.Index[Any]) -> pd.Series[Any]:
    """Return these rows under labels that are known already: to look up those takes most of ``Series.take``."""
    return pd.Series(series.array.take(rows), index=index, dtype=series.dtype, name=series.name, copy=False)


def table_of(psets: Any, limit: int | None = None) -> Table:
    """Turn whatever the user has as psets into a table; at most `limit` of them.

    Raises
    ------
    PsetError
        They are no psets, one of them is no dict, or a column has a name twice or a name of ours.
    """
    given = psets if isinstance(psets, Table) else getattr(psets, "table", None)
    if isinstance(given, Table):
        table = given if limit is None or limit >= given.count else given.take(np.arange(limit))
    elif isinstance(psets, pd.DataFrame):
        table = _table_of_frame(psets if limit is None else psets.iloc[:limit])
    else:
        rows = dicts_of(psets, limit)
        assert rows is not None
        table = Table(*columns_of(rows), len(rows))
    refuse_reserved(table.keys)
    return table


def _table_of_frame(frame: pd.DataFrame) -> Table:
    if not frame.columns.is_unique:
        twice = list(frame.columns[frame.columns.duplicated()].unique())
        raise PsetError(f"the psets have more than one column {', '.join(map(repr, twice))}: rename them")
    own, keys = _own(frame), tuple(frame.columns)
    series = [own.iloc[:, position] for position in range(own.shape[1])]
    columns = list(map(_values_of, series))
    return Table(keys, columns, len(own), own.index, dict(zip(keys, series, strict=True)), own.columns)


def _values_of(series: pd.Series[Any]) -> Column:
    """Return a frame's column as the Python values that a worker sees."""
    if series.dtype in (np.dtype(np.int64), np.dtype(np.float64)):
        return memoryview(series.to_numpy())  # type: ignore[arg-type] # as above
    if hasattr(series.dtype, "numpy_dtype"):  # nullable: a number in it is no numpy scalar, which could overflow
        return pack([value.item() if isinstance(value, np.generic) else value for value in series])
    return pack(list(series))


def joined(psets: Table, parts: list[tuple[int, Part]]) -> tuple[Table, np.ndarray[Any, Any] | None]:
    """Put answers beside their psets, in the order of the psets; parts may have come in any order.

    Parameters
    ----------
    psets : Table
        All psets; those without an answer are left out.
    parts : list of (int, Part)
        The answers, with the row at which each part begins.

    Returns
    -------
    Table
        The psets that have answers, and the answers.
    array of int64 or None
        Their places among all psets; None if all of them have answers.
    """
    parts = sorted(parts, key=lambda item: item[0])
    rows = _answered(parts, psets.count)
    keys = tuple(dict.fromkeys(chain.from_iterable(part.keys for _, part in parts)))
    pieces = (spread(keys, part.keys, part.columns, part.count - len(part.failures)) for _, part in parts)
    columns = [stacked(each) for each in zip(*pieces, strict=True)]
    answers = Table(keys, columns, psets.count if rows is None else len(rows))
    if rows is not None and (rows[1:] < rows[:-1]).any():  # a row that was tried again came after those beside it
        order = np.argsort(rows)
        owners = np.repeat(np.arange(len(parts)), [part.count - len(part.failures) for _, part in parts])
        rows, answers = rows[order], answers.take(order)
        answers = with_columns_in_order(answers, [part.keys for _, part in parts], owners[order])
    return psets.take(rows).beside(answers), rows


def with_columns_in_order(table: Table, shapes: Sequence[Keys], owners: np.ndarray[Any, Any]) -> Table:
    """Put the columns of a table in the order in which they first appear in its rows; leave out those that never do.

    Parameters
    ----------
    table : Table
        Rows that were put together from several tables.
    shapes : sequence of tuple
        The columns of those, in their order.
    owners : array of int
        For each row, which of them it comes from.
    """
    first = {key: first_row(column) for key, column in zip(table.keys, table.columns, strict=True)}
    keys = [key for key in table.keys if 0 <= first[key] < table.count]
    keys.sort(key=lambda key: (first[key], shapes[owners[first[key]]].index(key)))
    return table if tuple(keys) == table.keys else table.only(keys)


def first_row(column: Column) -> int:
    """Return the first row that has a value in a column, -1 if none has."""
    if not has_holes(column):
        return 0
    return next((row for row, value in enumerate(column) if value is not HOLE), -1)


def _answered(parts: list[tuple[int, Part]], total: int) -> np.ndarray[Any, Any] | None:
    """Return the rows that have answers, in the order of the parts; None if they are all rows in order."""
    if not any(part.failures for _, part in parts) and sum(part.count for _, part in parts) == total:
        return None
    rows: list[np.ndarray[Any, Any]] = [np.empty(0, dtype=np.int64)]
    failed: list[int] = []
    count = 0
    for start, part in parts:
        rows.append(np.arange(start, start + part.count))
        failed += [count + row - part.first for row, _ in part.failures]
        count += part.count
    keep = np.ones(count, bool)
    keep[failed] = False
    return np.concatenate(rows)[keep]
