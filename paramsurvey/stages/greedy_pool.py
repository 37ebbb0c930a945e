"""The candidates of a greedy search as numbers: who is in, who may still come, what they cost, who excludes whom.

Candidates are numbered in the order in which they were declared, and what is in from the start and is no candidate
after them. All other modules of the search work with these numbers; only what is handed to a worker, and what a user
sees, has keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import pandas as pd

from paramsurvey.engine.columns import Pset
from paramsurvey.errors import StageError
from paramsurvey.options import is_real, nearest_or_all, shown

if TYPE_CHECKING:
    from paramsurvey.stages.greedy import Greedy
    from paramsurvey.tables import Table

Members: TypeAlias = tuple[int, ...]
"""The numbers of what has been picked, in order; what is in from the start is not among them."""

MOST_SHOWN = 60
"""So many candidates are named in messages."""

ROUNDING = 1e-12
"""Relative: sums of the same floats in another order may differ by so much."""


@attrs.frozen(eq=False)
class Pool:
    """The candidates of one search.

    Attributes
    ----------
    table : Table
        The candidates.
    column : hashable
        Which of its columns has the keys.
    keys : tuple
        Of all candidates, and of what is in from the start.
    rows : tuple of dicts
        Their columns, which travel along.
    count : int
        How many are candidates.
    start : tuple of int
        What is in from the start.
    unpicked : tuple of int
        Who may be picked, in declared order: neither in from the start nor excluded.
    costs : tuple of float or None
        What each candidate costs.
    enemies : mapping
        With whom somebody cannot be together.
    requires : mapping
        Without whom somebody cannot be.
    """

    table: Table
    column: Hashable
    keys: tuple[Hashable, ...]
    rows: tuple[Pset, ...]
    count: int
    start: Members
    unpicked: Members
    costs: tuple[float, ...] | None
    enemies: Mapping[int, frozenset[int]]
    requires: Mapping[int, frozenset[int]]

    def cost(self, members: Iterable[int]) -> float:
        """Return what some candidates cost together."""
        return math.fsum(self.costs[each] for each in members) if self.costs is not None else 0.0

    def is_allowed(self, members: Members, budget: float | None) -> bool:
        """Tell whether these may be together: no conflicts, all that they require is there, and all is paid."""
        if budget is not None and self.cost(members) > budget * (1 + ROUNDING):
            return False
        if not self.enemies and not self.requires:
            return True
        there = {*self.start, *members}
        return all(
            not (self.enemies.get(each, _NOBODY) & there) and self.requires.get(each, _NOBODY) <= there
            for each in members
        )

    def eligible(self, members: Members, budget: float | None) -> list[int]:
        """Return who may come next, in declared order."""
        inside = set(members)
        others = [each for each in self.unpicked if each not in inside]
        if not self.enemies and not self.requires and budget is None:
            return others
        return [each for each in others if self.is_allowed((*members, each), budget)]

    def others(self, members: Members) -> list[int]:
        """Return all candidates that are not in, in declared order, whether they may come or not."""
        inside = set(members)
        return [each for each in self.unpicked if each not in inside]


_NOBODY: frozenset[int] = frozenset()


def pool_of(spec: Greedy, candidates: Table, start: Table | None) -> Pool:
    """Make the pool of a search from its tables.

    Raises
    ------
    StageError
        There is no column of keys, a key is missing, comes twice or cannot be one, somebody is named who is no
        candidate, a cost is none, or what is in from the start cannot be together.
    """
    rows = list(candidates.dicts())
    keys = _keys_of(spec, candidates.keys, rows)
    numbers = {key: number for number, key in enumerate(keys)}
    if rows:
        refuse_columns(spec, candidates.keys)
        _refuse_strangers(spec, numbers)
    begin = [*spec.start, *(_keys_of(spec, start.keys, list(start.dicts())) if start is not None else ())]
    for key in begin:
        numbers.setdefault(key, len(numbers))
    if len(set(begin)) < len(begin):
        raise StageError(f"stage {spec.name!r}: start has {_first_twice(begin)!r} twice")
    members = tuple(numbers[key] for key in begin)
    number_of = _finder(spec, numbers)
    out = {number_of(key, "exclude") for key in spec.exclude}
    pool = Pool(
        table=attrs.evolve(candidates, index=None),
        column=key_column(spec, candidates.keys) if rows else spec.key if spec.key is not None else spec.candidate,
        keys=tuple(numbers),
        rows=(*rows, *(_row_of_start(spec, key, start) for key in list(numbers)[len(rows) :])),
        count=len(rows),
        start=members,
        unpicked=tuple(each for each in range(len(rows)) if each not in out and each not in set(members)),
        costs=_costs(spec, keys, rows),
        enemies=_enemies([[number_of(key, "conflicts") for key in group] for group in spec.conflicts]),
        requires={
            number_of(key, "requires"): frozenset(number_of(each, "requires") for each in needed)
            for key, needed in spec.requires.items()
        },
    )
    for each in members:
        if foes := pool.enemies.get(each, _NOBODY) & set(members):
            one, other = pool.keys[each], pool.keys[min(foes)]
            raise StageError(f"stage {spec.name!r}: start has {one!r} and {other!r}, which are in conflict")
    return pool


def key_column(spec: Greedy, names: Sequence[Hashable]) -> Hashable:
    """Tell which column says who a candidate is.

    Raises
    ------
    StageError
        It is not there, or it is unclear which it is.
    """
    if spec.key is not None:
        if spec.key not in names:
            raise StageError(
                f"stage {spec.name!r} knows candidates by the column {spec.key!r} (key=), which they do not have; "
                f"they have: {', '.join(map(repr, names)) or 'none'}"
            )
        return spec.key
    if spec.candidate in names:
        return spec.candidate
    if len(names) == 1:
        return names[0]
    raise StageError(
        f"stage {spec.name!r}: candidates have the columns {', '.join(map(repr, names))}, and none is called "
        f"{spec.candidate!r}: say which tells them apart with key="
    )


def _keys_of(spec: Greedy, names: Sequence[Hashable], rows: Sequence[Pset]) -> list[Hashable]:
    if not rows:
        return []
    column = key_column(spec, names)
    keys: dict[Hashable, int] = {}
    for number, row in enumerate(rows):
        key = row.get(column)
        try:
            before = keys.setdefault(key, number)
        except TypeError:
            raise StageError(
                f"stage {spec.name!r}: candidate {number} has {shown(key)} in its column of keys {column!r}, a "
                f"{type(key).__name__}, which cannot be one: it is not hashable"
            ) from None
        if key is None or key is pd.NA or key is pd.NaT or (isinstance(key, float) and math.isnan(key)):
            raise StageError(f"stage {spec.name!r}: candidate {number} has no key in the column {column!r}")
        if before != number:
            raise StageError(
                f"stage {spec.name!r}: candidates {before} and {number} have the same key {shown(key)} in the column "
                f"{column!r}: keys tell candidates apart; name another column with key="
            )
    return list(keys)


def refuse_columns(spec: Greedy, names: Sequence[Hashable]) -> None:
    """Refuse candidates that lack a column which is needed, or have one that is made.

    Raises
    ------
    StageError
        With the column, and what to do.
    """
    column = key_column(spec, names)
    if spec.cost is not None and not isinstance(spec.cost, Mapping) and spec.cost not in names:
        raise StageError(
            f"stage {spec.name!r} reads what candidates cost in the column {spec.cost!r} (cost=), which they do not "
            f"have; {nearest_or_all(str(spec.cost), [str(name) for name in names])}"
        )
    for name in names:
        if name in spec.told and name != column:
            raise StageError(
                f"stage {spec.name!r} tells workers its choice in the column {name!r}, which candidates have already: "
                "rename one of them (candidate=, picked=, replicate=)"
            )
        if name in spec.own_columns:
            raise StageError(
                f"stage {spec.name!r} makes the column {name!r}, which candidates have already: rename theirs before"
            )
        if name in (spec.metric or ()):
            raise StageError(
                f"stage {spec.name!r} reads its metric {name!r} in the answers, and candidates have a column of that "
                "name: rename theirs, or have the worker give its answer another one"
            )


def _refuse_strangers(spec: Greedy, numbers: Mapping[Hashable, int]) -> None:
    """Refuse a start that names somebody of whom nothing else is known; a second table may have them."""
    for key in spec.start:
        if key not in numbers:
            hint = nearest_or_all(str(key), [str(each) for each in list(numbers)[:MOST_SHOWN]])
            raise StageError(
                f"stage {spec.name!r}: start names {key!r}, which is no candidate ({hint}): have it among the "
                "candidates, too, or in a second table after which the stage comes"
            )


def _row_of_start(spec: Greedy, key: Hashable, start: Table | None) -> Pset:
    """Return the columns of somebody who is in from the start and is no candidate."""
    if start is not None and start.count:
        column = key_column(spec, start.keys)
        for row in start.dicts():
            if row[column] == key:
                return row
    return {spec.key if spec.key is not None else spec.candidate: key}


def _finder(spec: Greedy, numbers: Mapping[Hashable, int]) -> Callable[[Hashable, str], int]:
    def number_of(key: Hashable, option: str) -> int:
        if key not in numbers:
            hint = nearest_or_all(str(key), [str(each) for each in list(numbers)[:MOST_SHOWN]])
            raise StageError(f"stage {spec.name!r}: {option} names {key!r}, which is no candidate; {hint}")
        return numbers[key]

    return number_of


def _enemies(groups: Iterable[Sequence[int]]) -> dict[int, frozenset[int]]:
    enemies: dict[int, set[int]] = {}
    for group in groups:
        for each in group:
            enemies.setdefault(each, set()).update(other for other in group if other != each)
    return {each: frozenset(others) for each, others in enemies.items()}


def _costs(spec: Greedy, keys: Sequence[Hashable], rows: Sequence[Pset]) -> tuple[float, ...] | None:
    if spec.cost is None:
        return None
    by_key = isinstance(spec.cost, Mapping)
    costs = []
    for key, row in zip(keys, rows, strict=True):
        value: Any = spec.cost.get(key) if by_key else row.get(spec.cost)
        value = value.item() if hasattr(value, "item") else value
        if not is_real(value) or not 0 <= value < math.inf:
            where = "cost=" if by_key else f"the column {spec.cost!r}"
            raise StageError(
                f"stage {spec.name!r}: the cost of {key!r} is {shown(value)} ({where}): it is a number, at least 0"
            )
        costs.append(value)
    return tuple(costs)


def _first_twice(keys: Sequence[Hashable]) -> Hashable:
    return next(key for place, key in enumerate(keys) if key in keys[:place])
