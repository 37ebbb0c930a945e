"""One loop: chunks from the dispatchers to the backend, completed futures back.

Everything here happens in the thread that drives the loop. Futures complete and parts arrive in threads of the backend,
which do one thing with them: put them into the inbox. An interrupt, too, is a message in the inbox, so it never strikes
between two steps that belong together.

A `Lane` is one map stage under way. The loop asks that with the lowest rank first, the furthest downstream, so that
what was begun is finished before more is begun. A lane that has nothing to send is left alone until something happens
that may change that, so a thousand lanes cost no more than the busy ones.

What comes back is dealt with, and the freed slots are filled, before any of it is yielded: the workers are busy while
the caller takes note of it.
"""

from __future__ import annotations

import heapq
import queue
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, cast, runtime_checkable

import attrs

from paramsurvey.engine.columns import cut, pack, unpack
from paramsurvey.engine.dispatcher import Dispatcher, Flight, Lost, Taken
from paramsurvey.engine.pickling import Frozen, thaw
from paramsurvey.engine.records import ChunkRows, Died, Failure, GivenBack, Part, TaskLost, TaskOptions
from paramsurvey.engine.worker import Handle, run_chunk, safe_repr

if TYPE_CHECKING:
    from paramsurvey.backends.base import Backend

IDLE_SECONDS = 0.02
"""After so long with a free slot and nothing to send, rows are taken back from those who have several."""

TICK_SECONDS = 0.5
BREATH_SECONDS = 1e-4
"""So long does a thread that works ahead leave room for the one that does the backend's work, if that is another."""
WIND_DOWN_SECONDS = 0.1
WIND_DOWN_WAITS = 3


class Interrupt:
    """A message: somebody wants the survey to end now."""


Message: TypeAlias = "tuple[Flight, Any] | Interrupt"
Inbox: TypeAlias = "queue.SimpleQueue[Message]"


class Source(Protocol):
    """Where the rows of a stage come from."""

    def pull(self) -> int:
        """Bring in some of the rows that are ready further up; return how many, 0 if there are none now."""
        ...

    @property
    def closed(self) -> bool:
        """Whether no more rows will come."""
        ...

    @property
    def expected(self) -> int:
        """How many more rows will come at least, as far as is known."""
        ...

    def rows(self, start: int, stop: int, attempt: int) -> ChunkRows:
        """Return some rows as a chunk carries them."""
        ...


@runtime_checkable
class Drivable(Protocol):
    """A backend whose own work can be done by the thread that waits for it: that spares a change of threads."""

    def drive(self, until: Callable[[], object], timeout: float) -> None:
        """Complete futures until `until` returns something true, or for so many seconds."""
        ...

    def wake(self) -> None:
        """Have `drive` look at `until` now; may be called by any thread and by a signal handler."""
        ...

    def at_work(self, owner: object) -> int:
        """Return how many of its processes have submissions of this owner."""
        ...


class InterruptReceived(Exception):
    """The loop found an `Interrupt` in its inbox."""


class TimeIsUp(InterruptReceived):
    """The loop's deadline has come."""


@attrs.define(eq=False, repr=False)
class Lane:
    """One map stage under way.

    Parameters
    ----------
    dispatcher : Dispatcher
        Who decides.
    handle : Handle
        The stage's published `Work`.
    source : Source
        Where the rows come from.
    options : TaskOptions
        What the backend is told about every submission, but for what differs from one to the next.
    rank : int
        Lanes with a lower one go first; those with the same take turns.
    room : callable, optional
        Tells how many of its chunks can run at once, where that is not what the backend has slots.
    wishes : str, optional
        The column whose values, dicts, are further settings for the backend, each for its own row.
    """

    dispatcher: Dispatcher
    handle: Handle
    source: Source
    options: TaskOptions
    rank: int = 0
    room: Callable[[], int] | None = None
    wishes: str | None = None
    number: int = attrs.field(default=0, init=False)  # of its addition to the loop
    under_way: int = attrs.field(default=0, init=False)  # its chunks at the backend
    _turns: int = attrs.field(default=0, init=False)

    @property
    def place(self) -> tuple[int, int, int]:
        """Where it stands in the line."""
        return (self.rank, self._turns, self.number)

    def take(self, *, in_trains: bool) -> Flight | None:
        """Return the next chunk to send, or None if there is nothing to send now."""
        if self.dispatcher.open:
            self.pull(self.dispatcher.wants)
        self._turns += 1
        return self.dispatcher.take(in_trains=in_trains)

    def slots(self, slots: int) -> int:
        """Return how many of its chunks can run at once, if there are so many slots."""
        return slots if self.room is None else self.room()

    def pull(self, wanted: int) -> None:
        """Bring in rows until there are so many to send, or no more for now."""
        dispatcher, source = self.dispatcher, self.source
        dispatcher.expected = source.expected
        while dispatcher.unsent < wanted and (count := source.pull()):
            dispatcher.extend(count)
        if source.closed:
            dispatcher.open, dispatcher.expected = False, 0


