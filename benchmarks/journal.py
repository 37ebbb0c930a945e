"""Line 13: what it costs to remember every row, and to find them again.

The rows that are found again are found by a process of its own, which has the psets and a warm session; its time is
that of the whole call of `map`, table included, and its memory is measured as in `benchmarks.memory`, without
subtracting anything.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

import paramsurvey
from benchmarks import peers, processes, workers
from benchmarks.figures import Bound, Effort, Figure, Timings, interleave, show

ROOT = Path(__file__).resolve().parent.parent
WITH, WITHOUT = "with a journal", "without"


def journal(effort: Effort) -> list[Figure]:
    """Line 13: µs per row beyond the same survey without a journal; seconds and MB to find a million rows; bytes."""
    if peers.why_not_ours():
        return []
    return [*_beyond(effort), _slow_ones(effort), *_found(effort), _one_by_one(effort)]


def _beyond(effort: Effort) -> list[Figure]:
    count = effort.choose(full=200_000, quick=20_000)
    psets = [{"a": number, "b": 2 * number} for number in range(count)]
    figures = []
    for kind, given in (("dicts", psets), ("a DataFrame", pd.DataFrame(psets))):
        timings = _compared(workers.add, given, rounds=effort.choose(full=9, quick=3))
        show(f"{count:,} trivial psets from {kind}", timings, per=count)
        pairs = zip(timings.seconds[WITH], timings.seconds[WITHOUT], strict=True)
        beyond = sorted((one - other) / count * 1e6 for one, other in pairs)
        figures.append(
            Figure(
                line=13,
                name=f"{count:,} trivial psets from {kind}, remembered in a journal",
                value=beyond[len(beyond) // 2],
                unit="µs per pset more",
                bound=Bound(limit=5),
                others={"without": timings.median(WITHOUT) / count * 1e6},
            )
        )
    return figures


def _slow_ones(effort: Effort) -> Figure:
    count = effort.choose(full=600, quick=60)
    timings = _compared(workers.last, [{"seconds": 0.01, "n": n} for n in range(count)], effort.choose(full=3, quick=3))
    show(f"{count:,} psets of 10 ms", timings, per=count)
    return timings.figure(
        line=13,
        name=f"{count:,} psets of 10 ms, remembered in a journal",
        reference=WITHOUT,
        ours=WITH,
        bound=effort.choose(full=1.01, quick=1.1),
    )


def _compared(worker: Any, psets: Any, rounds: int) -> Timings:
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as folder, peers.ours() as our_map:
        contenders: dict[str, Callable[[None], Any]] = {
            WITHOUT: lambda _: our_map(worker, psets),
            WITH: lambda _: our_map(worker, psets, journal=os.path.join(folder, str(next(numbers)))),
        }
        for contender in contenders.values():
            contender(None)
        return interleave(contenders, rounds=rounds, given=lambda: None, check=lambda table: len(table) == len(psets))


def _found(effort: Effort) -> list[Figure]:
    count = effort.choose(full=1_000_000, quick=100_000)
    bound = partial(effort.choose, quick=None)
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "journal")
        _apart("write", count, path)
        numbers = array("q", range(count)), array("q", range(0, 2 * count, 2)), array("q", range(0, 3 * count, 3))
        size = os.path.getsize(path) / len(pickle.dumps(numbers, 5))
        for kind in ("dicts", "DataFrame"):
            seconds, megabytes, opened = _apart(kind, count, path)
            print(f"\n  {count:,} rows found again, from {kind}: {seconds:.2f} s and {megabytes:.0f} MB")
            name = f"{count:,} rows of a journal, all found again, from {kind}"
            others = {"to open the journal": opened}
            figures += [
                Figure(line=13, name=name, value=seconds, unit="s", bound=bound(full=Bound(limit=3)), others=others),
                Figure(line=13, name=name, value=megabytes, unit="MB", bound=bound(full=Bound(limit=300))),
            ]
    name = "bytes of that journal / its columns, pickled"
    return [*figures, Figure(line=13, name=name, value=size, bound=Bound(limit=2))]


def _one_by_one(effort: Effort) -> Figure:
    """Return the size of a journal of slow psets, each of which comes by itself."""
    count = effort.choose(full=10_000, quick=1000)
    with tempfile.TemporaryDirectory() as folder, paramsurvey.Session(backend="serial", verbose=0) as session:
        path = os.path.join(folder, "journal")
        psets = [{"a": number, "b": 2 * number} for number in range(count)]
        table = session.map(workers.add, psets, journal=path, group_size=1).results
        size = os.path.getsize(path) / len(pickle.dumps([array("q", table[key].tolist()) for key in "abc"], 5))
    name = f"bytes of a journal of {count:,} rows that came one by one / its columns, pickled"
    return Figure(line=13, name=name, value=size, bound=Bound(limit=2))


def _apart(what: str, count: int, path: str) -> list[float]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.journal", what, str(count), path]
    done = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(path).parent
    )
    return list(json.loads(done.stdout))


def _here(what: str, count: int, path: str) -> list[float]:
    with paramsurvey.Session(ncores=peers.WORKERS, verbose=0) as session:
        began = time.perf_counter()
        if what != "write":
            paramsurvey.open_journal(path).close()
        opened = time.perf_counter() - began
        psets: Any = [{"a": number, "b": 2 * number} for number in range(count)]
        psets = pd.DataFrame(psets) if what == "DataFrame" else psets
        session.map(workers.add, psets[:1000])
        processes.forget_peak()
        before, began = processes.resident(), time.perf_counter()
        results = session.map(workers.add, psets, journal=path)
        table = results.results
        seconds = time.perf_counter() - began
        if results.progress.from_journal != (0 if what == "write" else count):
            raise ValueError(f"{results.progress.from_journal} rows were found")
        if int(table["c"].sum()) != 3 * count * (count - 1) // 2:
            raise ValueError("the answers are wrong: their time would mean nothing")
        return [seconds, (processes.peak() - before) / 1e6, opened]


if __name__ == "__main__":
    print(json.dumps(_here(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
