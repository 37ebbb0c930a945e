"""Line 7: what it costs to set a deadline for every pset, and that one in a hundred fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import attrs
import numpy as np
import pandas as pd

from benchmarks import peers, workers
from benchmarks.balance import lognormal_seconds
from benchmarks.figures import Effort, Figure, Timings, interleave, show
from benchmarks.large import sky_elements
from benchmarks.workers import Pset

PLAIN, WITH_TIMEOUT, WITH_RAISING = "without", "with timeout=60", "1 % raise"
RAISING_EVERY = 100

Psets: TypeAlias = "list[Pset] | pd.DataFrame"


@attrs.frozen
class Case:
    """A survey that is run three times: as it is, with a deadline, and with psets that raise.

    `psets` makes the psets out of their column `a`, in which a negative number raises.
    """

    name: str
    size: int
    rounds: int
    psets: Callable[[np.ndarray[Any, Any]], Psets]
    worker: Callable[..., Mapping[str, Any]] = workers.add_or_raise
    options: Mapping[str, Any] = attrs.field(factory=dict)


def safety(effort: Effort) -> list[Figure]:
    """Line 7: lines 1, 3, 4 and 5 again, relative to themselves."""
    return [figure for case in _cases(effort) for figure in _figures(case)]


def _cases(effort: Effort) -> Iterator[Case]:
    rounds = effort.choose(full=11, quick=5)
    fewer_rounds = effort.choose(full=5, quick=1)
    for size in effort.choose(full=(10_000, 100_000, 1_000_000), quick=(20_000,)):
        yield Case(f"{size:,} psets from dicts", size, rounds, _pairs)
    many = effort.choose(full=100_000, quick=20_000)
    yield Case(f"{many:,} psets from a DataFrame", many, rounds, lambda a: pd.DataFrame({"a": a, "b": 2 * a}))
    few = effort.choose(full=20_000, quick=2_000)
    yield Case(f"{few:,} psets, `group_size=1`", few, fewer_rounds, _pairs, options={"group_size": 1})
    equal = np.full(effort.choose(full=3_000, quick=1_500), 0.001)
    unequal = lognormal_seconds(effort.choose(full=1_000, quick=1_000))
    for name, seconds in (("1 ms", equal), ("lognormal times", unequal)):
        yield Case(
            f"{len(seconds):,} psets of {name}", len(seconds), fewer_rounds, _lasting(seconds), workers.last_or_raise
        )
    images = effort.choose(full=500, quick=100)
    yield Case(f"{images} answers of 1 MB arrays", images, fewer_rounds, _alone, workers.make_image_or_raise)
    sky = {"user_kwargs": {"sky": np.arange(sky_elements(effort), dtype=float)}}
    yield Case("200 psets that read 200 MB", 200, fewer_rounds, _alone, workers.read_sky_or_raise, sky)


def _pairs(a: np.ndarray[Any, Any]) -> Psets:
    return [{"a": one, "b": 2 * one} for one in a.tolist()]


def _alone(a: np.ndarray[Any, Any]) -> Psets:
    return [{"a": one} for one in a.tolist()]


def _lasting(seconds: np.ndarray[Any, Any]) -> Callable[[np.ndarray[Any, Any]], Psets]:
    return lambda a: [{"a": one, "seconds": lasts} for one, lasts in zip(a.tolist(), seconds.tolist(), strict=True)]


def _figures(case: Case) -> list[Figure]:
    timings = Timings({}) if peers.why_not_ours() else _timings(case)
    if timings.seconds:
        show(case.name, timings, per=case.size)
    return [
        timings.figure(line=7, name=f"{case.name}, {how}", ours=how, reference=PLAIN, bound=1.3)
        for how in (WITH_TIMEOUT, WITH_RAISING)
    ]


def _timings(case: Case) -> Timings:
    a = np.arange(case.size)
    some_negative = a.copy()
    some_negative[RAISING_EVERY // 2 :: RAISING_EVERY] = -1
    plain, raising = case.psets(a), case.psets(some_negative)
    finished = {PLAIN: case.size, WITH_TIMEOUT: case.size, WITH_RAISING: int((some_negative >= 0).sum())}
    with peers.ours() as our_map:
        contenders: dict[str, Callable[[None], tuple[str, pd.DataFrame]]] = {
            PLAIN: lambda _: (PLAIN, our_map(case.worker, plain, **case.options)),
            WITH_TIMEOUT: lambda _: (WITH_TIMEOUT, our_map(case.worker, plain, timeout=60, **case.options)),
            WITH_RAISING: lambda _: (WITH_RAISING, our_map(case.worker, raising, **case.options)),
        }
        return interleave(
            contenders,
            rounds=case.rounds,
            given=lambda: None,
            check=lambda answer: len(answer[1]) == finished[answer[0]],
        )
