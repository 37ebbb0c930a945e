"""The MPI backend, as the engine sees it."""

from __future__ import annotations

import pickle
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from itertools import count
from typing import Any

from paramsurvey.backends.mpi.cluster import Away, Cluster, the_cluster
from paramsurvey.backends.mpi.constants import Everywhere, forget_file, note_file
from paramsurvey.backends.mpi.messages import Errand, Verb
from paramsurvey.backends.mpi.node import drive_or_sleep, rank_environment, serve
from paramsurvey.backends.mpi.seats import Seat, Seats
from paramsurvey.backends.mpi.settings import refuse_wrong_settings
from paramsurvey.backends.mpi.world import find_world
from paramsurvey.backends.multiprocessing.constants import ConstantStore, PublishedFile, make_folder
from paramsurvey.backends.multiprocessing.frames import head_of
from paramsurvey.backends.multiprocessing.pool import Pool
from paramsurvey.engine.records import TaskOptions, Unsendable
from paramsurvey.engine.worker import run_chunk
from paramsurvey.errors import BackendError, OptionError


def open_mpi(settings: Mapping[str, Any], ncores: int | None) -> MpiBackend:
    """Open the backend in rank 0; in any other, work for rank 0 until the program ends, and end this one.

    Parameters
    ----------
    settings : mapping
        What ``mpi={...}`` may say, see `settings`.
    ncores : int, optional
        How many slots to use of all ranks together, or, if negative, how many to leave unused.

    Raises
    ------
    BackendError
        MPI is missing or does not fit the launcher, or ranks do not answer.
    OptionError
        A setting is unknown or impossible.
    """
    world = find_world()
    if world.rank != 0:
        serve(world)
        sys.exit(0)
    return MpiBackend(the_cluster(world), settings, ncores)


def slots_of_ranks(shares: list[int], settings: Mapping[str, Any]) -> list[int]:
    """Return how many slots each rank has.

    Examples
    --------
    >>> slots_of_ranks([2, 2, 1], {})
    [2, 2, 1]
    >>> slots_of_ranks([2, 2, 1], {"slots": 4, "driver_slots": 0})
    [0, 4, 4]
    >>> slots_of_ranks([2], {"driver_slots": 0})
    Traceback (most recent call last):
        ...
    paramsurvey.errors.OptionError: mpi={'driver_slots': 0}: no rank would have a slot; there is only one rank: start \
more, or leave driver_slots out
    """
    refuse_wrong_settings(settings)
    slots = [settings.get("slots", share) for share in shares]
    slots[0] = settings.get("driver_slots", slots[0])
    if not any(slots):
        raise OptionError(
            "mpi={'driver_slots': 0}: no rank would have a slot; there is only one rank: start more, or leave "
            "driver_slots out"
        )
    return slots


class Constant:
    """A constant that every rank gets when it first needs it; travels as `Everywhere`."""

    def __init__(self, number: int, file: PublishedFile, forget: Callable[[Constant], None]) -> None:
        self.number = number
        self.file = file
        self.ranks: set[int] = set()  # that have it, beside rank 0
        self._forget = forget

    def __reduce__(self) -> Any:
        return Everywhere, (self.number,)

    def load(self) -> Any:
        """Return the constant, in the driver."""
        return self.file.load()

    def close(self) -> None:
        """Have all ranks remove it."""
        self._forget(self)


