"""Run a program on all ranks of an MPI job: ``mpiexec -n 4 python -m paramsurvey.mpi script.py arguments``.

Rank 0 runs the program, in which every session has the backend ``mpi`` unless ``PARAMSURVEY_BACKEND`` says otherwise;
the other ranks run worker processes. The program itself need not know. Also ``-m module`` in place of the script.
"""

from __future__ import annotations

import os
import runpy
import sys

from paramsurvey.backends.mpi.cluster import the_cluster
from paramsurvey.backends.mpi.node import serve
from paramsurvey.backends.mpi.world import find_world
from paramsurvey.errors import BackendError

USAGE = "usage: mpiexec -n RANKS python -m paramsurvey.mpi (SCRIPT | -m MODULE) [ARGUMENTS]"


def main(arguments: list[str]) -> None:
    """Be rank 0, and run the program; or be another, and work for it.

    Parameters
    ----------
    arguments : list of str
        The program and what is meant for it.
    """
    if not arguments or arguments[0] in ("-h", "--help") or arguments == ["-m"]:
        sys.exit(USAGE)
    try:
        world = find_world()
        if world.rank != 0:
            serve(world)
            return
        the_cluster(world)
    except BackendError as exc:
        sys.exit(f"paramsurvey.mpi: {exc}")
    os.environ.setdefault("PARAMSURVEY_BACKEND", "mpi")
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path[0] = os.path.dirname(os.path.abspath(arguments[0]))
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
