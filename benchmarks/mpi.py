"""Line 14: trivial psets on MPI, beside the multiprocessing backend; run only where there are mpi4py and an mpiexec.

The program below `main` is rank 0 of two, with one worker process at each; both backends take turns in it.
"""

# ruff: noqa: E402 - our own modules can be imported only when the folder above this one is on the path
from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for rank 0, and so for all workers

import pandas as pd

import paramsurvey
from benchmarks import workers
from benchmarks.figures import OURS, Effort, Figure, Timings, interleave, show
from benchmarks.peers import WORKERS
from benchmarks.throughput import Sums

REFERENCE = "multiprocessing"
BOUND = 1.3


def launcher() -> str | None:
    """Return an mpiexec, that of this environment first; None where MPI cannot be run."""
    if importlib.util.find_spec("mpi4py") is None:
        return None
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def mpi(effort: Effort) -> list[Figure]:
    """Line 14: trivial psets on MPI, two ranks, relative to the multiprocessing backend with two workers."""
    found = launcher()
    if found is None:
        return []
    surveys: list[tuple[int, int | None, int]] = effort.choose(
        full=[(10_000, None, 15), (100_000, None, 9), (1_000_000, None, 3), (20_000, 1, 5)],
        quick=[(10_000, None, 5), (100_000, None, 3), (2_000, 1, 3)],
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "timings.json")
        command = [found, "-n", str(WORKERS), sys.executable, "-m", "paramsurvey.mpi", __file__, str(file)]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        subprocess.run([*command, json.dumps(surveys)], check=True, env={**os.environ, "PYTHONPATH": path})
        taken = [Timings(seconds) for seconds in json.loads(file.read_text())]
    figures = []
    for (size, group_size, _), timings in zip(surveys, taken, strict=True):
        grouped = f", `group_size={group_size}`" if group_size else ""
        show(f"{size:,} trivial psets{grouped}, on MPI", timings, per=size)
        figures.append(
            timings.figure(
                line=14,
                name=f"{size:,} psets on MPI{grouped}",
                reference=REFERENCE,
                bound=BOUND,
            )
        )
    return figures


def main(file: Path, surveys: list[tuple[int, int | None, int]]) -> None:
    """Be rank 0: let both take turns, and leave their times in the file."""
    os.environ.pop("PARAMSURVEY_BACKEND", None)  # each session has its own
    found = []
    options = {"verbose": 0, "vstats": 0}
    with (
        paramsurvey.Session(backend="mpi", mpi={"slots": 1}, **options) as on_mpi,
        paramsurvey.Session(backend="multiprocessing", ncores=WORKERS, **options) as on_pool,
    ):
        for session in (on_mpi, on_pool):
            session.map(workers.add, Sums.of_size(1_000).psets)
        for size, group_size, rounds in surveys:
            sums = Sums.of_size(size)
            contenders = {
                name: partial(_table_of, session, group_size)
                for name, session in ((OURS, on_mpi), (REFERENCE, on_pool))
            }
            timings = interleave(contenders, rounds=rounds, given=lambda sums=sums: sums, check=sums.are_right)
            found.append(timings.seconds)
    file.write_text(json.dumps(found))


def _table_of(session: paramsurvey.Session, group_size: int | None, sums: Sums) -> pd.DataFrame:
    return session.map(workers.add, sums.psets, group_size=group_size).results


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
