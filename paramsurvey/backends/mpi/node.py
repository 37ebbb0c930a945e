"""What every rank but 0 does: it starts a pool for each session, and passes on what the pool's workers say.

The main thread does all of it, and all of MPI. It sleeps in the selector of the pool that was opened last, because an
answer should leave at once; what the pools of other sessions have to say waits for the next look, a millisecond later.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from paramsurvey.backends.mpi.channel import SMALL, TAG, Channel
from paramsurvey.backends.mpi.constants import FOLDER, forget_file, note_file
from paramsurvey.backends.mpi.messages import Errand, Loss, Verb
from paramsurvey.backends.mpi.world import World, without_launcher
from paramsurvey.backends.multiprocessing.backend import workers_environment
from paramsurvey.backends.multiprocessing.constants import ConstantStore, make_folder
from paramsurvey.backends.multiprocessing.frames import Frame, Kind, head_of
from paramsurvey.backends.multiprocessing.pool import Pool, Process
from paramsurvey.engine.records import GivenBack, TaskOptions

SHORTEST_PAUSE, LONGEST_PAUSE = 1e-3, 1e-2
ALERT_SECONDS, ALERT_PAUSE = 2e-3, 2e-4
"""So long after a message another is likely."""
MOVING_PAUSE = 5e-5
"""While a message is on its way: MPI itself needs several looks for a large one, on both sides."""
GATHER_SECONDS = 2e-4
"""After workers had something to say, what they say within so long leaves as one message."""
STOPPED_BY_SIGNAL = 128


def pause_after(quiet: float) -> float:
    """Return how long to sleep between two looks for messages, after so many seconds without one.

    Examples
    --------
    >>> pause_after(0.0), pause_after(0.01), pause_after(0.25), pause_after(60.0)
    (0.0002, 0.001, 0.005, 0.01)
    """
    if quiet < ALERT_SECONDS:
        return ALERT_PAUSE
    return min(LONGEST_PAUSE, max(SHORTEST_PAUSE, quiet / 50))


def drive_or_sleep(pool: Pool, until: Callable[[], object], seconds: float) -> None:
    """Wait so long, or until something is true, which the pool's workers may bring about."""
    if seconds >= SHORTEST_PAUSE:
        pool.drive(until, seconds)
    else:
        pool.drive(until, 0.0)
        if not until():
            pool.doze(seconds)


