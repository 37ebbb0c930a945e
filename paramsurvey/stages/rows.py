"""The row-wise stages: `Product`, `Derive`, `Where`, `Drop`, `Keep`, `Rename` and `Explode`.

Rows come in slices that are cut as it happens, by who was finished when. So one rule is above all others: what comes of
a row depends on nothing but the row. It has three consequences.

- Functions of columns (`Derive`, `Where`) are called with rows *of a kind*: in each of the columns that they read, all
  values of one call have the same type, that of the row. An int beside floats is computed with as an int, None never
  becomes NaN, and a parameter with a default is left out for the rows that lack the column. Mostly all rows are of one
  kind, and there is one call.
- A column that a row lacks is no error where there is nothing to be done about it (`Drop`, `Keep`, `Rename`): whether
  some other row of the slice has it is chance. It is refused where it is known ahead (`columns`), and where the row
  itself cannot do without it.
- A column that is made may not be there already: of a row, too, this is asked, not of its slice.

Whatever cannot be is refused by the constructors, and what columns there are is known ahead wherever it can be.
"""

from __future__ import annotations

import ast
import inspect
from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain, islice
from itertools import product as cartesian
from typing import Any, ClassVar, Final, TypeAlias

import attrs
import numpy as np
import pandas as pd

from paramsurvey.callables import signature_of, worker_name
from paramsurvey.engine.columns import HOLE, RESERVED, Column, Hole, columns_of, has_holes, pack, typed, unpack
from paramsurvey.errors import PsetError, StageError
from paramsurvey.options import nearest_or_all, shown
from paramsurvey.params import product
from paramsurvey.psets import SLAB
from paramsurvey.stages.base import Columns, Parents, Rows, listed
from paramsurvey.tables import Table, table_of, typed_column

Names: TypeAlias = tuple[Hashable, ...]

_INT64: Final = np.iinfo(np.int64)


# --- what the constructors accept -----------------------------------------------------------------


def _stage_name(given: Any) -> str:
    if not isinstance(given, str) or not given:
        raise StageError(f"name={shown(given)}: the name of a stage is a str with something in it")
    return given


def _truth(given: Any, where: str) -> bool:
    if not isinstance(given, bool):
        raise StageError(f"{where}={shown(given)}: it is True or False")
    return given


def _name(given: Any, where: str) -> Hashable:
    """Return the name of a column."""
    try:
        hash(given)
    except TypeError:
        given = None
    if given is None:
        raise StageError(f"{where}: {shown(given)} cannot be the name of a column")
    name: Hashable = given
    return name


def _new_name(given: Any, where: str) -> Hashable:
    """Return the name of a column that is to be made."""
    name = _name(given, where)
    if name in RESERVED:
        raise StageError(f"{where}: {name!r} is the name of one of our own columns: choose another one")
    return name


def _names(given: tuple[Any, ...], where: str) -> Names:
    """Return the names of columns, given one by one or as one list."""
    several = given[0] if len(given) == 1 and isinstance(given[0], list | pd.Index) else given
    names = tuple(_name(each, where) for each in several)
    if not names:
        raise StageError(f"{where}: it names no column; give the names of some, one by one or as one list")
    _refuse_twice(names, where, "names")
    return names


