"""A survey being run: one stage over one table on one backend, watched by observers.

`Survey` owns what changes while it runs: the dispatcher, the answers, the counts. It is driven by whoever wants its
rows, in that thread: `Survey.run` for `map()`, `Survey.taken` for `stream()`.
"""

from __future__ import annotations

import os
import time
import traceback
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from paramsurvey.engine.chunking import Chunker
from paramsurvey.engine.columns import Pset, psets_of
from paramsurvey.engine.dispatcher import Dispatcher, Lost, Taken
from paramsurvey.engine.loop import InterruptReceived, Loop
from paramsurvey.engine.records import ChunkRows, Failure, Part, TaskOptions, is_ctrl_c
from paramsurvey.engine.worker import safe_repr
from paramsurvey.errors import (
    BackendError,
    Interrupted,
    OptionError,
    ParamsurveyError,
    SurveyStopped,
    WorkerError,
    WorkerStartError,
)
from paramsurvey.interrupts import ctrl_c_calls
from paramsurvey.lazy import load
from paramsurvey.observers.events import (
    Event,
    Observer,
    OutFuncFailed,
    Progressed,
    RowLost,
    RowsFinished,
    StatsRefused,
    SurveyEnded,
    SurveyStarted,
)
from paramsurvey.options import describe
from paramsurvey.progress import MapProgress
from paramsurvey.stats import PerfStats

if TYPE_CHECKING:
    from paramsurvey.backends.base import Backend, Published
    from paramsurvey.psets import PsetSource
    from paramsurvey.results import MapResults
    from paramsurvey.stages.map import Map

PROGRESS_SECONDS = 0.1
MOST_UNCOUNTED = 10_000
CANCELLED = Failure("cancelled", "it was not computed, because the survey ended before")


