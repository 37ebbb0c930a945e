"""The stages that need whole tables: `Join`, `Concat`, `Reduce`, `Top`, `Best` and `Apply`.

All but the last work with the positions of rows, and take the values themselves from their tables: no value changes,
and where each row comes from is known. What they have in common:

- Values are compared as Python compares them: 1, 1.0 and True are one key; 2**53 + 1 and 2.0**53 are two.
- What is missing (None, NaN, NaT, NA, or a hole where a row lacks the key) equals nothing when tables are joined, is
  one group of its own when rows are grouped, is left out of sums and their like, and never wins.
- The order of rows and groups is that of the tables, so it is always the same; rows are numbered anew.
- A table without rows may lack any column, because nobody knows which columns its rows would have had.
- A dtype that the user's own frame had is kept, if it can hold the column.
"""

from __future__ import annotations

import heapq
import inspect
import math
import operator
import statistics
from array import array
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import reduce
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeAlias

import attrs
import numpy as np
import pandas as pd

from paramsurvey.callables import Worker, as_worker, worker_name
from paramsurvey.engine.columns import HOLE, RESERVED, Column, Hole, Pset, columns_of, pack, unpack
from paramsurvey.engine.worker import same
from paramsurvey.errors import PsetError, StageError
from paramsurvey.options import check, nearest_or_all, shown
from paramsurvey.results import MapResults, first_line
from paramsurvey.stages.base import UNKNOWN, Ask, Columns, Made, Parents, listed
from paramsurvey.tables import Table, concatenated, series_with_holes, table_of

Names: TypeAlias = tuple[Hashable, ...]
Inputs: TypeAlias = tuple[int, int | None]


# --- what the constructors accept -----------------------------------------------------------------


def _names(given: Any, where: str) -> Names:
    """Return the names of columns as a tuple; a list or a tuple has several, anything else is one."""
    names = tuple(given) if isinstance(given, list | tuple | pd.Index) else (given,)
    if not names:
        raise StageError(f"{where}={shown(given)} names no column: give the name of one, or a list of names")
    for name in names:
        if name is None or not _is_hashable(name):
            raise StageError(
                f"{where}={shown(given)}: {shown(name)} cannot be the name of a column; give the name of one, "
                "or a list of names"
            )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise StageError(f"{where}={shown(given)} names the column {twice[0]!r} twice")
    return names


def _is_hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _on(given: Any) -> Names:
    return _names(given, "on")


def _by(given: Any) -> Names:
    return _names(given, "by")


def _within(given: Any) -> Names:
    return _names(given, "within")


def _largest(given: Any) -> bool:
    return _truth(given, "largest")


def _stage_name(given: Any) -> str:
    if not isinstance(given, str) or not given:
        raise StageError(f"name={shown(given)}: the name of a stage is a str with something in it")
    return given


def _one_of(given: Any, choices: Sequence[str], where: str) -> str:
    if not isinstance(given, str):
        raise StageError(f"{where}={shown(given)} is unknown; there are: {listed(choices)}")
    if given not in choices:
        raise StageError(f"{where}={shown(given)} is unknown; {nearest_or_all(given, choices)}")
    return given


def _truth(given: Any, where: str) -> bool:
    if not isinstance(given, bool):
        raise StageError(f"{where}={shown(given)}: it is True or False")
    return given


# --- rows of tables -------------------------------------------------------------------------------


def _the_only(given: tuple[Any, ...], stage: str) -> Any:
    if len(given) != 1:
        raise StageError(f"stage {stage!r} takes one table, and was given {len(given)}")
    return given[0]


def _columns_in(table: Table) -> Columns:
    """Return the columns of a table; one without rows might have had others."""
    return Columns(table.keys, open=table.count == 0)


def _positions(rows: Iterable[int]) -> Parents:
    return np.fromiter(rows, dtype=np.int64)


def _picked(table: Table, rows: Parents) -> Table:
    """Return these rows, numbered anew; a row at -1 is all holes."""
    if not len(rows) or rows.min() >= 0:
        return attrs.evolve(table.take(rows), index=None)
    columns = [_with_holes(column, rows) for column in table.columns]
    wide = ((key, series_with_holes(series, rows)) for key, series in table.typed.items())
    typed = {key: series for key, series in wide if series is not None}
    return Table(table.keys, columns, len(rows), None, typed)


