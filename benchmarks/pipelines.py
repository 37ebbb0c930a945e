"""Lines 8 to 10: what a pipeline gains over one survey after another, and what it costs by row, by stage, in memory."""

from __future__ import annotations

import gc
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import numpy as np
import pandas as pd

from benchmarks import peers, processes, workers
from benchmarks.balance import ideal_makespan
from benchmarks.figures import Bound, Effort, Figure, Timings, interleave, show
from benchmarks.workers import Pset

Psets: TypeAlias = Sequence[Pset]
Contender: TypeAlias = Callable[[Psets], pd.DataFrame]

ROOT = Path(__file__).resolve().parent.parent
BRIEF, LONG = 0.005, 1.0  # seconds that a pset takes, and the straggler
FIRST_ROWS, PARTS = 200, 4
STRAGGLER = 150  # its row
IDEAL, TWO_MAPS, PIPELINE = "ideal makespan", "two map()", "pipeline"
IN_A_HURRY: Mapping[str, peers.Opener] = {"two ProcessPoolExecutor.map": peers.executor_map}
BARRIERS: Mapping[str, peers.Opener] = {
    **IN_A_HURRY,
    "two Pool.map": peers.pool_map,
    "two Pool.map, chunks of 1": partial(peers.pool_map, 1),
}
MEGABYTE = 1e6


# What is surveyed


def look(pset: Pset, system_kwargs: object = None, user_kwargs: object = None) -> dict[str, float]:
    """Take as long as the pset says."""
    return workers.last(pset)


def look_closer(pset: Pset, system_kwargs: object = None, user_kwargs: object = None) -> dict[str, int]:
    """Take as long as every row of the second stage does."""
    workers.last({"seconds": BRIEF})
    return {"seen": PARTS * pset["row"] + pset["part"]}


def double(pset: Pset, system_kwargs: object = None, user_kwargs: object = None) -> dict[str, int]:
    """Do as little as a second stage can do."""
    return {"d": 2 * pset["c"]}


def nothing(pset: Pset, system_kwargs: object = None, user_kwargs: object = None) -> None:
    """Do nothing at all."""


@contextmanager
def opened_session() -> Iterator[Any]:
    """Offer a warm session, with everything that it does by default but print."""
    paramsurvey = importlib.import_module("paramsurvey")
    with paramsurvey.Session(backend="multiprocessing", ncores=peers.WORKERS, verbose=0, vstats=0) as session:
        warm = _pipeline().map(workers.add).map(double).derive(e="d + 1").where("e > 0")
        session.run(warm, peers.WARMING)
        sum(1 for _ in session.stream_run(warm, iter(peers.WARMING)))
        yield session


def _pipeline() -> Any:
    return importlib.import_module("paramsurvey").Pipeline()


# The straggler


def straggler(effort: Effort) -> list[Figure]:
    """Line 8: a pipeline of two stages, and the same one after the other, when one row of the first stage takes 1 s."""
    if peers.why_not_ours():
        return [Figure(line=8, name="one straggler", value=None, reference=IDEAL, bound=Bound(limit=1.07))]
    with ExitStack() as stack:
        opened = peers.opened(stack, effort.choose(full=BARRIERS, quick=IN_A_HURRY))
        barriers = {name: partial(_two_surveys, peer) for name, peer in opened.items()}
        session = stack.enter_context(opened_session())
        ours = {PIPELINE: partial(_streamed, session), TWO_MAPS: partial(_two_maps, session)}
        figures = _straggler_at(STRAGGLER, {**ours, **barriers}, effort.choose(full=3, quick=1), judged=True)
        for row in effort.choose(full=(0, FIRST_ROWS - 1), quick=()):
            figures += _straggler_at(row, ours, 1, judged=False)
    return figures


def _straggler_at(row: int, contenders: Mapping[str, Contender], rounds: int, *, judged: bool) -> list[Figure]:
    psets = [{"row": each, "seconds": LONG if each == row else BRIEF} for each in range(FIRST_ROWS)]
    measured = interleave(contenders, rounds=rounds, given=lambda: psets, check=_all_is_seen)
    ideal = ideal_makespan([*(pset["seconds"] for pset in psets), *[BRIEF] * (FIRST_ROWS * PARTS)])
    timings = Timings({**measured.seconds, IDEAL: [ideal] * rounds})
    name = f"{FIRST_ROWS} rows of 5 ms, row {row + 1} of 1 s, each × {PARTS} of 5 ms"  # noqa: RUF001 - as for RATIO
    show(name, timings)
    others = [each for each in contenders if each != PIPELINE]
    figure = partial(timings.figure, line=8, name=name, ours=PIPELINE)
    return [
        figure(reference=IDEAL, bound=1.07 if judged else None),
        figure(reference=timings.quickest(others), bound=0.91 if judged else None, others=others),
    ]


