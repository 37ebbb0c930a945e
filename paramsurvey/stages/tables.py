"""The stages that need whole tables: `Join`, `Concat`, `Top`, `Best` and `Apply`; `Reduce` has a file of its own.

All but `Apply` work with the positions of rows, and take the values themselves from their tables: no value changes,
and where each row comes from is known. What they have in common:

- What is missing (None, NaN, NaT, NA, or a hole where a row lacks the key) equals nothing when tables are joined, is
  one group of its own when rows are grouped, and never wins (`comparing` says what is equal).
- The order of rows and groups is that of the tables, so it is always the same; rows are numbered anew.
- A table without rows may lack any column, because nobody knows which columns its rows would have had.
- A dtype that the user's own frame had is kept, if it can hold the column.
"""

from __future__ import annotations

import heapq
import inspect
import operator
from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar, Final

import attrs
import numpy as np
import pandas as pd

from paramsurvey.callables import worker_name
from paramsurvey.engine.columns import HOLE, Hole
from paramsurvey.errors import PsetError, StageError
from paramsurvey.options import shown
from paramsurvey.stages.accepting import Names, by_names, column_names, one_of, stage_name, the_only, truth
from paramsurvey.stages.base import UNKNOWN, Bounds, Columns, Inputs, Made, Parents, listed
from paramsurvey.stages.comparing import described, keys_of_rows, or_holes, plain_number, rows_by_key
from paramsurvey.stages.picking import columns_in, picked, positions, side_by_side
from paramsurvey.tables import Table, concatenated, table_of


def _on(given: Any) -> Names:
    return column_names(given, "on")


def _within(given: Any) -> Names:
    return column_names(given, "within")


def _largest(given: Any) -> bool:
    return truth(given, "largest")


# --- Join -----------------------------------------------------------------------------------------

_HOW: Final = ("inner", "left", "outer", "right")
_EXPECT: Final = ("1:1", "1:m", "m:1", "m:m")


def _how(given: Any) -> str:
    return one_of(given, _HOW, "how")


def _expect(given: Any) -> str:
    return one_of(given, _EXPECT, "expect")


def _suffixes(given: Any) -> tuple[str, str] | None:
    if given is None:
        return None
    pair = tuple(given) if isinstance(given, list | tuple) else ()
    if len(pair) != 2 or not all(isinstance(each, str) for each in pair) or pair[0] == pair[1]:
        raise StageError(f"suffixes={shown(given)}: they are two different strings, such as ('_left', '_right')")
    return pair