class MpiBackend:
    """Worker processes at all ranks of an MPI job, those of rank 0 among them.

    Rank 0 has its share too: on one node that makes it what the multiprocessing backend is, and on many the driver
    rarely needs a core for itself. Where it does, because psets are many and short, ``driver_slots`` is there.

    Parameters
    ----------
    cluster : Cluster
        The other ranks.
    settings : mapping
        See `settings`.
    ncores : int, optional
        How many slots to use of all ranks together, or, if negative, how many to leave unused.
    """

    name = "mpi"
    can_kill = True
    can_replace = True
    runs_alone = True

    def __init__(self, cluster: Cluster, settings: Mapping[str, Any], ncores: int | None = None) -> None:
        self._cluster = cluster
        self._settings = dict(settings)
        self._slots = slots_of_ranks(cluster.shares, settings)
        self._total = sum(self._slots)  # kept, because it is asked for with every chunk
        self._ncores = ncores
        self._session = cluster.open_session(self._slots)
        self._store = ConstantStore(make_folder())
        environment = rank_environment(self._store.folder, self._slots[0])
        self._pool = Pool(self._store.folder, environment, cluster.introductions[0].last_words)
        self._lock = threading.Lock()
        self._seats: dict[object, Seats] = {}
        self._numbers = count()  # of seats
        self._constants: dict[int, Constant] = {}
        self._tickets: dict[Future[Any], tuple[int, int]] = {}  # the rank and the ticket of those at other ranks
        self._is_closed = False
        self._broken: str | None = None

    def slots(self) -> int:
        """Return how many submissions can run at once."""
        return self._total if self._ncores is None else self.at_most(self._ncores)

    def at_most(self, ncores: int) -> int:
        """Return how many slots ``ncores=`` means: so many of all ranks together, or all but so many."""
        return ncores if ncores > 0 else max(1, self._total + ncores)

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Refuse those of one survey: the ranks have their worker processes for all."""
        refuse_wrong_settings(settings)
        for name, value in settings.items():
            if value != self._settings.get(name):
                raise OptionError(
                    f"mpi={{{name!r}: {value!r}}}: {name} is for init(), because all surveys of a session have the "
                    "same worker processes"
                )

    def resources(self) -> dict[str, Any]:
        """Return the slots, the memory of all nodes in bytes, and what each rank has."""
        ranks = self._cluster.introductions
        memory = {rank.host: rank.memory for rank in ranks}
        nodes = [{"rank": one.rank, "host": one.host, "num_cores": self._slots[one.rank]} for one in ranks]
        return {"num_cores": self.slots(), "memory": sum(memory.values()), "nodes": nodes}

    def publish(self, obj: Any) -> Constant:
        """Write a constant where the workers of rank 0 can map it; the others get it with their first chunk."""
        constant = Constant(self._cluster.next_ticket(), self._store.publish(obj), self._forget)
        note_file(self._store.folder, constant.number, constant.file)
        with self._lock:
            self._constants[constant.number] = constant
        return constant

    def _forget(self, constant: Constant) -> None:
        with self._lock:
            if self._constants.pop(constant.number, None) is None or self._is_closed:
                return
            for rank in constant.ranks:
                self._cluster.say(rank, Verb.FORGET, constant.number, pickle.dumps(self._session))
        forget_file(self._store.folder, constant.number)

    def submit(self, fn: Callable[..., Any], /, *args: Any, options: TaskOptions) -> Future[Any]:
        """Send a call to a worker process of some rank."""
        owner = options.owner
        with self._lock:
            if self._is_closed or self._broken:
                raise BackendError(self._broken or "this backend is closed; open a new session")
            seats = self._seats.get(owner)
            if seats is None:
                seats = self._seats[owner] = Seats(self._slots, self._numbers)
            seat = seats.take(may_queue=options.may_queue)
        try:
            future = self._submit_to(seat, fn, args, options)
        except BaseException:
            self._leave(owner, seat, None)
            raise
        future.add_done_callback(partial(self._leave, owner, seat))
        return future

    def _submit_to(
        self, seat: Seat, fn: Callable[..., Any], args: tuple[Any, ...], options: TaskOptions
    ) -> Future[Any]:
        if seat.rank == 0:
            return self._pool.submit(fn, args, options._replace(may_queue=True, owner=seat.number))
        cluster, ticket = self._cluster, self._cluster.next_ticket()
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        try:
            pieces = self._pool.frame_of(ticket, fn, args)
        except Exception as exc:  # noqa: BLE001 - a user's object may raise anything while it is pickled
            future.set_exception(Unsendable(f"{type(exc).__name__}: {exc}", traceback.format_exc()))
            return future
        errand = Errand(self._session, seat.number, options.rows, options.max_tasks or 0, options.timeout or 0.0)
        head = head_of(Verb.ERRAND, ticket, body := errand.packed(), ())
        with self._lock:  # nobody comes between a constant and what needs it
            if self._is_closed:
                raise BackendError("this backend is closed; open a new session")
            self._tickets[future] = seat.rank, ticket
            cluster.expect(ticket, Away(seat.rank, self._session, future, options, self._note_broken))
            for constant in (args[0],) if fn is run_chunk else list(self._constants.values()):
                self._bring(constant, seat.rank)
            cluster.send(seat.rank, [head, body, *pieces])
        return future

    def _note_broken(self, why: str) -> None:
        self._broken = why

    def _bring(self, constant: Constant, rank: int) -> None:
        if rank not in constant.ranks:
            constant.ranks.add(rank)
            self._cluster.say(rank, Verb.PUBLISH, constant.number, pickle.dumps(self._session), constant.file.pieces())

    def _leave(self, owner: object, seat: Seat, future: Future[Any] | None) -> None:
        """A submission has ended; called before anybody else hears of it."""
        with self._lock:
            if future is not None:
                self._tickets.pop(future, None)
            seats = self._seats[owner]
            seats.leave(seat)
            if not seats.occupied:
                del self._seats[owner]

    def recall(self, future: Future[Any]) -> None:
        """Ask for the rows that a call has not begun."""
        self._tell(future, Verb.RECALL, Pool.recall)

    def kill(self, future: Future[Any]) -> None:
        """Kill the process group that runs this call."""
        self._tell(future, Verb.KILL, Pool.kill)

    def _tell(self, future: Future[Any], verb: Verb, do: Callable[[Pool, Future[Any]], None]) -> None:
        rank, ticket = self._tickets.get(future, (0, 0))
        if rank:
            self._cluster.say(rank, verb, ticket)
        else:
            do(self._pool, future)

    def drive(self, until: Callable[[], object], timeout: float) -> None:
        """Do the work of channels and pool in this thread until `until` returns something true, or for so long."""
        cluster = self._cluster
        if not cluster.take_reactor(timeout):
            return
        try:
            deadline = time.monotonic() + timeout
            while not until() and (left := deadline - time.monotonic()) > 0:
                cluster.look()
                if not until():
                    drive_or_sleep(self._pool, until, left if cluster.is_quiet else min(left, cluster.pause))
        finally:
            cluster.release_reactor()

    def wake(self) -> None:
        """Have whoever drives look at its condition."""
        self._pool.wake()

    def at_work(self, owner: object) -> int:
        """Return how many worker processes have submissions of this owner."""
        seats = self._seats.get(owner)
        return 0 if seats is None else seats.occupied

    def pids(self) -> list[int]:
        """Return the process numbers of the workers of rank 0."""
        return self._pool.pids()

    def close(self) -> None:
        """End the workers of all ranks, and wait for them."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._cluster.close_session(self._session)
        self._pool.close()
        self._store.close()
