"""Rank 0's side of all channels: it knows the nodes, and brings what they say to whoever waits for it.

There is one for a program, as there is one MPI: sessions come and go, the nodes stay until the program ends.
"""

from __future__ import annotations

import atexit
import logging
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

import attrs

from paramsurvey.backends.mpi.channel import TAG, Channel
from paramsurvey.backends.mpi.messages import Loss, Verb
from paramsurvey.backends.mpi.node import MOVING_PAUSE, pause_after
from paramsurvey.backends.mpi.world import Introduction, World, refuse_mixed_versions, shares
from paramsurvey.backends.multiprocessing.frames import Frame, Kind, head_of
from paramsurvey.backends.multiprocessing.pool import outcome_of, part_of, unreadable
from paramsurvey.engine.records import GivenBack, Killed, TaskOptions
from paramsurvey.errors import BackendError
from paramsurvey.folders import search_path

HELLO_SECONDS = 60.0
GOODBYE_SECONDS = 30.0
STANDBY_SECONDS = 0.02
"""So long after somebody has driven, the cluster's own thread leaves the channels to them."""


@attrs.define(eq=False, repr=False)
class Away:
    """A submission at another rank, and who waits for it."""

    rank: int
    session: int
    future: Future[Any]
    options: TaskOptions
    is_broken: Callable[[str], None]  # told why its rank can do nothing more