@attrs.frozen
class Join:
    """Joins two tables: every row of the left one with every row of the right one that has the same key.

    Keys are compared as Python compares values; a key of which something is missing (None, NaN, a hole) equals none,
    as in SQL. The rows come in the order of the left table, those of one of its rows in the order of the right table,
    and at the end, for "right" and "outer", the rows of the right table that found no partner. Rows without a partner
    have holes where its columns are.

    Parameters
    ----------
    on : column name or list of them
        The key: both tables have these columns, under the same names.
    how : {"inner", "left", "right", "outer"}
        Whose rows are kept if they find no partner: nobody's, those of one table, or both's.
    expect : {"1:1", "1:m", "m:1", "m:m"}, optional
        How often a key may be in the left and in the right table: once, or many times. By default all is well.
    suffixes : two str, optional
        What to add to the names of other columns that both tables have; by default such columns are refused.
    name : str
        What the stage is called.

    Raises
    ------
    StageError
        Now, if an argument is impossible; later, if a table lacks the key, if both have another column, or if a key
        is there more often than expected.

    Examples
    --------
    >>> sites = table_of([{"site": "a", "height": 5000}, {"site": "b", "height": 2**53 + 1}])
    >>> costs = table_of([{"site": "b", "cost": 7}, {"site": "c", "cost": 9}])
    >>> made = Join("site", how="left", expect="1:1").table(sites, costs)
    >>> list(made.table.dicts())
    [{'site': 'a', 'height': 5000}, {'site': 'b', 'height': 9007199254740993, 'cost': 7}]
    >>> made.parents
    (array([0, 1]), array([-1,  0]))
    """

    inputs: ClassVar[Inputs] = (2, 2)

    on: Names = attrs.field(converter=_on)
    how: str = attrs.field(default="inner", kw_only=True, converter=_how)
    expect: str | None = attrs.field(default=None, kw_only=True, converter=attrs.converters.optional(_expect))
    suffixes: tuple[str, str] | None = attrs.field(default=None, kw_only=True, converter=_suffixes)
    name: str = attrs.field(default="join", kw_only=True, converter=stage_name)

    def columns(self, *inputs: Columns) -> Columns:
        """Return those of both tables."""
        left, right = self._both(inputs)
        renamed = self._renamed(left, right)
        # Whether a column gets a suffix is not known as long as the other table may have others.
        lefts = [name for name in left.names if self._is_settled(name, right)]
        rights = [name for name in right.names if name not in self.on and self._is_settled(name, left)]
        known = (*self.on, *lefts) if left.open else lefts
        return Columns(
            tuple(
                dict.fromkeys(
                    [*(renamed[0].get(name, name) for name in known), *(renamed[1].get(name, name) for name in rights)]
                )
            ),
            left.open or right.open,
        )

    def bounds(self, left: Bounds, right: Bounds) -> Bounds:
        """Return how many there are: the pairs, and what is kept without a partner."""
        one_left, one_right = (side == "1" for side in (self.expect or "m:m").split(":"))
        pairs = left.times(right).most  # of which a key that is unique on one side allows fewer
        if one_left:
            pairs = min(pairs, right.most)
        if one_right:
            pairs = min(pairs, left.most)
        if self.how == "inner":
            return Bounds(0, pairs)
        if self.how == "left":
            return Bounds(left.least, left.most if one_right else max(pairs, _all_kept(left, right, one_left)))
        if self.how == "right":
            return Bounds(right.least, right.most if one_left else max(pairs, _all_kept(right, left, one_right)))
        return Bounds(max(left.least, right.least), max(pairs, left.most + right.most))

    def table(self, *tables: Table) -> Made:
        """Return the pairs of rows."""
        left, right = self._both(tables)
        renamed = self._renamed(columns_in(left), columns_in(right))
        lefts, rights = self._pairs(self._keys(left), self._keys(right))
        parts = [
            self._key_columns(left, right, lefts, rights),
            picked(self._others(left), lefts).renamed(renamed[0]),
            picked(self._others(right), rights).renamed(renamed[1]),
        ]
        joined = side_by_side(parts, len(lefts))
        if set(self.on) <= set(left.keys):  # which keep their places in it
            places = [renamed[0].get(key, key) for key in left.keys]
            joined = joined.only([*places, *parts[2].keys])
        return Made(joined, (lefts, rights))

    def _both(self, given: tuple[Any, ...]) -> tuple[Any, Any]:
        if len(given) != 2:
            raise StageError(f"stage {self.name!r} joins two tables, and was given {len(given)}: chain several joins")
        return given[0], given[1]

    def _is_settled(self, name: Hashable, other: Columns) -> bool:
        return self.suffixes is None or name in self.on or not other.open or name in other.names

    def _renamed(self, left: Columns, right: Columns) -> tuple[dict[Hashable, Hashable], dict[Hashable, Hashable]]:
        """Return the new names of columns that both have, and refuse tables that cannot be joined."""
        for side, columns in (("left", left), ("right", right)):
            for name in self.on:
                if columns.lacks(name):
                    raise StageError(
                        f"stage {self.name!r} joins on the column {name!r}, which the {side} table does not have; "
                        f"it has: {listed(columns.names)}"
                    )
        shared = [name for name in left.names if name in right.names and name not in self.on]
        if not shared:
            return {}, {}
        if self.suffixes is None:
            raise StageError(
                f"stage {self.name!r}: both tables have the column {shared[0]!r}, on which they are not joined: "
                "rename or drop it in one of them before, or give suffixes=('_left', '_right')"
            )
        renamed = tuple({name: f"{name}{suffix}" for name in shared} for suffix in self.suffixes)
        self._refuse_twice(left, right, renamed)
        return renamed[0], renamed[1]  # type: ignore[return-value] # mappings do not vary in their keys

    def _refuse_twice(self, left: Columns, right: Columns, renamed: Sequence[Mapping[Any, str]]) -> None:
        rights = [name for name in right.names if name not in self.on]
        names = [renamed[0].get(name, name) for name in left.names] + [renamed[1].get(name, name) for name in rights]
        for name, count in Counter(names).items():
            if count > 1:
                raise StageError(f"stage {self.name!r}: with suffixes={self.suffixes} there are two columns {name!r}")

    def _keys(self, table: Table) -> list[Hashable]:
        """Return the key of each row; `HOLE` if something of it is missing."""
        keys = keys_of_rows(table, self.on, self.name)
        if len(self.on) == 1:
            return keys
        return [HOLE if Hole in set(map(type, key)) else key for key in keys]  # type: ignore[call-overload] # tuples

    def _pairs(self, left: list[Hashable], right: list[Hashable]) -> tuple[Parents, Parents]:
        """Return the positions of the rows that belong together; -1 for no row."""
        places = rows_by_key(right)
        places.pop(HOLE, None)
        self._refuse_unexpected(left, places)
        keep_left, keep_right = self.how in ("left", "outer"), self.how in ("right", "outer")
        alone = [-1] if keep_left else []
        lefts, rights = array("q"), array("q")
        for row, key in enumerate(left):
            found = places.get(key, alone)
            lefts.extend([row] * len(found))
            rights.extend(found)
        if keep_right:
            taken = set(rights)
            rest = [row for row in range(len(right)) if row not in taken]
            lefts.extend([-1] * len(rest))
            rights.extend(rest)
        return positions(lefts), positions(rights)

    def _refuse_unexpected(self, left: list[Hashable], right: Mapping[Hashable, list[int]]) -> None:
        if self.expect is None:
            return
        lefts = Counter(left)
        del lefts[HOLE]
        rights = {key: len(rows) for key, rows in right.items()}
        for side, most, counts in zip(("left", "right"), self.expect.split(":"), (lefts, rights), strict=True):
            for key, count in counts.items():
                if most == "1" and count > 1:
                    values: Any = (key,) if len(self.on) == 1 else key
                    raise StageError(
                        f"stage {self.name!r} expects {self.expect!r}, but the key {described(self.on, values)} is "
                        f"{count} times in the {side} table: keep one of these rows before, or expect otherwise"
                    )

    def _others(self, table: Table) -> Table:
        return table.only([key for key in table.keys if key not in self.on])

    def _key_columns(self, left: Table, right: Table, lefts: Parents, rights: Parents) -> Table:
        """Return the key of each pair: that of the left row, or of the right one if there is no left one."""
        mine, yours = (table.only([key for key in self.on if key in table.keys]) for table in (left, right))
        if len(lefts) and lefts.min() >= 0:
            return picked(mine, lefts)
        return picked(concatenated([mine, yours]), np.where(lefts >= 0, lefts, left.count + rights))


