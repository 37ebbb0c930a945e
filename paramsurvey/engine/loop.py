"""One loop: chunks from the dispatcher to the backend, completed futures back.

Everything here happens in the thread that drives the loop. Futures complete and parts arrive in threads of the backend,
which do one thing with them: put them into the inbox. An interrupt, too, is a message in the inbox, so it never strikes
between two steps that belong together.
"""

from __future__ import annotations

import queue
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import attrs

from paramsurvey.engine.columns import pack, unpack
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
WIND_DOWN_SECONDS = 0.1
WIND_DOWN_WAITS = 3
QUEUED = 8
"""So many chunks may be at a slot, one running and the others behind it, if all are over in no time."""


@attrs.frozen
class Interrupt:
    """A message: somebody wants the survey to end now."""


Message: TypeAlias = "tuple[Flight, Any] | Interrupt"
Inbox: TypeAlias = "queue.SimpleQueue[Message]"


class Source(Protocol):
    """Where the rows of a stage come from."""

    def rows(self, start: int, stop: int, attempt: int) -> ChunkRows:
        """Return some rows as a chunk carries them."""
        ...

    def prepare(self) -> bool:
        """Do a millisecond of work ahead, while there is time; return whether there is more to do."""
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


class InterruptReceived(Exception):
    """The loop found an `Interrupt` in its inbox."""


@attrs.define(eq=False)
class Loop:
    """Drives one stage to its end.

    Parameters
    ----------
    backend : Backend
        Who executes.
    dispatcher : Dispatcher
        Who decides.
    handle : Handle
        The stage's published `Work`.
    source : Source
        Where the rows come from.
    options : TaskOptions
        What the backend is told about every submission, but for what differs from one to the next.
    slots : int, optional
        How many chunks may run at once; by default as many as the backend has room for.
    may_drive : callable
        Tells whether this thread may do the backend's own work while it waits (`Drivable`): not if an exception could
        strike it in the middle.
    """

    backend: Backend
    dispatcher: Dispatcher
    handle: Handle
    source: Source
    options: TaskOptions
    slots: int | None = None
    may_drive: Callable[[], bool] = attrs.field(default=lambda: False)
    inbox: Inbox = attrs.field(factory=queue.SimpleQueue)
    _futures: dict[Flight, Future[Any]] = attrs.field(factory=dict, init=False)
    _drivable: Drivable | None = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._drivable = self.backend if isinstance(self.backend, Drivable) else None

    def run(self) -> Generator[Taken | Lost | None, None, None]:
        """Yield what is finished and what is lost as it comes, and None now and then when nothing does.

        Closing the iterator, or an exception thrown into it, kills what is under way.
        """
        try:
            while not self.dispatcher.done and not self.dispatcher.cannot_start:
                self._fill()
                message = self._wait()
                if message is None:
                    yield None
                while message is not None:
                    if isinstance(message, Interrupt):
                        yield from self._wind_down()
                        raise InterruptReceived
                    yield from self._deal_with(message)
                    message = self.inbox.get() if self.inbox.qsize() else None
        finally:
            for future in self._futures.values():
                self.backend.kill(future)

    def interrupt(self) -> None:
        """Have `run` bring in what is finished and raise `InterruptReceived`.

        May be called by any thread and by a signal handler.
        """
        self.inbox.put(Interrupt())
        if self._drivable is not None:
            self._drivable.wake()

    def _wind_down(self) -> Iterator[Taken | Lost | None]:
        """Take back what has not begun, and yield what comes in until all is quiet: finished psets, above all."""
        self._recall()
        for _ in range(WIND_DOWN_WAITS):
            while self._futures and (message := self._wait(WIND_DOWN_SECONDS)) is not None:
                if not isinstance(message, Interrupt):
                    yield from self._deal_with(message)
            if not self._futures:
                return

    def _fill(self) -> None:
        """Send chunks while there is room and something to send; to busy slots only if they are trifling."""
        slots = self.slots or self.backend.slots()
        most = slots * (QUEUED if self._drivable is not None else 1)  # elsewhere `submit` itself may run them
        busy = self.dispatcher.busy
        while busy < slots or (busy < most and self.dispatcher.can_queue):
            flight = self.dispatcher.take()
            if flight is None:
                return
            self._submit(flight, may_queue=busy >= slots)
            busy += 1

    def _submit(self, flight: Flight, *, may_queue: bool) -> None:
        chunk, flight.queued = flight.chunk, may_queue
        announce = partial(self._announce, flight)
        options = TaskOptions(chunk.count, announce, may_queue, *self.options[3:])
        rows = self.source.rows(chunk.start, chunk.stop, chunk.attempt)
        self._futures[flight] = future = self.backend.submit(run_chunk, self.handle, tuple(rows), options=options)
        future.add_done_callback(announce)

    def _announce(self, flight: Flight, news: Any) -> None:
        """Called in any thread."""
        self.inbox.put((flight, news))

    def _wait(self, patience: float | None = None) -> Message | None:
        """Wait for something to happen; None if it takes too long."""
        idle = False
        if patience is None:
            # With fewer chunks than slots, one is idle; with some queued, one may be, if they all wait at another.
            idle = self.dispatcher.has_queued or self.dispatcher.busy < (self.slots or self.backend.slots())
            patience = IDLE_SECONDS if idle and self.dispatcher.can_recall else TICK_SECONDS
            if not self.inbox.qsize() and self.source.prepare():
                idle, patience = False, BREATH_SECONDS
        try:
            if self._drivable is not None and self.may_drive():
                self._drivable.drive(self.inbox.qsize, patience)
                return self.inbox.get_nowait()
            return self.inbox.get(timeout=patience)
        except queue.Empty:
            if idle:
                self._recall()
            return None

    def _recall(self) -> None:
        for flight in self.dispatcher.to_recall():
            self.backend.recall(self._futures[flight])

    def _deal_with(self, message: tuple[Flight, Any]) -> Sequence[Taken | Lost | None]:
        flight, news = message
        if isinstance(news, Future):
            return self._ended(flight, news)
        if isinstance(news, Part):
            return (self.dispatcher.returned(flight, thawed(news)),)
        assert isinstance(news, GivenBack)
        self.dispatcher.gave_back(flight, news)
        return ()

    def _ended(self, flight: Flight, future: Future[Any]) -> Sequence[Taken | Lost | None]:
        del self._futures[flight]
        error = future.exception()
        if error is None:
            taken = self.dispatcher.returned(flight, thawed(future.result()))
            return (taken, *self.dispatcher.ended(flight, None))
        if not isinstance(error, TaskLost):
            error = Died(None, f"the backend lost it: {error!r}")
        return self.dispatcher.ended(flight, error)

    def drain(self) -> Iterator[Taken | Lost | None]:
        """Yield what has arrived and was not yet dealt with: after an interrupt, so that nothing finished is lost."""
        for _ in range(self.inbox.qsize()):
            message = self.inbox.get()
            if isinstance(message, Interrupt):
                continue
            flight, news = message
            if isinstance(news, Future) and news.exception() is None:
                news = news.result()
            if isinstance(news, Part):
                yield self.dispatcher.returned(flight, thawed(news))


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
