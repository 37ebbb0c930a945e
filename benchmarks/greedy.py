"""Line 12: what a greedy search costs beyond its evaluations, beside a loop by hand around warm pools.

Evaluations of 2 ms take longer than that, and the more so the busier the machine; so what they take alone is measured
in the same rounds: two bare processes do their halves of all rounds, one after the other without a pause. The same two
processes with a loop by hand, that is two messages out and two back in every round, are the floor for everybody.

Medians on two cores, in ms per round beyond the evaluations: bare processes 0.2, we 1.8, `ProcessPoolExecutor` 1.8,
`Pool.map` 3.3, and 2.9 with chunks of 1. Of the 16 to 18 ms of ours in ten rounds, 3.4 are the beginning and the end of
a search, and 1 is waited for between the chunks of the first round, in which nobody knows how long evaluations take.
From the second round on, each slot has one chunk, and 0.9 ms go by from the last evaluation of a round to the first of
the next: two processes wake up, parts are read and sorted, the search decides, and chunks are sent.
"""

from __future__ import annotations

import importlib
import multiprocessing
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from itertools import chain
from typing import Any, Final, TypeAlias

from benchmarks import peers, workers
from benchmarks.figures import OURS, Bound, Effort, Figure, Timings, interleave, show
from benchmarks.workers import Pset

Search: TypeAlias = Callable[[Sequence[str]], list[str]]
Bare: TypeAlias = Callable[[Sequence[Sequence[Pset]]], list[Any]]

CANDIDATES, PICKS, SECONDS = 30, 10, 0.002
BARE: Final = "loop over two bare processes"
ALONE: Final = "the evaluations alone"
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
        bare = stack.enter_context(_bare_processes())
        contenders[BARE] = partial(_by_hand, lambda _worker, psets: bare(_halves(psets)))
        contenders[ALONE] = partial(_alone, bare)
        if not peers.why_not_ours():
            contenders[OURS] = stack.enter_context(_ours())
        timings = interleave(
            contenders,
            rounds=effort.choose(full=15, quick=3),
            given=lambda: list(SEEN),
            check=lambda picks: picks == _expected(),
        )
    show(name, timings)
    return [timings.figure(line=12, name=name, reference=each, bound=1.0, others=[BARE]) for each in opened] + [
        _beyond(ALONE, timings).converted(
            line=12,
            name=f"{name}: beyond the evaluations",
            unit="ms per round",
            bound=Bound(limit=1),
            by=lambda beyond: beyond * 1e3 / PICKS,
        )
    ]


def _beyond(name: str, timings: Timings) -> Timings:
    """Return by how much each took longer than one of them in the same round."""
    base = timings.seconds[name]
    return Timings(
        {
            other: [one - least for one, least in zip(seconds, base, strict=True)]
            for other, seconds in timings.seconds.items()
            if other != name
        }
    )


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


@contextmanager
def _bare_processes() -> Iterator[Bare]:
    """Offer two processes, each of which is sent psets through a pipe, and sends back all of its answers at once."""
    pairs = [multiprocessing.Pipe() for _ in range(peers.WORKERS)]
    processes = [multiprocessing.Process(target=_serve, args=(theirs,)) for _, theirs in pairs]
    for process in processes:
        process.start()

    def ask(shares: Sequence[Sequence[Pset]]) -> list[Any]:
        for (pipe, _), psets in zip(pairs, shares, strict=True):
            pipe.send(psets)
        return [answer for pipe, _ in pairs for answer in pipe.recv()]

    try:
        yield ask
    finally:
        for pipe, _ in pairs:
            pipe.send(None)
        for process in processes:
            process.join()


def _serve(pipe: Any) -> None:
    while (psets := pipe.recv()) is not None:
        pipe.send([covered(pset) for pset in psets])


def _halves(psets: Sequence[Pset]) -> list[Sequence[Pset]]:
    half = -(-len(psets) // peers.WORKERS)
    return [psets[:half], psets[half:]]


def _alone(bare: Bare, names: Sequence[str]) -> list[str]:
    """Do the evaluations of a search whose picks are known: each process its halves of all rounds without a pause."""
    picks = _expected()
    rounds = [_halves(_moves(names, picks[:count])) for count in range(PICKS)]
    bare([list(chain.from_iterable(halves)) for halves in zip(*rounds, strict=True)])
    return picks


def _by_hand(peer: peers.Peer, names: Sequence[str]) -> list[str]:
    """Do what a user would write."""
    picked: list[str] = []
    while len(picked) < PICKS:
        psets = _moves(names, picked)
        answers = peer(covered, psets)
        best = max(range(len(psets)), key=lambda place: answers[place]["seen"])
        picked = [*picked, str(psets[best]["candidate"])]
    return picked


def _moves(names: Sequence[str], picked: Sequence[str]) -> list[Pset]:
    return [{"candidate": name, "picked": picked} for name in names if name not in picked]


@cache
def _expected() -> list[str]:
    picked: list[str] = []
    while len(picked) < PICKS:
        others = [name for name in SEEN if name not in picked]
        picked.append(max(others, key=lambda name: len(frozenset().union(*(SEEN[each] for each in [*picked, name])))))
    return picked