class RelayPool(Pool):
    """A pool whose callers hand over bytes, and get bytes."""

    def frame_of(self, ticket: int, fn: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:  # noqa: ARG002
        """Put the pool's own ticket before what rank 0 has encoded."""
        body, buffers = args
        return [head_of(Kind.TASK, ticket, body, buffers), body, *buffers]

    def _part(self, process: Process, frame: Frame) -> None:
        if process.tasks and process.tasks[0].ticket == frame.ticket:  # only who drives, as we do, takes tasks away
            task = process.tasks[0]
            task.last_part = time.monotonic()
            task.options.on_part(frame)  # type: ignore[arg-type] # it is the node's own, which takes frames

    def _outcome_of(self, frame: Frame) -> Any:
        return frame


def rank_environment(folder: Path, slots: int) -> dict[str, str]:
    """Return the environment of a rank's workers."""
    return {**without_launcher(workers_environment(max(1, slots))), FOLDER: str(folder)}


@attrs.define(eq=False, repr=False)
class Lodging:
    """What a node has for one session."""

    pool: RelayPool
    store: ConstantStore

    @classmethod
    def for_slots(cls, slots: int, last_words: str) -> Lodging:
        """Start a pool."""
        store = ConstantStore(make_folder())
        return cls(RelayPool(store.folder, rank_environment(store.folder, slots), last_words), store)

    def close(self) -> None:
        """End the workers."""
        self.pool.close()
        self.store.close()


class Node:
    """Serves rank 0.

    Parameters
    ----------
    world : World
        In which this process is not rank 0.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._me = world.introduction()
        self._channel = Channel(world.comm, 0)
        self._lodgings: dict[int, Lodging] = {}
        self._futures: dict[int, tuple[Pool, Future[Any]]] = {}  # by ticket
        self._errand: Errand | None = None  # of the next task
        self._leaving = False
        self._last_traffic = time.monotonic()
        self._spoke_at = 0.0
        self._deal: dict[int, Callable[[Frame], None]] = {
            Verb.ERRAND: self._note_errand,
            Verb.TASK: self._task,
            Verb.OPEN: self._open,
            Verb.CLOSE: self._close,
            Verb.PUBLISH: self._publish,
            Verb.FORGET: self._forget,
            Verb.KILL: lambda frame: self._at_task(frame, Pool.kill),
            Verb.RECALL: lambda frame: self._at_task(frame, Pool.recall),
            Verb.LEAVE: self._leave,
        }

    def serve(self) -> None:
        """Work until rank 0 says that there is no more to do."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 decides what Ctrl-C means
        signal.signal(signal.SIGTERM, self._stop)
        self._say(Verb.HELLO, 0, pickle.dumps(tuple(self._me)))
        while not self._leaving or self._channel.wants_to_send:
            self._look()
            self._sleep()

    def _stop(self, number: int, _frame: Any) -> None:
        """Somebody wants this rank to end: without MPI's consent, because a rank that is lost ends the job."""
        for lodging in self._lodgings.values():
            lodging.close()
        os._exit(STOPPED_BY_SIGNAL + number)

    def _look(self) -> None:
        """Send and receive what can be."""
        channel, comm, status = self._channel, self._world.comm, self._world.MPI.Status()
        if channel.has_news:
            self._spoke_at = self._last_traffic = time.monotonic()
        channel.push()
        while (message := comm.Improbe(source=0, tag=TAG, status=status)) is not None:
            channel.begin(message, status.Get_count(self._world.MPI.BYTE))
            self._last_traffic = time.monotonic()
            self._deal_with_frames()
        if channel.is_receiving:
            self._deal_with_frames()

    def _deal_with_frames(self) -> None:
        for frame in self._channel.frames():
            self._deal[frame.kind](frame)

    def _sleep(self) -> None:
        """Wait for a while, or until a worker has something to say; just after the last time, the worker may wait."""
        lodging = next(reversed(self._lodgings.values()), None)
        now = time.monotonic()
        pause = MOVING_PAUSE if self._channel.is_moving else pause_after(now - self._last_traffic)
        if lodging is None:
            time.sleep(pause)
        elif (left := self._spoke_at + GATHER_SECONDS - now) > 0:
            time.sleep(min(left, pause))
            lodging.pool.drive(self._has_news, 0.0)
        else:
            drive_or_sleep(lodging.pool, self._has_news, pause)

    def _has_news(self) -> bool:
        return self._channel.has_news

    def _say(self, verb: int, ticket: int, body: Any = b"", buffers: Any = ()) -> None:
        head = head_of(verb, ticket, body, buffers)
        self._channel.send([head, body, *buffers] if buffers or len(body) > SMALL else [head + body])

    # What rank 0 says

    def _open(self, frame: Frame) -> None:
        slots, search_path = pickle.loads(frame.body)
        sys.path += [place for place in search_path if place not in sys.path]  # for the guard, and so for the workers
        self._lodgings[frame.ticket] = Lodging.for_slots(slots, self._me.last_words)

    def _close(self, frame: Frame) -> None:
        self._lodgings.pop(frame.ticket).close()
        self._say(Verb.CLOSED, frame.ticket)

    def _leave(self, _frame: Frame) -> None:
        while self._lodgings:
            self._lodgings.popitem()[1].close()
        self._leaving = True
        self._say(Verb.LEFT, 0)

    def _publish(self, frame: Frame) -> None:
        lodging = self._lodgings.get(pickle.loads(frame.body))
        if lodging is None:
            return
        try:
            file = lodging.store.write([memoryview(buffer) for buffer in frame.buffers])
            note_file(lodging.store.folder, frame.ticket, file)
        except OSError as exc:  # the workers do not find it, and say so
            sys.stderr.write(f"paramsurvey: rank {self._me.rank} on {self._me.host} cannot keep a constant: {exc}\n")

    def _forget(self, frame: Frame) -> None:
        lodging = self._lodgings.get(pickle.loads(frame.body))
        if lodging is not None:
            forget_file(lodging.store.folder, frame.ticket)

    def _note_errand(self, frame: Frame) -> None:
        self._errand = Errand.of(frame.body)

    def _task(self, frame: Frame) -> None:
        ticket, errand = frame.ticket, self._errand
        assert errand is not None
        if errand.session not in self._lodgings:
            return
        options = TaskOptions(
            rows=errand.rows,
            on_part=partial(self._came_ahead, ticket),
            may_queue=True,  # but only behind others of the same seat
            owner=errand.seat,
            timeout=errand.timeout or None,
            max_tasks=errand.max_tasks or None,
        )
        pool = self._lodgings[errand.session].pool
        try:
            future = pool.submit(_nothing, (frame.body, frame.buffers), options)
        except Exception as exc:  # noqa: BLE001 - the pool is broken: rank 0 must know
            self._say(Verb.LOST, ticket, pickle.dumps(tuple(Loss.of(exc))))
            return
        self._futures[ticket] = pool, future
        future.add_done_callback(partial(self._ended, ticket))

    def _at_task(self, frame: Frame, do: Callable[[Pool, Future[Any]], None]) -> None:
        if frame.ticket in self._futures:
            do(*self._futures[frame.ticket])

    # What the pools say, in any thread

    def _came_ahead(self, ticket: int, news: Any) -> None:
        if isinstance(news, GivenBack):
            self._say(Verb.GIVEN_BACK, ticket, news.first.to_bytes(8, "little"))
        else:
            self._say(news.kind, ticket, news.body, news.buffers)

    def _ended(self, ticket: int, future: Future[Any]) -> None:
        self._futures.pop(ticket, None)
        error = future.exception()
        if error is not None:
            self._say(Verb.LOST, ticket, pickle.dumps(tuple(Loss.of(error))))
        else:
            frame = future.result()
            self._say(frame.kind, ticket, frame.body, frame.buffers)


def _nothing() -> None:
    """Stand for the function that is in the bytes."""


def serve(world: World) -> None:
    """Be a node until rank 0 has no more to do."""
    try:
        Node(world).serve()
    except BaseException:  # a bug of ours: without this rank the others would wait for ever
        traceback.print_exc()
        world.comm.Abort(1)
        raise