@attrs.define(eq=False)
class Survey:
    """One worker over one table, while it runs.

    Parameters
    ----------
    stage : Map
        What to call.
    psets : PsetSource
        The psets.
    backend : Backend
        Who calls it.
    slots : int
        How many chunks may run at once.
    observers : sequence of Observer
        Who is told.
    """

    stage: Map
    psets: PsetSource
    backend: Backend
    slots: int
    observers: Sequence[Observer] = ()
    progress: MapProgress = attrs.field(init=False)
    stats: PerfStats = attrs.field(factory=PerfStats, init=False)
    _dispatcher: Dispatcher = attrs.field(init=False)
    _parts: list[tuple[int, Part]] = attrs.field(factory=list, init=False)  # with the row at which each begins
    _lost: list[Lost] = attrs.field(factory=list, init=False)
    _loop: Loop | None = attrs.field(default=None, init=False)
    _began: float = attrs.field(factory=time.monotonic, init=False)
    _tell_at: float = attrs.field(init=False)
    _stop: Lost | None = attrs.field(default=None, init=False)  # the failure that ends the survey
    _sheltered: bool = attrs.field(default=False, init=False)  # no KeyboardInterrupt can strike the loop
    _seconds: array[float] = attrs.field(factory=lambda: array("d"), init=False)  # measured, and not yet in `stats`:
    _counts: array[int] = attrs.field(factory=lambda: array("q"), init=False)  # one addition costs 80 us

    def __attrs_post_init__(self) -> None:
        options = self.stage.options
        if options.timeout is not None and not self.backend.can_kill:
            raise OptionError(
                f"timeout={options.timeout:g}: the backend {self.backend.name!r} cannot end a running worker; leave "
                "timeout= out (PARAMSURVEY_TIMEOUT=0 switches it off), or use backend='multiprocessing'"
            )
        chunker = Chunker(self.slots, fixed=options.group_size, most=options.max_tasks_per_child)
        self._dispatcher = Dispatcher(self.psets.count, chunker, retries=options.retries)
        self.progress = MapProgress(total=self.psets.count)
        self._tell_at = self._began + self._pause()

    def run(self) -> MapResults:
        """Run to the end and return what came of it."""
        with self.interruptible():
            for _ in self.taken():
                pass
        return self.results()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """While the rows are waited for, have Ctrl-C end the survey and not strike in the middle of something."""
        with ctrl_c_calls(self._interrupt, _OUT_FUNC) as sheltered:
            self._sheltered = sheltered
            try:
                yield
            finally:
                self._sheltered = False

    def _interrupt(self) -> None:
        if self._loop is not None:
            self._loop.interrupt()

    def taken(self) -> Iterator[Taken]:
        """Yield the rows that have come back, as they come; their answers are kept unless the user wanted otherwise.

        Raises
        ------
        Interrupted, SurveyStopped, WorkerStartError
            With what was finished until then in `results`.
        """
        self._tell(self._started())
        reason = "left"
        try:
            with _Publication(self.backend, self.stage) as handle:
                yield from self._drive(handle)
            limit = self.stage.options.limit
            reason = "" if limit is None else f"limit={limit}: any psets beyond that were left out"
        except Exception as exc:
            reason = f"{type(exc).__name__}: {exc}"
            if isinstance(exc, ParamsurveyError) and exc.results is None:  # the backend has broken, for instance
                exc.results = self.results()
            raise
        except KeyboardInterrupt:
            reason = "interrupted"
            raise
        finally:
            self._count()
            seconds = time.monotonic() - self._began
            self._tell(SurveyEnded(self.stage.name, self.progress, self.stats, seconds, reason))

    def _drive(self, handle: Published) -> Iterator[Taken]:
        options = self.stage.options
        task = TaskOptions(
            timeout=options.timeout,
            max_tasks=options.max_tasks_per_child,
            backend_options=getattr(options, self.backend.name, {}),
        )
        self._loop = Loop(
            self.backend,
            self._dispatcher,
            handle,
            self,
            task,
            self.slots,
            lambda: self._sheltered,
        )
        news = self._loop.run()
        try:
            for item in news:
                if isinstance(item, Taken):
                    self._note_rows(item)
                    yield item
                elif isinstance(item, Lost):
                    self._note_lost(item)
                self._tell_progress()
        except (InterruptReceived, KeyboardInterrupt) as exc:
            news.close()
            if self._stop is not None:
                raise self._stopped(self._stop) from None
            raise self._interrupted() from (exc if isinstance(exc, KeyboardInterrupt) else None)
        finally:
            news.close()
        if self._stop is not None:  # it was the last one
            raise self._stopped(self._stop)
        if self._dispatcher.cannot_start:
            raise WorkerStartError(self._why_no_start(), self.results())

    def rows(self, start: int, stop: int, attempt: int) -> ChunkRows:
        """Return some psets as a chunk carries them."""
        return self.psets.rows(start, stop, attempt)

    def prepare(self) -> bool:
        """Do what can be done ahead while the workers are busy; return whether there is more to do.

        The first time in a process that is importing pandas, which takes as long as starting the first workers does.
        (Not in a thread: an interrupt while two threads import one module can leave its lock taken.)
        """
        load("paramsurvey.results")
        return self.psets.prepare()

    def _tell_progress(self) -> None:
        now = time.monotonic()
        if now >= self._tell_at:
            self._tell_at = now + self._pause()
            self._count()
            self._tell(Progressed(self.stage.name, self.progress, self.stats))

    def _pause(self) -> float:
        """Return the seconds between two times that observers are told of progress."""
        options = self.stage.options
        if options.verbose >= 3:
            return 0.0
        return PROGRESS_SECONDS if options.progress_dt is None else min(options.progress_dt, PROGRESS_SECONDS)

    def _note_rows(self, taken: Taken) -> None:
        part, options = taken.part, self.stage.options
        if options.keep_results:
            self._parts.append((taken.start, bare(part)))
        self._seconds.extend(part.seconds)
        self._counts.extend(part.counts)
        if len(self._seconds) >= MOST_UNCOUNTED:
            self._count()
        if part.raw_stats:
            self._note_stats(part.raw_stats)
        if options.verbose >= 3:
            self._tell(RowsFinished(self.stage.name, taken.start, taken.start + part.count))
        for lost in taken.lost:
            self._note_lost(lost)
        if options.out_func is not None:
            self._count()
            for pset, answer in self.rows_of(taken):
                self._call_out_func({"pset": pset, "result": answer})

    def _note_stats(self, raw_stats: dict[str, list[float]]) -> None:
        try:
            self.stats.combine_stats(raw_stats)
        except OptionError as exc:  # the worker put something else there; its answers are none the worse for it
            self._tell(StatsRefused(self.stage.name, str(exc)))

    def _note_lost(self, lost: Lost) -> None:
        self._lost.append(lost)
        failure = lost.failure
        self.progress.exceptions += failure.kind == "raised"
        pset = self.psets.pset(lost.row)
        self._tell(RowLost(self.stage.name, lost.row, pset, failure, lost.attempts))
        if self.stage.options.out_func is not None:
            self._call_out_func({"pset": pset, "exception": failure.text, "traceback": failure.traceback})
        if self.stage.options.on_failure == "stop" and self._stop is None:
            self._stop = lost
            self._interrupt()

    def rows_of(self, taken: Taken) -> Iterator[tuple[Pset, Pset]]:
        """Make the psets and the answers of rows that have come back."""
        part = taken.part
        failed = {row for row, _ in part.failures}
        rows = [row for row in range(part.first, part.first + part.count) if row not in failed]
        offset = taken.start - part.first
        answers = psets_of(part.keys, part.columns, len(rows))
        for row, answer in zip(rows, answers, strict=True):
            yield self.psets.pset(offset + row), answer

    def _call_out_func(self, user_ret: dict[str, Any]) -> None:
        options = self.stage.options
        assert options.out_func is not None
        system_kwargs = {
            "name": self.stage.name,
            "verbose": options.verbose,
            "vstats": options.vstats,
            "limit": options.limit,
            "progress": self.progress,
        }
        try:
            options.out_func(user_ret, system_kwargs, options.user_kwargs)
        except KeyboardInterrupt as exc:
            if not is_ctrl_c(exc):
                raise
            # the loop has been told already, and brings in what is finished
        except Exception as exc:  # noqa: BLE001 - the survey outlives what its user's function raises
            self.progress.exceptions += 1
            self._tell(OutFuncFailed(self.stage.name, safe_repr(exc), traceback.format_exc()))

    def results(self) -> MapResults:
        """Return what is finished, and as missing all that is not."""
        import numpy as np

        from paramsurvey.results import MapResults  # imports pandas: the workers need not wait for that
        from paramsurvey.tables import joined

        psets = self.psets.table()
        lost = sorted((*self._lost, *self._cancelled()), key=lambda one: one.row)
        return MapResults(
            table=joined(psets, self._parts) if self.stage.options.keep_results else psets.take(np.empty(0, np.int64)),
            psets=psets.take(np.array([one.row for one in lost], np.int64)),
            lost=lost,
            progress=attrs.evolve(self.progress, active=0),
            stats=self.stats,
            name=self.stage.name,
        )

    def _cancelled(self) -> Iterator[Lost]:
        for rows in self._dispatcher.remaining():
            for row in rows:
                yield Lost(row, CANCELLED, self._dispatcher.attempts(row))

    def _count(self) -> None:
        """Bring `progress` and `stats` up to date."""
        self.stats.add(self.stage.name, self._seconds, self._counts)
        self._seconds, self._counts = array("d"), array("q")
        self.progress.active = self._dispatcher.active
        self.progress.finished = self._dispatcher.finished
        self.progress.failures = self._dispatcher.failures

    def _stopped(self, lost: Lost) -> SurveyStopped:
        self._count()
        which = f"{self.stage.name}: pset {lost.row} is missing ({lost.failure.kind}), and on_failure='stop'"
        return SurveyStopped(f"{which}: {lost.failure.text}", self.results())

    def _interrupted(self) -> Interrupted:
        assert self._loop is not None
        for item in self._loop.drain():
            if item is not None and self.stage.options.keep_results:
                assert isinstance(item, Taken)
                self._parts.append((item.start, item.part))
                self._lost += item.lost
        self._count()
        finished = f"{self.progress.finished} of {self.progress.total} psets were finished"
        return Interrupted(f"{self.stage.name}: interrupted; {finished} and are in `results`", self.results())

    def _why_no_start(self) -> str:
        return (
            f"{self.stage.name}: the worker cannot be started ({self._dispatcher.start_error}); "
            "what it needs must be importable by the worker processes"
        )

    def _started(self) -> SurveyStarted:
        name, options = self.stage.name, self.stage.options
        return SurveyStarted(name, self.psets.count, self.backend.name, self.slots, describe(options))

    def _tell(self, event: Event) -> None:
        for observer in self.observers:
            observer.see(event)