class Over(NamedTuple):
    """A lane has come to its end; if it `is_stuck`, because its worker cannot be started."""

    is_stuck: bool


News: TypeAlias = "tuple[Lane, Taken | Lost | Over] | None"


def _no_preparation() -> bool:
    return False


def _as_it_is(_lane: Lane, taken: Taken) -> Iterable[Taken]:
    return (taken,)


def _no_clock() -> float:
    return 0.0


@attrs.define(eq=False, repr=False)
class Loop:
    """Drives lanes to their ends.

    Parameters
    ----------
    backend : Backend
        Who executes.
    slots : int, optional
        How many chunks may run at once; by default as many as the backend has room for. More than that only where
        the backend itself has said so (`backends.base.Elastic`).
    may_drive : callable
        Tells whether this thread may do the backend's own work while it waits (`Drivable`): not if an exception could
        strike it in the middle.
    prepare : callable
        Does a millisecond of work ahead, while there is time; returns whether there is more to do.
    deliver : callable
        Is told of finished rows as soon as they are known, before slots are filled: it may stir other lanes. Returns
        what is to be yielded.
    clock : callable
        Returns the time in seconds, for the deadline, and for rows that rest before they are tried again.
    deadline : float or None
        When to end, by that clock, with whatever is finished by then.
    inbox : Inbox
        Where news of the backend comes in, from any thread.
    """

    backend: Backend
    slots: int | None = None
    may_drive: Callable[[], bool] = attrs.field(default=lambda: False)
    prepare: Callable[[], bool] = _no_preparation
    deliver: Callable[[Lane, Taken], Iterable[Taken]] = _as_it_is
    clock: Callable[[], float] = _no_clock
    deadline: float | None = None
    inbox: Inbox = attrs.field(factory=queue.SimpleQueue)
    _was_interrupted: bool = attrs.field(default=False, init=False)
    _lanes: set[Lane] = attrs.field(factory=set, init=False)  # those that are not over
    _ready: list[tuple[tuple[int, int, int], Lane]] = attrs.field(factory=list, init=False)  # a heap
    _waiting: set[Lane] = attrs.field(factory=set, init=False)  # those in it
    _stirred: list[Lane] = attrs.field(factory=list, init=False)  # those put there since the last look
    _added: int = attrs.field(default=0, init=False)
    _slots_before: int = attrs.field(default=0, init=False)
    _futures: dict[Flight, tuple[Lane, Future[Any]]] = attrs.field(factory=dict, init=False)
    _busy: set[Flight] = attrs.field(factory=set, init=False)  # those with rows under way
    _recallable: set[Lane] = attrs.field(
        factory=set, init=False
    )  # those that have sent something since the last recall
    _resting: set[Lane] = attrs.field(factory=set, init=False)  # those with rows that wait for a time
    _for_itself: Flight | None = attrs.field(default=None, init=False)  # beside which nothing may run
    _news: deque[News] = attrs.field(factory=deque, init=False)
    _drivable: Drivable | None = attrs.field(init=False)
    _can_queue: bool = attrs.field(init=False)
    _is_elastic: bool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._drivable = cast("Drivable", self.backend) if hasattr(self.backend, "drive") else None
        self._is_elastic = hasattr(self.backend, "at_most")
        has_queue = self.slots is None and getattr(self.backend, "has_queue", False)  # all its slots are ours
        self._can_queue = self._drivable is not None or has_queue

    @property
    def room(self) -> int:
        """How many chunks may run at once, as things are."""
        if self.slots is not None and self._is_elastic:
            return self.slots
        there = self.backend.slots()
        return there if self.slots is None else min(self.slots, there)

    def add(self, lane: Lane) -> None:
        """Have a lane run; also while others do."""
        self._added += 1
        lane.number = self._added
        self._lanes.add(lane)
        self.stir(lane)

    def stir(self, lane: Lane) -> None:
        """Something has happened that may give a lane something to send, or end it."""
        if lane in self._lanes:
            self._stirred.append(lane)

    def drop(self, lane: Lane) -> None:
        """Have a lane end here: what is under way is killed, and what was not sent will not be.

        What has come back already is yielded before its end is.
        """
        if lane not in self._lanes:
            return
        lane.dispatcher.give_up()
        for whose, future in list(self._futures.values()):
            if whose is lane:
                self.backend.kill(future)
        self._note_end(lane)

    def announce(self, lane: Lane, taken: Taken) -> None:
        """Have rows yielded that are finished."""
        self._news.append((lane, taken))

    def run(self) -> Generator[News, None, None]:
        """Yield what is finished and what is lost as it comes, and None now and then when nothing does.

        Closing the iterator, or an exception thrown into it, kills what is under way.
        """
        try:
            while True:
                if self._resting:
                    self._rouse()
                self._fill()
                while self._news:
                    yield self._news.popleft()
                if not self._lanes:
                    return
                if self.deadline is not None and self.clock() >= self.deadline:
                    yield from self._wind_down()
                    raise TimeIsUp
                if self._stirred:
                    continue
                message = self._wait()
                if message is None:
                    yield None
                while message is not None:
                    if isinstance(message, Interrupt):
                        yield from self._wind_down()
                        raise InterruptReceived
                    self._deal_with(*message)
                    message = self.inbox.get() if self.inbox.qsize() else None
        finally:
            for _, future in self._futures.values():
                self.backend.kill(future)

    def interrupt(self) -> None:
        """Have `run` bring in what is finished and raise `InterruptReceived`.

        May be called by any thread and by a signal handler.
        """
        self._was_interrupted = True
        self.inbox.put(Interrupt())
        if self._drivable is not None:
            self._drivable.wake()

    @property
    def is_interrupted(self) -> bool:
        """Whether `run` has ended, or soon will, because somebody wants that."""
        return self._was_interrupted

    def raise_if_interrupted(self) -> None:
        """Raise `InterruptReceived` if an interrupt came when `run` was at its end, and so went unheard."""
        if self._was_interrupted:
            raise InterruptReceived

    def _wind_down(self) -> Iterator[News]:
        """Take back what has not begun, and yield what comes in until all is quiet: finished psets, above all."""
        self._recall()
        for _ in range(WIND_DOWN_WAITS):
            while self._futures and (message := self._wait(WIND_DOWN_SECONDS)) is not None:
                if not isinstance(message, Interrupt):
                    self._deal_with(*message)
            if not self._futures:
                break
        while self._news:
            yield self._news.popleft()

    def _fill(self) -> None:
        """Send chunks while there is room and something to send.

        Not for ever, if slots are free again sooner than the next rows are made: what they have sent must be heard.
        """
        if self._stirred:
            self._look_at_stirred()
        if self._for_itself is not None or self._was_interrupted:  # nor may a worker begin in this very process
            return
        slots = self._slots_now()
        busy, most, room, last = len(self._busy), 0, 0, None
        may_begin = slots  # at slots that are free
        while self._ready:
            lane = self._ready[0][1]
            if lane is not last:
                depth, last, lane.dispatcher.now = self._depth(lane), lane, self.clock()
                most, room = slots * depth, lane.slots(slots) * depth
            queued = self._occupied(busy) >= slots
            if (busy >= max(most, room)) if queued else not may_begin:
                return
            has_room = lane in self._lanes and (lane.room is None or lane.under_way < room)
            flight = lane.take(in_trains=self._may_queue(lane)) if has_room else None
            if flight is None:
                heapq.heappop(self._ready)
                self._waiting.discard(lane)
                self._note_end(lane)
                continue
            heapq.heapreplace(self._ready, (lane.place, lane))
            self._submit(lane, flight, may_queue=queued)
            busy += 1
            may_begin -= not queued
        if not self._futures:
            self._send_for_itself()

    def _send_for_itself(self) -> None:
        """Send a row that wants all memory for itself, now that nothing else is under way."""
        for lane in sorted(self._lanes, key=lambda lane: lane.place):
            if (flight := lane.dispatcher.take_for_itself()) is not None:
                self._for_itself = flight
                self._submit(lane, flight, may_queue=False)
                return

    def _rouse(self) -> None:
        """Stir the lanes with rows that have rested long enough."""
        now = self.clock()
        for lane in list(self._resting):
            lane.dispatcher.now = now
            until = lane.dispatcher.rests_until
            if until is None or lane not in self._lanes:
                self._resting.discard(lane)
            elif until <= now:
                self.stir(lane)

    def _rest(self) -> float:
        """Return the seconds until the first row has rested long enough."""
        times = [lane.dispatcher.rests_until for lane in self._resting]
        return max(0.0, min((time for time in times if time is not None), default=self.clock()) - self.clock())

    def _slots_now(self) -> int:
        """Return how many chunks may run at once; lanes hear of it when a cluster has grown or shrunk."""
        slots = self.room
        if slots != self._slots_before:
            self._slots_before = slots
            for lane in self._lanes:
                lane.dispatcher.chunker.slots = lane.slots(slots)
        return slots

    def _look_at_stirred(self) -> None:
        """Put them in the line, and note the ends of those that are over: also if all slots are busy."""
        stirred, self._stirred = dict.fromkeys(self._stirred), []
        for lane in stirred:
            if lane.dispatcher.open:
                lane.pull(1)
            self._note_end(lane)
            if lane.dispatcher.has_rows_to_send:
                self._put_in_line(lane)

    def _put_in_line(self, lane: Lane) -> None:
        if lane not in self._waiting and lane in self._lanes:
            self._waiting.add(lane)
            heapq.heappush(self._ready, (lane.place, lane))

    def _depth(self, lane: Lane) -> int:
        """How many chunks of a lane may be at a slot; only one where `submit` itself may run them."""
        return lane.dispatcher.depth if self._may_queue(lane) else 1

    def _may_queue(self, lane: Lane) -> bool:
        """Whether several chunks of a lane may be at one slot."""
        return self._can_queue and not lane.options.max_tasks

    def _occupied(self, busy: int) -> int:
        """How many slots are in use; with chunks that wait, they are fewer than flights."""
        return busy if self._drivable is None else min(busy, self._drivable.at_work(self))

    def _note_end(self, lane: Lane) -> None:
        """See whether a lane has come to its end."""
        if lane in self._lanes and lane.dispatcher.is_at_an_end:
            self._lanes.discard(lane)
            self._news.append((lane, Over(lane.dispatcher.cannot_start)))

    def _submit(self, lane: Lane, flight: Flight, *, may_queue: bool) -> None:
        chunk, announce = flight.chunk, partial(self._announce, flight)
        options = lane.options.of_chunk(chunk.count, announce, may_queue, self)
        rows = lane.source.rows(chunk.start, chunk.stop, chunk.attempt)
        if lane.wishes is not None and lane.wishes in rows.keys:
            rows, wish = of_one_wish(rows, lane.wishes)
            lane.dispatcher.gave_back(flight, GivenBack(rows.count))
            options = options._replace(rows=rows.count, backend_options={**options.backend_options, **wish})
        sent = (rows.keys, rows.columns, rows.count, rows.attempt, flight.together)
        future = self.backend.submit(run_chunk, lane.handle, sent, options=options)
        lane.under_way += 1
        self._futures[flight] = lane, future
        self._busy.add(flight)
        self._recallable.add(lane)
        future.add_done_callback(announce)

    def _announce(self, flight: Flight, news: Any) -> None:
        """Called in any thread."""
        self.inbox.put((flight, news))

    def _wait(self, patience: float | None = None) -> Message | None:
        """Wait for something to happen; None if it takes too long."""
        idle, drives = False, self._drivable is not None and self.may_drive()
        if patience is None:
            idle = self._occupied(len(self._busy)) < self._slots_now()
            patience = IDLE_SECONDS if idle and self._recallable else TICK_SECONDS
            if not self.inbox.qsize() and self.prepare():
                idle, patience = False, 0.0 if drives else BREATH_SECONDS
            if self._resting:
                patience = min(patience, self._rest())
            if self.deadline is not None:
                patience = min(patience, max(0.0, self.deadline - self.clock()))
        try:
            if self._drivable is not None and drives:
                self._drivable.drive(self.inbox.qsize, patience)
                return self.inbox.get_nowait()
            return self.inbox.get(timeout=patience)
        except queue.Empty:
            if idle:
                self._recall()
            return None

    def _recall(self) -> None:
        """Take back what has not begun, once from each flight."""
        lanes, self._recallable = self._recallable, set()
        for lane in lanes:
            for flight in lane.dispatcher.to_recall():
                self.backend.recall(self._futures[flight][1])

    def _deal_with(self, flight: Flight, news: Any) -> None:
        if flight not in self._futures:  # a part that came too late
            return
        lane, _ = self._futures[flight]
        if lane.dispatcher.retries.wait:
            lane.dispatcher.now = self.clock()
        if isinstance(news, Future):
            self._ended(lane, flight, news)
        elif isinstance(news, Part):
            self._returned(lane, flight, news)
        else:
            assert isinstance(news, GivenBack)
            lane.dispatcher.gave_back(flight, news)
        if not flight.outstanding:
            self._busy.discard(flight)  # also if it has given all back, and has yet to end
        if lane.dispatcher.rests_until is not None:
            self._resting.add(lane)
        if lane not in self._waiting or lane.dispatcher.is_at_an_end:
            self.stir(lane)

    def _returned(self, lane: Lane, flight: Flight, part: Part) -> None:
        taken = lane.dispatcher.returned(flight, thawed(part))
        if taken is not None:
            for each in self.deliver(lane, taken):
                self.announce(lane, each)

    def _ended(self, lane: Lane, flight: Flight, future: Future[Any]) -> None:
        del self._futures[flight]
        lane.under_way -= 1
        self._busy.discard(flight)
        if flight is self._for_itself:
            self._for_itself = None
        error: TaskLost | None = None
        try:
            part = future.result()
        except TaskLost as exc:
            error = exc
        except BaseException as exc:  # noqa: BLE001 - whatever a backend has to say for itself
            error = Died(None, f"the backend lost it: {exc!r}")
        else:
            self._returned(lane, flight, part)
        for lost in lane.dispatcher.ended(flight, error):
            self._news.append((lane, lost))

    def drain(self) -> Iterator[News]:
        """Yield what has arrived and was not yet yielded: after an interrupt, so that nothing finished is lost."""
        for _ in range(self.inbox.qsize()):
            message = self.inbox.get()
            if isinstance(message, Interrupt):
                continue
            flight, news = message
            if isinstance(news, Future) and news.exception() is None:
                news = news.result()
            if isinstance(news, Part) and flight in self._futures:
                self._returned(self._futures[flight][0], flight, news)
        while self._news:
            yield self._news.popleft()


