"""The contenders: each opened as a context, warm when it is handed out, and without a process left when it is closed.

A peer is a function from a worker and psets to the list of answers in the order of the psets. What it takes to make a
table of them is the same for all, see `as_table`.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import importlib.util
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeAlias, cast

import pandas as pd

from benchmarks import workers
from benchmarks.workers import Pset

Worker: TypeAlias = Callable[..., Mapping[str, Any]]
Peer: TypeAlias = Callable[[Worker, Sequence[Pset]], Sequence[Mapping[str, Any]]]
Opener: TypeAlias = Callable[[], AbstractContextManager[Peer]]
Ours: TypeAlias = Callable[..., pd.DataFrame]

WORKERS = 2
WARMING = [{"a": number, "b": number} for number in range(1_000)]


@contextmanager
def loop() -> Iterator[Peer]:
    """Offer the plain loop."""
    yield lambda worker, psets: [worker(pset) for pset in psets]


@contextmanager
def pool_map(chunksize: int | None = None) -> Iterator[Peer]:
    """Offer `multiprocessing.Pool.map`, with its own chunk size unless told otherwise."""
    with multiprocessing.Pool(WORKERS) as pool:
        yield lambda worker, psets: pool.map(worker, psets, chunksize)
        pool.close()
        pool.join()


@contextmanager
def executor_map(*, chunked_as_pool: bool = False) -> Iterator[Peer]:
    """Offer `ProcessPoolExecutor.map`; its own chunk size is 1."""
    with concurrent.futures.ProcessPoolExecutor(WORKERS) as executor:
        yield _map_of(executor, chunked_as_pool=chunked_as_pool)


@contextmanager
def loky_map(*, chunked_as_pool: bool = False) -> Iterator[Peer]:
    """Offer loky's executor; its own chunk size is 1."""
    import loky  # type: ignore[import-untyped]

    with loky.ProcessPoolExecutor(WORKERS) as executor:
        yield _map_of(executor, chunked_as_pool=chunked_as_pool)


@contextmanager
def joblib_parallel(batch_size: int | str = "auto") -> Iterator[Peer]:
    """Offer `joblib.Parallel` with workers that stay."""
    import joblib  # type: ignore[import-untyped]
    from joblib.externals.loky import get_reusable_executor  # type: ignore[import-untyped]

    with joblib.Parallel(n_jobs=WORKERS, batch_size=batch_size) as parallel:
        yield lambda worker, psets: parallel(joblib.delayed(worker)(pset) for pset in psets)
    get_reusable_executor().shutdown(wait=True)


@contextmanager
def mpire_map(chunk_size: int | None = None) -> Iterator[Peer]:
    """Offer mpire's `WorkerPool.map`, with its own chunk size unless told otherwise.

    mpire spreads a dict over a function's parameters; a tuple around it makes it one argument.
    """
    from mpire.pool import WorkerPool

    def ask(worker: Worker, psets: Sequence[Pset]) -> Sequence[Mapping[str, Any]]:
        answers: Sequence[Mapping[str, Any]] = pool.map(worker, [(pset,) for pset in psets], chunk_size=chunk_size)
        return answers

    with WorkerPool(WORKERS, keep_alive=True) as pool:
        yield ask
        pool.stop_and_join()


@contextmanager
def ours() -> Iterator[Ours]:
    """Offer a warm session's `map` to its table, with everything that a session does by default but print."""
    paramsurvey = importlib.import_module("paramsurvey")

    def ask(worker: Worker, psets: object, **options: object) -> pd.DataFrame:
        table: pd.DataFrame = session.map(worker, psets, **options).results
        return table

    with paramsurvey.Session(backend="multiprocessing", ncores=WORKERS, verbose=0, vstats=0) as session:
        ask(workers.add, WARMING)
        yield ask


def why_not_ours() -> str | None:
    """Say what keeps ours from being measured; None if nothing does."""
    try:
        paramsurvey = importlib.import_module("paramsurvey")
        has_session = hasattr(paramsurvey, "Session")  # it is imported at the first look
    except ImportError as error:
        return f"paramsurvey cannot be imported: {error}"
    return None if has_session else "this paramsurvey has no Session"


def is_installed(name: str) -> bool:
    """Say whether a contender's library is there; the others are part of Python."""
    library = name.partition(",")[0].partition(".")[0]
    return library not in ("joblib", "loky", "mpire") or importlib.util.find_spec(library) is not None


def opened(stack: ExitStack, openers: Mapping[str, Opener]) -> dict[str, Peer]:
    """Open and warm those peers that are installed; the stack closes them.

    Call it before the psets are made: a forked worker that owns a copy of them would pay for every one that it touches.
    """
    peers = {name: stack.enter_context(opener()) for name, opener in openers.items() if is_installed(name)}
    for peer in peers.values():
        peer(workers.add, WARMING)
    return peers


def opened_ours(stack: ExitStack) -> Ours | None:
    """Open and warm ours; None if it cannot be."""
    return None if why_not_ours() else stack.enter_context(ours())


def as_table(psets: Sequence[Pset], answers: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return parameters and answers as a table, column by column, as somebody would who knows what rows cost."""
    columns = {name: [pset[name] for pset in psets] for name in psets[0]}
    columns.update((name, [answer[name] for answer in answers]) for name in answers[0])
    return pd.DataFrame(columns)


def as_dicts(frame: pd.DataFrame) -> list[Pset]:
    """Return the rows of a table as dicts."""
    return cast("list[Pset]", frame.to_dict("records"))


def _map_of(executor: concurrent.futures.Executor, *, chunked_as_pool: bool) -> Peer:
    def ask(worker: Worker, psets: Sequence[Pset]) -> Sequence[Mapping[str, Any]]:
        chunksize = -(-len(psets) // (4 * WORKERS)) if chunked_as_pool else 1
        return list(executor.map(worker, psets, chunksize=chunksize))

    return ask
