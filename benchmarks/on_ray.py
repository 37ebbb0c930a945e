"""Line 15: trivial psets, psets of 1 ms and a large constant on a Ray of our own; run only where Ray is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import paramsurvey
from benchmarks import workers
from benchmarks.balance import ideal_makespan
from benchmarks.figures import OURS, Bound, Effort, Figure, interleave, show
from benchmarks.peers import WORKERS

BY_HAND = "Ray tasks of 5,000"
GROUP = 5_000
SKY_BYTES = 200_000_000


def has_ray() -> bool:
    """Tell whether Ray is installed."""
    return importlib.util.find_spec("ray") is not None


def on_ray(effort: Effort) -> list[Figure]:
    """Line 15: what the ray backend costs, beside tasks that are grouped by hand."""
    with paramsurvey.Session(backend="ray", ncores=WORKERS, verbose=0) as session:
        session.map(workers.add, [{"a": 1, "b": n} for n in range(1_000)])
        return [_trivial(session, effort), _milliseconds(session, effort), _constant(session)]


def _trivial(session: paramsurvey.Session, effort: Effort) -> Figure:
    import ray

    psets = [{"a": n, "b": 1} for n in range(100_000)]

    @ray.remote(max_retries=0)
    def group(rows: list[Mapping[str, int]]) -> list[dict[str, int]]:
        return [workers.add(row) for row in rows]

    def by_hand(rows: list[dict[str, int]]) -> pd.DataFrame:
        groups = [group.remote(rows[start : start + GROUP]) for start in range(0, len(rows), GROUP)]
        answers = [answer for part in ray.get(groups) for answer in part]
        return pd.DataFrame(rows).assign(**{key: [answer[key] for answer in answers] for key in answers[0]})

    contenders: dict[str, Callable[[list[dict[str, int]]], pd.DataFrame]] = {
        OURS: lambda rows: session.map(workers.add, rows).results,
        BY_HAND: by_hand,
    }
    expected = by_hand(psets).to_dict("list")
    timings = interleave(
        contenders,
        rounds=effort.choose(full=9, quick=3),
        given=lambda: psets,
        check=lambda table: table.to_dict("list") == expected,
    )
    show("100,000 trivial psets on Ray", timings, per=len(psets))
    return timings.figure(line=15, name="100,000 trivial psets on Ray", reference=BY_HAND, bound=1.5)


def _milliseconds(session: paramsurvey.Session, effort: Effort) -> Figure:
    seconds = [0.001] * 3_000
    timings = interleave(
        {OURS: lambda psets: session.map(workers.last, psets).results},
        rounds=effort.choose(full=5, quick=1),
        given=lambda: [{"seconds": each} for each in seconds],
        check=lambda table: table["lasted"].tolist() == seconds,
    )
    show("3,000 psets of 1 ms on Ray", timings)
    ideal = ideal_makespan(seconds)
    return timings.converted(
        line=15,
        name="3,000 psets of 1 ms on Ray",
        unit="% of the ideal",
        bound=Bound(limit=90, at_least=True),
        by=lambda taken: 100 * ideal / taken,
    )


def _constant(session: paramsurvey.Session) -> Figure:
    """Measure how much shared memory a constant takes that 200 tasks read."""
    sky = np.ones(SKY_BYTES // 8)
    before = _shared_memory()
    most: list[int] = []

    def look(*_args: Any) -> None:
        most.append(_shared_memory())

    session.map(
        workers.read_whole_sky_of_kwargs,
        [{"a": n} for n in range(200)],
        user_kwargs={"sky": sky},
        group_size=1,
        out_func=look,
    )
    value = (max(most) - before) / SKY_BYTES
    name = "copies of 200 MB in `user_kwargs` of 200 tasks on Ray, on the node"
    return Figure(line=15, name=name, value=value, unit="copies", bound=Bound(limit=1.05))


def _shared_memory() -> int:
    """Return the machine's shared memory in bytes."""
    [line] = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("Shmem:")]
    return int(line.split()[1]) * 1024
