"""Columns as Series, for functions that are called with them, and the columns that such functions return.

No value changes on its way: a Series is made of values of one kind alone, and what is returned is taken as it is.
"""

from __future__ import annotations

from array import array
from typing import Any, Final

import numpy as np
import pandas as pd

from paramsurvey.engine.columns import Column, pack, typed
from paramsurvey.stages.base import Parents
from paramsurvey.tables import Table, typed_column

_INT64: Final = np.iinfo(np.int64)


# --- values out of what functions return ----------------------------------------------------------


def column_of(result: Any, index: pd.Index[Any]) -> Column | None:
    """Return the values of what may be a column; None if it is none."""
    if isinstance(result, pd.Index | pd.api.extensions.ExtensionArray):
        result = pd.Series(result)
    if isinstance(result, pd.Series):
        return _column_of_series(_aligned(result, index))
    if isinstance(result, np.ndarray):
        return _column_of_array(result) if result.ndim else None
    return pack(list(result)) if isinstance(result, list | tuple | range | array) else None


def _aligned(result: pd.Series[Any], index: pd.Index[Any]) -> pd.Series[Any]:
    """Put a sorted or shuffled result back into the order of its rows."""
    if len(result) != len(index) or result.index.equals(index) or not result.index.is_unique:
        return result
    return result.reindex(index) if result.index.isin(index).all() else result


def _column_of_series(series: pd.Series[Any]) -> Column:
    if isinstance(series.dtype, np.dtype) and series.dtype.kind not in "mM":  # whose values are Timestamps here
        return _column_of_array(series.to_numpy())
    values = list(series)
    if hasattr(series.dtype, "numpy_dtype"):  # nullable: its numbers may come as numpy's, and NA stays NA
        values = [value.item() if isinstance(value, np.generic) else value for value in values]
    return pack(values)


def _column_of_array(values: np.ndarray[Any, Any]) -> Column:
    """Return the values of an array, in memory of their own: it may be the user's."""
    if isinstance(values, np.ma.MaskedArray):
        return pack(values.tolist())  # where masked: None
    if type(values) is not np.ndarray or values.ndim > 1:
        return pack(list(values.copy()))
    if values.dtype == np.int64:
        return array("q", values.astype(np.int64).tobytes())
    if values.dtype == np.float64:
        return array("d", values.astype(np.float64).tobytes())
    if values.dtype.kind in "iufc":
        return values.astype(values.dtype.newbyteorder("="))
    return pack(values.tolist() if values.dtype.kind in "bUS" else list(values))


# --- rows of a kind -------------------------------------------------------------------------------


def rows_of_a_kind(read: Table) -> list[Parents] | None:
    """Return the positions of rows whose values have the same types; None if all have."""
    kinds = [kinds for column in read.columns if (kinds := _kinds(column)) is not None]
    if not kinds:
        return None
    groups: dict[tuple[Any, ...], list[int]] = {}
    for row, kind in enumerate(zip(*kinds, strict=True)):
        groups.setdefault(kind, []).append(row)
    return [np.array(rows, dtype=np.int64) for rows in groups.values()]


def _kinds(column: Column) -> list[Any] | None:
    """Return the kind of every value; None if they have the same."""
    if not isinstance(column, list):
        return _kinds(list(column)) if isinstance(column, np.ndarray) and column.dtype.kind == "O" else None
    types = set(map(type, column))
    if len(types) == 1 and _have_one_dtype(types.pop(), column):
        return None
    return list(map(_kind, column))


def _have_one_dtype(kind: type, values: list[Any]) -> bool:
    """Tell whether values of one type are also of one kind: see `_kind`."""
    if kind is int:
        return isinstance(typed(values), array)
    if kind is str:
        return _is_valid_text("".join(values))
    return not issubclass(kind, pd.Timestamp | pd.Timedelta)


def _kind(value: Any) -> Any:
    """Return what decides on the dtype of the column in which a function finds the value: mostly its type."""
    kind = type(value)
    if kind is int and not _INT64.min <= value <= _INT64.max:
        return "more than 64 bits"
    if kind is str and not _is_valid_text(value):
        return "no valid text"
    if issubclass(kind, pd.Timestamp):
        return kind, value.unit, value.tz
    return (kind, value.unit) if issubclass(kind, pd.Timedelta) else kind


def _is_valid_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def series_of(column: Column) -> pd.Series[Any]:
    """Make a series of values of a kind; it shares no memory with them."""
    if not isinstance(column, list):
        return typed_column(column)
    first = column[0]
    if isinstance(first, pd.Timestamp | pd.Timedelta):  # .dt is for series of pandas' own dtypes
        return pd.Series(column)
    if first is pd.NaT:
        return pd.Series(column, dtype="datetime64[ns]")
    return typed_column(typed(column))
