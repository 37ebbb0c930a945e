"""Line 4: how near the ideal a survey comes whose psets take milliseconds, equal ones and very unequal ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
import pandas as pd

from benchmarks import peers, workers
from benchmarks.figures import OURS, Bound, Effort, Figure, interleave, show
from benchmarks.workers import Pset

IN_A_HURRY: dict[str, peers.Opener] = {"Pool.map": peers.pool_map, "joblib": peers.joblib_parallel}
AS_THEY_CHUNK: dict[str, peers.Opener] = {**IN_A_HURRY, "mpire": peers.mpire_map}


def balance(effort: Effort) -> list[Figure]:
    """Line 4: the ideal time divided by the time taken."""
    equal = np.full(effort.choose(full=3_000, quick=1_500), 0.001)
    unequal = lognormal_seconds(effort.choose(full=1_000, quick=1_000))
    return [
        _efficiency(f"{len(equal):,} psets of 1 ms", equal, effort),
        _efficiency(f"{len(unequal):,} psets of lognormal times (sigma 1.5, mean 5 ms)", unequal, effort),
    ]


def lognormal_seconds(size: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the same times at every call; their mean is 5 ms (that of a lognormal is exp(μ + σ²/2))."""
    sigma = 1.5
    return np.random.default_rng(1).lognormal(np.log(0.005) - sigma**2 / 2, sigma, size)


def ideal_makespan(seconds: Sequence[float]) -> float:
    """Return the time below which nobody can end: the work shared evenly, or the longest pset."""
    return max(sum(seconds) / peers.WORKERS, max(seconds))


def _efficiency(name: str, durations: np.ndarray[tuple[int], np.dtype[np.float64]], effort: Effort) -> Figure:
    seconds = durations.tolist()
    psets = [{"seconds": each} for each in seconds]
    with ExitStack() as stack:
        opened = peers.opened(stack, effort.choose(full=AS_THEY_CHUNK, quick=IN_A_HURRY))
        contenders: dict[str, Callable[[Sequence[Pset]], pd.DataFrame]] = {
            name: partial(_table, peer) for name, peer in opened.items()
        }
        if our_map := peers.opened_ours(stack):
            contenders[OURS] = lambda psets: our_map(workers.last, psets)
        timings = interleave(
            contenders,
            rounds=effort.choose(full=5, quick=1),
            given=lambda: psets,
            check=lambda table: table["lasted"].tolist() == seconds,
        )
    ideal = ideal_makespan(seconds)
    show(f"{name}; ideal {ideal * 1e3:.2f} ms", timings)
    return timings.converted(
        line=4,
        name=name,
        unit="% of the ideal",
        bound=Bound(limit=97, at_least=True),
        by=lambda taken: ideal / taken * 100,
    )


def _table(peer: peers.Peer, psets: Sequence[Pset]) -> pd.DataFrame:
    return peers.as_table(psets, peer(workers.last, psets))
