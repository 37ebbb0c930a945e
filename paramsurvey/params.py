"""Building tables of psets: the product of parameters, and columns computed from other columns.

Values never change on their way into a table. What a column becomes is decided from all of its values by one rule,
`dtypes.exact_column`; columns that come as pandas or numpy objects have a dtype already, and keep it.
"""

from __future__ import annotations

import inspect
import math
import reprlib
from collections.abc import Callable, Hashable, ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, Set
from itertools import repeat
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import pandas as pd

from paramsurvey.dtypes import exact_array, exact_column, exact_labels
from paramsurvey.engine.columns import DETAILS
from paramsurvey.errors import PsetError

if TYPE_CHECKING:
    Column = pd.Series[Any]


def product(*args: object, infer_category: bool = False) -> pd.DataFrame:
    """Make a table of psets with every combination of the arguments.

    The last argument varies fastest, and within a dict its last key.

    Parameters
    ----------
    *args : dict, Series, DataFrame, list of dicts, or MapResults
        A dict has a sequence of values for each name, and its names are multiplied with one another. A Series is
        one parameter, called by its name. The rows of a DataFrame, of a list of dicts or of a `MapResults` stay
        together.
    infer_category : bool
        Make columns of strings categories, which saves memory in large tables.

    Returns
    -------
    DataFrame
        With plain dtypes: int64, float64, bool, pandas' own for strings, otherwise object with the very values that
        were given. Columns that had a dtype (of a Series, an Index, an array, a DataFrame) keep it. Without
        arguments: one row of no columns. With an argument that has no values: no rows, all columns.

    Raises
    ------
    PsetError
        An argument is no table, a parameter has one value instead of a sequence or a set of them, or a name appears
        twice.

    Examples
    --------
    >>> product({"mass": [1.5, 2.5], "name": ["a", "b"]})
       mass name
    0   1.5    a
    1   1.5    b
    2   2.5    a
    3   2.5    b

    Parameters that belong together are the rows of one argument:

    >>> product([{"x": 0, "y": 1}, {"x": 2, "y": 3}], {"seed": range(2)})
       x  y  seed
    0  0  1     0
    1  0  1     1
    2  2  3     0
    3  2  3     1
    """
    factors = [f for position, arg in enumerate(args, 1) for f in _factors(arg, f"argument {position}")]
    _refuse_repeated_names(factors)
    lengths = [factor.length for factor in factors]
    index = pd.RangeIndex(math.prod(lengths))
    columns: list[Column] = []
    for i, factor in enumerate(factors):
        codes = np.tile(np.repeat(np.arange(factor.length), math.prod(lengths[i + 1 :])), math.prod(lengths[:i]))
        columns += [_taken(_as_category(c) if infer_category else c, codes, index) for c in factor.columns]
    return _assembled([name for factor in factors for name in factor.names], columns, index)


def add_column(
    frame: object, name: Hashable, func: Callable[[Any], object], infer_category: bool = False
) -> pd.DataFrame:
    """Compute a column from each row of a table; the table itself is not changed.

    Parameters
    ----------
    frame : DataFrame, list of dicts, or MapResults
        The table.
    name : hashable
        The name of the new column.
    func : callable
        Called with each row, returns its value. A row is read by item, ``row["a b"]``, or by attribute, ``row.a``,
        and has a dict's methods (``row.get``, ``**row``), unless a column has their name.
    infer_category : bool
        Make the column a category if it has strings.

    Returns
    -------
    DataFrame
        A new table with the same index, the new column last. Its values are those that `func` returned: see
        `product` for the dtypes.

    Raises
    ------
    PsetError
        `frame` is no table, has a column of that name already, or has two columns of one name; or `func` cannot be
        called, or its calls would return before it has run.
    Exception
        What `func` raised, with a note that names the row and the column.

    Examples
    --------
    >>> psets = product({"a": [1, 2]}, {"b": [10, 20]})
    >>> add_column(psets, "c", lambda row: row.a + row["b"])
       a   b   c
    0  1  10  11
    1  1  20  21
    2  2  10  12
    3  2  20  22
    """
    table = _as_frame(frame, "the table given to add_column()")
    if not table.columns.is_unique:
        twice = _listed(table.columns[table.columns.duplicated()].unique())
        raise PsetError(f"the table given to add_column() has more than one column {twice}: rename them")
    if name in table.columns:
        raise PsetError(
            f"the table has a column {name!r} already, with columns {reprlib.repr(list(table.columns))}: "
            f"choose another name, or give add_column() the table without it: table.drop(columns=[{name!r}])"
        )
    _refuse_unless_function(func, name)
    column = exact_column([_computed(func, row, n, name, table.index) for n, row in enumerate(_rows(table))])
    if infer_category:
        column = _as_category(column)
    column.index = table.index
    return _with_column(table, name, column)


