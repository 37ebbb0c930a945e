"""What becomes of values in a DataFrame: no value changes, and the dtype of a column is decided from all of them.

`exact_column` is the rule for Python's objects, `exact_array` the one for arrays, `exact_labels` the one for the names
of columns; `column_with_holes` is for columns of which some rows have no value at all.

All tables of parameters and of answers get their dtypes here, so the promise is kept, and tested, in one place.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    Column = pd.Series[Any]

_BOOL_TYPES = frozenset({bool, np.bool_})
_INT_TYPES = frozenset({int, *(np.dtype(code).type for code in "bhilqBHILQ")})
_FLOAT_TYPES = frozenset({float, np.float16, np.float32, np.float64})
_NUMPY_NUMBER_TYPES = (_INT_TYPES | _FLOAT_TYPES) - {int, float}


def exact_column(values: Sequence[object]) -> Column:
    """Make a column of exactly these values; its dtype is decided from all of them.

    - all bools: bool; all ints: int64, or object where one needs more than 64 bits;
    - all floats: float64; ints among floats: float64 if every int is exact as a float, else object;
    - numpy's numbers, all of one type: that type; mixed, they count as the bools, ints and floats that they are;
    - all strings: pandas' dtype for strings, or object where one is no valid text (lone surrogates);
    - anything else, and mixtures of these: object, holding the very objects that were given.

    Subclasses (enumerations, for instance) are not the plain types: they stay objects.

    Examples
    --------
    >>> exact_column([1, 2]).dtype, exact_column([1, 0.5]).dtype, exact_column([2**53 + 1, 0.5]).dtype
    (dtype('int64'), dtype('float64'), dtype('O'))
    """
    types = set(map(type, values))
    if not types:
        return _objects(values)
    if types <= _BOOL_TYPES:
        return pd.Series(np.array(values, dtype=bool))
    if len(types) == 1 and types <= _NUMPY_NUMBER_TYPES:
        return pd.Series(np.array(values, dtype=types.pop()))
    if types <= _INT_TYPES:
        return _integers(values)
    if types <= _INT_TYPES | _FLOAT_TYPES:
        return _floats(values)
    if types == {str}:
        return _strings(values)
    return _objects(values)


def exact_array(array: np.ndarray[Any, Any]) -> Column:
    """Make a column of a one-dimensional array: of its dtype if pandas has that, else of what is in it.

    Examples
    --------
    >>> exact_array(np.array([1, 2], dtype=np.uint8)).dtype, exact_array(np.array(["a", None])).dtype
    (dtype('uint8'), dtype('O'))
    """
    if _pandas_has(array.dtype):
        # Arrays out of files may have the other byte order, which pandas takes but cannot work with.
        return pd.Series(array.astype(array.dtype.newbyteorder("=")))
    return exact_column(array.tolist() if array.dtype.kind in "US" else list(array))


def column_with_holes(values: Sequence[object], rows: Sequence[int], count: int) -> Column:
    """Make a column of so many rows, of which only these have values; the others have pandas' missing value.

    Integers and bools, for which numpy's dtypes have no missing value, get pandas' nullable ones.

    Examples
    --------
    >>> column_with_holes([7], [1], 2).to_list(), column_with_holes([7], [1], 2).dtype
    ([<NA>, 7], Int64Dtype())
    """
    column = exact_column(values)
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "iub":
        column = column.convert_dtypes()
    column.index = pd.Index(rows, dtype=np.int64)
    return column.reindex(range(count))


def exact_labels(names: Iterable[Hashable]) -> pd.Index[Any]:
    """Make column labels of exactly these names: no rounding among numbers, no levels for tuples.

    Examples
    --------
    >>> list(exact_labels([1, 0.5])), list(exact_labels([(1, 2), "a b"]))
    ([1.0, 0.5], [(1, 2), 'a b'])
    """
    labels = exact_column(list(names))
    return pd.Index(labels, dtype=labels.dtype, tupleize_cols=False)


def _integers(values: Sequence[Any]) -> Column:
    try:
        return pd.Series(np.array(list(map(int, values)), dtype=np.int64))
    except OverflowError:
        return _objects(values)


def _floats(values: Sequence[Any]) -> Column:
    if all(_is_exact_as_float(value) for value in values if type(value) in _INT_TYPES):
        return pd.Series(np.array(values, dtype=np.float64))
    return _objects(values)


def _is_exact_as_float(value: Any) -> bool:
    # Compared as Python ints: numpy would compare an int with a float after rounding the int.
    try:
        return int(float(value)) == int(value)
    except OverflowError:
        return False


def _strings(values: Sequence[Any]) -> Column:
    # Asked of the values, not of pandas: with pyarrow it refuses lone surrogates at once, without it only when it
    # first hashes them. The dtype should not depend on that.
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return _objects(values)
    return pd.Series(list(values))


def _objects(values: Sequence[object]) -> Column:
    # `fromiter` never looks into its items, while `array` makes a list of lists two-dimensional; without the dtype
    # pandas would turn strings among None into its own strings and NaN.
    return pd.Series(np.fromiter(values, dtype=object, count=len(values)), dtype=object)


def _pandas_has(dtype: np.dtype[Any]) -> bool:
    if dtype.kind in "mM":
        return np.datetime_data(dtype)[0] not in {"ps", "fs", "as", "generic"}  # it would round them
    return dtype.kind in "biufc" and dtype not in (np.longdouble, np.clongdouble)
