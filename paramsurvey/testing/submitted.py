"""A chunk at the backend that is being tested, as the engine would have it there."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from paramsurvey.backends.base import Backend
from paramsurvey.engine.columns import columns_of, psets_of
from paramsurvey.engine.loop import thawed
from paramsurvey.engine.records import ChunkRows, GivenBack, Part, TaskOptions, Unreadable, Work
from paramsurvey.engine.worker import run_chunk
from paramsurvey.testing.claims import claim


class Submitted:
    """A chunk at a backend, and what has come back of it."""

    def __init__(
        self,
        backend: Backend,
        worker: Callable[..., Any],
        psets: list[dict[Any, Any]],
        *,
        timeout: float | None = None,
        max_tasks: int | None = None,
        leave: bool = False,
        start: bool = True,
    ) -> None:
        work = Work(worker=worker, user_kwargs=None, name="contract", seed=0, cwd=None, out_subdirs=None)
        keys, columns = columns_of(psets)
        self._backend = backend
        self._handle = backend.publish(work)
        self._rows = tuple(ChunkRows(keys, columns, len(psets), 1))
        self._options = TaskOptions(
            rows=len(psets),
            timeout=timeout,
            max_tasks=max_tasks,
            leave=leave,
            on_part=self._take,
        )
        self._ahead: list[Part | Unreadable | GivenBack] = []
        self.events: list[str] = []
        self.future: Future[Any] | None = None
        if start:
            self.start()

    def start(self) -> None:
        """Submit it."""
        future = self._backend.submit(run_chunk, self._handle, self._rows, options=self._options)
        future.add_done_callback(lambda _future: self.events.append("done"))
        self.future = future

    def _take(self, news: Part | Unreadable | GivenBack) -> None:
        self._ahead.append(news)
        self.events.append(type(news).__name__)

    @property
    def parts(self) -> list[Part]:
        """The parts that have come, the result among them, as the engine reads them."""
        parts = [thawed(news) for news in self._ahead if isinstance(news, Part)]
        if self.future is not None and self.future.done() and self.future.exception() is None:
            result = self.future.result()
            claim(isinstance(result, Part), f"run_chunk came back as {result!r}, not as a Part")
            parts.append(thawed(result))
        return parts

    @property
    def given_back(self) -> list[int]:
        """The rows from which on rows were given back."""
        return [news.first for news in self._ahead if isinstance(news, GivenBack)]

    def rows(self) -> list[int]:
        """Return the rows that have come back, in that order."""
        return [row for part in self.parts for row in range(part.first, part.first + part.count)]

    def answers(self) -> dict[int, dict[Any, Any]]:
        """Return the answers by row."""
        answers: dict[int, dict[Any, Any]] = {}
        for part in self.parts:
            failed = {row for row, _ in part.failures}
            rows = [row for row in range(part.first, part.first + part.count) if row not in failed]
            answers.update(zip(rows, psets_of(part.keys, part.columns, len(rows)), strict=True))
        return answers