def _with_holes(column: Column, rows: Parents) -> Column:
    values = unpack(column)
    return pack([values[row] if row >= 0 else HOLE for row in rows.tolist()])


def _side_by_side(parts: Sequence[Table], count: int) -> Table:
    whole = Table((), [], count)
    for part in parts:
        whole = whole.beside(part)
    return whole


# --- what is missing, and what is equal -----------------------------------------------------------

_PRESENT: Final = frozenset({int, bool, str, bytes})
"""Types of which no value is missing."""


def _is_missing(value: Any) -> bool:
    """Tell whether this is no value. Types are looked at, so that no user's object is asked for equality."""
    if value is None or value is HOLE or value is pd.NA or value is pd.NaT:
        return True
    if isinstance(value, float | complex | np.inexact):
        return bool(value != value)
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return isinstance(value, Decimal) and value.is_nan()


def _or_holes(column: Column) -> list[Any]:
    """Return the values of a column, with `HOLE` for whatever is missing."""
    values = unpack(column)
    if isinstance(column, array) and column.typecode == "q":
        return values
    if _PRESENT.issuperset(map(type, values)):
        return values
    return [HOLE if _is_missing(value) else value for value in values]


def _keys(table: Table, names: Names, stage: str) -> list[Hashable]:
    """Return what rows are told apart by: the value of one column, or the tuple of those of several."""
    if not table.count:
        return []
    columns = [_or_holes(table.column(name)) for name in names]
    for name, values in zip(names, columns, strict=True):
        _refuse_unhashable(values, name, stage)
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _refuse_unhashable(values: list[Any], name: Hashable, stage: str) -> None:
    try:
        deque(map(hash, values), maxlen=0)
    except TypeError:
        culprit = next(value for value in values if not _is_hashable(value))
        raise StageError(
            f"stage {stage!r} looks for equal values in the column {name!r}, but {shown(culprit)}, of type "
            f"{type(culprit).__name__}, cannot be looked up (it has no hash): make a column of text or numbers of it"
        ) from None


def _described(names: Names, values: Sequence[Any]) -> str:
    told = zip(names, values, strict=True)
    return ", ".join(f"{name}={'nothing' if value is HOLE else shown(value)}" for name, value in told)


def _groups(keys: Iterable[Hashable]) -> dict[Hashable, list[int]]:
    """Return the rows of each key, in the order of first appearance."""
    groups: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    return groups


# --- Join -----------------------------------------------------------------------------------------

_HOW: Final = ("inner", "left", "outer", "right")
_EXPECT: Final = ("1:1", "1:m", "m:1", "m:m")


def _how(given: Any) -> str:
    return _one_of(given, _HOW, "how")


