"""How values travel: columns, not rows.

A table of dicts becomes one sequence per key, and a sequence of plain numbers becomes a typed array. That is what makes
a pset cost tens of nanoseconds on the wire instead of hundreds. No value changes on the way:

==================================  ==========================  =====================================
all values of the column are        it travels as               and comes back as
==================================  ==========================  =====================================
`int`, within 64 bits               ``array("q")``              `int`
`float`                             ``array("d")``              `float`, to the last bit
one numpy number type               ``numpy.ndarray``           scalars of that type
anything else, mixed, or short      `list`                      the same objects
==================================  ==========================  =====================================

A row that lacks a key has `HOLE` there. Both sides of the wire use this module, so it imports neither pandas nor numpy.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache, partial
from itertools import chain, groupby
from operator import countOf, itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np

Column: TypeAlias = "list[Any] | array[int] | array[float] | np.ndarray[Any, Any] | memoryview"
"""A `memoryview` is a typed array that somebody else owns, a user's frame: what travels is cut out of it."""

Pset: TypeAlias = dict[Hashable, Any]
Keys: TypeAlias = tuple[Hashable, ...]
PsetMaker: TypeAlias = "Callable[[Iterable[tuple[Any, ...]]], list[Pset]]"


class Hole:
    """The absence of a key in a row; there is one, `HOLE`, in every process."""

    __slots__ = ()

    def __reduce__(self) -> str:
        return "HOLE"

    def __repr__(self) -> str:
        return "HOLE"


HOLE = Hole()


class Remote:
    """A value that is still where it was computed; a backend may have these in the place of large answers.

    It travels to other workers as it is, and becomes the value there. Whoever looks at values in the driver has it
    brought (`brought`).
    """

    __slots__ = ()

    def bring(self) -> Any:
        """Return the value, from wherever it is; raises `BackendError` if it is lost, or what its unpickling raises."""
        raise NotImplementedError


def has_remote(column: Column) -> bool:
    """Tell whether some value of a column is elsewhere."""
    return type(column) is list and any(issubclass(kind, Remote) for kind in set(map(type, column)))


def brought(column: Column) -> Column:
    """Return a column with all its values here; one that is lost stays what it is, and says so by its `repr`."""
    return [_brought(value) for value in column] if has_remote(column) else column


def _brought(value: Any) -> Any:
    if not isinstance(value, Remote):
        return value
    try:
        return value.bring()
    except Exception:  # noqa: BLE001 - it is lost, or its own class raises
        return value


AT_A_TIME = 256
"""Dicts of an iterator that are made together."""

SHORT = 16
"""A column of fewer values travels as a list: pickling an array costs a microsecond before its first value."""

DETAILS = (
    *("_status", "_attempts", "_ends", "_host", "_pid", "_start", "_seconds", "_cpu_seconds", "_memory", "_seed"),
    *("_stdout", "_stderr"),
)
"""What a row says of itself if it is asked to, beside its answers."""

RESERVED = frozenset({"_exception", "_traceback", "_kind", *DETAILS})
"""The names of our own columns: no pset and no answer may have them."""


def pack(values: list[Any]) -> Column:
    """Give a list of values the form in which it travels best, without changing any."""
    return values if len(values) < SHORT else typed(values)


def typed(values: list[Any]) -> Column:
    """Make a typed array of a list of values, if one can hold them without changing any."""
    if not values or countOf(map(type, values), type(values[0])) < len(values):
        return values
    return _typed_of(type(values[0]), values)


def typed_as(kinds: Set[type], values: list[Any]) -> Column:
    """Do the same for values whose types are known already."""
    return _typed_of(next(iter(kinds)), values) if len(kinds) == 1 else values


def _typed_of(kind: type, values: list[Any]) -> Column:
    if kind is int:
        try:
            return array("q", values)
        except OverflowError:
            return values
    if kind is float:
        return array("d", values)
    if kind.__module__ == "numpy":
        return _pack_numpy(kind, values)
    return values