def _all_kept(kept: Bounds, other: Bounds, kept_is_unique: bool) -> float:
    """Return how many rows there are at most if every row of one side is kept: at best one of them has all partners."""
    if kept_is_unique:
        return kept.most + max(other.most - 1, 0) if kept.most else 0
    return kept.most


# --- Concat ---------------------------------------------------------------------------------------


@attrs.frozen
class Concat:
    """Puts tables under one another; a row has a hole where its table lacks a column.

    Parameters
    ----------
    name : str
        What the stage is called.

    Examples
    --------
    >>> made = Concat().table(table_of([{"a": 1}, {"a": 2}]), table_of([{"a": 0.5, "b": None}]))
    >>> list(made.table.dicts())
    [{'a': 1}, {'a': 2}, {'a': 0.5, 'b': None}]
    >>> made.parents
    (array([ 0,  1, -1]), array([-1, -1,  0]))
    """

    inputs: ClassVar[Inputs] = (2, None)

    name: str = attrs.field(default="concat", kw_only=True, converter=stage_name)

    def columns(self, *inputs: Columns) -> Columns:
        """Return those of any of the tables."""
        names = dict.fromkeys(name for columns in inputs for name in columns.names)
        return Columns(tuple(names), any(columns.open for columns in inputs))

    def bounds(self, *inputs: Bounds) -> Bounds:
        """Return how many there are in all tables together."""
        return Bounds(sum(each.least for each in inputs), sum(each.most for each in inputs))

    def table(self, *tables: Table) -> Made:
        """Return the rows of all tables."""
        if not tables:
            raise StageError(
                f"stage {self.name!r} was given no table: name the stages whose rows it takes, after=('a', 'b')"
            )
        whole = concatenated(tables)
        parents = []
        start = 0
        for table in tables:
            rows = np.full(whole.count, -1, dtype=np.int64)
            rows[start : start + table.count] = np.arange(table.count)
            parents.append(rows)
            start += table.count
        return Made(whole, tuple(parents))


