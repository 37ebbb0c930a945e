"""What is in the journal is not computed again: a sieve between the rows that come into a survey and its lane.

Rows are looked up in the journal when they come in, a slab at a time, however they come: out of a whole table, from the
stages above, or asked for by a stage. Those that are known are *recalled*: they come back at once, as if a worker had
returned them. The lane sees the others only, under numbers of their own, so chunks are as large as ever if every other
row is known. What the lane says of its rows is told under the numbers of the survey (`place`, `number`).

A slab with rows of both kinds comes back in two pieces, in each of which the rows of the other look like failures that
are tried again; so everybody who deals with parts deals with these.

It stands between the two so that neither a survey nor its lane need know of journals; without one there is no sieve.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs
import numpy as np

from paramsurvey.engine.columns import DETAILS
from paramsurvey.engine.dispatcher import Lost, Taken, cut_out
from paramsurvey.engine.records import ChunkRows, Failure, Part
from paramsurvey.flow import Arrivals, Direct, Feed
from paramsurvey.journal.format import KEY_BYTES
from paramsurvey.journal.ledger import Ledger, Recalled
from paramsurvey.progress import FromJournal
from paramsurvey.psets import SLAB
from paramsurvey.tables import Table, concatenated

ELSEWHERE: Final = Failure("cancelled", "this row comes in another piece")
"""What stands for a row of a slab that has come, or will come, in another piece."""

WHOLE_TABLE_ROWS: Final = 8 * SLAB
"""Rows that are looked up at once if all are there: enough for chunks of the fastest workers."""


@attrs.frozen(eq=False, repr=False)
class Slab:
    """The rows of a slab that are to be computed.

    Parameters
    ----------
    start : int
        The number of the first in the lane.
    count : int
        How many.
    first : int
        The number of the first in the survey.
    numbers : array of int64 or None
        The numbers of all in the survey; None if they follow one another.
    table : Table or None
        The rows; None if they follow one another, and are got from the feed.
    """

    start: int
    count: int
    first: int
    numbers: Any = None
    table: Table | None = None


@attrs.define(eq=False, repr=False)
class Sieve:
    """The rows of a survey that are not in the journal: the source of its lane.

    Parameters
    ----------
    feed : Feed
        The rows as they come.
    ledger : Ledger
        What is known.
    tally : FromJournal
        Counts what is known.
    come_back : callable
        Takes rows that are known.
    is_held : callable
        Tells whether nothing more should come back for now.
    details : frozenset of str
        The details that rows of this run have: those in the journal may have others.
    """

    feed: Feed
    ledger: Ledger
    tally: FromJournal
    come_back: Callable[[Taken], None]
    is_held: Callable[[], bool]
    details: frozenset[str]
    _seen: int = attrs.field(default=0, init=False)  # rows of the feed
    _count: int = attrs.field(default=0, init=False)  # rows of the lane
    _starts: list[int] = attrs.field(factory=list, init=False)
    _slabs: list[Slab] = attrs.field(factory=list, init=False)
    _keys: bytearray = attrs.field(factory=bytearray, init=False)
    _nameless: set[int] = attrs.field(factory=set, init=False)

    # What a lane wants of its source

    @property
    def unseen(self) -> int:
        """How many rows have come and were not looked up."""
        return self.feed.count - self._seen

    @property
    def closed(self) -> bool:
        """Whether all rows have come through."""
        return self.feed.closed and not self.unseen

    @property
    def expected(self) -> int:
        """How many more rows will come, at most."""
        return self.unseen + self.feed.expected

    def pull(self) -> int:
        """Look up the next slab; return how many of it are to be computed.

        If all are known, somebody has to stir the lane when they have been dealt with.
        """
        if self.is_held():
            return 0
        if not self.unseen and not self.feed.pull():
            return 0
        most = WHOLE_TABLE_ROWS if isinstance(self.feed, Direct) else SLAB
        start, self._seen = self._seen, min(self.feed.count, self._seen + most)
        table = self.feed.slice(start, self._seen)
        known = self.ledger.recall(table)
        rest = np.ones(table.count, bool)
        rest[known.rows] = False
        rest[[lost.row for lost in known.lost]] = False
        rows = np.flatnonzero(rest)
        self._take_in(start, rows, table, known)
        if len(rows) < table.count:
            self._recall(start, rows, table.count, known)
        return len(rows)

    def _take_in(self, start: int, rows: Any, table: Table, known: Recalled) -> None:
        count = len(rows)
        if not count:
            return
        follow = int(rows[-1]) - int(rows[0]) + 1 == count
        first = start + int(rows[0])
        more = () if follow else (rows + start, table.take(rows))
        self._add(Slab(self._count, count, first, *more))
        self._keys += known.keys[rows].tobytes()
        if known.nameless:
            places = np.searchsorted(rows, known.nameless)
            self._nameless.update((self._count - count + places).tolist())

    def _add(self, slab: Slab) -> None:
        self._starts.append(slab.start)
        self._slabs.append(slab)
        self._count += slab.count

    def _recall(self, start: int, rest: Any, count: int, known: Recalled) -> None:
        self.tally.finished += len(known.rows)
        self.tally.lost += len(known.lost)
        failures = [(row, ELSEWHERE) for row in rest.tolist()]
        if known.lost:
            failures = sorted([*failures, *((lost.row, lost.failure) for lost in known.lost)])
        answers = known.answers.only([key for key in known.answers.keys if key not in DETAILS or key in self.details])
        part = Part(0, count, answers.keys, answers.columns, failures, (), (), {})
        lost = [self._told(one, start) for one in known.lost]
        self.come_back(Taken(start, part, lost, attempt=0))

    def _told(self, lost: Lost, start: int) -> Lost:
        """Return a row that was lost in an earlier run as one of this one."""
        facts = tuple((key, value) for key, value in lost.failure.facts if key in self.details)
        return lost._replace(row=start + lost.row, failure=lost.failure._replace(facts=facts))

    def rows(self, start: int, stop: int, attempt: int) -> ChunkRows:
        """Return some rows as a chunk carries them."""
        slab = self._slabs[bisect.bisect_right(self._starts, start) - 1]
        if slab.table is None and stop <= slab.start + slab.count:
            shift = slab.first - slab.start
            return self.feed.rows(start + shift, stop + shift, attempt)
        return self.slice(start, stop).rows(0, stop - start, attempt)

    def slice(self, start: int, stop: int) -> Table:
        """Return some rows."""
        cuts = []
        for slab, first, last in self._cuts(start, stop):
            if slab.table is None:
                cuts.append(self.feed.slice(slab.first + first, slab.first + last))
            else:
                cuts.append(slab.table.slice(first, last))
        return concatenated(cuts)

    def _cuts(self, start: int, stop: int) -> Iterator[tuple[Slab, int, int]]:
        """Yield the slabs in which rows are, and from where to where in each."""
        place = bisect.bisect_right(self._starts, start) - 1
        for slab in self._slabs[place : bisect.bisect_left(self._starts, stop)]:
            yield slab, max(0, start - slab.start), min(slab.count, stop - slab.start)

    # What the lane says, under the numbers of the survey

    def number(self, row: int) -> int:
        """Return the number in the survey of a row of the lane."""
        slab = self._slabs[bisect.bisect_right(self._starts, row) - 1]
        place = row - slab.start
        return slab.first + place if slab.numbers is None else int(slab.numbers[place])

    def place(self, taken: Taken) -> Iterator[Taken]:
        """Yield what has come back, slab by slab."""
        for slab, first, stop in self._cuts(taken.start, taken.start + taken.part.count):
            start = slab.start + first - taken.start
            piece, lost = share_of(taken, start, start + stop - first)
            lost = [one._replace(row=self.number(one.row)) for one in lost]
            if slab.numbers is None:
                yield taken._replace(start=slab.first + first, part=piece, lost=lost)
            else:
                piece = spread(piece, slab.numbers[first:stop])
                yield taken._replace(start=int(slab.numbers[first]), part=piece, lost=lost)

    # What is remembered

    def record(self, taken: Taken) -> None:
        """Have the journal remember what has come back; under the numbers of the lane."""
        start, part = taken.start, taken.part
        psets, left_out = None, {row - part.first for row, _ in part.failures}
        left_out |= {row - start for row in self._nameless if start <= row < start + part.count}
        if len(left_out) < part.count:
            psets, answers = self.slice(start, start + part.count), Table(part.keys, part.columns, part.count)
            keys = bytes(self._keys[KEY_BYTES * start : KEY_BYTES * (start + part.count)])
            if left_out:
                keep = np.delete(np.arange(part.count), sorted(left_out))
                psets, keys = psets.take(keep), b"".join(self._key(start + row) for row in keep.tolist())
                if self._nameless:
                    answers = self._without_nameless(answers, part, start)
            self.ledger.record(keys, psets.portable(), (answers.keys, answers.columns))
        for lost in taken.lost:
            self.record_lost(lost)

    def _without_nameless(self, answers: Table, part: Part, start: int) -> Table:
        failed = {row for row, _ in part.failures}
        rows = [row for row in range(part.first, part.first + part.count) if row not in failed]
        keep = [place for place, row in enumerate(rows) if start + row - part.first not in self._nameless]
        return attrs.evolve(answers, count=len(rows)).take(np.array(keep, np.int64))

    def record_lost(self, lost: Lost) -> None:
        """Have the journal remember that a row is lost; under its number of the lane."""
        if lost.row not in self._nameless:
            self.ledger.record_lost(self._key(lost.row), self.slice(lost.row, lost.row + 1).portable(), [lost])

    def _key(self, row: int) -> bytes:
        return bytes(self._keys[KEY_BYTES * row : KEY_BYTES * (row + 1)])

    def pull_the_rest(self) -> int:
        """Bring in what has come this far without looking it up: it will not be computed. Return how many."""
        if isinstance(self.feed, Arrivals):
            self.feed.pull_the_rest()
        start, self._seen = self._seen, self.feed.count
        if self._seen > start:
            self._add(Slab(self._count, self._seen - start, start))
        return self._seen - start


def share_of(taken: Taken, start: int, stop: int) -> tuple[Part, list[Lost]]:
    """Return the rows `start` up to `stop` of what has come, counted from its beginning; the first has the times."""
    if stop - start == taken.part.count:
        return taken.part, taken.lost
    piece = cut_out(taken.part, start, stop)
    if start:
        piece = piece._replace(seconds=(), counts=(), raw_stats={})
    return piece, [one for one in taken.lost if taken.start + start <= one.row < taken.start + stop]


def spread(part: Part, numbers: Any) -> Part:
    """Return a part whose rows have these numbers, which need not follow one another, with the others as failures."""
    first = int(numbers[0])
    places = numbers - first
    failed = {int(places[row - part.first]): failure for row, failure in part.failures}
    others = np.ones(int(places[-1]) + 1, bool)
    others[places] = False
    failures = sorted([*failed.items(), *((row, ELSEWHERE) for row in np.flatnonzero(others).tolist())])
    return part._replace(first=0, count=len(others), failures=failures)
