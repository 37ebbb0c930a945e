"""Line 7: what it costs to set a deadline for every pset, and that one in a hundred fails."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np
import pandas as pd

from benchmarks import peers, workers
from benchmarks.figures import Effort, Figure, Timings, interleave, show

PLAIN, WITH_TIMEOUT, WITH_RAISING = "without", "with timeout=60", "1 % raise"
RAISING_EVERY = 100


@attrs.frozen
class Case:
    """A survey that is run three times: as it is, with a deadline, and with psets that raise."""

    name: str
    size: int
    rounds: int
    from_frame: bool = False
    group_size: int | None = None


def safety(effort: Effort) -> list[Figure]:
    """Line 7: lines 1 and 3 again, relative to themselves."""
    many = effort.choose(full=100_000, quick=20_000)
    few = effort.choose(full=20_000, quick=2_000)
    cases = [
        Case(f"{many:,} psets from dicts", many, effort.choose(full=11, quick=5)),
        Case(f"{many:,} psets from a DataFrame", many, effort.choose(full=11, quick=5), from_frame=True),
        Case(f"{few:,} psets, `group_size=1`", few, effort.choose(full=7, quick=3), group_size=1),
    ]
    return [figure for case in cases for figure in _figures(case)]


def _figures(case: Case) -> list[Figure]:
    timings = Timings({}) if peers.why_not_ours() else _timings(case)
    if timings.seconds:
        show(case.name, timings, per=case.size)
    return [
        timings.figure(line=7, name=f"{case.name}, {how}", ours=how, reference=PLAIN, bound=1.3)
        for how in (WITH_TIMEOUT, WITH_RAISING)
    ]


def _timings(case: Case) -> Timings:
    plain, raising = _psets(case, raising=False), _psets(case, raising=True)
    options = {} if case.group_size is None else {"group_size": case.group_size}
    finished = {PLAIN: case.size, WITH_TIMEOUT: case.size, WITH_RAISING: case.size - case.size // RAISING_EVERY}
    with peers.ours() as our_map:
        contenders: dict[str, Callable[[None], tuple[str, pd.DataFrame]]] = {
            PLAIN: lambda _: (PLAIN, our_map(workers.add_or_raise, plain, **options)),
            WITH_TIMEOUT: lambda _: (WITH_TIMEOUT, our_map(workers.add_or_raise, plain, timeout=60, **options)),
            WITH_RAISING: lambda _: (WITH_RAISING, our_map(workers.add_or_raise, raising, **options)),
        }
        return interleave(
            contenders,
            rounds=case.rounds,
            given=lambda: None,
            check=lambda answer: len(answer[1]) == finished[answer[0]],
        )


def _psets(case: Case, *, raising: bool) -> list[dict[str, int]] | pd.DataFrame:
    """Make psets of which every hundredth has a negative `a`, or none."""
    a = np.arange(case.size)
    if raising:
        a[RAISING_EVERY // 2 :: RAISING_EVERY] = -1
    frame = pd.DataFrame({"a": a, "b": 2 * np.arange(case.size)})
    if case.from_frame:
        return frame
    return [{"a": one, "b": other} for one, other in zip(a.tolist(), frame["b"].tolist(), strict=True)]
