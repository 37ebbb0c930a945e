"""Streams: iterators over the rows of a run, as they come.

Whoever asks for the next row drives the run meanwhile, in that thread; in between, workers finish what they have begun.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Hashable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

from paramsurvey.closing import Closing
from paramsurvey.errors import SessionError
from paramsurvey.flow import advance

if TYPE_CHECKING:
    from paramsurvey.engine.dispatcher import Taken
    from paramsurvey.progress import MapProgress
    from paramsurvey.results import MapResults, RunResults
    from paramsurvey.runs.run import Run
    from paramsurvey.survey import Survey


class RowStream(Closing):
    """An iterator over the rows of something that runs; leaving the loop, or closing it, ends what is still running.

    Parameters
    ----------
    run : Run
        What runs.
    counted : context manager
        Entered as long as it is running: its session counts it.
    """

    def __init__(self, run: Run, counted: AbstractContextManager[None]) -> None:
        self._running = run
        self._taken = self._taken_while(counted)
        self._rows: Iterator[dict[Hashable, Any]] = iter(())
        self._was_cut_off = False

    def _taken_while(
        self, counted: AbstractContextManager[None]
    ) -> Generator[Iterator[dict[Hashable, Any]], None, None]:
        with counted:
            for survey, taken in self._running.taken():
                yield self._rows_of(survey, taken)
        yield self._last_rows()

    def _rows_of(self, survey: Survey, taken: Taken) -> Iterator[dict[Hashable, Any]]:
        raise NotImplementedError

    def _last_rows(self) -> Iterator[dict[Hashable, Any]]:
        return iter(())

    def __iter__(self) -> Iterator[dict[Hashable, Any]]:
        return self

    def __next__(self) -> dict[Hashable, Any]:
        if self._was_cut_off:
            raise SessionError(
                f"this stream ended with its session, when {self.progress.finished} of {self.progress.total} psets "
                "were finished, which are in its results"
            )
        while (row := next(self._rows, None)) is None:
            with self._running.interruptible():
                self._rows = next(self._taken)
        return row

    @property
    def progress(self) -> MapProgress:
        """How far it has come, all stages together."""
        return self._running.progress

    def close(self) -> None:
        """End what is still running."""
        self._taken.close()
        self._rows = iter(())

    def end_with_session(self) -> None:
        """End what is still running, because the session ends."""
        self._was_cut_off = inspect.getgeneratorstate(self._taken) != inspect.GEN_CLOSED
        try:
            self.close()
        except ValueError:  # another thread is waiting for the next row; it will hear of the end from the backend
            pass


class Stream(RowStream):
    """The finished rows of a running survey, as dicts; `stream` makes them.

    Leaving a loop over it, or closing it, ends what is still running.

    Attributes
    ----------
    progress : MapProgress
        How far the survey has come.
    results : MapResults
        What is finished and what is missing.
    """

    def _rows_of(self, survey: Survey, taken: Taken) -> Iterator[dict[Hashable, Any]]:
        return (pset | answer for pset, answer in survey.rows_of(taken))

    @property
    def results(self) -> MapResults:
        """What is finished and what is missing, as `paramsurvey.map` would return it at this point."""
        return cast("MapResults", self._running.results())


class RunStream(RowStream):
    """The rows of the last stage of a running pipeline, as dicts; `stream_run` makes them.

    Leaving a loop over it, or closing it, ends what is still running.

    Attributes
    ----------
    progress : MapProgress
        How far it has come, all stages together.
    results : RunResults
        What is finished and what is missing.
    """

    def __init__(self, run: Run, counted: AbstractContextManager[None]) -> None:
        super().__init__(run, counted)
        self._sink = run.drain()

    def _rows_of(self, survey: Survey, taken: Taken) -> Iterator[dict[Hashable, Any]]:  # noqa: ARG002
        return self._last_rows()

    def _last_rows(self) -> Iterator[dict[Hashable, Any]]:
        while (piece := self._sink.next()) is not None or advance(self._sink.producer):
            if piece is not None:
                yield from piece.table.dicts()
        self._running.raise_failure()

    @property
    def results(self) -> RunResults:
        """What is finished and what is missing, as `paramsurvey.run` would return it at this point."""
        return cast("RunResults", self._running.results())
