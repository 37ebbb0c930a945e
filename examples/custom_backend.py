"""Any executor of `concurrent.futures` as a backend: threads, loky, dask, or what a computing centre offers.

    python examples/custom_backend.py

What an executor cannot do, it says: it cannot end a call that runs, so ``timeout=`` is refused; it does not replace
processes, so ``max_tasks_per_child=`` is, too; in threads, what psets print and use cannot be told apart, so
``details=`` and ``capture=`` are. It does not survive the death of what runs its calls. For ``ncores=`` it need not do
anything: no more calls are handed over at once than that.

An installed package offers such a backend by name with these lines in its ``pyproject.toml``, where the name to the
right is that of a function without parameters that returns one::

    [project.entry-points."paramsurvey.backends"]
    threads = "mypackage.module:open_threads"
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import cloudpickle

import paramsurvey
from paramsurvey.engine.records import TaskOptions, Unsendable
from paramsurvey.errors import BackendError


class Pickled:
    """A constant as bytes, unpickled once wherever calls run."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.obj: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Pickled, (self.data,)

    def load(self) -> Any:
        """Return the constant."""
        if self.obj is None:
            self.obj = cloudpickle.loads(self.data)
        return self.obj

    def close(self) -> None:
        """There is nothing to forget."""


class ExecutorBackend:
    """Hands every submission to an executor.

    Parameters
    ----------
    executor : Executor
        Who calls; closing the backend shuts it down.
    slots : int
        How many calls it runs at once.
    name : str
        What the backend is called.
    runs_alone : bool
        Whether each call has a process to itself while it runs; ``details=`` and ``capture=`` need that.
    """

    can_kill = False  # so `timeout=` is refused

    def __init__(self, executor: Executor, slots: int, name: str = "executor", *, runs_alone: bool = False) -> None:
        self.name = name
        self.runs_alone = runs_alone
        self._executor = executor
        self._slots = slots
        self._is_closed = False

    def slots(self) -> int:
        """Return how many calls it runs at once."""
        return self._slots

    def publish(self, obj: Any) -> Pickled:
        """Pickle a constant, once."""
        try:
            return Pickled(cloudpickle.dumps(obj))
        except Exception as exc:
            raise Unsendable(f"{type(exc).__name__}: {exc}") from exc

    def submit(self, fn: Callable[..., Any], /, *args: Any, options: TaskOptions) -> Future[Any]:  # noqa: ARG002
        """Hand over a call."""
        if self._is_closed:
            raise BackendError("the executor is shut down; open a new session")
        return self._executor.submit(fn, *args)

    def recall(self, future: Future[Any]) -> None:
        """An executor cannot talk to a call that runs."""

    def kill(self, future: Future[Any]) -> None:
        """Nor end it, but one that has not begun."""
        future.cancel()

    def resources(self) -> dict[str, Any]:
        """Return what is known."""
        return {"num_cores": self._slots}

    def close(self) -> None:
        """Wait for all calls."""
        self._is_closed = True
        self._executor.shutdown()


def open_threads() -> ExecutorBackend:
    """Open a backend of four threads: what an entry point names."""
    return ExecutorBackend(ThreadPoolExecutor(4), 4, "threads")


def main() -> None:
    """Run a survey in threads."""
    square = paramsurvey.workers.keywords(lambda n: n**2, output="square")
    with paramsurvey.Session(backend=open_threads()) as session:
        results = session.map(square, [{"n": n} for n in range(5)])
    print(results.results)


if __name__ == "__main__":
    main()