def _expect(given: Any) -> str:
    return _one_of(given, _EXPECT, "expect")


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
    name: str = attrs.field(default="join", kw_only=True, converter=_stage_name)

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

    def table(self, *tables: Table) -> Made:
        """Return the pairs of rows."""
        left, right = self._both(tables)
        renamed = self._renamed(_columns_in(left), _columns_in(right))
        lefts, rights = self._pairs(self._keys(left), self._keys(right))
        parts = [
            self._key_columns(left, right, lefts, rights),
            _picked(self._others(left), lefts).renamed(renamed[0]),
            _picked(self._others(right), rights).renamed(renamed[1]),
        ]
        joined = _side_by_side(parts, len(lefts))
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
        keys = _keys(table, self.on, self.name)
        if len(self.on) == 1:
            return keys
        return [HOLE if Hole in set(map(type, key)) else key for key in keys]  # type: ignore[call-overload] # tuples

    def _pairs(self, left: list[Hashable], right: list[Hashable]) -> tuple[Parents, Parents]:
        """Return the positions of the rows that belong together; -1 for no row."""
        places = _groups(right)
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
        return _positions(lefts), _positions(rights)

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
                        f"stage {self.name!r} expects {self.expect!r}, but the key {_described(self.on, values)} is "
                        f"{count} times in the {side} table: keep one of these rows before, or expect otherwise"
                    )

    def _others(self, table: Table) -> Table:
        return table.only([key for key in table.keys if key not in self.on])

    def _key_columns(self, left: Table, right: Table, lefts: Parents, rights: Parents) -> Table:
        """Return the key of each pair: that of the left row, or of the right one if there is no left one."""
        mine, yours = (table.only([key for key in self.on if key in table.keys]) for table in (left, right))
        if len(lefts) and lefts.min() >= 0:
            return _picked(mine, lefts)
        return _picked(concatenated([mine, yours]), np.where(lefts >= 0, lefts, left.count + rights))


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

    name: str = attrs.field(default="concat", kw_only=True, converter=_stage_name)

    def columns(self, *inputs: Columns) -> Columns:
        """Return those of any of the tables."""
        names = dict.fromkeys(name for columns in inputs for name in columns.names)
        return Columns(tuple(names), any(columns.open for columns in inputs))

    def table(self, *tables: Table) -> Made:
        """Return the rows of all tables."""
        if not tables:
            raise StageError(f"stage {self.name!r} was given no table")
        whole = concatenated(tables)
        parents = []
        start = 0
        for table in tables:
            rows = np.full(whole.count, -1, dtype=np.int64)
            rows[start : start + table.count] = np.arange(table.count)
            parents.append(rows)
            start += table.count
        return Made(whole, tuple(parents))


# --- Reduce ---------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """Return a number as Python's own, which does not overflow."""
    return value.item() if isinstance(value, np.generic) else value


def _sum(values: list[Any]) -> Any:
    """Add values up: ints exactly, floats with one rounding at the end, whatever else one after the other."""
    plain = [_plain(value) for value in values]
    ints = [value for value in plain if isinstance(value, int)]
    floats = [value for value in plain if isinstance(value, float)]
    if len(ints) + len(floats) < len(plain):
        return reduce(operator.add, plain)
    if not floats:
        return sum(ints)
    try:
        return math.fsum([*floats, sum(ints)])
    except (OverflowError, ValueError):  # what is infinite, or on its way there
        return sum([*floats, sum(ints)])


def _count(values: list[Any]) -> int:
    return len(values)


def _distinct(values: list[Any]) -> int:
    return len(set(values))


def _mean(values: list[Any]) -> Any:
    return _sum(values) / len(values) if values else HOLE


def _least(values: list[Any]) -> Any:
    return min(values, key=_plain, default=HOLE)


def _greatest(values: list[Any]) -> Any:
    return max(values, key=_plain, default=HOLE)


def _median(values: list[Any]) -> Any:
    return statistics.median(map(_plain, values)) if values else HOLE


def _deviation(values: list[Any]) -> Any:
    """Return the standard deviation of a sample, with n - 1."""
    if len(values) < 2:
        return HOLE
    first = _plain(values[0])
    apart = [float(_plain(value) - first) for value in values]  # large ints keep their differences
    mean = math.fsum(apart) / len(apart)
    return math.sqrt(math.fsum((each - mean) ** 2 for each in apart) / (len(apart) - 1))


def _first(values: list[Any]) -> Any:
    return values[0] if values else HOLE


def _last(values: list[Any]) -> Any:
    return values[-1] if values else HOLE


_AGGREGATIONS: Final[Mapping[str, Callable[[list[Any]], Any]]] = MappingProxyType(
    {
        "sum": _sum,
        "mean": _mean,
        "min": _least,
        "max": _greatest,
        "count": _count,
        "median": _median,
        "std": _deviation,
        "first": _first,
        "last": _last,
        "nunique": _distinct,
    }
)

GROUP: Final = "group"
"""The key under which the worker of a `Reduce` finds the rows of its group."""