@attrs.frozen
class _Factor:
    """What is multiplied: columns of one length, whose rows stay together."""

    names: tuple[Hashable, ...]
    columns: tuple[Column, ...]
    length: int
    where: str


class _Row:
    """One row of a table, read by item or by attribute."""

    # The name is mangled, and no method has a plain name, so that no column can be hidden by one of ours.
    __slots__ = ("__values",)

    def __init__(self, values: dict[Hashable, object]) -> None:
        self.__values = values

    def __getitem__(self, name: Hashable) -> object:
        try:
            return self.__values[name]
        except KeyError:
            raise KeyError(f"no column {name!r} in this row; it has: {_listed(self.__values)}") from None

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__values[name]
        except KeyError:
            if name.startswith("__") or not hasattr(self.__values, name):
                raise AttributeError(f"no column {name!r} in this row; it has: {_listed(self.__values)}") from None
        return getattr(self.__values, name)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self.__values)

    def __len__(self) -> int:
        return len(self.__values)

    def __contains__(self, name: object) -> bool:
        return name in self.__values

    def __reduce__(self) -> tuple[type[_Row], tuple[dict[Hashable, object]]]:
        return _Row, (self.__values,)  # else a copy would look for its values in itself, for ever

    def __repr__(self) -> str:
        return f"Row({reprlib.repr(self.__values)})"


def _factors(argument: object, where: str) -> list[_Factor]:
    if isinstance(argument, pd.Series):
        return [_series_factor(argument, where)]
    if isinstance(argument, Mapping):
        return [_named_factor(name, values, where) for name, values in argument.items()]
    frame = _as_frame(argument, where)
    columns = tuple(column.reset_index(drop=True) for _, column in frame.items())
    return [_Factor(tuple(frame.columns), columns, len(frame), where)]


def _series_factor(series: Column, where: str) -> _Factor:
    if series.name is None:
        raise PsetError(f"{where} is a Series without a name: give it one, as in series.rename('mass')")
    return _named_factor(series.name, series, where)


def _named_factor(name: Hashable, values: object, where: str) -> _Factor:
    column = _column(name, values, where)
    return _Factor((name,), (column,), len(column), where)


def _column(name: Hashable, values: object, where: str) -> Column:
    _refuse_unless_sequence(name, values, where)
    if isinstance(values, pd.Series):
        return values.reset_index(drop=True)
    if isinstance(values, pd.Index):
        return values.to_series(index=pd.RangeIndex(len(values)))
    if isinstance(values, pd.api.extensions.ExtensionArray):
        return pd.Series(values, dtype=values.dtype)
    if isinstance(values, np.ma.MaskedArray):
        return exact_column(values.tolist())  # where masked: None
    # Subclasses of arrays know more than their numbers, a unit perhaps: their items keep it, a column would not.
    if type(values) is np.ndarray and values.ndim == 1:
        return exact_array(values)
    assert isinstance(values, Iterable)
    return exact_column(list(values))


def _refuse_unless_sequence(name: Hashable, values: object, where: str) -> None:
    shown = reprlib.repr(values)
    if isinstance(values, str | bytes | bytearray) or not _is_iterable(values):
        raise PsetError(
            f"{where}: the values of {name!r} are {shown}, which is one value and not a sequence of values: "
            f"wrap it in a list, {{{name!r}: [{shown}]}}"
        )
    if isinstance(values, Set) and not isinstance(values, KeysView | ItemsView):  # views of a dict have its order
        raise PsetError(
            f"{where}: the values of {name!r} are the set {shown}, which has no order: "
            f"make it a list, {{{name!r}: sorted(...)}}"
        )
    if isinstance(values, Mapping | pd.DataFrame):
        raise PsetError(
            f"{where}: the values of {name!r} are a {type(values).__name__}: if that is one value, wrap it in a list, "
            f"{{{name!r}: [...]}}; if it is a table of parameters, make it an argument of its own"
        )


def _is_iterable(values: object) -> bool:
    try:
        iter(values)  # type: ignore[call-overload]
    except TypeError:  # an array without dimensions has an __iter__ and is not iterable
        return False
    return True