def of_one_wish(rows: ChunkRows, key: str) -> tuple[ChunkRows, dict[str, Any]]:
    """Return the first of some rows, as far as they wish the same, and the wish: rows of one chunk share a process."""
    column = unpack(rows.columns[rows.keys.index(key)])
    first, count = column[0], 1
    while count < len(column) and _is_same_wish(column[count], first):
        count += 1
    columns = cut(rows.columns, 0, count) if count < rows.count else rows.columns
    return rows._replace(columns=columns, count=count), first if isinstance(first, dict) else {}


def _is_same_wish(one: Any, other: Any) -> bool:
    """Tell whether two values of such a column wish the same; what is no dict wishes nothing."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return not (isinstance(one, dict) or isinstance(other, dict))
    return repr(one) == repr(other)


def thawed(part: Part) -> Part:
    """Return a part with its frozen values as values again; a row whose values cannot be unpickled has failed."""
    frozen = [type(column) is list and Frozen in set(map(type, column)) for column in part.columns]
    if not any(frozen):
        return part
    columns = [list(column) if cold else column for column, cold in zip(part.columns, frozen, strict=True)]
    bad: dict[int, Failure] = {}
    for column in (column for column, cold in zip(columns, frozen, strict=True) if cold):
        for position, value in enumerate(column):
            if type(value) is Frozen:
                column[position] = _thawed_value(value, position, bad)
    if not bad:
        return part._replace(columns=columns)
    failed = {row for row, _ in part.failures}
    rows = [row for row in range(part.first, part.first + part.count) if row not in failed]
    failures = sorted([*part.failures, *((rows[position], failure) for position, failure in bad.items())])
    keep = [position for position in range(len(rows)) if position not in bad]
    kept = [pack([unpack(column)[position] for position in keep]) for column in columns]
    return part._replace(columns=kept, failures=failures)


def _thawed_value(value: Frozen, position: int, bad: dict[int, Failure]) -> Any:
    try:
        return thaw(value)
    except BaseException as exc:  # noqa: BLE001 - a user's class may raise anything while it is unpickled
        text = f"the answer cannot be unpickled: {safe_repr(exc)}"
        bad[position] = Failure("unpicklable", text, traceback.format_exc())
        return None
