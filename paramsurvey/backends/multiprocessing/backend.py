"""The multiprocessing backend: a pool of worker processes on this machine's cores, as the engine sees it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from types import MappingProxyType
from typing import Any

from paramsurvey.backends.multiprocessing.constants import ConstantStore, PublishedFile, make_folder
from paramsurvey.backends.multiprocessing.pool import Pool
from paramsurvey.engine.records import TaskOptions
from paramsurvey.errors import OptionError

THREADS_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores(ncores: int | None) -> int:
    """Return how many cores ``ncores=`` means on this machine; at least 1."""
    available = available_cores()
    if ncores is None:
        return available
    return ncores if ncores > 0 else max(1, available + ncores)


WITHOUT_EFFECT = ("processes", "context")
"""Keywords of `multiprocessing.Pool` that programs may still give, and that change nothing: ``ncores=`` has always
overridden the first, and our processes are fresh whatever the second says."""
INSTEAD = MappingProxyType(
    {
        "maxtasksperchild": "give max_tasks_per_child=",
        "initializer": "have the worker do that when it is first called in a process",
        "initargs": "have the worker do that when it is first called in a process",
    }
)
"""What to give in place of other keywords of `multiprocessing.Pool`, which did have an effect."""


def refuse_wrong_settings(settings: Mapping[str, Any]) -> None:
    """Refuse what was given as ``multiprocessing={...}``: there are no settings.

    Raises
    ------
    OptionError
        There is one, and it is not one of those `WITHOUT_EFFECT`.
    """
    for name in settings:
        if name not in WITHOUT_EFFECT:
            remedy = INSTEAD.get(
                name, "it has none: options such as ncores= and max_tasks_per_child= stand by themselves"
            )
            raise OptionError(
                f"multiprocessing={{{name!r}: ...}}: the backend 'multiprocessing' has no such setting; {remedy}"
            )


class MultiprocessingBackend:
    """Worker processes on this machine, one for each slot.

    Parameters
    ----------
    slots : int
        How many submissions can run at once.
    """

    name = "multiprocessing"
    can_kill = True
    can_replace = True
    runs_alone = True
    is_here = True

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._reloads = 0
        self._store = ConstantStore(make_folder())
        self._pool = Pool(self._store.folder, workers_environment(slots))

    def slots(self) -> int:
        """Return how many submissions can run at once."""
        return self._slots

    def at_most(self, ncores: int) -> int:
        """Return how many processes ``ncores=`` means: a survey may have more than the session was opened with."""
        return cores(ncores)

    def renew(self, reloads: int) -> None:
        """Replace the processes, if the program has loaded a module again since this was last asked."""
        if reloads != self._reloads:
            self._reloads = reloads
            self._pool.renew()

    def publish(self, obj: Any) -> PublishedFile:
        """Write a constant where every worker process can map it."""
        self._pool.refuse_in_a_fork()
        return self._store.publish(obj)

    def submit(self, fn: Callable[..., Any], /, *args: Any, options: TaskOptions) -> Future[Any]:
        """Send a call to a worker process."""
        return self._pool.submit(fn, args, options)

    def recall(self, future: Future[Any]) -> None:
        """Ask for the rows that a call has not begun."""
        self._pool.recall(future)

    def kill(self, future: Future[Any]) -> None:
        """Kill the process group that runs this call."""
        self._pool.kill(future)

    def drive(self, until: Callable[[], object], timeout: float) -> None:
        """Do the pool's work in this thread until `until` returns something true, or for so many seconds."""
        self._pool.drive(until, timeout)

    def wake(self) -> None:
        """Have whoever drives look at its condition."""
        self._pool.wake()

    def at_work(self, owner: object) -> int:
        """Return how many worker processes have submissions of this owner."""
        return self._pool.at_work(owner)

    def pids(self) -> list[int]:
        """Return the process numbers of the workers."""
        return self._pool.pids()

    def resources(self) -> dict[str, Any]:
        """Return the cores in use, and the machine's memory in bytes."""
        import psutil  # here, because few ask, and everybody would pay

        return {"num_cores": self._slots, "memory": psutil.virtual_memory().total}

    def close(self) -> None:
        """End the workers and the guard, and wait for them."""
        self._pool.close()
        self._store.close()


def workers_environment(slots: int) -> dict[str, str]:
    """Return the workers' environment: numerical libraries get a worker's share of the cores, unless told otherwise."""
    share = str(max(1, available_cores() // slots))
    return {**dict.fromkeys(THREADS_VARIABLES, share), **os.environ}