def _all_is_seen(table: pd.DataFrame) -> bool:
    return table["seen"].tolist() == list(range(FIRST_ROWS * PARTS))


def _streamed(session: Any, psets: Psets) -> pd.DataFrame:
    pipeline = _pipeline().map(look).product({"part": list(range(PARTS))}).map(look_closer)
    table: pd.DataFrame = session.run(pipeline, psets).results
    return table


def _two_maps(session: Any, psets: Psets) -> pd.DataFrame:
    params = importlib.import_module("paramsurvey.params")
    looked = session.map(look, psets)
    table: pd.DataFrame = session.map(look_closer, params.product(looked, {"part": list(range(PARTS))})).results
    return table


def _two_surveys(peer: peers.Peer, psets: Psets) -> pd.DataFrame:
    looked = ({**pset, **answer} for pset, answer in zip(psets, peer(look, psets), strict=True))
    closer = [{**row, "part": part} for row in looked for part in range(PARTS)]
    return peers.as_table(closer, peer(look_closer, closer))


# What a row costs


def chained(effort: Effort) -> list[Figure]:
    """Line 10: trivial rows through two stages, and the same with map() and by hand."""
    size = effort.choose(full=100_000, quick=20_000)
    rounds = effort.choose(full=5, quick=3)
    if peers.why_not_ours():
        return [Figure(line=10, name=f"{size:,} rows through two map stages", value=None, reference=TWO_MAPS)]
    psets = [{"a": number, "b": number} for number in range(size)]
    with opened_session() as session:
        return [_two_stages(session, psets, rounds), _row_wise(session, psets, rounds)]


def _two_stages(session: Any, psets: Psets, rounds: int) -> Figure:
    pipeline = _pipeline().map(workers.add).map(double)
    contenders: dict[str, Contender] = {
        PIPELINE: lambda psets: session.run(pipeline, psets).results,
        TWO_MAPS: lambda psets: session.map(double, session.map(workers.add, psets)).results,
    }
    name = f"{len(psets):,} rows through two map stages"
    return _compared(name, contenders, psets, rounds)


def _row_wise(session: Any, psets: Psets, rounds: int) -> Figure:
    pipeline = _pipeline().map(workers.add).derive(d="2 * c").where("d >= 0")

    def by_hand(psets: Psets) -> pd.DataFrame:
        frame: pd.DataFrame = session.map(workers.add, psets).results
        frame["d"] = 2 * frame["c"]
        return frame[frame["d"] >= 0]

    contenders: dict[str, Contender] = {
        PIPELINE: lambda psets: session.run(pipeline, psets).results,
        "map() and pandas": by_hand,
    }
    return _compared(f"{len(psets):,} rows through map, derive and where", contenders, psets, rounds)


def _compared(name: str, contenders: Mapping[str, Contender], psets: Psets, rounds: int) -> Figure:
    expected = 4 * np.arange(len(psets))
    timings = interleave(
        contenders,
        rounds=rounds,
        given=lambda: psets,
        check=lambda table: np.array_equal(table["d"].to_numpy(), expected),
    )
    show(name, timings, per=len(psets))
    [reference] = contenders.keys() - {PIPELINE}
    return timings.figure(line=10, name=name, reference=reference, bound=None, ours=PIPELINE)


# What a stage costs


@attrs.frozen
class Times:
    """Seconds that a pipeline took until it was built, until its columns were known, planned, and run."""

    built: float
    columns: float
    planned: float
    ran: float