def _pack_numpy(kind: type, values: list[Any]) -> Column:
    np = sys.modules["numpy"]  # its own type is here, so it was imported
    if issubclass(kind, (np.number, np.bool_)) and kind is not np.timedelta64:  # whose values have units of their own
        packed: Column = np.array(values, dtype=kind)
        return packed
    return values


def spread(keys: Keys, own: Keys, columns: Sequence[Column], count: int) -> Sequence[Column]:
    """Return the columns of some rows in the order of all keys; the values of a key that they lack are holes."""
    if own == keys:
        return columns
    known = dict(zip(own, columns, strict=True))
    holes = [HOLE] * count
    return [known.get(key, holes) for key in keys]


def stacked(columns: Sequence[Column]) -> Column:
    """Put columns under one another, as one that is typed if all of them can be."""
    if set(map(type, columns)) == {list}:
        return typed(list(chain.from_iterable(columns)))
    columns = [_comparable(column) for column in _lists_joined(columns)]
    kinds = set(map(_form, columns))
    if len(kinds) == 1 and isinstance(columns[0], array):
        whole = array(columns[0].typecode)
        for column in columns:
            whole += column  # type: ignore[arg-type]
        return whole
    if len(kinds) == 1 and not isinstance(columns[0], list):
        joined: Column = sys.modules["numpy"].concatenate(columns)
        return joined
    values: list[Any] = []
    for column in columns:
        values += unpack(column)
    return values


def _comparable(column: Column) -> Column:
    if isinstance(column, memoryview):
        return part_of(column, 0, len(column))
    return typed(column) if isinstance(column, list) else column


def _lists_joined(columns: Sequence[Column]) -> Iterator[Column]:
    """Make one list of lists that follow one another: short parts come as lists."""
    for is_list, run in groupby(columns, lambda column: isinstance(column, list)):
        if is_list:
            yield list(chain.from_iterable(run))
        else:
            yield from (column for column in run if len(column))


def _form(column: Column) -> str:
    """Say what holds the values of a column: two of one form can be put together as they are."""
    if isinstance(column, array):
        return column.typecode
    return "objects" if isinstance(column, list) else str(column.dtype)  # type: ignore[union-attr] # numpy's


def unpack(column: Column) -> list[Any]:
    """Return the values of a column as a list of the objects that went in."""
    if isinstance(column, array | memoryview):
        return column.tolist()
    return column if isinstance(column, list) else list(column)


def is_plain(column: Column) -> bool:
    """Tell whether the fast pickler can carry this column: numbers and text, no classes of the user's."""
    if not isinstance(column, list):
        return True
    return type(column[0]) in _PLAIN if len(column) == 1 else _PLAIN.issuperset(map(type, column))


_PLAIN = frozenset({int, float, bool, str, bytes, complex, type(None), Hole})


def columns_of(rows: Sequence[Mapping[Hashable, Any]]) -> tuple[Keys, list[Column]]:
    """Turn dicts into columns; keys in the order of their first appearance.

    Examples
    --------
    >>> columns_of([{"a": 1}, {"a": 2, "b": "x"}])
    (('a', 'b'), [[1, 2], [HOLE, 'x']])
    """
    if not rows:
        return (), []
    keys = tuple(rows[0])
    columns = columns_if_uniform(rows, keys)
    if columns is None:
        keys = tuple(dict.fromkeys(chain.from_iterable(rows)))
        columns = [[row.get(key, HOLE) for row in rows] for key in keys]
    return keys, [pack(column) for column in columns]


def columns_if_uniform(rows: Sequence[Mapping[Hashable, Any]], keys: Keys) -> list[list[Any]] | None:
    """Return the values by key if every row has exactly these keys, in any order; else None."""
    if sum(map(len, rows)) != len(keys) * len(rows):
        return None
    try:  # with so many items in all, no row that has all of the keys can have another one
        return [list(map(itemgetter(key), rows)) for key in keys]
    except KeyError:
        return None


