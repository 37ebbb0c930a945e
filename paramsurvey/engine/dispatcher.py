"""What goes next, what is finished, what is lost: the decisions of one stage, and nothing but decisions.

The dispatcher knows row numbers. It has no clock, no queue, no process and no table; whoever drives it (`engine.loop`)
tells it what happened, and is told what to send. Its invariants:

- A row is in exactly one place: not yet sent, waiting to be sent again, in one flight, finished, or lost.
- A flight's rows are a range; parts arrive in order, so what has returned is a prefix of it.
- What a flight returns after its rows were given back is not taken a second time.
- No answer takes longer to find if there are more flights, but for those that name all of them.

Chunks of a size that the user asked for (``group_size=``) are small, and may be over in microseconds. Then several
that follow one another travel as a *train*: one flight, of which each chunk comes back by itself, as soon as it is run.
Nothing else is shared: who died, timed out or was taken back is known by its row, as in any flight.

A row that is to blame for a death, or may be, travels alone from then on. So it can harm nobody else, and if its
process dies again there is no doubt about the culprit.

What is tried again, and when, is said by `Retries`. A row that must wait first rests until a time; what the time is,
whoever drives it says (`now`). A row that wants all memory for itself is not given out by `take`, but by
`take_for_itself`, when nothing else is under way.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import attrs

from paramsurvey.engine.chunking import Chunker
from paramsurvey.engine.records import (
    Chunk,
    Died,
    DiedLoading,
    Displaced,
    Failure,
    GivenBack,
    Killed,
    Overstayed,
    Part,
    Retries,
    TaskLost,
    TimedOut,
    Unloadable,
    Unreadable,
    Unsendable,
)

MOST_QUEUED = 8
LONGEST_TRAIN = 32
PLENTY, PLENTY_OF_TRIFLES = 3, 8
"""Chunks that every slot can still expect, if one or more are to wait at a slot that is busy."""
ROUGHLY = 0.25
"""By so much of a row a fair share may be too small: how far the others have come is not known to the row."""
MOST_DEATHS = 3
MOST_STARTS = 3
DOUBTFUL_START = 0.1
"""What a start counts that was cut short from outside, by SIGKILL or before it had begun: it says little."""


@attrs.define(eq=False, repr=False)
class Flight:
    """A chunk under way: what of it has returned, and how far it is still expected to come."""

    chunk: Chunk
    since: float  # when it was sent, or something of it returned
    returned: int  # rows of the chunk, from its beginning
    limit: int  # rows of the chunk that are still this flight's
    together: int = 0  # rows that come back together, if it is a train

    @property
    def outstanding(self) -> int:
        """How many rows have not returned."""
        return self.limit - self.returned


class Lost(NamedTuple):
    """A row that will have no result, and why; `earlier` says how the attempts before the last one ended."""

    row: int
    failure: Failure
    attempts: int
    earlier: tuple[Failure, ...] = ()

    @property
    def ends(self) -> tuple[str, ...]:
        """How each attempt ended."""
        return tuple(failure.end for failure in (*self.earlier, self.failure)) if self.attempts else ()


class Taken(NamedTuple):
    """What the dispatcher took of a part: finished rows, and rows that are lost for good.

    `part` has only the rows that were taken. Its failures are those in `lost` and those that are tried again. `attempt`
    says which it was, and is 0 if they were not computed at all, but are in the journal.
    """

    start: int  # the row of the stage at which the part begins
    part: Part
    lost: list[Lost]
    attempt: int = 1


@attrs.define(eq=False, repr=False)
class Dispatcher:
    """Decides about the rows ``0 .. total`` of one stage.

    Parameters
    ----------
    total : int
        How many rows there are; more may be added as they come (`extend`) as long as it is `open`.
    chunker : Chunker
        How many of them travel together.
    retries : Retries or int
        What is tried again; a number: so many times what raised.
    """

    total: int
    chunker: Chunker
    retries: Retries = attrs.field(default=Retries())
    stages: Sequence[str] = ()  # the names of the worker's, if it has several
    now: float = 0.0  # the time, if anybody needs it
    in_rounds: bool = False  # rows come when those before are through: somebody waits for the last of them
    one_at_a_time: bool = False  # no chunk waits behind another: a slot is given one when its last is remembered
    open: bool = False  # more rows may come,
    expected: int = 0  # at least so many, as far as is known
    _next: int = attrs.field(default=0, init=False)
    _again: deque[Chunk] = attrs.field(factory=deque, init=False)  # ranges that may be cut
    _alone: deque[Chunk] = attrs.field(factory=deque, init=False)  # rows that must travel alone
    _flights: set[Flight] = attrs.field(factory=set, init=False)
    _recallable: set[Flight] = attrs.field(factory=set, init=False)  # those from which rows were not yet taken back
    _resting: list[tuple[float, Chunk]] = attrs.field(factory=list, init=False)  # a heap: single rows, and until when
    _for_themselves: deque[Chunk] = attrs.field(factory=deque, init=False)  # rows beside which nothing may run
    _had_all: set[int] = attrs.field(factory=set, init=False)  # rows that have run so
    _tried: dict[int, list[Failure]] = attrs.field(factory=dict, init=False)  # how rows failed that are tried again
    _since: float = attrs.field(default=0.0, init=False)  # the sum of these times over all flights
    _starts_failed: float = attrs.field(default=0.0, init=False)
    start_error: str = attrs.field(default="", init=False)
    _trust: bool = attrs.field(default=True, init=False)
    active: int = attrs.field(default=0, init=False)  # rows under way
    finished: int = attrs.field(default=0, init=False)
    failures: int = attrs.field(default=0, init=False)

    @property
    def done(self) -> bool:
        """Whether every row is finished or lost, and no other will come."""
        return self.finished + self.failures == self.total and not self.open

    @property
    def is_at_an_end(self) -> bool:
        """Whether it is done, or there is no hope."""
        return self.cannot_start or self.done

    def extend(self, count: int) -> None:
        """So many more rows have come."""
        self.total += count

    @property
    def unsent(self) -> int:
        """How many rows have come and were never sent."""
        return self.total - self._next

    @property
    def has_rows_to_send(self) -> bool:
        """Whether `take` may find something, as far as is known now."""
        return bool(self._next < self.total or self._again or self._alone or self._resting)

    @property
    def wants(self) -> int:
        """How many unsent rows it should have, to send a chunk of a good size."""
        return self.chunker.size(max(self.unsent, self.chunker.slots) + self.expected) if self.open else 0

    def take(self, *, in_trains: bool = False) -> Flight | None:
        """Return the next chunk to send, or None if there is nothing to send now; a train, if that may be."""
        while self._resting and self._resting[0][0] <= self.now:
            self._alone.append(heapq.heappop(self._resting)[1])
        if self._alone:
            return self._fly(self._alone.popleft())
        if self._again:
            chunk = self._again.popleft()
            size = self.chunker.size(chunk.count)
            if size < chunk.count:
                self._again.appendleft(chunk._replace(start=chunk.start + size))
            return self._fly(chunk._replace(stop=chunk.start + min(size, chunk.count)))
        if self._next < self.total:
            start = self._next
            size = max(self._share(), self.chunker.size(self.total - start + self.expected))
            train = self._train(size) if in_trains else 1
            self._next = min(self.total, start + size * train)
            return self._fly(Chunk(start, self._next), size if train > 1 else 0)
        return None

    def _share(self) -> int:
        """Return how many rows a slot gets if all slots are to be through at once; 0 if nobody knows.

        Those who are busy have done by now what they can have done since they were last heard of.
        """
        unsent, slots, flights = self.total - self._next, self.chunker.slots, len(self._flights)
        if not (self.in_rounds and self._trust and self.chunker.can_share(unsent)):
            return 0
        left = max(0.0, self.active - self.chunker.rows_done_in(flights * self.now - self._since))
        share = math.ceil((unsent + left) / slots - ROUGHLY)
        return min(share, unsent - max(0, slots - flights - 1))  # nobody goes without

    def take_for_itself(self) -> Flight | None:
        """Return a row beside which nothing may run, if there is one."""
        if not self._for_themselves:
            return None
        chunk = self._for_themselves.popleft()
        self._had_all.add(chunk.start)
        return self._fly(chunk)

    @property
    def rests_until(self) -> float | None:
        """The time at which a row that rests is to be sent again; None if none does."""
        return self._resting[0][0] if self._resting else None

    def _fly(self, chunk: Chunk, together: int = 0) -> Flight:
        flight = Flight(chunk, self.now, returned=0, limit=chunk.count, together=together)
        self._flights.add(flight)
        self._since += self.now
        self._recallable.add(flight)
        self.active += chunk.count
        return flight

    @property
    def depth(self) -> int:
        """How many chunks may be at a slot, one running and the others waiting behind it.

        One chunk may wait, so that the slot need not wait for the driver, as long as there are plenty after it. If
        they are over before the driver could send the next, many may; and one as long as there is one for every slot.
        """
        unsent = self.total - self._next
        if self.one_at_a_time or not self._trust or not unsent or not self.chunker.knows:
            return 1
        size = self.chunker.size(unsent + self.expected)
        of_all_slots, are_trains = size * self.chunker.slots, self.chunker.fixed is not None
        if self.chunker.is_trifling(size):
            if unsent >= PLENTY_OF_TRIFLES * of_all_slots:
                return 2 if are_trains else MOST_QUEUED
            if unsent >= of_all_slots and not are_trains:
                return 2
        return 2 if unsent >= PLENTY * of_all_slots else 1

    def _train(self, size: int) -> int:
        """How many chunks of this size may go one behind the other to one slot: as many as are over in no time."""
        if self.chunker.fixed is None or not self._trust:
            return 1
        plenty = (self.total - self._next) // (PLENTY_OF_TRIFLES * size * self.chunker.slots)
        return max(1, min(LONGEST_TRAIN, plenty, self.chunker.trifles(size)))

    def to_recall(self) -> list[Flight]:
        """Return the flights whose rows should be taken back, now that a slot is idle with nothing to send."""
        flights = list(self._recallable)
        self._recallable.clear()
        self._trust = False  # in estimates: what should have been over in no time is not
        return flights

    def returned(self, flight: Flight, part: Part) -> Taken | None:
        """A part of a flight has come; return what was taken of it."""
        self._starts_failed = 0.0
        self._trust = True
        seconds = self.chunker.learn_times(part.seconds, part.counts)
        self.chunker.learn(part.count, seconds, part.size)
        count = min(part.count, flight.limit - part.first)
        if flight not in self._flights or count <= 0:
            return None
        part = part if count == part.count else cut_out(part, 0, count)
        self._since += self.now - flight.since
        flight.since = self.now
        start = flight.chunk.start + part.first
        self.active -= part.first + count - flight.returned
        flight.returned = part.first + count
        lost, again = [], 0
        for row, failure in part.failures:
            verdict = self._judge(flight.chunk.start + row, failure)
            if verdict is None:
                again += 1
            else:
                lost.append(verdict)
        self.failures += len(lost)
        self.finished += count - len(lost) - again
        if flight.chunk.attempt > 1 and "_ends" in part.keys:
            part = self._with_ends(part, flight.chunk.start)
        return Taken(start, part, lost, flight.chunk.attempt)

    def _with_ends(self, part: Part, row: int) -> Part:
        """Have a row that was tried again, and finished, tell the end of each attempt; its worker knows the last."""
        columns = list(part.columns)
        columns[part.keys.index("_ends")] = [(*(failure.end for failure in self.tried(row)), "finished")]
        return part._replace(columns=columns)

    def _judge(self, row: int, failure: Failure) -> Lost | None:
        """Decide whether a failed row is lost, or is tried again."""
        earlier = self._tried.get(row, ())
        times = sum(one.kind == failure.kind for one in earlier) if earlier else 0
        for_itself = self.retries.alone and failure.for_memory and row not in self._had_all
        if not (for_itself or self._is_worth_another(failure, times)):
            self._tried.pop(row, None)
            return Lost(row, failure, len(earlier) + 1, tuple(earlier))
        self._tried[row] = [*earlier, failure]
        chunk = Chunk(row, row + 1, len(earlier) + 2)
        if self.retries.alone and (failure.for_memory or row in self._had_all):
            self._for_themselves.append(chunk)
        elif failure.kind == "died" or not self.retries.wait:
            self._alone.append(chunk)
        else:
            heapq.heappush(self._resting, (self.now + self.retries.pause(times), chunk))
        return None

    def _is_worth_another(self, failure: Failure, times: int) -> bool:
        """Tell whether a row is tried again that has failed like this so many times before."""
        if failure.kind == "died":
            return times < MOST_DEATHS - 1
        if failure.kind == "timeout":
            return times < self.retries.timeouts
        return failure.retryable and times < self.retries.raised

    def gave_back(self, flight: Flight, notice: GivenBack) -> None:
        """Rows of a flight, from a place on, will not be run by whoever has it."""
        first = max(notice.first, flight.returned)
        if flight in self._flights and first < flight.limit:
            self._send_again(flight, first, flight.limit)
            self.active -= flight.limit - first
            flight.limit = first

    def ended(self, flight: Flight, error: TaskLost | None) -> list[Lost]:
        """A flight is over; return the rows that are lost by its end."""
        if flight not in self._flights:
            return []
        self._flights.discard(flight)
        self._recallable.discard(flight)
        self._since -= flight.since
        self.active -= flight.outstanding
        rest = range(flight.returned, flight.limit)
        lost: list[Lost] = []
        if isinstance(error, Displaced):
            flight.chunk = flight.chunk._replace(moves=flight.chunk.moves + 1)
            if flight.chunk.moves >= MOST_DEATHS:  # perhaps a row of it is what ends machines
                error = Died(None, str(error))
        if isinstance(error, Died | TimedOut) and error.index is not None and error.index in rest:
            self._send_again(flight, flight.returned, error.index)
            self._send_again(flight, error.index + 1, flight.limit)
            lost = self._blame(flight, error.index, error)
        elif isinstance(error, Died | TimedOut) and error.index is None and rest:
            alone = flight.chunk.count == 1
            lost = self._blame(flight, rest[0], error) if alone else self._suspect(flight, rest, None)
        elif isinstance(error, Overstayed):
            lost = self._suspect(flight, rest, None)
        elif isinstance(error, Unsendable | Unreadable):
            what = "the pset cannot be pickled" if isinstance(error, Unsendable) else "the answer cannot be unpickled"
            lost = self._suspect(flight, rest, Failure("unpicklable", f"{what}: {error}", error.traceback))
        else:
            if isinstance(error, Unloadable | DiedLoading):
                self._starts_failed += DOUBTFUL_START if isinstance(error, DiedLoading) and error.was_killed else 1
                self.start_error = str(error)
            assert error is None or isinstance(error, Unloadable | DiedLoading | Displaced | Killed | Died | TimedOut)
            self._send_again(flight, rest.start, rest.stop)
        self.failures += len(lost)
        return lost

    @property
    def cannot_start(self) -> bool:
        """Whether workers have failed to start so often, without a success in between, that there is no hope."""
        return self._starts_failed >= MOST_STARTS

    def _send_again(self, flight: Flight, first: int, stop: int) -> None:
        if first < stop:
            start = flight.chunk.start
            queue = self._again if stop - first > 1 or flight.chunk.count > 1 else self._alone
            queue.append(flight.chunk._replace(start=start + first, stop=start + stop))

    def _suspect(self, flight: Flight, rows: range, failure: Failure | None) -> list[Lost]:
        """One of these rows is to blame, and nobody knows which: they travel alone, or, if alone already, are lost."""
        start = flight.chunk.start
        if flight.chunk.count == 1 and rows and failure is not None:
            verdict = self._judge(start + rows[0], failure)
            return [verdict] if verdict else []
        self._alone.extend(Chunk(start + row, start + row + 1, flight.chunk.attempt) for row in rows)
        return []

    def _blame(self, flight: Flight, index: int, error: Died | TimedOut) -> list[Lost]:
        text = f"stage {self.stages[error.stage - 1]!r}: {error}" if error.stage else str(error)
        if isinstance(error, TimedOut):
            failure = Failure("timeout", text)
        else:
            failure = Failure("died", text, for_memory=error.was_killed)
        verdict = self._judge(flight.chunk.start + index, failure)
        return [verdict] if verdict else []

    def remaining(self) -> list[range]:
        """Return the rows that are neither finished nor lost, as ranges in ascending order."""
        resting = (chunk for _, chunk in self._resting)
        chunks = (*self._again, *self._alone, *resting, *self._for_themselves)
        waiting = [range(chunk.start, chunk.stop) for chunk in chunks]
        flying = [
            range(flight.chunk.start + flight.returned, flight.chunk.start + flight.limit) for flight in self._flights
        ]
        ranges = [*waiting, *flying, range(self._next, self.total)]
        return sorted((rows for rows in ranges if rows), key=lambda rows: rows.start)

    def give_up(self) -> None:
        """Forget all rows that are neither finished nor lost: nobody wants to know them any more."""
        self._again.clear()
        self._alone.clear()
        self._resting.clear()
        self._for_themselves.clear()
        self._flights.clear()
        self._since = 0.0
        self._recallable.clear()
        self.active = 0
        self._next = self.total = self.finished + self.failures
        self.open = False

    def attempts(self, row: int) -> int:
        """Return how many times a row was tried and failed, if it is, or was, tried again."""
        return len(self.tried(row))

    def tried(self, row: int) -> tuple[Failure, ...]:
        """Return how a row has failed that is, or was, tried again."""
        return tuple(self._tried.get(row, ()))


def cut_out(part: Part, start: int, stop: int) -> Part:
    """Return the rows `start` up to `stop` of a part, counted from its beginning; the times are those of the whole."""
    first, last = part.first + start, part.first + stop
    failures = [(row, failure) for row, failure in part.failures if first <= row < last]
    before = start - sum(row < first for row, _ in part.failures)
    answers = slice(before, before + stop - start - len(failures))
    columns = [column[answers] for column in part.columns]
    return part._replace(first=first, count=stop - start, columns=columns, failures=failures)