def bare(part: Part) -> Part:
    """Return a part without what has been counted already: a survey may keep millions, and the garbage collector looks
    at every container in them.
    """
    return Part(part.first, part.count, part.keys, part.columns, part.failures or _NO_FAILURES, (), (), _NO_STATS)


_NO_STATS: dict[str, list[float]] = {}
_NO_FAILURES: list[tuple[int, Failure]] = []
_OUT_FUNC = frozenset({Survey._call_out_func.__code__})


@attrs.define(eq=False)
class _Publication:
    """The stage's constants, published for as long as the survey runs."""

    backend: Backend
    stage: Map
    _handle: Published | None = attrs.field(default=None, init=False)

    def __enter__(self) -> Published:
        chdir = self.stage.options.chdir
        work = self.stage.work(_current_folder() if chdir is None else os.path.abspath(chdir))
        try:
            self._handle = self.backend.publish(work)
        except BackendError:
            raise
        except Exception as exc:
            raise WorkerError(
                f"{self.stage.name}: the worker or its user_kwargs cannot be pickled for the backend "
                f"{self.backend.name!r}: {exc}"
            ) from exc
        return self._handle

    def __exit__(self, *exc_info: object) -> None:
        if self._handle is not None:
            self._handle.close()


def _current_folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed: the workers stay where they are
        return None