def _refuse_twice(names: Iterable[Hashable], where: str, verb: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise StageError(f"{where}: it {verb} the column {twice[0]!r} twice")


def _mapping(given: Any, where: str, example: str) -> Mapping[Any, Any]:
    if not isinstance(given, Mapping):
        raise StageError(f"{where}: {shown(given)}, of type {type(given).__name__}: it takes a dict, such as {example}")
    if not given:
        raise StageError(f"{where}: it names no column; it takes a dict, such as {example}")
    return given


# --- rows of tables -------------------------------------------------------------------------------


def _the_only(given: tuple[Columns, ...], stage: str) -> Columns:
    if len(given) != 1:
        raise StageError(f"stage {stage!r} takes the rows of one stage, and was given those of {len(given)}")
    return given[0]


def _each(table: Table) -> Parents:
    """For rows that come of one row each: their parents."""
    return np.arange(table.count, dtype=np.int64)


def _slabs(total: int) -> Iterator[tuple[int, int]]:
    """Cut so many rows into pieces; if there are none, into one without rows, which shows its columns."""
    for start in range(0, max(total, 1), SLAB):
        yield start, min(start + SLAB, total)


def _picked(table: Table, rows: Parents) -> Table:
    """Return these rows, any number of times, without their labels."""
    return attrs.evolve(table.take(rows), index=None)


def _without(table: Table, names: Iterable[Hashable]) -> Table:
    gone = set(names)
    return table.only([key for key in table.keys if key not in gone])


def _with_room(table: Table, names: Iterable[Hashable], stage: str) -> Table:
    """Make room for columns; refuse them if a row has one already."""
    there = [name for name in names if name in table.keys]
    if not there:
        return table
    for name in there:
        if set(map(type, unpack(table.column(name)))) - {Hole}:
            Columns((name,)).refuse([name], stage)
    return _without(table, there)


def _refuse_holes(table: Table, name: Hashable, where: str, remedy: str) -> None:
    """Refuse rows that lack a column."""
    if not table.count:
        return
    if name not in table.keys:
        raise StageError(
            f"{where} reads the column {name!r}, which the rows do not have there; they have: {listed(table.keys)}"
        )
    column = table.column(name)
    if has_holes(column):
        row = next(row for row, value in enumerate(column) if value is HOLE)
        raise StageError(
            f"{where} reads the column {name!r}, which the row {shown(table.pset(row))} does not have: {remedy}"
        )


# --- values out of what functions return ----------------------------------------------------------


def _column_of(result: Any, index: pd.Index[Any]) -> Column | None:
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


# --- functions of columns -------------------------------------------------------------------------


@attrs.frozen
class Reader:
    """A function of columns: which it reads, and how it is called.

    Attributes
    ----------
    func : callable
        Called with columns, or with the values of one row, by name.
    text : str
        What it is called in messages.
    per_row : bool
        Whether it is called for every row.
    required : tuple of str
        The columns without which it cannot be called.
    optional : tuple of str
        Those for which it has a default.
    takes_rest : bool
        Whether it takes all others, too.
    """

    func: Callable[..., Any] = attrs.field(repr=False)
    text: str
    per_row: bool
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    takes_rest: bool = False

    def values(self, table: Table, where: str) -> Column:
        """Compute a value for every row.

        Raises
        ------
        StageError
            A row lacks a column, the function raised, or it did not return one value for each row.
        """
        if not table.count:
            return []
        read = self._read(table, where)
        if self.per_row:
            return self._row_by_row(read, where)
        groups = _rows_of_a_kind(read)
        if groups is None:
            return self._at_once(read, where)
        values = [None] * read.count
        for rows in groups:
            for row, value in zip(rows.tolist(), unpack(self._at_once(read.take(rows), where)), strict=True):
                values[row] = value
        return pack(values)

    def _read(self, table: Table, where: str) -> Table:
        """Return the columns that it reads, and refuse rows that lack one."""
        remedy = "give the parameter a default, or leave out such rows before"
        for name in self.required:
            _refuse_holes(table, name, where, remedy)
        names: list[Hashable] = [name for name in (*self.required, *self.optional) if name in table.keys]
        if self.takes_rest:
            names += [key for key in table.keys if key not in names]
            _refuse_other_than_text(names, f"{where}: {self.text}")
        return Table(tuple(names), [table.column(name) for name in names], table.count)

    def _row_by_row(self, read: Table, where: str) -> Column:
        values: list[Any] = []
        for pset in read.dicts():
            try:
                values.append(self.func(**pset))  # type: ignore[arg-type] # they are texts
            except Exception as error:
                raise StageError(
                    f"{where}: {self.text} raised {_described(error)} for the values {shown(pset)}"
                ) from error
        return pack(values)

    def _at_once(self, read: Table, where: str) -> Column:
        """Call it for rows of a kind."""
        arguments = {
            name: _series_of(column)
            for name, column in zip(read.keys, read.columns, strict=True)
            if column[0] is not HOLE
        }
        try:
            result = self.func(**arguments)  # type: ignore[arg-type] # as above
        except Exception as error:
            raise StageError(
                f"{where}: {self.text} raised {_described(error)}; it was called with whole columns, while with "
                "per_row=True it is called with the values of each row"
            ) from error
        if not arguments:  # it knows nothing of the rows: this is for all of them
            return pack([result] * read.count)
        return self._checked(result, read.count, where, may_be_one=not arguments.keys() >= set(self.optional))

    def _checked(self, result: Any, count: int, where: str, *, may_be_one: bool) -> Column:
        """Return the values of what it returned.

        One value instead of a column may be what it answers where a parameter has its default; otherwise it has
        probably been computed from all the rows of the call, of which there could have been others.
        """
        column = _column_of(result, pd.RangeIndex(count))
        if column is None and may_be_one:
            return pack([result] * count)
        if column is None:
            raise StageError(
                f"{where}: {self.text} returned {shown(result)}, of type {type(result).__name__}, for {count} rows: it "
                "returns a Series, an array or a list with a value for each; with per_row=True it is called for each "
                "row, and .apply(function) is for what needs the whole table, such as a mean"
            )
        if len(column) != count:
            raise StageError(
                f"{where}: {self.text} returned {len(column)} values for {count} rows: it returns one for each; "
                ".where(condition) leaves out rows"
            )
        return column


def _refuse_other_than_text(names: Iterable[Hashable], what: str) -> None:
    for name in names:
        if not isinstance(name, str):
            raise StageError(
                f"{what} takes every column as a named parameter (**), but {name!r} is not a text; name the parameters "
                "that it needs, or drop or rename the column before"
            )


def _described(error: Exception) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _reader(given: Any, per_row: bool, where: str) -> Reader:
    """Make a reader of a function or an expression."""
    if isinstance(given, str):
        return _expression(given, per_row, where)
    if not callable(given):
        raise StageError(
            f"{where}: {shown(given)}, of type {type(given).__name__}, is neither a function of columns, such as "
            "lambda width, height: width * height, nor an expression, such as 'width * height'"
        )
    text = f"the function {worker_name(given)}"
    _refuse_deferred(given, where, text)
    signature = signature_of(given, follow_wrapped=True)
    if signature is None:
        raise StageError(f"{where}: {text} does not tell the names of its parameters; {_WRAP_IT}")
    parameters = signature.parameters.values()
    for parameter in parameters:
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise StageError(
                f"{where}: {text} takes {parameter.name!r} by its position only, and columns have names; {_WRAP_IT}"
            )
    named = [parameter for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    return Reader(
        given,
        text,
        per_row,
        required=tuple(parameter.name for parameter in named if parameter.default is parameter.empty),
        optional=tuple(parameter.name for parameter in named if parameter.default is not parameter.empty),
        takes_rest=len(named) < len(parameters),
    )


_WRAP_IT: Final = "write a function around it, such as lambda x: function(x), whose parameters are names of columns"


def _refuse_deferred(func: Callable[..., Any], where: str, text: str) -> None:
    for code in (func, type(func).__call__):
        if inspect.iscoroutinefunction(code) or inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
            raise StageError(f"{where}: {text} is async or has a yield: a call returns before it has run")


# --- rows of a kind -------------------------------------------------------------------------------


def _rows_of_a_kind(read: Table) -> list[Parents] | None:
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


def _series_of(column: Column) -> pd.Series[Any]:
    """Make a series of values of a kind; it shares no memory with them."""
    if not isinstance(column, list):
        return typed_column(column)
    first = column[0]
    if isinstance(first, pd.Timestamp | pd.Timedelta):  # .dt is for series of pandas' own dtypes
        return pd.Series(column)
    if first is pd.NaT:
        return pd.Series(column, dtype="datetime64[ns]")
    return typed_column(typed(column))


# --- expressions ----------------------------------------------------------------------------------

_FUNCTIONS: Final = {each.__name__: each for each in (abs, min, max, round, len, int, float, str, bool)}
_COLUMN_FUNCTIONS: Final = frozenset({"abs", "round"})  # which know what to do with a column
_KNOWN: Final = {"np": np, **_FUNCTIONS}
_BY_ROW: Final = "or give per_row=True"
_ONLY_BY_ROW: Final = (
    (ast.BoolOp, f"'and' and 'or' do not work with columns: write (a) & (b) or (a) | (b), {_BY_ROW}"),
    (ast.Not, f"'not' does not work with columns: write ~(a), {_BY_ROW}"),
    (ast.IfExp, f"'if' does not work with columns: write np.where(condition, a, b), {_BY_ROW}"),
    (ast.In | ast.NotIn, f"'in' does not work with columns: write a.isin([...]), {_BY_ROW}"),
    (ast.Is | ast.IsNot, f"'is' does not work with columns: write a.isna(), {_BY_ROW}"),
    (ast.JoinedStr, "an f-string does not work with columns: give per_row=True"),
)
_NEVER: Final = (
    (ast.Lambda, "a lambda"),
    (ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp, "a comprehension"),
    (ast.NamedExpr, "an assignment"),
    (ast.Await | ast.Yield | ast.YieldFrom, "an await or yield"),
)
_OF_ALL_ROWS: Final = frozenset(
    {
        "all",
        "any",
        "argmax",
        "argmin",
        "argsort",
        "average",
        "cummax",
        "cummin",
        "cumprod",
        "cumsum",
        "diff",
        "ewm",
        "expanding",
        "idxmax",
        "idxmin",
        "max",
        "mean",
        "median",
        "min",
        "mode",
        "nanmax",
        "nanmean",
        "nanmedian",
        "nanmin",
        "nanstd",
        "nansum",
        "nanvar",
        "nunique",
        "pct_change",
        "percentile",
        "prod",
        "ptp",
        "quantile",
        "rank",
        "rolling",
        "shift",
        "sort",
        "std",
        "sum",
        "unique",
        "var",
    }
)
"""What looks at several rows of a column: in a slice, at those that happen to be there."""


def _expression(text: str, per_row: bool, where: str) -> Reader:
    """Make a reader of an expression: the function of which it is the body."""
    shape = _parsed(text, where)
    names = _columns_in(shape)
    _refuse_unknown(shape, text, where)
    if not per_row:
        _refuse_row_by_row(shape, text, where)
    parameters = ast.arguments(
        posonlyargs=[], args=[ast.arg(name) for name in names], kwonlyargs=[], kw_defaults=[], defaults=[]
    )
    function = ast.fix_missing_locations(ast.Expression(ast.Lambda(parameters, shape)))
    code = compile(function, f"<{text}>", "eval")
    # What is evaluated is a part of the user's own program; the names are fenced in against slips, not against malice.
    func = eval(code, {"__builtins__": {}, **_KNOWN})  # noqa: S307
    return Reader(func, f"the expression {text!r}", per_row, required=names)


def _parsed(text: str, where: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise StageError(f"{where}: {text!r} is no expression: {reason}") from error


def _columns_in(shape: ast.expr) -> tuple[str, ...]:
    """Return the names of columns in an expression, in the order in which they are written."""
    found = [node for node in ast.walk(shape) if isinstance(node, ast.Name) and node.id not in _KNOWN]
    return tuple(dict.fromkeys(node.id for node in sorted(found, key=lambda node: (node.lineno, node.col_offset))))


def _refuse_unknown(shape: ast.expr, text: str, where: str) -> None:
    for node in ast.walk(shape):
        for kinds, what in _NEVER:
            if isinstance(node, kinds):
                raise StageError(f"{where}: the expression {text!r} has {what} in it: write a function instead")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in _FUNCTIONS:
            raise StageError(
                f"{where}: the expression {text!r} calls {node.func.id}(), which it does not know; it knows np and "
                f"{', '.join(_FUNCTIONS)}: write a function for anything else"
            )
        if isinstance(node, ast.Attribute) and _is_name(node.value, "np") and not hasattr(np, node.attr):
            raise StageError(
                f"{where}: the expression {text!r} has np.{node.attr}, which numpy does not have; "
                f"{_nearest_in_numpy(node.attr)}"
            )


def _nearest_in_numpy(name: str) -> str:
    said = nearest_or_all(name, np.__all__, lambda each: f"np.{each}")
    return said if said.startswith("did") else "see its documentation"


def _refuse_row_by_row(shape: ast.expr, text: str, where: str) -> None:
    """Refuse what works with values, and not with columns."""
    for node in ast.walk(shape):
        reason = _row_by_row_reason(node)
        if reason is not None:
            raise StageError(f"{where}: in the expression {text!r}, {reason}")


def _row_by_row_reason(node: ast.AST) -> str | None:
    for kinds, reason in _ONLY_BY_ROW:
        if isinstance(node, kinds):
            return reason
    if isinstance(node, ast.Compare) and len(node.ops) > 1:
        return f"a chain of comparisons does not work with columns: write (a < b) & (b < c), {_BY_ROW}"
    if not isinstance(node, ast.Call) or not _columns_in(node):
        return None
    if isinstance(node.func, ast.Name) and node.func.id not in _COLUMN_FUNCTIONS:
        return (
            f"{node.func.id}() does not work with columns: {_INSTEAD.get(node.func.id, 'write a function')}, {_BY_ROW}"
        )
    if isinstance(node.func, ast.Attribute) and _looks_at_all_rows(node, node.func):
        return (
            f"{node.func.attr}() looks at all rows, and of them there is only a part here: "
            f".apply(function) is for what needs the whole table; for a list in each row, give per_row=True"
        )
    return None


_INSTEAD: Final = {
    "min": "write np.minimum(a, b)",
    "max": "write np.maximum(a, b)",
    "len": "write a.str.len()",
    "int": "write a.astype(int)",
    "float": "write a.astype(float)",
    "str": "write a.astype(str)",
    "bool": "write a.astype(bool)",
}


def _looks_at_all_rows(call: ast.Call, method: ast.Attribute) -> bool:
    if method.attr not in _OF_ALL_ROWS or any(keyword.arg == "axis" for keyword in call.keywords):
        return False
    return not isinstance(method.value, ast.Attribute)  # those of a.str and a.dt are other ones


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


# --- Product --------------------------------------------------------------------------------------


@attrs.frozen(init=False)
class Product:
    """These rows times a grid: every row once for each row of the grid, which varies fastest.

    Parameters
    ----------
    *grids : dict, Series, DataFrame, list of dicts, or MapResults
        As for `paramsurvey.params.product`.
    infer_category : bool
        Make columns of strings categories, if the rows came as a DataFrame.
    name : str
        What the stage is called.

    Attributes
    ----------
    grid : Table
        What the rows are multiplied with.

    Raises
    ------
    StageError
        Now, if the grids make no table of psets; later, if the rows have one of its columns already.

    Examples
    --------
    >>> stage = Product({"source": ["M87", "SgrA"]})
    >>> [made] = stage.rows(table_of([{"site": 1}, {"site": 2}]))
    >>> list(made.table.dicts())[:3]
    [{'site': 1, 'source': 'M87'}, {'site': 1, 'source': 'SgrA'}, {'site': 2, 'source': 'M87'}]
    >>> made.parents
    array([0, 0, 1, 1])
    """

    keeps_labels: ClassVar[bool] = False

    grid: Table = attrs.field(repr=lambda grid: f"{grid.count} x {grid.keys}")
    name: str

    def __init__(self, *grids: object, infer_category: bool = False, name: str = "product") -> None:
        name = _stage_name(name)
        self.__attrs_init__(_grid_of(grids, _truth(infer_category, f"stage {name!r}: infer_category"), name), name)

    @property
    def fan_out(self) -> int:
        """How many rows are made of each."""
        return self.grid.count

    @property
    def reads(self) -> Names:
        """No column."""
        return ()

    @property
    def makes(self) -> Names:
        """The columns of the grid."""
        return self.grid.keys

    def columns(self, *inputs: Columns) -> Columns:
        """Return those that there are, and those of the grid."""
        given = _the_only(inputs, self.name)
        given.refuse(self.makes, self.name)
        return given.with_more(self.makes)

    def rows(self, table: Table) -> Iterator[Rows]:
        """Yield the rows."""
        table = _with_room(table, self.makes, self.name)
        for start, stop in _slabs(table.count * self.fan_out):
            parents, places = np.divmod(np.arange(start, stop, dtype=np.int64), max(self.fan_out, 1))
            yield Rows(_picked(table, parents).beside(self.grid.take(places)), parents)


def _grid_of(grids: tuple[object, ...], infer_category: bool, stage: str) -> Table:
    grids = tuple(_with_lists(grid) for grid in grids)
    try:
        grid = table_of(product(*grids, infer_category=infer_category))
    except PsetError as error:
        raise StageError(f"stage {stage!r}: {error}") from error
    lists = {name: values for each in grids if isinstance(each, Mapping) for name, values in each.items()}
    if (
        tuple(lists) == grid.keys
        and not infer_category
        and all(isinstance(v, list | tuple | range) for v in lists.values())
    ):
        grid = _exact_grid(lists)
    if not grid.keys:
        raise StageError(
            f"stage {stage!r}: there is nothing to multiply with: give a dict of lists, {{'seed': [1, 2]}}"
        )
    return grid


def _with_lists(grid: object) -> object:
    """Make lists of what can be gone through only once."""
    if not isinstance(grid, Mapping):
        return grid
    return {name: list(values) if isinstance(values, Iterator) else values for name, values in grid.items()}


def _exact_grid(lists: Mapping[Hashable, Iterable[Any]]) -> Table:
    """Return the grid with the very values: those of lists are no user's frame, which would have one dtype for each."""
    rows = list(cartesian(*lists.values()))
    return Table(tuple(lists), [pack([row[place] for row in rows]) for place in range(len(lists))], len(rows))


# --- Derive ---------------------------------------------------------------------------------------


@attrs.frozen
class NewColumn:
    """A column to be made: its name, and of what."""

    name: Hashable
    reader: Reader


@attrs.frozen(init=False)
class Derive:
    """Makes columns of other columns.

    Each is made by a function whose parameters have the names of the columns that it reads, or by an expression with
    their names. It is called with Series, and returns a Series, an array or a list with a value for each row. With
    ``per_row=True`` it is called for every row with its values. A parameter that has a default may be missing from a
    row; ``**kwargs`` gets all other columns. Without parameters, or for rows for which it was left one of its defaults,
    it may return one value for all.

    A function of columns is called with any slices of the rows, in which all values of a column have the same type.
    So a value may depend only on those of its own row: a mean or a cumulated sum would be those of a slice
    (`Apply` is for them).

    Parameters
    ----------
    columns : dict
        For the name of each new column a function or an expression. An expression knows ``np`` and abs, min, max,
        round, len, int, float, str and bool, and no others. Columns that come later may read those before them.
    per_row : bool
        Call the functions for every row.
    name : str
        What the stage is called.

    Attributes
    ----------
    new : tuple of NewColumn
        What is made.

    Raises
    ------
    StageError
        Now, if a function or an expression cannot be called so; later, if a row lacks a column that is read or has
        one that is made, if a function raises, or if it does not return a value for each row.

    Notes
    -----
    Arithmetic of columns is numpy's: integers of 64 bits wrap around, and dividing by zero gives inf. That of rows is
    Python's. Values of int64, float64 and bool arrays become Python's int, float and bool; those of other arrays
    stay numpy's, to the last bit; of a Series of dates its Timestamps; and NA stays NA. What is in lists stays as it
    is.

    Examples
    --------
    >>> stage = Derive({"area": lambda width, height: width * height, "share": "area / 100"})
    >>> [made] = stage.rows(table_of([{"width": 2, "height": 3}, {"width": 2.5, "height": 4}]))
    >>> list(made.table.dicts())
    [{'width': 2, 'height': 3, 'area': 6, 'share': 0.06}, {'width': 2.5, 'height': 4, 'area': 10.0, 'share': 0.1}]
    >>> stage.reads, stage.makes
    (('width', 'height'), ('area', 'share'))
    """

    keeps_labels: ClassVar[bool] = True

    new: tuple[NewColumn, ...]
    name: str

    def __init__(self, columns: Mapping[Any, Any], *, per_row: bool = False, name: str = "derive") -> None:
        name = _stage_name(name)
        per_row = _truth(per_row, f"stage {name!r}: per_row")
        items = _mapping(columns, f"stage {name!r}", "{'area': 'width * height'}").items()
        self.__attrs_init__(
            tuple(
                NewColumn(_new_name(each, f"stage {name!r}"), _reader(given, per_row, _column_where(name, each)))
                for each, given in items
            ),
            name,
        )

    @property
    def reads(self) -> Names:
        """The columns that rows must have."""
        made: set[Hashable] = set()
        read: dict[Hashable, None] = {}
        for new in self.new:
            read.update(dict.fromkeys(name for name in new.reader.required if name not in made))
            made.add(new.name)
        return tuple(read)

    @property
    def makes(self) -> Names:
        """The new columns."""
        return tuple(new.name for new in self.new)

    def columns(self, *inputs: Columns) -> Columns:
        """Return those that there are, and the new ones."""
        given = _the_only(inputs, self.name)
        for new in self.new:
            given.need(new.reader.required, self.name)
            given.refuse([new.name], self.name)
            given = given.with_more([new.name])
        return given

    def rows(self, table: Table) -> Iterator[Rows]:
        """Yield the rows with their new columns."""
        table = _with_room(table, self.makes, self.name)
        wider = attrs.evolve(table, index=None, typed={})
        for new in self.new:
            column = new.reader.values(wider, _column_where(self.name, new.name))
            wider = wider.beside(Table((new.name,), [column], table.count))
        yield Rows(table.beside(wider.only(self.makes)), _each(table))


def _column_where(stage: str, column: Hashable) -> str:
    return f"stage {stage!r}, column {column!r}"


# --- Where ----------------------------------------------------------------------------------------


@attrs.frozen
class Wanted:
    """The values of a column with which a row is kept.

    Attributes
    ----------
    column : hashable
        The column.
    hashable : frozenset
        Those that can be looked up,
    others : tuple
        and those that cannot.
    """

    column: Hashable
    hashable: frozenset[Any]
    others: tuple[Any, ...]

    def has(self, value: Any) -> bool:
        """Tell whether it is one of them, as Python compares."""
        try:
            if value in self.hashable:
                return True
        except TypeError:  # not hashable
            return any(_equal(value, other) for other in (*self.hashable, *self.others))
        return any(_equal(value, other) for other in self.others)


def _equal(value: Any, other: Any) -> bool:
    if type(value) is not type(other):  # an array compares its elements
        return False
    try:
        return bool(np.array_equal(value, other)) if isinstance(value, np.ndarray) else bool(value == other)
    except Exception:  # noqa: BLE001 - what cannot be compared is not equal
        return False


def _wanted(column: Any, given: Any, where: str) -> Wanted:
    several = isinstance(given, list | tuple | Set | range | np.ndarray | pd.Series | pd.Index)
    values = _listed_values(given) if several else [given]
    for value in values:
        if _is_nothing(value):
            raise StageError(
                f"{where}: {shown(value)} in the column {column!r} equals nothing, not even itself: write a condition, "
                f"such as lambda x: x.isna()"
            )
    hashable = [value for value in values if _has_hash(value)]
    others = [value for value in values if not _has_hash(value)]
    return Wanted(_name(column, where), frozenset(hashable), tuple(others))


def _listed_values(given: Any) -> list[Any]:
    return given.tolist() if isinstance(given, np.ndarray) and given.ndim else list(given)


def _has_hash(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:  # a tuple with a list in it
        return False
    return True


def _is_nothing(value: Any) -> bool:
    if value is pd.NA or value is pd.NaT:
        return True
    return isinstance(value, float | complex | np.inexact) and bool(value != value)


@attrs.frozen(init=False)
class Where:
    """Keeps the rows for which a condition is true.

    Parameters
    ----------
    condition : callable, str or dict
        A function or an expression, as for `Derive`, that gives a bool for each row; or for some columns a value that
        they must have, or a list of values of which they must have one (a tuple, a set, an array or a Series lists
        values, too), which are compared as Python compares values.
    per_row : bool
        Call the function for every row.
    name : str
        What the stage is called.

    Raises
    ------
    StageError
        Now, if the condition is none of these; later, if a row lacks a column that is read, if the function raises,
        or if it gives anything but bools, a missing value for instance.

    Examples
    --------
    >>> table = table_of([{"site": "a", "height": 5000}, {"site": "b", "height": 2600}])
    >>> [made] = Where("height > 3000").rows(table)
    >>> list(made.table.dicts()), made.parents
    ([{'site': 'a', 'height': 5000}], array([0]))
    >>> [made] = Where({"site": ["b", "c"]}).rows(table)
    >>> list(made.table.dicts())
    [{'site': 'b', 'height': 2600}]
    """

    keeps_labels: ClassVar[bool] = True

    condition: Reader | tuple[Wanted, ...]
    name: str

    def __init__(self, condition: Any, *, per_row: bool = False, name: str = "where") -> None:
        name = _stage_name(name)
        per_row = _truth(per_row, f"stage {name!r}: per_row")
        self.__attrs_init__(_condition(condition, per_row, f"stage {name!r}"), name)

    @property
    def reads(self) -> Names:
        """The columns that rows must have."""
        if isinstance(self.condition, Reader):
            return self.condition.required
        return tuple(wanted.column for wanted in self.condition)

    @property
    def makes(self) -> Names:
        """No column."""
        return ()

    def columns(self, *inputs: Columns) -> Columns:
        """Return those that there are."""
        given = _the_only(inputs, self.name)
        given.need(self.reads, self.name)
        return given

    def rows(self, table: Table) -> Iterator[Rows]:
        """Yield the rows that are kept."""
        kept = np.flatnonzero(np.array(self._decided(table), dtype=bool))
        if len(kept) < table.count:
            taken = table.take(kept)
            table = attrs.evolve(taken, index=None) if table.index is None else taken
        yield Rows(table, kept)

    def _decided(self, table: Table) -> list[bool]:
        where = f"stage {self.name!r}"
        if isinstance(self.condition, Reader):
            return _bools(self.condition, table, where)
        decided = [True] * table.count
        for wanted in self.condition:
            _refuse_holes(table, wanted.column, where, "leave out such rows before, or write a function with a default")
            if table.count:
                values = map(wanted.has, unpack(table.column(wanted.column)))
                decided = [so_far and each for so_far, each in zip(decided, values, strict=True)]
        return decided


def _condition(given: Any, per_row: bool, where: str) -> Reader | tuple[Wanted, ...]:
    if not isinstance(given, Mapping):
        return _reader(given, per_row, where)
    if per_row:
        raise StageError(f"{where}: per_row=True is for functions and expressions, and the condition is a dict")
    example = "{'site': ['a', 'b']}"
    return tuple(_wanted(column, values, where) for column, values in _mapping(given, where, example).items())


def _bools(reader: Reader, table: Table, where: str) -> list[bool]:
    values = unpack(reader.values(table, where))
    if set(map(type, values)) - {bool, np.bool_}:
        row, value = next((row, each) for row, each in enumerate(values) if type(each) not in (bool, np.bool_))
        remedy = "compare it with something, as in x > 0"
        if value is None or _is_nothing(value):
            remedy = "say what becomes of it, as in (x > 0).fillna(False)"
        raise StageError(
            f"{where}: {reader.text} gave {shown(value)}, of type {type(value).__name__}, for the row "
            f"{shown(table.pset(row))}, not True or False: {remedy}"
        )
    return values


# --- Drop, Keep, Rename ---------------------------------------------------------------------------


@attrs.frozen(init=False)
class Drop:
    """Leaves out columns.

    Parameters
    ----------
    *names : column names
        One by one, or as one list. A row may lack them.
    name : str
        What the stage is called.

    Attributes
    ----------
    reads : tuple
        The names of the columns.

    Raises
    ------
    StageError
        Now, if there is no name, or one is there twice; when the columns are known, if a column is not among them.

    Examples
    --------
    >>> [made] = Drop("b").rows(table_of([{"a": 1, "b": 2}]))
    >>> list(made.table.dicts())
    [{'a': 1}]
    """

    keeps_labels: ClassVar[bool] = True

    reads: Names
    name: str

    def __init__(self, *names: Any, name: str = "drop") -> None:
        name = _stage_name(name)
        self.__attrs_init__(_names(names, f"stage {name!r}"), name)

    @property
    def makes(self) -> Names:
        """No column."""
        return ()

    def columns(self, *inputs: Columns) -> Columns:
        """Return those that are left."""
        given = _the_only(inputs, self.name)
        given.need(self.reads, self.name)
        return attrs.evolve(given, names=tuple(each for each in given.names if each not in self.reads))

    def rows(self, table: Table) -> Iterator[Rows]:
        """Yield the rows without these columns."""
        yield Rows(_without(table, self.reads), _each(table))


@attrs.frozen(init=False)
class Keep:
    """Leaves out all columns but some, which are in the order that is given.

    Parameters
    ----------
    *names : column names
        One by one, or as one list. A row may lack them.
    name : str
        What the stage is called.

    Attributes
    ----------
    reads : tuple
        The names of the columns.

    Raises
    ------
    StageError
        Now, if there is no name, or one is there twice; when the columns are known, if a column is not among them.

    Examples
    --------
    >>> [made] = Keep("c", "a").rows(table_of([{"a": 1, "b": 2, "c": 3}]))
    >>> list(made.table.dicts())
    [{'c': 3, 'a': 1}]
    """

    keeps_labels: ClassVar[bool] = True

    reads: Names
    name: str

    def __init__(self, *names: Any, name: str = "keep") -> None:
        name = _stage_name(name)
        self.__attrs_init__(_names(names, f"stage {name!r}"), name)

    @property
    def makes(self) -> Names:
        """No column."""
        return ()

    def columns(self, *inputs: Columns) -> Columns:
        """Return these."""
        given = _the_only(inputs, self.name)
        given.need(self.reads, self.name)
        return Columns(self.reads, open=False)

    def rows(self, table: Table) -> Iterator[Rows]:
        """Yield the rows with these columns alone."""
        yield Rows(table.only([each for each in self.reads if each in table.keys]), _each(table))


@attrs.frozen(init=False)
class Rename:
    """Gives columns other names.

    Parameters
    ----------
    names : dict
        The old names and the new ones. A row may lack the columns.
    name : str
        What the stage is called.

    Raises
    ------
    StageError
        Now, if two columns would have one name; when the columns are known, if one is not among them; and if a new
        name is that of a column which the rows have already.

    Examples
    --------
    >>> [made] = Rename({"a": "b", "b": "a"}).rows(table_of([{"a": 1, "b": 2}]))
    >>> list(made.table.dicts())
    [{'b': 1, 'a': 2}]
    """

    keeps_labels: ClassVar[bool] = True

    names: tuple[tuple[Hashable, Hashable], ...]
    name: str

    def __init__(self, names: Mapping[Any, Any], *, name: str = "rename") -> None:
        name = _stage_name(name)
        where = f"stage {name!r}"
        items = _mapping(names, where, "{'old': 'new'}").items()
        pairs = tuple((_name(old, where), _new_name(new, where)) for old, new in items)
        _refuse_twice([new for _, new in pairs], where, "makes")
        self.__attrs_init__(pairs, name)

    @property
    def reads(self) -> Names:
        """The old names."""
        return tuple(old for old, _ in self.names)

    @property
    def makes(self) -> Names:
        """The new names."""
        return tuple(new for _, new in self.names)

    def columns(self, *inputs: Columns) -> Columns:
        """Return those that there are, under their new names."""
        given = _the_only(inputs, self.name)
        given.need(self.reads, self.name)
        Columns(tuple(each for each in given.names if each not in self.reads)).refuse(self.makes, self.name)
        names = dict(self.names)
        renamed = attrs.evolve(given, names=tuple(names.get(each, each) for each in given.names))
        return renamed.with_more(self.makes)

    def rows(self, table: Table) -> Iterator[Rows]:
        """Yield the rows with the new names."""
        strangers = [new for new in self.makes if new not in self.reads]
        yield Rows(_with_room(table, strangers, self.name).renamed(dict(self.names)), _each(table))


# --- Explode --------------------------------------------------------------------------------------


@attrs.frozen(init=False)
class Explode:
    """Makes rows of a column of lists: one for each element. An empty list makes none.

    Parameters
    ----------
    column : column name
        Its values are lists, tuples, arrays, Series or other sequences; not text, and no sets, which have no order.
    into : column name, optional
        The column for the elements, in place of that of the lists. By default that has the same name; or, if all
        elements of a list are dicts, their keys are columns.
    name : str
        What the stage is called.

    Attributes
    ----------
    column : hashable
        The column of the lists.

    Raises
    ------
    StageError
        Now, if a name is none; later, if a row lacks the column or has something else there, if some elements of a
        list are dicts and others not, or if a row has a column that is made already.

    Examples
    --------
    >>> table = table_of([{"site": "a", "peaks": [3, 5]}, {"site": "b", "peaks": []}, {"site": "c", "peaks": (7,)}])
    >>> [made] = Explode("peaks", into="peak").rows(table)
    >>> list(made.table.dicts())
    [{'site': 'a', 'peak': 3}, {'site': 'a', 'peak': 5}, {'site': 'c', 'peak': 7}]
    >>> made.parents
    array([0, 0, 2])
    >>> [made] = Explode("found").rows(table_of([{"n": 1, "found": [{"x": 1, "y": 2}, {"x": 3}]}]))
    >>> list(made.table.dicts())
    [{'n': 1, 'x': 1, 'y': 2}, {'n': 1, 'x': 3}]
    """

    keeps_labels: ClassVar[bool] = False

    column: Hashable
    into: Hashable | None
    name: str

    def __init__(self, column: Any, *, into: Any = None, name: str = "explode") -> None:
        name = _stage_name(name)
        where = f"stage {name!r}"
        self.__attrs_init__(_name(column, where), None if into is None else _new_name(into, where), name)

    @property
    def reads(self) -> Names:
        """The column of the lists."""
        return (self.column,)

    @property
    def makes(self) -> Names:
        """The column of the elements, if it is known."""
        return () if self.into is None else (self.into,)

    def columns(self, *inputs: Columns) -> Columns:
        """Return the others, and that of the elements if it is known."""
        given = _the_only(inputs, self.name)
        given.need(self.reads, self.name)
        others = attrs.evolve(given, names=tuple(each for each in given.names if each != self.column))
        others.refuse(self.makes, self.name)
        return others.with_more(self.makes, open=self.into is None)

    def rows(self, table: Table) -> Iterator[Rows]:
        """Yield the rows."""
        where = f"stage {self.name!r}"
        _refuse_holes(table, self.column, where, "leave out such rows before, or give them an empty list")
        lists = unpack(table.column(self.column)) if self.column in table.keys else []
        self._refuse_unless_lists(lists, table)
        others = _with_room(_without(table, self.reads), self.makes, self.name)
        ends = np.cumsum([len(value) for value in lists], dtype=np.int64)
        elements = chain.from_iterable(lists if _LISTS.issuperset(map(type, lists)) else map(_elements, lists))
        for start, stop in _slabs(int(ends[-1]) if lists else 0):
            parents = np.searchsorted(ends, np.arange(start, stop, dtype=np.int64), side="right").astype(np.int64)
            new = self._columns_of(list(islice(elements, stop - start)))
            yield Rows(_merged(_picked(others, parents), new, self.name), parents)

    def _refuse_unless_lists(self, values: list[Any], table: Table) -> None:
        if not _LISTS.issuperset(map(type, values)):
            for row, value in enumerate(values):
                if not _is_sequence(value):
                    raise StageError(
                        f"stage {self.name!r} makes rows of the lists in the column {self.column!r}, but the row "
                        f"{shown(table.pset(row))} has {shown(value)} there, of type {type(value).__name__}: make it a "
                        "list, an empty one if there is nothing, or leave out such rows before"
                    )
        lists = [value for value in values if isinstance(value, list | tuple)]
        if self.into is None and _dicts_and_others(chain.from_iterable(lists)):
            for value in lists:
                self._refuse_dicts_among_others(value)

    def _refuse_dicts_among_others(self, value: Sequence[Any]) -> None:
        if _dicts_and_others(value):
            raise StageError(
                f"stage {self.name!r}: of the elements of {shown(value)}, in the column {self.column!r}, some are "
                "dicts and others are not: give into= a name to have them all in one column"
            )

    def _columns_of(self, elements: list[Any]) -> Table:
        count = len(elements)
        if self.into is not None:
            return Table((self.into,), [pack(elements)], count)
        if not any(issubclass(kind, Mapping) for kind in set(map(type, elements))):
            return Table((self.column,), [pack(elements)], count)
        rows = [each if isinstance(each, Mapping) else {self.column: each} for each in elements]
        table = Table(*columns_of(rows), count)
        for key in table.keys:
            _new_name(key, f"stage {self.name!r}")
        return table


_LISTS: Final = frozenset({list, tuple})


def _dicts_and_others(elements: Iterable[Any]) -> bool:
    return len({issubclass(kind, Mapping) for kind in set(map(type, elements))}) == 2


def _is_sequence(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return True
    if isinstance(value, str | bytes | bytearray):
        return False
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence | array | pd.Series | pd.Index | pd.api.extensions.ExtensionArray)


def _elements(value: Any) -> Iterable[Any]:
    if isinstance(value, list | tuple):
        return value
    column = _column_of(value, getattr(value, "index", pd.RangeIndex(0)))
    return value if column is None else unpack(column)


def _merged(table: Table, new: Table, stage: str) -> Table:
    """Put new columns beside those of a table; of a row, no more than one of them may have a key."""
    both = [key for key in new.keys if key in table.keys]
    if not both:
        return table.beside(new)
    columns = [
        _either(table.column(key), column, key, stage) if key in both else column
        for key, column in zip(new.keys, new.columns, strict=True)
    ]
    return _without(table, both).beside(Table(new.keys, columns, new.count))


def _either(old: Column, new: Column, key: Hashable, stage: str) -> Column:
    values = []
    for one, other in zip(unpack(old), unpack(new), strict=True):
        if one is not HOLE and other is not HOLE:
            Columns((key,)).refuse([key], stage)
        values.append(other if one is HOLE else one)
    return pack(values)
