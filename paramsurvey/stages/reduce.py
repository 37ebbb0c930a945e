"""The stage `Reduce`: one row of every group of rows, by aggregations, by a function or by a worker.

Groups are in the order of their first rows. What is missing in a column by which rows are grouped is one group of its
own; in a column that is aggregated it is left out.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Mapping
from typing import Any, ClassVar, Final

import attrs
import pandas as pd

from paramsurvey.callables import Worker, as_worker, worker_name
from paramsurvey.engine.columns import HOLE, RESERVED, Pset, columns_of, pack
from paramsurvey.engine.worker import same
from paramsurvey.errors import StageError
from paramsurvey.options import check, shown
from paramsurvey.results import MapResults, first_line
from paramsurvey.stages.accepting import Names, by_names, column_names, one_of, stage_name, the_only, truth
from paramsurvey.stages.aggregations import AGGREGATIONS
from paramsurvey.stages.base import Ask, Bounds, Columns, Inputs, Made
from paramsurvey.stages.comparing import described, keys_of_rows, or_holes, rows_by_key
from paramsurvey.stages.picking import columns_in, picked, positions, side_by_side
from paramsurvey.tables import Table

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
    return {new: _new_column(new, pair) for new, pair in given.items()}


def _new_column(new: Hashable, pair: Any) -> tuple[Hashable, Any]:
    where = f"aggregate[{new!r}]"
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise StageError(f"{where}={shown(pair)}: it is the pair of a column and what to do with it, ('cost', 'sum')")
    if new in RESERVED:
        raise StageError(f"{where}: {new!r} is the name of one of our own columns; give it another name")
    column, how = pair
    column_names([column], where)
    if not callable(how):
        one_of(how, tuple(AGGREGATIONS), where)
    return column, how


def _map_options(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise StageError(f"options={shown(given)}: they are a dict of options of map()")
    check(given, "reduce")
    return dict(given)


def _allow_missing(given: Any) -> bool:
    return truth(given, "allow_missing")


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
    >>> from paramsurvey.tables import table_of
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

    by: Names | None = attrs.field(default=None, converter=attrs.converters.optional(by_names))
    aggregate: Any = attrs.field(default=None, kw_only=True, converter=_aggregate)
    worker: Worker | None = attrs.field(default=None, kw_only=True, converter=attrs.converters.optional(as_worker))
    options: dict[str, Any] = attrs.field(default=None, kw_only=True, converter=_map_options)
    allow_missing: bool = attrs.field(default=False, kw_only=True, converter=_allow_missing)
    name: str = attrs.field(default="reduce", kw_only=True, converter=stage_name)

    def __attrs_post_init__(self) -> None:
        if (self.aggregate is None) == (self.worker is None):
            given = "neither" if self.worker is None else "both"
            raise StageError(
                f"stage {self.name!r} needs an aggregate or a worker, and was given {given}: give one of them"
            )
        if self.worker is None and self.options:
            raise StageError(
                f"stage {self.name!r} has options, which are for a worker, but an aggregate: leave one out"
            )
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
        self._need(the_only(inputs, self.name))
        return Columns((*self._grouped, *self._new), open=not self._new)

    def bounds(self, rows: Bounds) -> Bounds:
        """Return how many groups there are: one, or at most as many as rows."""
        return Bounds(1, 1) if self.by is None else Bounds(min(1, rows.least), rows.most)

    def table(self, *tables: Table) -> Table | Generator[Ask, MapResults, Table | Made]:
        """Return a row for each group, or ask for them; those that are asked for are shown with any details."""
        table: Table = the_only(tables, self.name)
        self._need(columns_in(table))
        groups = _Groups.of(table, self._grouped, self.name)
        if self.worker is not None:
            return self._asked(table, groups)
        made = self._by_names(table, groups) if self._new else self._by_function(table, groups)
        return side_by_side([groups.keys, made], len(groups.rows))

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
        values = or_holes(table.column(column))
        present = [[values[row] for row in rows if values[row] is not HOLE] for rows in groups.rows]
        return [self._one(how, column, group, groups, each) for each, group in enumerate(present)]

    def _one(self, how: str, column: Hashable, values: list[Any], groups: _Groups, each: int) -> Any:
        try:
            return AGGREGATIONS[how](values)
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
        rows = list(rows_by_key(keys_of_rows(table, by, stage)).values())
        return cls(picked(table.only(by), positions(group[0] for group in rows)), rows)

    def described(self, each: int) -> str:
        """Name a group in a message."""
        if not self.keys.keys:
            return "the whole table"
        given = self.keys.pset(each)
        return "the group " + described(self.keys.keys, [given.get(key, HOLE) for key in self.keys.keys])