class Cluster:
    """The nodes, as rank 0 sees them.

    Parameters
    ----------
    world : World
        In which this process is rank 0.

    Raises
    ------
    BackendError
        Some rank does not answer, or has another version.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._owner = os.getpid()
        self._channels = {rank: Channel(world.comm, rank) for rank in range(1, world.size)}
        self._sending: set[Channel] = set()
        self._receiving: set[Channel] = set()
        self._away: dict[int, Away] = {}
        self._tickets = 0
        self._lock = threading.Lock()
        self._open: dict[int, set[int]] = {}  # the ranks at which a session is open
        self._introductions = {0: world.introduction()}
        self._left: set[int] = set()
        self._reactor = threading.Lock()
        self._driven_at = 0.0
        self._last_traffic = time.monotonic()
        self._is_over = False
        self._wake = threading.Event()
        try:
            self._meet()
        except BaseException:
            self.end()  # or the others would wait for ever
            raise
        self._thread = threading.Thread(target=self._run, name="paramsurvey-mpi", daemon=True)
        self._thread.start()
        atexit.register(self.end)

    @property
    def introductions(self) -> list[Introduction]:
        """What each rank has said of itself."""
        return [self._introductions[rank] for rank in range(self._world.size)]

    @property
    def shares(self) -> list[int]:
        """How many cores each rank may count as its own."""
        return shares(self.introductions)

    @property
    def is_quiet(self) -> bool:
        """Whether nobody has anything to say."""
        return not (self._away or self._sending or self._receiving)

    def _meet(self) -> None:
        """Wait until every node has introduced itself."""
        deadline = time.monotonic() + HELLO_SECONDS
        while missing := [str(rank) for rank in self._channels if rank not in self._introductions]:
            if time.monotonic() > deadline:
                raise BackendError(
                    f"of the {self._world.size} ranks, {', '.join(missing)} did not open the backend 'mpi' within "
                    f"{HELLO_SECONDS:g} s: every rank must run the same program, or start it with "
                    "python -m paramsurvey.mpi, which runs it in rank 0 alone"
                )
            self.look()
            time.sleep(SHORT_PAUSE)
        refuse_mixed_versions(self.introductions)

    # What any thread may call

    def send(self, rank: int, pieces: list[Any]) -> None:
        """Send frames to a node, by and by."""
        channel = self._channels[rank]
        channel.send(pieces)
        self._sending.add(channel)
        if time.monotonic() - self._driven_at >= STANDBY_SECONDS:
            self._wake.set()

    def say(self, rank: int, verb: Verb, ticket: int, body: bytes = b"", buffers: Iterable[Any] = ()) -> None:
        """Send one frame."""
        buffers = list(buffers)
        self.send(rank, [head_of(verb, ticket, body, buffers), body, *buffers])

    def next_ticket(self) -> int:
        """Return a number that nothing else has."""
        with self._lock:
            self._tickets += 1
            return self._tickets

    def expect(self, ticket: int, away: Away) -> None:
        """Something is about to be sent away under this ticket."""
        self._away[ticket] = away

    def open_session(self, slots: list[int]) -> int:
        """Have every node make a pool; return the session's number."""
        session = self.next_ticket()
        self._open[session] = set(self._channels)
        for rank in self._channels:
            self.say(rank, Verb.OPEN, session, pickle.dumps((slots[rank], search_path())))
        return session

    def close_session(self, session: int) -> None:
        """Have every node end its pool, and wait for that."""
        for rank in self._channels:
            self.say(rank, Verb.CLOSE, session)
        if not self._wait(lambda: not self._open[session], GOODBYE_SECONDS):
            logging.getLogger("paramsurvey").warning(
                "the MPI ranks %s did not end their workers in time", sorted(self._open[session])
            )
        del self._open[session]
        for ticket, away in list(self._away.items()):
            if away.session == session:
                del self._away[ticket]
                away.future.set_exception(Killed("the backend was closed"))

    def end(self) -> None:
        """Let the nodes leave; if they do not, the job is aborted. Happens when the program ends."""
        if self._is_over or os.getpid() != self._owner:
            return
        for rank in self._channels:
            self.say(rank, Verb.LEAVE, 0)
        present = self._introductions.keys() - {0}
        have_left = self._wait(lambda: self._left >= present, GOODBYE_SECONDS)
        self._is_over = True
        self._wake.set()
        if not have_left:
            self._world.comm.Abort(1)

    def _wait(self, until: Callable[[], object], seconds: float) -> bool:
        """Look for messages until something is true; return whether it is."""
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() > deadline:
                return False
            if self.take_reactor(STANDBY_SECONDS):
                try:
                    self.look()
                finally:
                    self.release_reactor()
            time.sleep(SHORT_PAUSE)
        return True

    def take_reactor(self, timeout: float) -> bool:
        """Become the one who may call MPI; False if somebody else is for so long."""
        if not self._reactor.acquire(timeout=timeout):
            return False
        self._driven_at = time.monotonic()
        return True

    def release_reactor(self) -> None:
        """Leave MPI to others, at the latest when nobody has driven for a while."""
        self._driven_at = time.monotonic()
        self._reactor.release()

    # Below here: with the reactor

    def _run(self) -> None:
        """Run the cluster's own thread: it looks after the channels while nobody drives."""
        while not self._is_over:
            is_mine = time.monotonic() - self._driven_at >= STANDBY_SECONDS and self._reactor.acquire(blocking=False)
            if is_mine:
                try:
                    self.look()
                except Exception as exc:  # a bug of ours must not leave anybody waiting for ever
                    logging.getLogger("paramsurvey").exception("the MPI cluster has failed")
                    self._fail(f"the MPI cluster has failed: {exc!r}; this is a bug in paramsurvey")
                    return
                finally:
                    self._reactor.release()
            self._wake.wait(self.pause if is_mine and not self.is_quiet else STANDBY_SECONDS)
            self._wake.clear()

    def _fail(self, why: str) -> None:
        away, self._away = list(self._away.values()), {}
        for each in away:
            each.is_broken(why)
            each.future.set_exception(Killed(why))

    @property
    def pause(self) -> float:
        """How long to sleep before the next look."""
        if self._sending or self._receiving:
            return MOVING_PAUSE
        return pause_after(time.monotonic() - self._last_traffic)

    def look(self) -> None:
        """Send and receive what can be, and deal with it."""
        if self._sending:
            self._last_traffic = time.monotonic()
        for channel in list(self._sending):
            self._sending.discard(channel)  # first: another thread may add it again
            channel.push()
            if channel.wants_to_send:
                self._sending.add(channel)
        status = self._world.MPI.Status()
        while (message := self._world.comm.Improbe(tag=TAG, status=status)) is not None:
            channel = self._channels[status.Get_source()]
            channel.begin(message, status.Get_count(self._world.MPI.BYTE))
            self._receiving.add(channel)
            self._last_traffic = time.monotonic()
            self._take_frames(channel)
        for channel in list(self._receiving):
            self._take_frames(channel)

    def _take_frames(self, channel: Channel) -> None:
        for frame in channel.frames():
            self._deal_with(channel.rank, frame)
        if not channel.is_receiving:
            self._receiving.discard(channel)

    def _deal_with(self, rank: int, frame: Frame) -> None:
        if frame.kind == Verb.HELLO:
            introduction = Introduction(*pickle.loads(frame.body))
            self._introductions[introduction.rank] = introduction
        elif frame.kind == Verb.CLOSED:
            self._open.get(frame.ticket, set()).discard(rank)
        elif frame.kind == Verb.LEFT:
            self._left.add(rank)
        elif frame.ticket in self._away:
            self._of_task(frame)

    def _of_task(self, frame: Frame) -> None:
        """Deal with what a node says of a task."""
        away = self._away[frame.ticket]
        if frame.kind == Verb.GIVEN_BACK:
            away.options.on_part(GivenBack(int.from_bytes(frame.body, "little")))
        elif frame.kind == Kind.PART:
            self._part(away, frame)
        else:
            del self._away[frame.ticket]
            outcome = _lost(away, frame) if frame.kind == Verb.LOST else outcome_of(frame)
            if isinstance(outcome, BaseException):
                away.future.set_exception(outcome)
            else:
                away.future.set_result(outcome)

    def _part(self, away: Away, frame: Frame) -> None:
        try:
            part = part_of(frame)
        except Exception as exc:  # noqa: BLE001 - a user's class may raise anything
            del self._away[frame.ticket]
            self.say(away.rank, Verb.KILL, frame.ticket)
            away.future.set_exception(unreadable(exc))
        else:
            away.options.on_part(part)


SHORT_PAUSE = 1e-3


def _lost(away: Away, frame: Frame) -> BaseException:
    loss = Loss(*pickle.loads(frame.body))
    if (error := loss.error()) is None:
        text = f"rank {away.rank}: {loss.text}"
        away.is_broken(text)
        return Killed(text)  # nothing that was under way there is to blame
    return error


class _TheOne:
    """The cluster of this program: a second one would take the messages of the first."""

    cluster: Cluster | None = None
    lock = threading.Lock()


def the_cluster(world: World) -> Cluster:
    """Return the cluster of this program; meet the nodes if that has not been done."""
    with _TheOne.lock:
        if _TheOne.cluster is None:
            _TheOne.cluster = Cluster(world)
        return _TheOne.cluster
