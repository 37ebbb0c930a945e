"""Lines 1 and 3: what a pset costs when the worker does nothing, in chunks and one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import attrs
import numpy as np
import pandas as pd

from benchmarks import peers, workers
from benchmarks.figures import OURS, Bound, Effort, Figure, Timings, interleave, show
from benchmarks.workers import Pset

REFERENCE = "Pool.map"
OURS_FROM_FRAME = f"{OURS}, DataFrame"
REFERENCE_FROM_FRAME = f"{REFERENCE}, DataFrame"

CHUNKED: dict[str, peers.Opener] = {
    REFERENCE: peers.pool_map,
    "ProcessPoolExecutor, Pool's chunks": partial(peers.executor_map, chunked_as_pool=True),
    "mpire": peers.mpire_map,
    "joblib": peers.joblib_parallel,
    "loop": peers.loop,
}
ONE_BY_ONE: dict[str, peers.Opener] = {
    "Pool.map, chunksize=1": partial(peers.pool_map, chunksize=1),
    "ProcessPoolExecutor": peers.executor_map,
    "mpire, chunk_size=1": partial(peers.mpire_map, chunk_size=1),
    "joblib, batch_size=1": partial(peers.joblib_parallel, batch_size=1),
    "loky": peers.loky_map,
}
SLOW_AT_SIZE = {"joblib": 100_000, "mpire": 100_000}  # beyond that a minute would tell nothing new


@attrs.frozen
class Sums:
    """Psets to be added, as dicts and as a table."""

    psets: Sequence[Pset]
    frame: pd.DataFrame

    @classmethod
    def of_size(cls, size: int) -> Sums:
        """Make that many different ones."""
        psets = [{"a": number, "b": 2 * number} for number in range(size)]
        return cls(psets, pd.DataFrame({"a": np.arange(size), "b": 2 * np.arange(size)}))

    def are_right(self, table: pd.DataFrame) -> bool:
        """Say whether a table has the right answers in the right order."""
        return bool(np.array_equal(table["c"].to_numpy(), 3 * np.arange(len(self.psets))))


def throughput(effort: Effort) -> list[Figure]:
    """Line 1: trivial psets in chunks, relative to a warm `Pool.map`."""
    sizes = effort.choose(full={10_000: 21, 100_000: 9, 1_000_000: 5}, quick={10_000: 5, 100_000: 2})
    return [figure for size, rounds in sizes.items() for figure in _throughput_of(size, rounds)]


def single(effort: Effort) -> list[Figure]:
    """Line 3: trivial psets one by one."""
    size = effort.choose(full=20_000, quick=2_000)
    with ExitStack() as stack:
        contenders = _table_makers(peers.opened(stack, ONE_BY_ONE))
        if our_map := peers.opened_ours(stack):
            contenders[OURS] = lambda sums: our_map(workers.add, sums.psets, group_size=1)
        timings = _raced(contenders, Sums.of_size(size), effort.choose(full=5, quick=2))
    show(f"{size:,} psets, one per task", timings, per=size)
    return [
        timings.converted(
            line=3,
            name=f"{size:,} psets, `group_size=1`",
            unit="µs per pset",
            bound=Bound(limit=25),
            by=lambda seconds: seconds / size * 1e6,
        )
    ]


def _throughput_of(size: int, rounds: int) -> list[Figure]:
    with ExitStack() as stack:
        wanted = {name: opener for name, opener in CHUNKED.items() if size <= SLOW_AT_SIZE.get(name, size)}
        opened = peers.opened(stack, wanted)
        contenders = _table_makers(opened)
        contenders[REFERENCE_FROM_FRAME] = partial(_table_from_frame, opened[REFERENCE])
        if our_map := peers.opened_ours(stack):
            contenders[OURS] = lambda sums: our_map(workers.add, sums.psets)
            contenders[OURS_FROM_FRAME] = lambda sums: our_map(workers.add, sums.frame)
        timings = _raced(contenders, Sums.of_size(size), rounds)
    show(f"{size:,} trivial psets", timings, per=size)
    return _throughput_figures(size, timings)


def _throughput_figures(size: int, timings: Timings) -> list[Figure]:
    return [
        timings.figure(
            line=1,
            name=f"{size:,} psets from dicts",
            reference=REFERENCE,
            bound=0.8 if size <= 10_000 else 0.5,
            others=list(CHUNKED),
        ),
        timings.figure(
            line=1,
            name=f"{size:,} psets from a DataFrame",
            ours=OURS_FROM_FRAME,
            reference=REFERENCE,
            bound=None if size <= 10_000 else 0.4,
            others=[REFERENCE_FROM_FRAME],
        ),
    ]


def _raced(contenders: dict[str, Callable[[Sums], pd.DataFrame]], sums: Sums, rounds: int) -> Timings:
    return interleave(contenders, rounds=rounds, given=lambda: sums, check=sums.are_right)


def _table_makers(opened: dict[str, peers.Peer]) -> dict[str, Callable[[Sums], pd.DataFrame]]:
    return {name: partial(_table_from_dicts, peer) for name, peer in opened.items()}


def _table_from_dicts(peer: peers.Peer, sums: Sums) -> pd.DataFrame:
    return peers.as_table(sums.psets, peer(workers.add, sums.psets))


def _table_from_frame(peer: peers.Peer, sums: Sums) -> pd.DataFrame:
    answers = peer(workers.add, peers.as_dicts(sums.frame))
    return sums.frame.assign(c=[answer["c"] for answer in answers])