# --- Top and Best ---------------------------------------------------------------------------------


def _at_least_one(given: Any) -> int:
    try:
        count = 0 if isinstance(given, bool) else operator.index(given)
    except TypeError:
        count = 0
    if count < 1:
        raise StageError(f"count={shown(given)}: it is an int of at least 1")
    return count


@attrs.frozen
class Top:
    """Keeps the best rows, the best first; of rows that are equally good, the earlier one is better.

    A row where something of `by` is missing (None, NaN, a hole) never wins, even if there are too few others.

    Parameters
    ----------
    count : int
        How many rows, or how many of each group.
    by : column name or list of them
        What is compared: the first column, and the next ones for rows that are equal in those before.
    largest : bool
        Whether large is good.
    within : column name or list of them, optional
        Keep the best of each group of rows with the same values there. Groups come in the order of their first rows;
        rows where such a value is missing are a group of their own.
    name : str
        What the stage is called.

    Raises
    ------
    StageError
        Now, if an argument is impossible; later, if a column is not there, or two values cannot be compared.

    Examples
    --------
    >>> rows = table_of([{"n": 1, "score": None}, {"n": 2, "score": 3}, {"n": 3, "score": 5}, {"n": 4, "score": 5.0}])
    >>> list(Top(2, "score").table(rows).table.dicts())
    [{'n': 3, 'score': 5}, {'n': 4, 'score': 5.0}]
    """

    inputs: ClassVar[Inputs] = (1, 1)

    count: int = attrs.field(converter=_at_least_one)
    by: Names = attrs.field(converter=by_names)
    largest: bool = attrs.field(default=True, kw_only=True, converter=_largest)
    within: Names | None = attrs.field(default=None, kw_only=True, converter=attrs.converters.optional(_within))
    name: str = attrs.field(default="top", kw_only=True, converter=stage_name)

    def columns(self, *inputs: Columns) -> Columns:
        """Return those that there are."""
        columns: Columns = the_only(inputs, self.name)
        columns.need((*self.by, *(self.within or ())), self.name)
        return columns

    def bounds(self, rows: Bounds) -> Bounds:
        """Return how many there are, if all have what is compared."""
        best = rows.up_to(self.count)
        return best if self.within is None else Bounds(best.least, rows.most)

    def table(self, *tables: Table) -> Made:
        """Return the best rows."""
        table: Table = the_only(tables, self.name)
        self.columns(columns_in(table))
        rows = positions(self._best(table) if table.count else ())
        return Made(picked(table, rows), (rows,))

    def _best(self, table: Table) -> list[int]:
        columns = [or_holes(table.column(name)) for name in self.by]
        merits = [tuple(map(plain_number, row)) for row in zip(*columns, strict=True)]
        groups = [list(range(table.count))]
        if self.within is not None:
            groups = list(rows_by_key(keys_of_rows(table, self.within, self.name)).values())
        best: list[int] = []
        for group in groups:
            best += self._best_of([row for row in group if Hole not in set(map(type, merits[row]))], merits)
        return best

    def _best_of(self, rows: list[int], merits: list[tuple[Any, ...]]) -> list[int]:
        best = heapq.nlargest if self.largest else heapq.nsmallest
        try:
            return best(self.count, rows, key=merits.__getitem__)
        except (TypeError, ValueError) as error:
            name, one, other = self._incomparable([merits[row] for row in rows])
            raise StageError(
                f"stage {self.name!r} cannot compare {shown(one)} ({type(one).__name__}) and {shown(other)} "
                f"({type(other).__name__}), which are in the column {name!r}: {error}"
            ) from error

    def _incomparable(self, merits: list[tuple[Any, ...]]) -> tuple[Hashable, Any, Any]:
        """Return two values of a column that cannot be compared."""
        for name, values in zip(self.by, zip(*merits, strict=True), strict=True):
            for value in values:
                if not _can_be_compared(values[0], value):
                    return name, values[0], value
        return self.by[0], merits[0][0], merits[-1][0]  # the first can be compared with all, but these not among them


