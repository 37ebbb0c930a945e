"""The row-wise stages: `Product`, `Derive`, `Where`, `Drop`, `Keep`, `Rename` and `Explode`.

Rows come in slices that are cut as it happens, by who was finished when. So one rule is above all others: what comes of
a row depends on nothing but the row. It has three consequences.

- Functions of columns (`Derive`, `Where`) are called with rows *of a kind*: in each of the columns that they read, all
  values of one call have the same type, that of the row. An int beside floats is computed with as an int, None never
  becomes NaN, and a parameter with a default is left out for the rows that lack the column. Mostly all rows are of one
  kind, and there is one call.
- A column that a row lacks is no error where there is nothing to be done about it (`Drop`, `Keep`, `Rename`): whether
  some other row of the slice has it is chance. It is refused where it is known ahead (`columns`), where the row itself
  cannot do without it; and if in the end no row has had it, that is told (`wants`).
- A column that is made may not be there already: of a row, too, this is asked, not of its slice.

Whatever cannot be is refused by the constructors, and what columns there are is known ahead wherever it can be.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain, islice
from itertools import product as cartesian
from typing import Any, ClassVar, Final

import attrs
import numpy as np
import pandas as pd

from paramsurvey.engine.columns import HOLE, Column, columns_of, pack, unpack
from paramsurvey.errors import PsetError, StageError
from paramsurvey.options import shown
from paramsurvey.params import product
from paramsurvey.psets import SLAB
from paramsurvey.stages.accepting import (
    Names,
    column_name,
    is_hashable,
    mapping,
    names_one_by_one,
    new_column_name,
    refuse_twice,
    stage_name,
    the_only,
    truth,
)
from paramsurvey.stages.base import Columns, Parents, Rows
from paramsurvey.stages.comparing import equals_nothing, is_missing
from paramsurvey.stages.picking import picked, refuse_holes, with_room, without
from paramsurvey.stages.readers import Reader, reader_of
from paramsurvey.stages.series import column_of
from paramsurvey.tables import Table, table_of


def _each(table: Table) -> Parents:
    """For rows that come of one row each: their parents."""
    return np.arange(table.count, dtype=np.int64)


def _slabs(total: int) -> Iterator[tuple[int, int]]:
    """Cut so many rows into pieces; if there are none, into one without rows, which shows its columns."""
    for start in range(0, max(total, 1), SLAB):
        yield start, min(start + SLAB, total)


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
    is_blind: ClassVar[bool] = True

    grid: Table = attrs.field(repr=lambda grid: f"{grid.count} x {grid.keys}")
    name: str

    def __init__(self, *grids: object, infer_category: bool = False, name: str = "product") -> None:
        name = stage_name(name)
        self.__attrs_init__(_grid_of(grids, truth(infer_category, f"stage {name!r}: infer_category"), name), name)

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
        given = the_only(inputs, self.name)
        given.refuse(self.makes, self.name)
        return given.with_more(self.makes)

    def rows(self, table: Table) -> Iterator[Rows]:
        """Yield the rows."""
        table = with_room(table, self.makes, self.name)
        for start, stop in _slabs(table.count * self.fan_out):
            parents, places = np.divmod(np.arange(start, stop, dtype=np.int64), max(self.fan_out, 1))
            yield Rows(picked(table, parents).beside(self.grid.take(places)), parents)


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
    """A column to be made: its name, and of what.

    Parameters
    ----------
    name : column name
        What it is called.
    reader : Reader
        What computes it.
    """

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
    (`Apply` is for them). A run tries that out with its first rows, which it computes once more, and refuses such a
    function (`stages.trial`).

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
    Arithmetic of columns is numpy's: dividing by zero gives inf. But in expressions, ``+``, ``-``, ``*``, ``//``,
    ``**`` and ``abs`` of integers are exact: one that needs more than 64 bits is the one that Python has. In functions
    of columns, and in numpy's own, integers wrap around. Arithmetic of rows is Python's.

    Values of int64, float64 and bool arrays become Python's int, float and bool; those of other arrays stay numpy's, to
    the last bit; of a Series of dates its Timestamps; and NA stays NA. What is in lists stays as it is.

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
    fan_out: ClassVar[int] = 1

    new: tuple[NewColumn, ...]
    name: str

    def __init__(self, columns: Mapping[Any, Any], *, per_row: bool = False, name: str = "derive") -> None:
        name = stage_name(name)
        per_row = truth(per_row, f"stage {name!r}: per_row")
        items = mapping(columns, f"stage {name!r}", "{'area': 'width * height'}").items()
        self.__attrs_init__(
            tuple(
                NewColumn(
                    new_column_name(each, f"stage {name!r}"), reader_of(given, per_row, _column_where(name, each))
                )
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

    @property
    def looks_around(self) -> bool:
        """Whether what comes of a row might depend on others, which a run tries out."""
        return any(new.reader.looks_around for new in self.new)

    def columns(self, *inputs: Columns) -> Columns:
        """Return those that there are, and the new ones."""
        given = the_only(inputs, self.name)
        for new in self.new:
            given.need(new.reader.required, self.name)
            given.refuse([new.name], self.name)
            given = given.with_more([new.name])
        return given

    def rows(self, table: Table) -> Iterator[Rows]:
        """Yield the rows with their new columns."""
        table = with_room(table, self.makes, self.name)
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
        """Tell whether it is one of them, as Python compares.

        Parameters
        ----------
        value : object
            A value of the column.
        """
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
        if equals_nothing(value):
            raise StageError(
                f"{where}: {shown(value)} in the column {column!r} equals nothing, not even itself: write a condition, "
                f"such as lambda x: x.isna()"
            )
    hashable = [value for value in values if is_hashable(value)]
    others = [value for value in values if not is_hashable(value)]
    return Wanted(column_name(column, where), frozenset(hashable), tuple(others))


def _listed_values(given: Any) -> list[Any]:
    return given.tolist() if isinstance(given, np.ndarray) and given.ndim else list(given)


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
        name = stage_name(name)
        per_row = truth(per_row, f"stage {name!r}: per_row")
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

    @property
    def looks_around(self) -> bool:
        """Whether what comes of a row might depend on others, which a run tries out."""
        return isinstance(self.condition, Reader) and self.condition.looks_around

    def columns(self, *inputs: Columns) -> Columns:
        """Return those that there are."""
        given = the_only(inputs, self.name)
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
            refuse_holes(table, wanted.column, where, "leave out such rows before, or write a function with a default")
            if table.count:
                values = map(wanted.has, unpack(table.column(wanted.column)))
                decided = [so_far and each for so_far, each in zip(decided, values, strict=True)]
        return decided


def _condition(given: Any, per_row: bool, where: str) -> Reader | tuple[Wanted, ...]:
    if not isinstance(given, Mapping):
        return reader_of(given, per_row, where)
    if per_row:
        raise StageError(f"{where}: per_row=True is for functions and expressions, and the condition is a dict")
    example = "{'site': ['a', 'b']}"
    return tuple(_wanted(column, values, where) for column, values in mapping(given, where, example).items())


def _bools(reader: Reader, table: Table, where: str) -> list[bool]:
    values = unpack(reader.values(table, where))
    if set(map(type, values)) - {bool, np.bool_}:
        row, value = next((row, each) for row, each in enumerate(values) if type(each) not in (bool, np.bool_))
        remedy = "compare it with something, as in x > 0"
        if is_missing(value):
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
    is_blind: ClassVar[bool] = True
    fan_out: ClassVar[int] = 1

    reads: Names
    name: str

    def __init__(self, *names: Any, name: str = "drop") -> None:
        name = stage_name(name)
        self.__attrs_init__(names_one_by_one(names, f"stage {name!r}"), name)

    @property
    def wants(self) -> Names:
        """The columns that some row should have."""
        return self.reads

    @property
    def makes(self) -> Names:
        """No column."""
        return ()

    def columns(self, *inputs: Columns) -> Columns:
        """Return those that are left."""
        given = the_only(inputs, self.name)
        given.need(self.reads, self.name)
        return attrs.evolve(given, names=tuple(each for each in given.names if each not in self.reads))

    def rows(self, table: Table) -> Iterator[Rows]:
        """Yield the rows without these columns."""
        yield Rows(without(table, self.reads), _each(table))


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
    is_blind: ClassVar[bool] = True
    fan_out: ClassVar[int] = 1

    reads: Names
    name: str

    def __init__(self, *names: Any, name: str = "keep") -> None:
        name = stage_name(name)
        self.__attrs_init__(names_one_by_one(names, f"stage {name!r}"), name)

    @property
    def wants(self) -> Names:
        """The columns that some row should have."""
        return self.reads

    @property
    def makes(self) -> Names:
        """No column."""
        return ()

    def columns(self, *inputs: Columns) -> Columns:
        """Return these."""
        given = the_only(inputs, self.name)
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
    is_blind: ClassVar[bool] = True
    fan_out: ClassVar[int] = 1

    names: tuple[tuple[Hashable, Hashable], ...]
    name: str

    def __init__(self, names: Mapping[Any, Any], *, name: str = "rename") -> None:
        name = stage_name(name)
        where = f"stage {name!r}"
        items = mapping(names, where, "{'old': 'new'}").items()
        pairs = tuple((column_name(old, where), new_column_name(new, where)) for old, new in items)
        refuse_twice([new for _, new in pairs], f"{where}: it makes", "give each another name")
        self.__attrs_init__(pairs, name)

    @property
    def reads(self) -> Names:
        """The old names."""
        return tuple(old for old, _ in self.names)

    @property
    def wants(self) -> Names:
        """The columns that some row should have."""
        return self.reads

    @property
    def makes(self) -> Names:
        """The new names."""
        return tuple(new for _, new in self.names)

    def columns(self, *inputs: Columns) -> Columns:
        """Return those that there are, under their new names."""
        given = the_only(inputs, self.name)
        given.need(self.reads, self.name)
        Columns(tuple(each for each in given.names if each not in self.reads)).refuse(self.makes, self.name)
        names = dict(self.names)
        renamed = attrs.evolve(given, names=tuple(names.get(each, each) for each in given.names))
        return renamed.with_more(self.makes)

    def rows(self, table: Table) -> Iterator[Rows]:
        """Yield the rows with the new names."""
        strangers = [new for new in self.makes if new not in self.reads]
        yield Rows(with_room(table, strangers, self.name).renamed(dict(self.names)), _each(table))


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
        name = stage_name(name)
        where = f"stage {name!r}"
        self.__attrs_init__(column_name(column, where), None if into is None else new_column_name(into, where), name)

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
        given = the_only(inputs, self.name)
        given.need(self.reads, self.name)
        others = attrs.evolve(given, names=tuple(each for each in given.names if each != self.column))
        others.refuse(self.makes, self.name)
        return others.with_more(self.makes, open=self.into is None)

    def rows(self, table: Table) -> Iterator[Rows]:
        """Yield the rows."""
        where = f"stage {self.name!r}"
        refuse_holes(table, self.column, where, "leave out such rows before, or give them an empty list")
        lists = unpack(table.column(self.column)) if self.column in table.keys else []
        self._refuse_unless_lists(lists, table)
        others = with_room(without(table, self.reads), self.makes, self.name)
        ends = np.cumsum([len(value) for value in lists], dtype=np.int64)
        elements = chain.from_iterable(lists if _LISTS.issuperset(map(type, lists)) else map(_elements, lists))
        for start, stop in _slabs(int(ends[-1]) if lists else 0):
            parents = np.searchsorted(ends, np.arange(start, stop, dtype=np.int64), side="right").astype(np.int64)
            new = self._columns_of(list(islice(elements, stop - start)))
            yield Rows(_merged(picked(others, parents), new, self.name), parents)

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
            new_column_name(key, f"stage {self.name!r}")
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
    column = column_of(value, getattr(value, "index", pd.RangeIndex(0)))
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
    return without(table, both).beside(Table(new.keys, columns, new.count))


def _either(old: Column, new: Column, key: Hashable, stage: str) -> Column:
    values = []
    for one, other in zip(unpack(old), unpack(new), strict=True):
        if one is not HOLE and other is not HOLE:
            Columns((key,)).refuse([key], stage)
        values.append(other if one is HOLE else one)
    return pack(values)
