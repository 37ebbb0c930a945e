"""Psets on their way to the workers.

A `PsetSource` gives the engine rows to send. `Table` is one, as it stands; dicts become columns slab by slab while the
workers are busy with those before (`DictRows`), because turning a million dicts into columns takes as long as running
the fastest workers on them. Nothing here needs pandas for that: the first psets are on their way before it is imported.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Hashable, Iterable, Iterator, Mapping
from itertools import chain, islice
from operator import countOf
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from paramsurvey.engine.columns import RESERVED, Column, Keys, Pset, columns_if_uniform, columns_of, cut, typed, unpack
from paramsurvey.engine.records import ChunkRows
from paramsurvey.errors import PsetError

if TYPE_CHECKING:
    from paramsurvey.tables import Table

SLAB = 8192
SLAB_AT_FIRST, SLAB_AHEAD = 256, 2048
"""Dicts that become columns before anything is computed, and at a time while the workers are busy: they are few, so
that the first chunks are on their way soon, and the next ones need not wait."""

_WHAT_PSETS_ARE = "psets are a list or iterator of dicts, a DataFrame, or the results of another survey"


class PsetSource(Protocol):
    """Where the rows of a survey come from."""

    def all_keys(self) -> Keys:
        """Return all columns that any row has."""
        ...

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    def rows(self, start: int, stop: int, attempt: int) -> ChunkRows:
        """Return some rows as a chunk carries them."""
        ...

    def pset(self, row: int) -> Pset:
        """Make the dict of one row."""
        ...

    def slice(self, start: int, stop: int) -> Table:
        """Return some rows as a table, without their labels."""
        ...

    def prepare(self) -> bool:
        """Do a millisecond of work ahead, while there is time; return whether there is more to do."""
        ...

    def table(self) -> Table:
        """Return all rows."""
        ...


def psets_of_user(psets: Any, limit: int | None) -> PsetSource:
    """Make a source of whatever the user has as psets; at most `limit` of them.

    Raises
    ------
    PsetError
        They are no psets, one of them is no dict, or a column has a name twice or a name of ours.
    """
    rows = dicts_of(psets, limit)
    if rows is not None:
        return DictRows(rows)
    from paramsurvey.tables import table_of  # who has a table has imported pandas

    return WholeTable(table_of(psets, limit))


@attrs.frozen
class Drawn:
    """Psets that are drawn from an iterator as they are wanted, and not kept."""

    rows: Iterator[Any]


def dicts_of(psets: Any, limit: int | None) -> list[Pset] | None:
    """Return psets that the user has as dicts, as a list of plain ones; None if they come as a table.

    Raises
    ------
    PsetError
        They are neither, or one of them is no dict.
    """
    if is_table(psets):
        return None
    refuse_no_rows(psets)
    return plain_dicts(list(psets) if limit is None else list(islice(psets, limit)))


def refuse_no_rows(psets: Any) -> None:
    """Refuse what is neither a table nor can be gone through for dicts.

    Raises
    ------
    PsetError
        With what to do instead.
    """
    if isinstance(psets, Mapping):
        raise PsetError(
            f"the psets are one {type(psets).__name__} with the keys {_some(psets)}: wrap a single pset in a list, "
            "or make all combinations of lists of values with params.product()"
        )
    if isinstance(psets, str | bytes) or not isinstance(psets, Iterable):
        raise PsetError(f"the psets are {_short(psets)}, a {type(psets).__name__}: {_WHAT_PSETS_ARE}")


def plain_dicts(rows: list[Any], first: int = 0) -> list[Pset]:
    """Return psets as plain dicts; `first` is the number of the first, for what is said of one that is none.

    Raises
    ------
    PsetError
        One of them is no dict.
    """
    if countOf(map(type, rows), dict) < len(rows):
        return [_as_dict(row, position) for position, row in enumerate(rows, first)]
    return rows


def _as_dict(row: Any, position: int) -> dict[Hashable, Any]:
    if isinstance(row, Mapping):
        return dict(row)
    raise PsetError(f"pset {position} is {_short(row)}, a {type(row).__name__}, not a dict: {_WHAT_PSETS_ARE}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _some(keys: Iterable[Hashable]) -> str:
    names = [repr(key) for key in islice(keys, 6)]
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def is_table(psets: Any) -> bool:
    """Whether these are a DataFrame or the results of a survey; asked without importing pandas."""
    frame_type = getattr(sys.modules.get("pandas"), "DataFrame", None)  # None while another thread imports it
    if frame_type is not None and isinstance(psets, frame_type):
        return True
    tables = sys.modules.get("paramsurvey.tables")  # who has one of its own has imported it
    table_type = getattr(tables, "Table", None)
    return table_type is not None and isinstance(getattr(psets, "table", psets), table_type)


def refuse_reserved(keys: Iterable[Hashable]) -> None:
    """Refuse psets that have a column with the name of one of ours."""
    reserved = RESERVED.intersection(keys)
    if reserved:
        raise PsetError(
            f"the psets have a column {min(reserved)!r}, which is the name of one of our own columns: rename it; "
            "or, if these come from another survey, give its results themselves, which are psets, or use its "
            "missing_psets()"
        )


@attrs.frozen
class WholeTable:
    """A table that is there already."""

    whole: Table

    def all_keys(self) -> Keys:
        """Return all columns."""
        return self.whole.keys

    @property
    def count(self) -> int:
        """How many rows there are."""
        return self.whole.count

    def rows(self, start: int, stop: int, attempt: int) -> ChunkRows:
        """Return some rows as a chunk carries them."""
        return self.whole.rows(start, stop, attempt)

    def pset(self, row: int) -> Pset:
        """Make the dict of one row."""
        return self.whole.pset(row)

    def slice(self, start: int, stop: int) -> Table:
        """Return some rows as a table, without their labels."""
        return self.whole.slice(start, stop)

    def prepare(self) -> bool:
        """There is nothing to do."""
        return False

    def table(self) -> Table:
        """Return the table."""
        return self.whole


@attrs.define(eq=False, repr=False)
class DictRows:
    """A list of dicts that becomes columns as far as rows are asked for.

    As long as all dicts have the keys of the first one, slabs are appended to the columns; the first that has others
    makes the columns of all be made anew, with holes. The names in the first slab are looked at before anything is
    computed; one that is refused in a later slab ends the survey as soon as it is seen, with what is finished by then.
    """

    _dicts: list[Pset]
    _keys: Keys = attrs.field(init=False)
    _columns: list[Column] = attrs.field(init=False)
    _filled: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._keys = tuple(self._dicts[0]) if self._dicts else ()
        self._columns = [[] for _ in self._keys]
        refuse_reserved(_names_in(self._dicts[:SLAB]))
        self._fill(min(SLAB_AT_FIRST, self.count))

    def all_keys(self) -> Keys:
        """Return all columns that any dict has."""
        return tuple(dict.fromkeys(chain.from_iterable(self._dicts)))

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self._dicts)

    def rows(self, start: int, stop: int, attempt: int) -> ChunkRows:
        """Return some rows as a chunk carries them."""
        self._fill(stop)
        return ChunkRows(self._keys, cut(self._columns, start, stop), stop - start, attempt)

    def pset(self, row: int) -> Pset:
        """Return a new dict of one row."""
        return dict(self._dicts[row])

    def slice(self, start: int, stop: int) -> Table:
        """Return some rows as a table."""
        from paramsurvey.tables import Table  # as below

        return Table(*self.rows(start, stop, 1)[:3])

    def prepare(self) -> bool:
        """Turn one more slab into columns; return whether there are others."""
        self._fill(min(self._filled + SLAB_AHEAD, self.count))
        return self._filled < self.count

    def table(self) -> Table:
        """Return all rows."""
        from paramsurvey.tables import Table  # imports pandas; by now the survey is over

        self._fill(self.count)
        return Table(self._keys, self._columns, self.count)

    def _fill(self, stop: int) -> None:
        while self._filled < stop:
            slab = self._dicts[self._filled : min(max(stop, self._filled + 1), self._filled + SLAB)]
            columns = columns_if_uniform(slab, self._keys)
            if columns is None:
                self._keys, self._columns = columns_of(self._dicts)
                self._filled = self.count
                refuse_reserved(self._keys)
                return
            self._columns = list(map(_extended, self._columns, columns))
            self._filled += len(slab)


def _names_in(dicts: list[Pset]) -> Iterable[Hashable]:
    """Return the names in some dicts; only those in the first if all have as many, because then they are the same.

    Nearly always, that is. To be sure takes half a millisecond for a slab, in which nobody computes anything; a dict
    with as many names and others is seen when it becomes columns.
    """
    if dicts and sum(map(len, dicts)) == len(dicts) * len(dicts[0]):
        return dicts[0]
    return set[Hashable]().union(*dicts)


def _extended(column: Column, values: list[Any]) -> Column:
    """Append values to a column, which is a typed array as long as it can be."""
    more = typed(values)
    if not len(column):
        return more
    if isinstance(column, array) and isinstance(more, array) and column.typecode == more.typecode:
        column += more  # type: ignore[operator]
        return column
    whole = unpack(column)
    whole += values
    return whole
