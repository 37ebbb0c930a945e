"""Line 5: large answers, and a large constant for many small psets."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeAlias

import attrs
import numpy as np
import pandas as pd

from benchmarks import peers, processes, workers
from benchmarks.figures import OURS, Bound, Effort, Figure, Timings, interleave, show
from benchmarks.workers import Pset

Array: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"
Sky: TypeAlias = "Callable[[Observation], pd.DataFrame]"
WithConstant: TypeAlias = Callable[[Callable[..., Any], Array, Sequence[Pset]], Sequence[dict[str, Any]]]

AS_THEY_COME: dict[str, peers.Opener] = {
    "Pool.map": peers.pool_map,
    "ProcessPoolExecutor": peers.executor_map,
    "mpire": peers.mpire_map,
    "joblib": peers.joblib_parallel,
    "loky": peers.loky_map,
    "serial": peers.loop,
}
RIVALS = ("joblib", "loky", "mpire", "ProcessPoolExecutor")  # those that the bound speaks of
SKY_ELEMENTS = 25_000_000  # of 8 bytes: 200 MB
OURS_COLD = f"{OURS}, new session"


def answers(effort: Effort) -> list[Figure]:
    """Line 5, first half: answers of 1 MB."""
    size = effort.choose(full=500, quick=100)
    psets = [{"a": number} for number in range(size)]
    with ExitStack() as stack:
        opened = peers.opened(stack, AS_THEY_COME)
        contenders: dict[str, Callable[[Sequence[Pset]], pd.DataFrame]] = {
            name: partial(_images, peer) for name, peer in opened.items()
        }
        if our_map := peers.opened_ours(stack):
            contenders[OURS] = lambda psets: our_map(workers.make_image, psets)
        rounds = effort.choose(full=7, quick=2)
        _touch_memory(2 * size * 8 * workers.IMAGE_PIXELS)
        timings = interleave(contenders, rounds=rounds, given=lambda: psets, check=partial(_are_images, size))
    show(f"{size} answers of 1 MB", timings)
    best = timings.quickest(RIVALS)
    figure = timings.figure(
        line=5, name=f"{size} answers of 1 MB arrays", reference=best, bound=0.8, others=list(AS_THEY_COME)
    )
    return [attrs.evolve(figure, reference=f"{best}, the best of {len(RIVALS)}")]


@attrs.frozen
class Observation:
    """A large array and small psets that need it."""

    sky: Array
    psets: Sequence[Pset]

    def is_right(self, table: pd.DataFrame) -> bool:
        """Say whether a few elements were read, and from the right array."""
        return table["seen"].tolist() == [workers.read_sky(self.sky, pset)["seen"] for pset in self.psets]


def constants(effort: Effort) -> list[Figure]:
    """Line 5, second half: an array of 200 MB that 200 small psets read, its time and its copies."""
    elements = sky_elements(effort)
    timings = _constant_timings(effort.choose(full=7, quick=2), elements)
    show("200 psets that read an array of 200 MB", timings)
    figure = timings.figure(
        line=5,
        name="200 psets that read a few elements of 200 MB in `user_kwargs`",
        reference="mpire",
        bound=0.6,
        others=["joblib"],
    )
    cold = timings.figure(
        line=5,
        name="the same, the session's opening and closing included",
        ours=OURS_COLD,
        reference="mpire",
        bound=None,
        others=["joblib"],
    )
    return [figure, cold, *_copies_figures(elements)]


def sky_elements(effort: Effort) -> int:
    """Return how many numbers the large array has: 200 MB of them, unless nothing is measured."""
    return effort.choose(full=SKY_ELEMENTS, quick=SKY_ELEMENTS)


def _constant_timings(rounds: int, elements: int) -> Timings:
    """Give each call an array that nobody has seen before: whoever keeps one for the next call gains nothing."""
    numbers = itertools.count()
    latest: list[Observation] = []

    def observe() -> Observation:
        psets = [{"a": 1_000 * number} for number in range(200)]
        latest[:] = [Observation(np.arange(elements, dtype=float) + next(numbers), psets)]
        return latest[0]

    with ExitStack() as stack:
        contenders = _readers(stack, workers.read_sky, workers.read_sky_of_kwargs)
        return interleave(contenders, rounds=rounds, given=observe, check=lambda table: latest[0].is_right(table))


def _readers(stack: ExitStack, reader: Callable[..., Any], our_reader: Callable[..., Any]) -> dict[str, Sky]:
    contenders: dict[str, Sky] = {}
    for name, ask in (("mpire", _mpire_shared), ("joblib", _joblib_memmapped(stack))):
        if ask and peers.is_installed(name):
            contenders[name] = partial(_seen, ask, reader)
    if our_map := peers.opened_ours(stack):
        contenders[OURS] = lambda seen: our_map(our_reader, seen.psets, user_kwargs={"sky": seen.sky})
        contenders[OURS_COLD] = partial(_seen_by_new_session, our_reader)
    return contenders


def _seen(ask: WithConstant, reader: Callable[..., Any], given: Observation) -> pd.DataFrame:
    return peers.as_table(given.psets, ask(reader, given.sky, given.psets))


def _seen_by_new_session(our_reader: Callable[..., Any], given: Observation) -> pd.DataFrame:
    with peers.ours() as our_map:
        return our_map(our_reader, given.psets, user_kwargs={"sky": given.sky})


def _mpire_shared(reader: Callable[..., Any], sky: Array, psets: Sequence[Pset]) -> Sequence[dict[str, Any]]:
    """Use `shared_objects`; they are given to the pool, which therefore cannot be warm."""
    from mpire.pool import WorkerPool

    with WorkerPool(peers.WORKERS, shared_objects=sky) as pool:
        seen: list[dict[str, Any]] = pool.map(reader, [(pset,) for pset in psets])
        return seen


def _joblib_memmapped(stack: ExitStack) -> WithConstant | None:
    """Use a warm joblib, which writes arrays of more than 1 MB to a file and maps that."""
    if not peers.is_installed("joblib"):
        return None
    import joblib  # type: ignore[import-untyped]

    peers.opened(stack, {"joblib": peers.joblib_parallel})

    def ask(reader: Callable[..., Any], sky: Array, psets: Sequence[Pset]) -> Sequence[dict[str, Any]]:
        parallel = joblib.Parallel(n_jobs=peers.WORKERS)
        seen: list[dict[str, Any]] = parallel(joblib.delayed(reader)(sky, pset) for pset in psets)
        return seen

    return ask


def _copies_figures(elements: int) -> list[Figure]:
    """Count how much memory the machine needs for all to have the array, beyond the user's own copy of it."""
    if not processes.can_be_measured():
        return []
    psets = [{"a": number} for number in range(100)]
    with ExitStack() as stack:
        contenders = _readers(stack, workers.read_whole_sky, workers.read_whole_sky_of_kwargs)
        contenders.pop(OURS_COLD, None)
        copies = {name: _copies(contender, psets, elements) for name, contender in contenders.items()}
    print("\n  copies of 200 MB on the machine, beyond the user's own")
    for name, count in copies.items():
        print(f"    {name:<34} {count:6.2f}")
    return [
        Figure(
            line=5,
            name="copies of the 200 MB on the machine, beyond the user's own",
            value=copies.pop(OURS, None),
            unit="copies",
            bound=Bound(limit=1.05),
            others=copies,
        )
    ]


def _copies(contender: Sky, psets: Sequence[Pset], elements: int) -> float:
    contender(Observation(np.ones(len(psets)), psets))  # workers import numpy at their first array
    sky = np.arange(elements, dtype=float)
    before = processes.Holding.now().total
    seen: list[int] = []
    with processes.watched(seen):
        contender(Observation(sky, psets))
    return (statistics.median(seen) - before) / sky.nbytes


def _touch_memory(size: int) -> None:
    """Use that many bytes once: a virtual machine gets memory from its host at the first touch, which is slow."""
    np.ones(size, dtype=np.uint8)


def _images(peer: peers.Peer, psets: Sequence[Pset]) -> pd.DataFrame:
    return peers.as_table(psets, peer(workers.make_image, psets))


def _are_images(size: int, table: pd.DataFrame) -> bool:
    return len(table) == size and all(
        image.shape == (workers.IMAGE_PIXELS,) and image[0] == image[-1] == number
        for number, image in enumerate(table["image"])
    )