def all_have_exactly(rows: Sequence[Mapping[Hashable, Any]], keys: Keys) -> bool:
    """Tell whether every row has these keys and no others, in any order."""
    if sum(map(len, rows)) != len(keys) * len(rows):
        return False
    return set(keys).issuperset(set().union(*rows))  # with so many items in all, none lacks one either


def psets_of(keys: Keys, columns: Sequence[Column], count: int) -> Iterator[Pset]:
    """Make the dicts of `count` rows, each a new one, with its holes left out."""
    make = maker_of_psets(keys, columns, count)
    return chain.from_iterable(make(first, first + AT_A_TIME) for first in range(0, count, AT_A_TIME))


def maker_of_psets(keys: Keys, columns: Sequence[Column], count: int) -> Callable[[int, int], list[Pset]]:
    """Return a function that makes the dicts of the rows from a first one up to another, or to the last."""
    if not keys:
        return lambda first, stop: [{} for _ in range(first, min(stop, count))]
    if any(map(has_holes, columns)):
        make: PsetMaker = partial(_psets_with_holes, keys)
    elif count < SHORT:  # less than it takes to find, let alone compile, what makes them faster
        make = partial(_few_psets, keys)
    else:
        make = _pset_maker(keys)
    values = list(map(unpack, columns))
    return lambda first, stop: make(zip(*[column[first:stop] for column in values], strict=True))


def pset_at(keys: Keys, columns: Sequence[Column], row: int) -> Pset:
    """Make the dict of one row."""
    return {key: value for key, column in zip(keys, columns, strict=True) if (value := column[row]) is not HOLE}


def has_holes(column: Column) -> bool:
    """Tell whether some row lacks this key. Types are looked at, so that no user's object is asked for equality."""
    return type(column) is list and Hole in set(map(type, column))


def _psets_with_holes(keys: Keys, rows: Iterable[tuple[Any, ...]]) -> list[Pset]:
    return [{key: value for key, value in zip(keys, row, strict=True) if value is not HOLE} for row in rows]


def _few_psets(keys: Keys, rows: Iterable[tuple[Any, ...]]) -> list[Pset]:
    return [dict(zip(keys, row, strict=True)) for row in rows]


@lru_cache(maxsize=128)
def _pset_maker_of(keys: Keys, _types: tuple[type, ...]) -> PsetMaker:
    """Compile ``lambda rows: [{"a": v0, "b": v1} for v0, v1 in rows]``: 3 times as fast as ``dict(zip(keys, row))``."""
    values = [f"v{i}" for i in range(len(keys))]
    names = {f"k{i}": key for i, key in enumerate(keys)}
    literals = [repr(key) if type(key) is str else name for name, key in names.items()]
    items = ", ".join(f"{literal}: {value}" for literal, value in zip(literals, values, strict=True))
    # `k0` and its kin are global names there
    maker: PsetMaker = eval(f"lambda rows: [{{{items}}} for {', '.join(values)}, in rows]", names)  # noqa: S307 - no user text
    return maker


def _pset_maker(keys: Keys) -> PsetMaker:
    return _pset_maker_of(keys, tuple(map(type, keys)))  # 1 and True are equal keys, and not the same


def cut(columns: Sequence[Column], start: int, stop: int) -> list[Column]:
    """Return the rows from `start` up to `stop` of every column."""
    if stop - start < SHORT:
        return [unpack(column[start:stop]) for column in columns]
    return [part_of(column, start, stop) for column in columns]


def part_of(column: Column, start: int, stop: int) -> Column:
    """Return the rows from `start` up to `stop` of a column, in memory of their own."""
    piece = column[start:stop]
    if isinstance(piece, memoryview):  # numpy has two names for 64-bit ints, "l" and "q"
        return array("d" if piece.format == "d" else "q", piece.tobytes())
    return piece