def _aggregate(given: Any) -> Any:
    """Return a function as it is, and named aggregations as a dict of pairs."""
    if given is None or (callable(given) and not isinstance(given, Mapping)):
        return given
    if not isinstance(given, Mapping) or not given:
        raise StageError(
            f"aggregate={shown(given)}: it is a function from a DataFrame to a dict, or a mapping such as "
            "{'total': ('cost', 'sum')}"
        )
    return {new: _named(new, pair) for new, pair in given.items()}


def _named(new: Hashable, pair: Any) -> tuple[Hashable, Any]:
    where = f"aggregate[{new!r}]"
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise StageError(f"{where}={shown(pair)}: it is the pair of a column and what to do with it, ('cost', 'sum')")
    if new in RESERVED:
        raise StageError(f"{where}: {new!r} is the name of one of our own columns; give it another name")
    column, how = pair
    _names([column], where)
    if not callable(how):
        _one_of(how, tuple(_AGGREGATIONS), where)
    return column, how


def _map_options(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise StageError(f"options={shown(given)}: they are a dict of options of map()")
    check(given, "reduce")
    return dict(given)


def _allow_missing(given: Any) -> bool:
    return _truth(given, "allow_missing")


@attrs.frozen
class Reduce:
    """Makes one row of every group of rows, or of the whole table.

    Groups come in the order of their first rows, and have its values of the `by` columns. Rows where such a value is
    missing (None, NaN, a hole) are a group of their own.

    Parameters
    ----------
    by : column name or list of them, optional
        The rows of a group have the same values there. Without it the whole table is one group, even without rows.
    aggregate : mapping or callable
        ``{"total": ("cost", "sum")}``: new columns, each from a column by "sum", "mean", "min", "max", "count",
        "median", "std" (with n - 1), "first", "last", "nunique", or a function of the group's Series. What is missing
        is left out, and what cannot be known of nothing is a hole; sums of ints are exact. Or a function of the
        group's DataFrame, which returns the row as a dict or Series.
    worker : callable
        Instead of `aggregate`: a worker as for `paramsurvey.map`, called for every group on the backend. Its pset has
        the `by` columns and, as "group", the list of the group's rows as dicts. Its answer is the row.
    options : dict, optional
        With `worker`: options of `paramsurvey.map`.
    allow_missing : bool
        With `worker`: go on without those groups for which it failed.
    name : str
        What the stage is called.

    Raises
    ------
    StageError
        Now, if an argument is impossible; later, if a column is not there, cannot be grouped by or aggregated, if a
        function does not return a row, or if the worker failed for a group.

    Examples
    --------
    >>> rows = table_of([{"kind": "x", "n": 2**62}, {"kind": "y", "n": 1}, {"kind": "x", "n": 2**62}])
    >>> list(Reduce("kind", aggregate={"n": ("n", "sum")}).table(rows).dicts())
    [{'kind': 'x', 'n': 9223372036854775808}, {'kind': 'y', 'n': 1}]
    >>> list(Reduce(aggregate=lambda frame: {"rows": len(frame)}).table(rows).dicts())
    [{'rows': 3}]
    >>> ask = next(Reduce("kind", worker=lambda pset, system, user: {"rows": len(pset["group"])}).table(rows))
    >>> ask.psets[1]
    {'kind': 'y', 'group': [{'kind': 'y', 'n': 1}]}
    """

    inputs: ClassVar[Inputs] = (1, 1)

    by: Names | None = attrs.field(default=None, converter=attrs.converters.optional(_by))
    aggregate: Any = attrs.field(default=None, kw_only=True, converter=_aggregate)
    worker: Worker | None = attrs.field(default=None, kw_only=True, converter=attrs.converters.optional(as_worker))
    options: dict[str, Any] = attrs.field(default=None, kw_only=True, converter=_map_options)
    allow_missing: bool = attrs.field(default=False, kw_only=True, converter=_allow_missing)
    name: str = attrs.field(default="reduce", kw_only=True, converter=_stage_name)

    def __attrs_post_init__(self) -> None:
        if (self.aggregate is None) == (self.worker is None):
            given = "neither" if self.worker is None else "both"
            raise StageError(f"stage {self.name!r} needs an aggregate or a worker, and was given {given}")
        if self.worker is None and self.options:
            raise StageError(f"stage {self.name!r} has options, which are for a worker, but an aggregate")
        if self.worker is not None and GROUP in self._grouped:
            raise StageError(
                f"stage {self.name!r} groups by the column {GROUP!r}, under which its worker finds the group's rows: "
                "rename it before"
            )
        for new in self._new:
            if new in self._grouped:
                raise StageError(
                    f"stage {self.name!r} makes the column {new!r}, by which it groups: give it another name"
                )

    @property
    def _grouped(self) -> Names:
        return self.by or ()

    @property
    def _new(self) -> Mapping[Hashable, tuple[Hashable, Any]]:
        """The named aggregations."""
        return self.aggregate if isinstance(self.aggregate, dict) else {}

    def columns(self, *inputs: Columns) -> Columns:
        """Return those by which it groups, and the new ones as far as they are known."""
        self._need(_the_only(inputs, self.name))
        return Columns((*self._grouped, *self._new), open=not self._new)

    def table(self, *tables: Table) -> Table | Generator[Ask, MapResults, Table | Made]:
        """Return a row for each group, or ask for them; those that are asked for are shown with any details."""
        table: Table = _the_only(tables, self.name)
        self._need(_columns_in(table))
        groups = _Groups.of(table, self._grouped, self.name)
        if self.worker is not None:
            return self._asked(table, groups)
        made = self._by_names(table, groups) if self._new else self._by_function(table, groups)
        return _side_by_side([groups.keys, made], len(groups.rows))

    def _need(self, columns: Columns) -> None:
        columns.need((*self._grouped, *(column for column, _ in self._new.values())), self.name)

    def _by_names(self, table: Table, groups: _Groups) -> Table:
        columns = [pack(self._aggregated(table, groups, column, how)) for column, how in self._new.values()]
        return Table(tuple(self._new), columns, len(groups.rows))

    def _aggregated(self, table: Table, groups: _Groups, column: Hashable, how: Any) -> list[Any]:
        if column not in table.keys:  # it has no rows, so this is of nothing
            table = Table((column,), [[]], 0)
        if callable(how):
            series = table.only([column]).frame().iloc[:, 0]
            return [how(series.take(rows)) for rows in groups.rows]
        values = _or_holes(table.column(column))
        present = [[values[row] for row in rows if values[row] is not HOLE] for rows in groups.rows]
        return [self._one(how, column, group, groups, each) for each, group in enumerate(present)]

    def _one(self, how: str, column: Hashable, values: list[Any], groups: _Groups, each: int) -> Any:
        try:
            return _AGGREGATIONS[how](values)
        except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise StageError(
                f"stage {self.name!r} cannot take {how!r} of the column {column!r} in {groups.described(each)}, whose "
                f"values begin with {shown(values[:3])}: {type(error).__name__}: {error}"
            ) from error

    def _by_function(self, table: Table, groups: _Groups) -> Table:
        frame = table.frame()
        rows = [self._row(self.aggregate(frame.take(rows)), groups, each) for each, rows in enumerate(groups.rows)]
        return Table(*columns_of(rows), len(rows))

    def _row(self, answer: Any, groups: _Groups, each: int) -> Pset:
        if isinstance(answer, pd.Series) and answer.index.is_unique:
            answer = dict(zip(answer.index.tolist(), answer.tolist(), strict=True))
        if not isinstance(answer, Mapping):
            raise StageError(
                f"stage {self.name!r}: {worker_name(self.aggregate)} returned {shown(answer)} ({type(answer).__name__})"
                f" for {groups.described(each)}; it returns the row as a dict, or as a Series of named values"
            )
        row = dict(answer)
        for reserved in RESERVED.intersection(row):
            raise StageError(
                f"stage {self.name!r} makes the column {reserved!r}, which is the name of one of our own columns; "
                "give it another name"
            )
        given = groups.keys.pset(each)
        for key in self._grouped:
            if key in row and not same(row.pop(key), given.get(key, HOLE)):
                raise StageError(
                    f"stage {self.name!r}: {worker_name(self.aggregate)} returned another value of the column {key!r}, "
                    f"by which it groups, for {groups.described(each)}: give it another name"
                )
        return row

    def _asked(self, table: Table, groups: _Groups) -> Generator[Ask, MapResults, Table | Made]:
        if not groups.rows:
            return groups.keys
        dicts = list(table.dicts())
        psets = [
            {**key, GROUP: [dicts[row] for row in rows]}
            for key, rows in zip(groups.keys.dicts(), groups.rows, strict=True)
        ]
        results = yield Ask(self.worker, psets, self.options)
        if not self.allow_missing:
            self._refuse_missing(results, len(psets))
        answered = results.table.only([key for key in results.table.keys if key != GROUP])
        made = attrs.evolve(answered, index=None)
        if results.details is None:
            return made
        return Made(made, shown=results.results.drop(columns=[GROUP]).reset_index(drop=True))

    def _refuse_missing(self, results: MapResults, total: int) -> None:
        missing = results.missing
        if not len(missing):
            return
        names: list[Hashable] = list(missing.columns)
        first = {name: missing.iloc[:, place].tolist()[0] for place, name in enumerate(names) if name != GROUP}
        where = ", ".join(f"{name}={shown(first.get(name))}" for name in self._grouped) or "the whole table"
        error = StageError(
            f"stage {self.name!r}: {len(missing)} of {total} groups have no answer; the first is {where} "
            f"({first['_kind']}: {first_line(str(first['_exception']))}); allow_missing=True goes on without them"
        )
        error.results = results
        raise error


@attrs.frozen(eq=False)
class _Groups:
    """The groups of a table: the columns that tell them apart, a row for each, and the positions of their rows."""

    keys: Table
    rows: list[list[int]]

    @classmethod
    def of(cls, table: Table, by: Names, stage: str) -> _Groups:
        """Find the groups; without columns to group by the whole table is one, even without rows."""
        if not by:
            return cls(Table((), [], 1), [list(range(table.count))])
        if any(name not in table.keys for name in by):  # it has no rows
            return cls(Table(by, [[] for _ in by], 0), [])
        rows = list(_groups(_keys(table, by, stage)).values())
        return cls(_picked(table.only(by), _positions(group[0] for group in rows)), rows)

    def described(self, each: int) -> str:
        """Name a group in a message."""
        if not self.keys.keys:
            return "the whole table"
        given = self.keys.pset(each)
        return "the group " + _described(self.keys.keys, [given.get(key, HOLE) for key in self.keys.keys])


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
    by: Names = attrs.field(converter=_by)
    largest: bool = attrs.field(default=True, kw_only=True, converter=_largest)
    within: Names | None = attrs.field(default=None, kw_only=True, converter=attrs.converters.optional(_within))
    name: str = attrs.field(default="top", kw_only=True, converter=_stage_name)

    def columns(self, *inputs: Columns) -> Columns:
        """Return those that there are."""
        columns: Columns = _the_only(inputs, self.name)
        columns.need((*self.by, *(self.within or ())), self.name)
        return columns

    def table(self, *tables: Table) -> Made:
        """Return the best rows."""
        table: Table = _the_only(tables, self.name)
        self.columns(_columns_in(table))
        rows = _positions(self._best(table) if table.count else ())
        return Made(_picked(table, rows), (rows,))

    def _best(self, table: Table) -> list[int]:
        columns = [_or_holes(table.column(name)) for name in self.by]
        merits = [tuple(map(_plain, row)) for row in zip(*columns, strict=True)]
        groups = [list(range(table.count))]
        if self.within is not None:
            groups = list(_groups(_keys(table, self.within, self.name)).values())
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

    by: Names = attrs.field(converter=_by)
    largest: bool = attrs.field(default=True, kw_only=True, converter=_largest)
    within: Names | None = attrs.field(default=None, kw_only=True, converter=attrs.converters.optional(_within))
    name: str = attrs.field(default="best", kw_only=True, converter=_stage_name)

    def columns(self, *inputs: Columns) -> Columns:
        """Return those that there are."""
        return self._top.columns(*inputs)

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
    _name: str | None = attrs.field(default=None, kw_only=True, converter=attrs.converters.optional(_stage_name))

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