def _can_be_compared(one: Any, other: Any) -> bool:
    try:
        return (one,) < (other,) or True
    except (TypeError, ValueError):
        return False


@attrs.frozen
class Best:
    """Keeps the best row, or the best of each group: `Top` with a count of 1.

    Parameters
    ----------
    by : column name or list of them
        What is compared, as for `Top`.
    largest : bool
        Whether large is good.
    within : column name or list of them, optional
        Keep the best of each group, as for `Top`.
    name : str
        What the stage is called.

    Raises
    ------
    StageError
        As for `Top`.

    Examples
    --------
    >>> rows = table_of([{"site": "a", "cost": 3}, {"site": "b", "cost": 2}, {"site": "a", "cost": 1}])
    >>> list(Best("cost", largest=False, within="site").table(rows).table.dicts())
    [{'site': 'a', 'cost': 1}, {'site': 'b', 'cost': 2}]
    """

    inputs: ClassVar[Inputs] = (1, 1)

    by: Names = attrs.field(converter=by_names)
    largest: bool = attrs.field(default=True, kw_only=True, converter=_largest)
    within: Names | None = attrs.field(default=None, kw_only=True, converter=attrs.converters.optional(_within))
    name: str = attrs.field(default="best", kw_only=True, converter=stage_name)

    def columns(self, *inputs: Columns) -> Columns:
        """Return those that there are."""
        return self._top.columns(*inputs)

    def bounds(self, rows: Bounds) -> Bounds:
        """Return how many there are, if all have what is compared."""
        return self._top.bounds(rows)

    def table(self, *tables: Table) -> Made:
        """Return the best row, or those of the groups; none of no rows."""
        return self._top.table(*tables)

    @property
    def _top(self) -> Top:
        return Top(1, self.by, largest=self.largest, within=self.within, name=self.name)


# --- Apply ----------------------------------------------------------------------------------------


def _function(given: Any) -> Callable[..., Any]:
    if not callable(given):
        raise StageError(
            f"function={shown(given)} ({type(given).__name__}): it is called with a DataFrame, and returns one"
        )
    if inspect.isgeneratorfunction(given) or inspect.iscoroutinefunction(given):
        raise StageError(
            f"function={worker_name(given)} is a generator or async function, whose calls return before it has run; "
            "what asks for surveys is a stage of its own: an object with a name and a method table()"
        )
    function: Callable[..., Any] = given
    return function


@attrs.frozen
class Apply:
    """Calls a function with whole tables as DataFrames, and goes on with the DataFrame that it returns.

    Only the columns of that are psets for the next stage: what it has in its index, as after a ``groupby``, becomes
    columns by ``reset_index()``.

    Parameters
    ----------
    function : callable
        Takes a DataFrame for each table and returns one. Whatever it raises is left as it is.
    name : str, optional
        What the stage is called; by default as the function.

    Raises
    ------
    StageError
        Now, if `function` cannot be called; later, if it returns no DataFrame, or one that cannot be psets.

    Examples
    --------
    >>> list(Apply(lambda frame: frame[frame["a"] > 1]).table(table_of([{"a": 1}, {"a": 2}])).dicts())
    [{'a': 2}]
    """

    inputs: ClassVar[Inputs] = (1, None)

    function: Callable[..., Any] = attrs.field(converter=_function)
    _name: str | None = attrs.field(default=None, kw_only=True, converter=attrs.converters.optional(stage_name))

    @property
    def name(self) -> str:
        """What the stage is called."""
        return self._name or worker_name(self.function)

    def columns(self, *inputs: Columns) -> Columns:  # noqa: ARG002 - the protocol's
        """Return that nothing is known of them."""
        return UNKNOWN

    def table(self, *tables: Table) -> Table:
        """Return what the function returns."""
        made = self.function(*(table.frame() for table in tables))
        if not isinstance(made, pd.DataFrame):
            raise StageError(
                f"stage {self.name!r} returned {shown(made)} ({type(made).__name__}): it has to return a DataFrame"
            )
        try:
            return table_of(made)
        except PsetError as error:
            raise StageError(f"stage {self.name!r} returned a DataFrame that cannot be psets: {error}") from error