def _as_frame(argument: Any, where: str) -> pd.DataFrame:
    if isinstance(argument, pd.DataFrame):
        return argument
    if hasattr(argument, "to_df"):  # a MapResults, whose rows may say something of themselves, which is no parameter
        frame = argument.to_df()
        assert isinstance(frame, pd.DataFrame)
        return frame.drop(columns=[name for name in DETAILS if name in frame.columns])
    if isinstance(argument, str | bytes | Mapping | Set) or not _is_iterable(argument):
        raise PsetError(
            f"{where} is {reprlib.repr(argument)}, of type {type(argument).__name__}, which is no table: "
            "give a DataFrame, a list of dicts or a MapResults; "
            "product() also takes a dict of lists, {'mass': [1, 2]}, or a Series with a name"
        )
    return _frame_of_dicts(list(argument), where)


def _frame_of_dicts(rows: list[Any], where: str) -> pd.DataFrame:
    for n, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise PsetError(
                f"{where} has {reprlib.repr(row)} as item {n}, which is no dict: give a list of dicts, "
                "or, if these are the values of one parameter, give them its name, {'mass': [...]}"
            )
        if row.keys() != rows[0].keys():
            differing = _listed(row.keys() ^ rows[0].keys())
            raise PsetError(
                f"{where}: items 0 and {n} do not have the same keys, they differ in {differing}: "
                "give every dict all of the keys"
            )
    names = list(rows[0]) if rows else []
    columns = [exact_column([row[name] for row in rows]) for name in names]
    return _assembled(names, columns, pd.RangeIndex(len(rows)))


def _refuse_repeated_names(factors: list[_Factor]) -> None:
    seen: dict[Hashable, str] = {}
    for factor in factors:
        for name in factor.names:
            if name in seen:
                raise PsetError(
                    f"column {name!r} appears twice in the product, in {seen[name]} and in {factor.where}: "
                    "rename it in one of them, or leave it out"
                )
            seen[name] = factor.where


def _as_category(column: Column) -> Column:
    if not _has_only_strings(column):
        return column
    try:
        return column.astype("category")
    except UnicodeEncodeError:  # with pyarrow, pandas cannot have lone surrogates as categories
        return column


def _has_only_strings(column: Column) -> bool:
    if isinstance(column.dtype, pd.StringDtype):
        return True
    return bool(column.dtype == object and set(map(type, column)) == {str})


def _taken(column: Column, codes: np.ndarray[Any, Any], index: pd.RangeIndex) -> Column:
    # With its dtype, so that pandas does not infer another one from the objects.
    return pd.Series(column.array.take(codes), index=index, dtype=column.dtype, copy=False)


def _assembled(names: Sequence[Hashable], columns: Sequence[Column], index: pd.RangeIndex) -> pd.DataFrame:
    frame = pd.DataFrame(dict(enumerate(columns)), index=index)
    if names:
        frame.columns = exact_labels(names)
    return frame


def _with_column(table: pd.DataFrame, name: Hashable, column: Column) -> pd.DataFrame:
    wider = table.copy()
    wider.insert(len(table.columns), name, column)
    if not isinstance(table.columns, pd.MultiIndex):
        # Inserting may have changed the other names: 1 becomes 1.0 beside 0.5, tuples become levels.
        wider.columns = exact_labels([*table.columns, name]).rename(table.columns.name)
    return wider


def _rows(table: pd.DataFrame) -> Iterator[_Row]:
    names = list(table.columns)
    cells = zip(*(column for _, column in table.items()), strict=True) if names else repeat((), len(table))
    return (_Row(dict(zip(names, row, strict=True))) for row in cells)


def _refuse_unless_function(func: object, name: Hashable) -> None:
    if not callable(func):
        raise PsetError(
            f"add_column({name!r}): {reprlib.repr(func)}, of type {type(func).__name__}, cannot be called: give a "
            "function of a row, such as lambda row: row['a'] + 1"
        )
    for code in (func, type(func).__call__):
        if inspect.iscoroutinefunction(code) or inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
            raise PsetError(
                f"add_column({name!r}): {reprlib.repr(func)} is async or has a yield: a call returns before it has "
                "run; give a function that returns a value"
            )


def _computed(func: Callable[[Any], object], row: _Row, n: int, name: Hashable, index: pd.Index[Any]) -> object:
    try:
        return func(row)
    except Exception as error:
        label = "" if isinstance(index, pd.RangeIndex) else f" (label {index[n]!r})"
        error.add_note(f"while computing column {name!r} of row {n}{label}: {row!r}")
        raise


def _listed(names: Iterable[Hashable]) -> str:
    return ", ".join(map(repr, names)) or "no columns"
