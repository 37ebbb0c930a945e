"""Where the rows of a stage are in a journal, and which psets a run has already had; arrays, no objects per row."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import attrs
import numpy as np

from paramsurvey.journal.format import KEY_BYTES
from paramsurvey.journal.keys import Words

Places: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"


class Found(NamedTuple):
    """Keys of rows that follow one another in a record: its number, and the first of them there."""

    record: int
    first: int
    keys: bytes


@attrs.frozen(eq=False, repr=False)
class Known:
    """The rows of a stage that are in the journal, sorted by the first half of their keys.

    Attributes
    ----------
    first, second : array of uint64
        The halves of the keys.
    records, rows : array of uint32
        The record of each, and its place there.
    """

    first: Words
    second: Words
    records: np.ndarray[Any, np.dtype[np.uint32]]
    rows: np.ndarray[Any, np.dtype[np.uint32]]

    @classmethod
    def nothing(cls) -> Known:
        """Return an index of no rows."""
        return cls(np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.uint32), np.empty(0, np.uint32))

    def with_more(self, more: list[Found]) -> Known:
        """Return an index with the rows of further records.

        Of a row that comes twice the later one stays, also if it is another one whose key begins with the same 64 bits:
        a row that is forgotten here is computed once more, and nothing worse.
        """
        keys = np.frombuffer(b"".join([each.keys for each in more]), "<u8").reshape(-1, 2)
        counts = np.array([len(each.keys) // KEY_BYTES for each in more])
        records = np.repeat(np.array([each.record for each in more], np.uint32), counts)
        firsts = np.array([each.first for each in more]) - (np.cumsum(counts) - counts)
        rows = (np.arange(len(keys)) + np.repeat(firsts, counts)).astype(np.uint32)
        first = np.concatenate([self.first, keys[:, 0]])
        order = np.argsort(first, kind="stable")
        first = first[order]
        is_last = np.ones(len(first), bool)
        is_last[:-1] = first[:-1] != first[1:]
        order = order[is_last]
        return Known(
            first[is_last],
            np.concatenate([self.second, keys[:, 1]])[order],
            np.concatenate([self.records, records])[order],
            np.concatenate([self.rows, rows])[order],
        )

    def find(self, keys: Words) -> Places:
        """Return the place of each of these rows in the index, -1 for those that are not in it."""
        if not len(self.first):
            return np.full(len(keys), -1, np.int64)
        order = np.argsort(keys[:, 0])  # one after another they lie near each other: half a second less in a million
        places = np.empty(len(keys), np.int64)
        places[order] = np.searchsorted(self.first, keys[order, 0])
        places[places == len(self.first)] = 0
        is_there = (self.first[places] == keys[:, 0]) & (self.second[places] == keys[:, 1])
        return np.where(is_there, places, -1)


@attrs.define(eq=False, repr=False)
class Seen:
    """How often each pset has come in a run.

    Sorted arrays of the first halves of keys, of which two are merged when the one is as long as the other; so a row
    costs 8 bytes, and there are few arrays to look into. Only psets that do come again are counted one by one.
    """

    _sorted: list[Words] = attrs.field(factory=list, init=False)
    _times: dict[bytes, int] = attrs.field(factory=dict, init=False)

    def count(self, keys: Words) -> Places:
        """Take note of rows; return how often each came before."""
        times = np.zeros(len(keys), np.int64)
        fresh, first_of, inverse, counts = np.unique(
            keys[:, 0], return_index=True, return_inverse=True, return_counts=True
        )
        is_old = np.zeros(len(fresh), bool)
        for one in self._sorted:
            places = np.searchsorted(one, fresh)
            places[places == len(one)] = 0
            is_old |= one[places] == fresh
        again = np.flatnonzero(is_old | (counts > 1))
        if len(again):
            self._count_one_by_one(keys, times, again, first_of, inverse, is_old)
        self._add(fresh[~is_old])
        return times

    def _count_one_by_one(
        self, keys: Words, times: Places, again: Places, first_of: Places, inverse: Places, is_old: Any
    ) -> None:
        one_of = {int(number): keys[first_of[number]].tobytes() for number in again}
        for key, number in ((key, number) for number, key in one_of.items()):
            self._times.setdefault(key, int(is_old[number]))
        for row in np.flatnonzero(np.isin(inverse, again)).tolist():
            key = one_of[int(inverse[row])]
            times[row] = self._times[key]
            self._times[key] += 1

    def _add(self, fresh: Words) -> None:
        if len(fresh):
            self._sorted.append(fresh)
        while len(self._sorted) > 1 and len(self._sorted[-1]) >= len(self._sorted[-2]):
            last = self._sorted.pop()
            self._sorted[-1] = np.sort(np.concatenate([self._sorted[-1], last]), kind="stable")
