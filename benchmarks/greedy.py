"""Line 12: what a greedy search costs beyond its evaluations, beside a loop by hand around warm pools."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final, TypeAlias

from benchmarks import peers, workers
from benchmarks.figures import OURS, Bound, Effort, Figure, interleave, show
from benchmarks.workers import Pset

Search: TypeAlias = Callable[[Sequence[str]], list[str]]

CANDIDATES, PICKS, SECONDS = 30, 10, 0.002
BY_HAND: Final[dict[str, peers.Opener]] = {
    "loop over Pool.map": peers.pool_map,
    "loop over Pool.map, chunks of 1": partial(peers.pool_map, 1),
    "loop over ProcessPoolExecutor": peers.executor_map,
}
SEEN: Final = {
    f"site{number:02d}": frozenset(random.Random(number).sample(range(400), 20 + number))
    for number in range(CANDIDATES)
}


def covered(pset: Pset, system_kwargs: object = None, user_kwargs: object = None) -> dict[str, int]:
    """Count what sites see together, in 2 ms."""
    seen = len(frozenset().union(*(SEEN[name] for name in [*pset["picked"], pset["candidate"]])))
    workers.last({"seconds": SECONDS})
    return {"seen": seen}


def greedy(effort: Effort) -> list[Figure]:
    """Line 12: 10 picks out of 30 candidates, whose evaluations take 2 ms, by one call and by hand."""
    name = f"{PICKS} picks out of {CANDIDATES} candidates, 2 ms each"
    with ExitStack() as stack:
        opened = peers.opened(stack, BY_HAND)
        contenders: dict[str, Search] = {each: partial(_by_hand, peer) for each, peer in opened.items()}
        if not peers.why_not_ours():
            contenders[OURS] = stack.enter_context(_ours())
        timings = interleave(
            contenders,
            rounds=effort.choose(full=15, quick=3),
            given=lambda: list(SEEN),
            check=lambda picks: picks == _expected(),
        )
    ideal = sum(-(-(CANDIDATES - pick) // peers.WORKERS) * SECONDS for pick in range(PICKS))
    show(f"{name}; evaluations alone {ideal * 1e3:.1f} ms", timings)
    return [timings.figure(line=12, name=name, reference=each, bound=1.0) for each in opened] + [
        timings.converted(
            line=12,
            name=f"{name}: beyond the evaluations",
            unit="ms per round",
            bound=Bound(limit=1),
            by=lambda taken: (taken - ideal) * 1e3 / PICKS,
        )
    ]


@contextmanager
def _ours() -> Any:
    paramsurvey = importlib.import_module("paramsurvey")

    def search(names: Sequence[str]) -> list[str]:
        keys: list[str] = session.greedy(covered, names, picks=PICKS).keys
        return keys

    with paramsurvey.Session(backend="multiprocessing", ncores=peers.WORKERS, verbose=0, vstats=0) as session:
        session.map(workers.add, peers.WARMING)
        session.greedy(covered, list(SEEN)[:3], picks=1)
        yield search


def _by_hand(peer: peers.Peer, names: Sequence[str]) -> list[str]:
    """Do what a user would write."""
    picked: list[str] = []
    while len(picked) < PICKS:
        psets = [{"candidate": name, "picked": picked} for name in names if name not in picked]
        answers = peer(covered, psets)
        best = max(range(len(psets)), key=lambda place: answers[place]["seen"])
        picked = [*picked, str(psets[best]["candidate"])]
    return picked


def _expected() -> list[str]:
    picked: list[str] = []
    while len(picked) < PICKS:
        others = [name for name in SEEN if name not in picked]
        picked.append(max(others, key=lambda name: len(frozenset().union(*(SEEN[each] for each in [*picked, name])))))
    return picked
