"""Functions of columns, as `Derive` and `Where` take them: a `Reader` knows which one reads, and calls it.

It is called with rows *of a kind*: in each of the columns that it reads, all values of one call have the same type. So
what comes of a row does not depend on which others happen to be in the slice.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final

import attrs
import numpy as np
import pandas as pd

from paramsurvey.callables import signature_of, worker_name
from paramsurvey.engine.columns import HOLE, Column, pack, unpack
from paramsurvey.errors import StageError
from paramsurvey.options import shown
from paramsurvey.stages.base import Parents
from paramsurvey.stages.expressions import compiled
from paramsurvey.stages.integers import Mixed
from paramsurvey.stages.picking import refuse_holes
from paramsurvey.stages.series import column_of, rows_of_a_kind, series_of
from paramsurvey.tables import Table


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
    looks_around : bool
        Whether it might look at other rows than the one that it computes a value for.
    """

    func: Callable[..., Any] = attrs.field(repr=False)
    text: str
    per_row: bool
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    takes_rest: bool = False
    looks_around: bool = False

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
        groups = rows_of_a_kind(read)
        return self._at_once(read, where) if groups is None else self._in_groups(read, groups, where)

    def _in_groups(self, read: Table, groups: Iterable[Parents], where: str) -> Column:
        """Call it for each group of rows."""
        values = [None] * read.count
        for rows in groups:
            for row, value in zip(rows.tolist(), unpack(self._at_once(read.take(rows), where)), strict=True):
                values[row] = value
        return pack(values)

    def _read(self, table: Table, where: str) -> Table:
        """Return the columns that it reads, and refuse rows that lack one."""
        remedy = "give the parameter a default, or leave out such rows before"
        for name in self.required:
            refuse_holes(table, name, where, remedy)
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
            name: series_of(column)
            for name, column in zip(read.keys, read.columns, strict=True)
            if column[0] is not HOLE
        }
        try:
            result = self.func(**arguments)  # type: ignore[arg-type] # as above
        except Mixed as mixed:
            return self._in_groups(read, map(np.flatnonzero, (mixed.fits, ~mixed.fits)), where)
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
        column = column_of(result, pd.RangeIndex(count))
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


def reader_of(given: Any, per_row: bool, where: str) -> Reader:
    """Make a reader of a function or an expression."""
    if isinstance(given, str):
        func, columns, looks_around = compiled(given, per_row=per_row, where=where)
        return Reader(func, f"the expression {given!r}", per_row, required=columns, looks_around=looks_around)
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
        looks_around=not per_row,
    )


_WRAP_IT: Final = "write a function around it, such as lambda x: function(x), whose parameters are names of columns"


def _refuse_deferred(func: Callable[..., Any], where: str, text: str) -> None:
    for code in (func, type(func).__call__):
        if inspect.iscoroutinefunction(code) or inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
            raise StageError(f"{where}: {text} is async or has a yield: a call returns before it has run")
