"""Line 2: what a survey costs the driver in memory, beyond the psets that were there and the answers that it wanted.

Each case runs in a process of its own, which prints the bytes per pset:

    peak of the resident memory during the call (``VmHWM``, reset just before by writing 5 to ``/proc/self/clear_refs``)
    minus resident memory just before, with the session open and warm and all psets made
    minus the columns of the table of answers, without those that are only views of the psets' own table

The workers' memory is theirs and not counted. Nothing traces allocations: that would change what they cost.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from benchmarks import peers, processes, workers
from benchmarks.figures import OURS, Bound, Effort, Figure

Psets: TypeAlias = "Sequence[workers.Pset] | pd.DataFrame"
Survey: TypeAlias = Callable[[Psets], pd.DataFrame]

ROOT = Path(__file__).resolve().parent.parent
KINDS = {"dicts": 100, "DataFrame": 40}  # bytes per pset that the issue allows


def memory(effort: Effort) -> list[Figure]:
    """Line 2: bytes per pset in the driver."""
    if not processes.can_be_measured():
        print("  this kernel does not tell the peak of a process: memory is not measured")
        return []
    size = effort.choose(full=1_000_000, quick=200_000)
    # of a smaller survey the fixed costs would be most: its figure is shown, but not judged
    bounds = {kind: effort.choose(full=Bound(limit=allowed), quick=None) for kind, allowed in KINDS.items()}
    return [_figure(kind, bound, size) for kind, bound in bounds.items()]


def _figure(kind: str, bound: Bound | None, size: int) -> Figure:
    ours = None if peers.why_not_ours() else _measured_apart(OURS, kind, size)
    pool = _measured_apart("Pool.map", kind, size)
    print(f"\n  {size:,} psets from {kind}, bytes per pset in the driver beyond psets and answers")
    print(f"    {OURS}: {'not measured' if ours is None else f'{ours:.1f}'}   Pool.map: {pool:.1f}")
    return Figure(
        line=2,
        name=f"driver memory, {size:,} psets from {kind}",
        value=ours,
        unit="bytes per pset",
        bound=bound,
        others={"Pool.map": pool},
    )


def _measured_apart(contender: str, kind: str, size: int) -> float:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.memory", contender, kind, str(size)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout))


def _measured_here(contender: str, kind: str, size: int) -> float:
    with ExitStack() as stack:
        survey = _ours(stack) if contender == OURS else _pool(stack)
        psets = _psets(kind, size)
        gc.collect()
        processes.forget_peak()
        before = processes.resident()
        table = survey(psets)
        beyond = processes.peak() - before - _bytes_of_its_own(table, psets)
        if not np.array_equal(table["c"].to_numpy(), 3 * np.arange(size)):
            raise ValueError(f"{contender} returned wrong answers: its memory would mean nothing")
    return beyond / size


def _ours(stack: ExitStack) -> Survey:
    our_map = stack.enter_context(peers.ours())
    return lambda psets: our_map(workers.add, psets)


def _pool(stack: ExitStack) -> Survey:
    pool = peers.opened(stack, {"Pool.map": peers.pool_map})["Pool.map"]

    def survey(psets: Psets) -> pd.DataFrame:
        rows = peers.as_dicts(psets) if isinstance(psets, pd.DataFrame) else psets
        return peers.as_table(rows, pool(workers.add, rows))

    return survey


def _psets(kind: str, size: int) -> Psets:
    """Make only what is asked for, so that no freed memory stands ready to hide what the survey takes."""
    if kind == "DataFrame":
        return pd.DataFrame({"a": np.arange(size), "b": 2 * np.arange(size)})
    return [{"a": number, "b": 2 * number} for number in range(size)]


def _bytes_of_its_own(table: pd.DataFrame, psets: Psets) -> int:
    given = [psets[name].to_numpy() for name in psets] if isinstance(psets, pd.DataFrame) else []
    return sum(
        int(table[name].memory_usage(index=False, deep=True))
        for name in table
        if not _is_view(table[name].to_numpy(), given)
    )


def _is_view(column: np.ndarray[Any, Any], given: Sequence[np.ndarray[Any, Any]]) -> bool:
    return any(np.may_share_memory(column, other) for other in given)


if __name__ == "__main__":
    print(json.dumps(_measured_here(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
