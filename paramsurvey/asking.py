"""What a whole-table stage has asked one worker, and what has come of it: a survey to which rows are added.

A stage that asks in rounds would pay for a survey in each: to serialise its worker, to bring it to where it runs, to
open and to close. So there is one for all that it asks one worker with one set of options. Each ask is a *block* of
rows at its end; what comes back is sorted into the blocks, and a block is let go when it has been told. So what is kept
does not grow with the number of asks.

Of the blocks of an ``Ask(until="all")`` the stage is told when they are whole, as of a survey of their own. Those of
``until="first"`` are one row of numbers to the stage; it is told of whatever has come, and how much is still to come.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from operator import or_
from typing import TYPE_CHECKING, Any

import attrs

from paramsurvey.engine.columns import Pset, psets_of
from paramsurvey.engine.dispatcher import Lost, Taken, cut_out
from paramsurvey.engine.records import ChunkRows, Failure, Part, of_keys
from paramsurvey.progress import MapProgress
from paramsurvey.psets import PsetSource
from paramsurvey.stages.base import Answers

if TYPE_CHECKING:
    from paramsurvey.results import MapResults
    from paramsurvey.stats import PerfStats
    from paramsurvey.tables import Table


@attrs.define(eq=False, repr=False)
class Block:
    """The rows of one ask.

    Parameters
    ----------
    start : int
        The number of its first row in the survey.
    psets : PsetSource
        The rows.
    number : int or None
        The number by which the stage knows its first row, if it is told of them as they come.
    """

    start: int
    psets: PsetSource
    number: int | None
    left: int = attrs.field(init=False)  # rows that are neither finished nor lost
    known: int = attrs.field(default=0, init=False)  # rows that were in the journal
    parts: list[tuple[int, Part]] = attrs.field(factory=list, init=False)  # with the row of the block where each begins
    lost: list[Lost] = attrs.field(factory=list, init=False)  # by rows of the block

    def __attrs_post_init__(self) -> None:
        self.left = self.psets.count

    @property
    def stop(self) -> int:
        """The number of the row after its last."""
        return self.start + self.psets.count

    def results(self, name: str, stats: PerfStats) -> MapResults:
        """Return what came of it, as a survey of its own would."""
        import numpy as np

        from paramsurvey.results import MapResults
        from paramsurvey.tables import joined

        lost = sorted(self.lost, key=lambda one: one.row)
        psets, count = self.psets.table(), self.psets.count
        raised = sum(one.failure.kind == "raised" for one in lost)
        answers = [(row, of_keys(part, wanted=False)) for row, part in self.parts]
        details = [(row, of_keys(part, wanted=True)) for row, part in self.parts]
        return MapResults(
            table=joined(psets, answers)[0],
            psets=psets.take(np.array([one.row for one in lost], np.int64)),
            lost=lost,
            progress=MapProgress(
                count,
                finished=count - len(lost),
                failures=len(lost),
                exceptions=raised,
                from_journal=self.known,
            ),
            stats=stats,
            name=name,
            details=joined(psets, details)[0] if any(part.keys for _, part in details) else None,
        )


@attrs.define(eq=False, repr=False)
class Asked:
    """The rows that a stage asks one worker for: a feed of a survey that is open until the stage is over.

    Attributes
    ----------
    count : int
        How many rows it has asked for so far.
    outstanding : int
        How many of those that it is told of as they come are under way.
    """

    closed: bool = attrs.field(default=False, init=False)
    expected: int = attrs.field(default=0, init=False)
    count: int = attrs.field(default=0, init=False)
    outstanding: int = attrs.field(default=0, init=False)
    _starts: list[int] = attrs.field(factory=list, init=False)
    _blocks: dict[int, Block] = attrs.field(factory=dict, init=False)  # by their starts
    _awaited: Block | None = attrs.field(default=None, init=False)  # the stage waits for all of this
    _numbered: int = attrs.field(default=0, init=False)  # rows of which it is told as they come
    _rows: list[tuple[int, Pset]] = attrs.field(factory=list, init=False)  # of which it was not told yet
    _lost: list[tuple[int, Failure]] = attrs.field(factory=list, init=False)
    _seconds: dict[int, float] = attrs.field(factory=dict, init=False)
    _attempts: dict[int, int] = attrs.field(factory=dict, init=False)
    _earlier: dict[int, tuple[Failure, ...]] = attrs.field(factory=dict, init=False)
    _details: dict[int, dict[str, Any]] = attrs.field(factory=dict, init=False)

    @classmethod
    def of(cls, psets: PsetSource, until: str) -> Asked:
        """Return the feed of a first ask."""
        feed = cls()
        feed.put(psets, until)
        return feed

    # What the stage asks, and is told

    def put(self, psets: PsetSource, until: str) -> None:
        """Add the rows of an ask."""
        block = Block(self.count, psets, self._numbered if until == "first" else None)
        self.count += psets.count
        if until == "first":
            self._numbered += psets.count
            self.outstanding += psets.count
        self._awaited = None if until == "first" else block
        if psets.count:
            self._starts.append(block.start)
            self._blocks[block.start] = block

    def wait_for_first(self) -> None:
        """Be ready as soon as anything has come of what is under way."""
        self._awaited = None

    @property
    def is_ready(self) -> bool:
        """Whether there is an answer to the last ask."""
        if self._awaited is not None:
            return not self._awaited.left
        return bool(self._rows or self._lost or not self.outstanding)

    @property
    def awaits_results(self) -> bool:
        """Whether the last ask is to be answered by results, with their times."""
        return self._awaited is not None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, and nothing it may say later refers to numbers that the stage knows."""
        return not self._blocks and not self._numbered

    def answer(self, name: str, stats: PerfStats, slots: int) -> MapResults | Answers:
        """Return the answer to the last ask; `name` and `stats` are those of the survey."""
        if self._awaited is not None:
            block, self._awaited = self._awaited, None
            self._forget(block)
            return block.results(name, stats)
        told = Answers(
            self._rows,
            self._lost,
            self.outstanding,
            slots,
            self._seconds,
            self._attempts,
            self._earlier,
            self._details,
        )
        self._rows, self._lost, self._seconds = [], [], {}
        self._attempts, self._earlier, self._details = {}, {}, {}
        return told

    # What has come of it

    def note(self, item: Taken | Lost) -> None:
        """Take note of rows that have come back, or will not."""
        if isinstance(item, Lost):
            self._note_lost(self._block_at(item.row), item)
            return
        start, part = item.start, item.part
        for block in list(self._blocks_in(start, start + part.count)):
            first, stop = max(start, block.start), min(start + part.count, block.stop)
            piece = part if stop - first == part.count else cut_out(part, first - start, stop - start)
            block.left -= piece.count - len(piece.failures)  # of the failures, some are tried again
            if block.number is None:
                block.known += 0 if item.attempt else piece.count - len(piece.failures)
                block.parts.append((first - block.start, piece._replace(seconds=(), counts=(), raw_stats={})))
            else:
                self._note_rows(block, first - block.start, piece, seconds_of(part, first - start), item.attempt)
                self._forget_if_through(block)
        for lost in item.lost:
            self._note_lost(self._block_at(lost.row), lost)

    def _note_rows(self, block: Block, first: int, whole: Part, seconds: Iterator[float], attempt: int) -> None:
        """Take note of what a stage is told as it comes: in few steps, because meanwhile slots may wait for it."""
        assert block.number is not None
        part = of_keys(whole, wanted=False)
        places: Sequence[int] = range(first, first + part.count)
        if part.failures:
            failed = {first + row - part.first for row, _ in part.failures}
            took = dict(zip(places, seconds, strict=False))
            places = [place for place in places if place not in failed]
            seconds = (took[place] for place in places if place in took)
        numbers = [block.number + place for place in places]
        answers = psets_of(part.keys, part.columns, len(numbers))
        self._rows += zip(numbers, map(or_, map(block.psets.pset, places), answers), strict=True)
        self._seconds.update(zip(numbers, seconds, strict=False))  # those of a part that was cut off go on
        self.outstanding -= len(numbers)
        if attempt != 1:
            self._attempts.update(dict.fromkeys(numbers, attempt))
        if part is not whole:
            self._details.update(zip(numbers, _details_in(whole), strict=True))

    def _note_lost(self, block: Block, lost: Lost) -> None:
        block.left -= 1
        row = lost.row - block.start
        if block.number is None:
            block.lost.append(lost._replace(row=row))
            return
        number = block.number + row
        self._lost.append((number, lost.failure))
        self.outstanding -= 1
        if lost.attempts != 1:
            self._attempts[number] = lost.attempts
            self._earlier[number] = lost.earlier
        self._forget_if_through(block)

    def _forget_if_through(self, block: Block) -> None:
        if not block.left:
            self._forget(block)

    def _forget(self, block: Block) -> None:
        if self._blocks.pop(block.start, None) is not None:
            self._starts.remove(block.start)

    def _block_at(self, row: int) -> Block:
        return self._blocks[self._starts[bisect.bisect_right(self._starts, row) - 1]]

    def _blocks_in(self, start: int, stop: int) -> Iterator[Block]:
        first = bisect.bisect_right(self._starts, start) - 1
        return (self._blocks[each] for each in self._starts[max(0, first) : bisect.bisect_left(self._starts, stop)])

    # What a survey wants of its feed

    def pull(self) -> int:
        """Nothing comes from further up: the survey is told of what is asked."""
        return 0

    def rows(self, start: int, stop: int, attempt: int) -> ChunkRows:
        """Return some rows as a chunk carries them."""
        block = self._block_at(start)
        if stop <= block.stop:
            return block.psets.rows(start - block.start, stop - block.start, attempt)
        return self.slice(start, stop).rows(0, stop - start, attempt)

    def pset(self, row: int) -> Pset:
        """Make the dict of one row."""
        block = self._block_at(row)
        return block.psets.pset(row - block.start)

    def slice(self, start: int, stop: int) -> Table:
        """Return some rows; they may lie in several blocks."""
        from paramsurvey.tables import concatenated

        return concatenated(
            [
                block.psets.slice(max(start, block.start) - block.start, min(stop, block.stop) - block.start)
                for block in self._blocks_in(start, stop)
            ]
        )

    def release(self, start: int, count: int) -> None:
        """No row is let go before the others of its block."""

    def table(self) -> Table:
        """Return the rows of what was not told yet."""
        from paramsurvey.tables import concatenated

        return concatenated([self._blocks[start].psets.table() for start in self._starts])

    def lost(self, rows: Any) -> Table:
        """Return some rows."""
        from paramsurvey.tables import concatenated

        return concatenated([self.slice(row, row + 1) for row in rows.tolist()])


def _details_in(part: Part) -> Iterator[Any]:
    """Yield what each of the finished rows of a part says of itself."""
    details = of_keys(part, wanted=True)
    return psets_of(details.keys, details.columns, part.count - len(part.failures))


def seconds_of(part: Part, start: int) -> Iterator[float]:
    """Yield the seconds that each row of a part took, from the row `start` on."""
    each = chain.from_iterable(map(repeat, part.seconds, part.counts))
    for _ in range(start):
        next(each, None)
    return each