def graphs(effort: Effort) -> list[Figure]:
    """Line 10: chains and fans of many stages, with 20 rows: to build, to see their columns, to plan and to run."""
    length, width = effort.choose(full=1_000, quick=200), effort.choose(full=200, quick=50)
    cases: dict[str, tuple[int, Callable[[], Any]]] = {
        f"a chain of {length:,} derive": (length, partial(_chain_of_derive, length)),
        f"a chain of {length:,} map": (length, partial(_chain_of_map, length)),
        f"a fan of {width} map, and concat": (width + 2, partial(_fan, width)),
    }
    if peers.why_not_ours():
        return [Figure(line=10, name=name, value=None, unit="ms per stage") for name in cases]
    with opened_session() as session:
        return [_figure_of_graph(name, stages, _times(session, build)) for name, (stages, build) in cases.items()]


def _chain_of_derive(length: int) -> Any:
    pipeline = _pipeline()
    for number in range(length):
        pipeline = pipeline.derive({f"c{number + 1}": f"c{number} + 1"})
    return pipeline


def _chain_of_map(length: int) -> Any:
    pipeline = _pipeline()
    for number in range(length):
        pipeline = pipeline.map(nothing, name=f"map {number}")
    return pipeline


def _fan(width: int) -> Any:
    pipeline = _pipeline().derive(c1="c0 + 1")
    names = [f"map {number}" for number in range(width)]
    for name in names:
        pipeline = pipeline.map(nothing, name=name, after="derive")
    return pipeline.concat(after=names)


def _times(session: Any, build: Callable[[], Any]) -> Times:
    columns = importlib.import_module("paramsurvey.stages.base").Columns
    psets = [{"c0": number} for number in range(20)]
    gc.collect()
    marks = [time.perf_counter()]
    pipeline = build()
    marks.append(time.perf_counter())
    pipeline.columns({"psets": columns(("c0",), open=False)})
    marks.append(time.perf_counter())
    session.plan(pipeline, psets)
    marks.append(time.perf_counter())
    rows = len(session.run(pipeline, psets, keep="sinks").results)
    marks.append(time.perf_counter())
    if rows % len(psets) or not rows:
        raise ValueError(f"{rows} rows came out of {len(psets)}: the times would mean nothing")
    return Times(*np.diff(marks).tolist())


def _figure_of_graph(name: str, stages: int, times: Times) -> Figure:
    each = {label: seconds * 1e3 / stages for label, seconds in attrs.asdict(times).items()}
    print(f"\n  {name}: " + ", ".join(f"{label} {seconds:.3f} s" for label, seconds in attrs.asdict(times).items()))
    print(f"    ms per stage: {', '.join(f'{label} {value:.3f}' for label, value in each.items())}", flush=True)
    return Figure(line=10, name=name, value=each.pop("ran"), unit="ms per stage to run", others=each)


# What a stream keeps


def stream(effort: Effort) -> list[Figure]:
    """Line 9: the driver's memory while rows are drawn, go through two stages and are drained."""
    if not processes.can_be_measured():
        print("  this kernel does not tell the peak of a process: memory is not measured")
        return []
    sizes = effort.choose(full=(100_000, 1_000_000), quick=(20_000, 200_000))
    name = f"driver memory of a stream, {sizes[1]:,} rows beyond that of {sizes[0]:,}"
    if peers.why_not_ours():
        return [Figure(line=9, name=name, value=None, unit="MB", bound=Bound(limit=20))]
    peaks = {size: _peak_apart(size) for size in sizes}
    for size, peak in peaks.items():
        print(f"\n  {size:,} rows: {peak / MEGABYTE:.1f} MB, {peak / size:.1f} bytes per row", flush=True)
    small, large = peaks.values()
    each = {f"bytes per row at {size:,}": peak / size for size, peak in peaks.items()}
    return [
        Figure(line=9, name=name, value=(large - small) / MEGABYTE, unit="MB", bound=Bound(limit=20), others=each),
    ]


def _peak_apart(size: int) -> float:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.pipelines", str(size)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout))


def _peak_here(size: int) -> int:
    pipeline = _pipeline().map(workers.add).map(double)
    with opened_session() as session:
        psets = ({"a": number, "b": number} for number in range(size))
        gc.collect()
        processes.forget_peak()
        before = processes.resident()
        total = sum(row["d"] for row in session.stream_run(pipeline, psets))
        beyond = processes.peak() - before
    if total != 2 * size * (size - 1):
        raise ValueError("the stream gave wrong answers: its memory would mean nothing")
    return beyond


if __name__ == "__main__":
    print(json.dumps(_peak_here(int(sys.argv[1]))))
