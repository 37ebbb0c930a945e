"""A survey being run: one worker over one table, that is a map stage of a run, watched by observers.

`Survey` owns what changes while it runs: the dispatcher, the answers, the counts. It is told by the `Run` that it
belongs to, in the thread that drives the loop, what has come back.

A run has several, which know nothing of one another: what one answers and another one wants goes through the run.
"""

from __future__ import annotations

import os
import time
import traceback
from array import array
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import attrs

from paramsurvey.asking import Asked
from paramsurvey.backends.base import is_placing, is_renewable, refuse_what_it_cannot, settings_of
from paramsurvey.editions import editions
from paramsurvey.engine.chunking import Chunker
from paramsurvey.engine.columns import Pset, psets_of
from paramsurvey.engine.dispatcher import Dispatcher, Lost, Taken
from paramsurvey.engine.loop import Lane
from paramsurvey.engine.records import Failure, Part, Retries, TaskOptions, Work, is_ctrl_c, of_keys
from paramsurvey.engine.worker import safe_repr
from paramsurvey.errors import BackendError, OptionError, WorkerError
from paramsurvey.flow import Arrivals, Direct, Edge, Feed, Node, Settled, in_order, piece_of
from paramsurvey.folders import current_folder
from paramsurvey.observers.events import (
    Event,
    OutFuncFailed,
    Progressed,
    RowsFinished,
    RowsLost,
    StatsRefused,
    SurveyEnded,
    SurveyStarted,
)
from paramsurvey.options import Options, describe
from paramsurvey.progress import FromJournal, MapProgress
from paramsurvey.psets import PsetSource, WholeTable
from paramsurvey.stats import FEW, PerfStats

if TYPE_CHECKING:
    from paramsurvey.backends.base import Backend, Published
    from paramsurvey.journal.ledger import Ledger
    from paramsurvey.results import MapResults
    from paramsurvey.sieve import Sieve
    from paramsurvey.stages.base import Answers
    from paramsurvey.stages.map import Map
    from paramsurvey.tables import Table

PROGRESS_SECONDS = 0.1
MOST_UNCOUNTED = 10_000
CANCELLED = Failure("cancelled", "it was not computed, because the survey ended before")


@attrs.define(eq=False, repr=False)
class Survey(Node):
    """One worker over one table, while it runs.

    Parameters
    ----------
    name : str
        What it is called.
    stage : Map
        What to call.
    options : Options
        How.
    backend : Backend
        Who calls it.
    slots : int
        How many chunks may run at once.
    tell : callable
        Takes an event for the observers.
    rank : int
        Which surveys go first: those with a lower one.
    most : int or None
        How many slots it may use, if the user has said so.
    """

    stage: Map
    options: Options
    backend: Backend
    slots: int
    tell: Callable[[Event], None]
    rank: int = 0
    most: int | None = None
    is_handed_on: bool = attrs.field(default=False, init=False)  # what it answers goes to other map stages alone
    arrivals: Arrivals | None = attrs.field(default=None, init=False)  # its feed to be, if not a whole table
    feed: Feed | None = attrs.field(default=None, init=False)
    lane: Lane | None = attrs.field(default=None, init=False)
    sieve: Sieve | None = attrs.field(default=None, init=False)  # between the two, if there is a journal
    progress: MapProgress = attrs.field(factory=MapProgress, init=False)
    stats: PerfStats = attrs.field(factory=PerfStats, init=False)
    lost: list[Lost] = attrs.field(factory=list, init=False)
    stop: Lost | None = attrs.field(default=None, init=False)  # the failure that ends the run
    _dispatcher: Dispatcher = attrs.field(init=False)
    _from_journal: FromJournal = attrs.field(factory=FromJournal, init=False)
    _work: Work | None = attrs.field(default=None, init=False)
    _handle: Published | None = attrs.field(default=None, init=False)
    _parts: list[tuple[int, Part]] = attrs.field(factory=list, init=False)  # with the row at which each begins
    _began: float = attrs.field(default=0.0, init=False)
    _has_ended: bool = attrs.field(default=False, init=False)
    _calls_out_func: bool = attrs.field(default=True, init=False)  # until Ctrl-C strikes in it
    _tell_at: float = attrs.field(default=0.0, init=False)
    _seconds: array[float] = attrs.field(factory=lambda: array("d"), init=False)  # measured, and not yet in `stats`:
    _counts: array[int] = attrs.field(factory=lambda: array("q"), init=False)  # one addition costs 80 us

    def __attrs_post_init__(self) -> None:
        refuse_what_it_cannot(self.backend, self.options)
        options = self.options
        most, cost = options.max_tasks_per_child, getattr(self.backend, "task_seconds", 0.0)
        if is_placing(self.backend):
            self.slots = self._room()
            most = None if most is None else self.backend.rows_per_task(most)
        chunker = Chunker(self.slots, fixed=options.group_size, most=most, cost=cost)
        retries = Retries(options.retries, options.retry_timeouts, options.retry_backoff, options.retry_alone)
        stages = getattr(getattr(self.stage, "worker", None), "stage_names", ())
        self._dispatcher = Dispatcher(0, chunker, retries=retries, stages=stages)

    # Its life, as told by the run

    def publish(self) -> None:
        """Serialise the worker and its constants, and bring them to where they can be loaded.

        Raises
        ------
        WorkerError
            They cannot be pickled.
        OptionError
            A file in ``depends=`` is missing, or the folder of ``chdir=``.
        """
        self._refuse_missing_files()
        self._refuse_missing_folder()
        chdir = self.options.chdir
        folder = current_folder() if chdir is None else os.path.abspath(chdir)
        found = editions()
        if found is not None and is_renewable(self.backend):
            self.backend.renew(found.reloads)
        work = self._work = self.stage.work(self.name, self.options, folder)._replace(editions=found)
        try:
            self._handle = self.backend.publish(work)
        except BackendError:
            raise
        except Exception as exc:
            from paramsurvey.engine.culprit import culprit_of  # only now

            raise WorkerError(
                f"{self.name}: the worker or its user_kwargs cannot be pickled for the backend "
                f"{self.backend.name!r}: {exc}; what cannot is {culprit_of(work)}"
            ) from exc

    def _refuse_missing_files(self) -> None:
        """Refuse a file in ``depends=`` that is not there, also if there is no journal yet that depends on it."""
        for each in self.options.depends:
            if isinstance(each, str) and not os.path.exists(each):
                raise OptionError(f"depends={each!r}: the file cannot be read: No such file or directory")

    def _refuse_missing_folder(self) -> None:
        """Refuse a folder in ``chdir=`` to which nobody on this machine can go, if the workers are on it."""
        chdir = self.options.chdir
        if chdir is None or not getattr(self.backend, "is_here", False):
            return
        try:
            os.stat(
                os.path.join(chdir, ".")
            )  # this takes what going there does: that it is a folder, and to be entered
        except OSError as exc:
            raise OptionError(
                f"chdir={chdir!r}: the workers cannot run in {os.path.abspath(chdir)!r}: {exc.strerror}; make that "
                "folder before, or name another one"
            ) from None

    def begin(self, feed: Feed, ledger: Ledger | None, come_back: Callable[[Taken], None]) -> Lane:
        """Begin with the rows of a feed; return the lane in which they are computed.

        Those that are in the journal, by its `ledger`, `come_back` at once.
        """
        self._check_wishes(feed)
        self.feed = feed
        if ledger is not None:
            from paramsurvey.sieve import Sieve

            assert self._work is not None
            self.sieve = Sieve(feed, ledger, self._from_journal, come_back, self.is_held, self._work.own_columns)
            self._dispatcher.one_at_a_time = True  # what a kill may cost is one chunk for each slot
        self._dispatcher.open = isinstance(feed, Arrivals | Asked) or self.sieve is not None
        self._dispatcher.in_rounds = isinstance(feed, Asked)
        self._dispatcher.extend(feed.count if self.sieve is None else 0)
        self.progress.total = feed.count
        self._began = time.monotonic()
        self._tell_at = self._began + self._pause()
        options = self.options
        task = TaskOptions(
            timeout=options.timeout,
            max_tasks=options.max_tasks_per_child,
            backend_options=settings_of(self.backend, self.options),
            leave=self.is_handed_on and options.out_func is None and self.sieve is None,
            fetch=self.holds,
        )
        assert self._handle is not None
        self.lane = Lane(self._dispatcher, self._handle, self.sieve or feed, task, self.rank)
        if is_placing(self.backend):
            self.lane.room, self.lane.wishes = self._room, self.backend.wishes
        self.tell(SurveyStarted(self.name, feed.count, self.backend.name, self.slots, describe(options)))
        return self.lane

    def ask(self, psets: PsetSource, until: str) -> None:
        """Have it compute more, if it is one that a stage asks for."""
        assert isinstance(self.feed, Asked)
        self.feed.put(psets, until)
        if self.sieve is None:
            self._dispatcher.extend(psets.count)

    def wait_for_first(self) -> None:
        """Be asked for nothing but what comes first."""
        assert isinstance(self.feed, Asked)
        self.feed.wait_for_first()

    @property
    def is_asked(self) -> bool:
        """Whether it is one that a stage asks for."""
        return isinstance(self.feed, Asked)

    @property
    def is_answered(self) -> bool:
        """Whether there is an answer to what a stage has asked it."""
        return isinstance(self.feed, Asked) and self.feed.is_ready

    @property
    def is_idle(self) -> bool:
        """Whether it could be closed and opened anew, and the stage that asks it would not notice."""
        return isinstance(self.feed, Asked) and self.feed.is_idle

    def answer(self) -> MapResults | Answers:
        """Return the answer to what a stage has asked it."""
        assert isinstance(self.feed, Asked)
        if self.feed.awaits_results:
            self.count()
        return self.feed.answer(self.name, self.stats, self.slots)

    def _room(self) -> int:
        """Return how many of its chunks can run at once, of the machines that can run them."""
        settings = settings_of(self.backend, self.options)
        assert is_placing(self.backend)
        room = self.backend.room(settings)
        return room if self.most is None else min(room, self.most)

    def _check_wishes(self, feed: Feed) -> None:
        """Refuse psets that ask for what no machine has, if they are all known: before anything is computed."""
        settings = settings_of(self.backend, self.options)
        if is_placing(self.backend) and isinstance(feed, Direct):
            key = self.backend.wishes
            if key in feed.psets.all_keys():
                wishes = feed.table().column(key)
                for wish in {repr(each): each for each in wishes if isinstance(each, dict)}.values():
                    self.backend.room({**settings, **wish})

    def end(self, reason: str) -> None:
        """Nothing more will come of it; why, if not because all is done."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None
        self.is_over = True
        if self.feed is not None and not self._has_ended:
            self._has_ended = True
            self.count()
            if not reason and self.options.limit is not None and isinstance(self.feed, Direct):
                reason = f"limit={self.options.limit}: any psets beyond that were left out"
            seconds = time.monotonic() - self._began
            self.tell(SurveyEnded(self.name, self.progress, self.stats, seconds, reason))

    def unlink(self) -> None:
        """Let go of the other nodes, and of what calls it."""
        super().unlink()
        self.arrivals = self.feed = self.lane = self.sieve = None

    @property
    def seconds(self) -> float:
        """How long ago it began; 0 if it has not."""
        return time.monotonic() - self._began if self._began else 0.0

    @property
    def unfinished(self) -> int:
        """How many rows are yet to be answered, as far as is known."""
        return self._total - self._finished - self._failures

    @property
    def _total(self) -> int:
        known = self._dispatcher.total + self._from_journal.finished + self._from_journal.lost
        if self.sieve is None:
            return known
        unseen = self.sieve.unseen if self._dispatcher.open else 0  # else nobody wants to know any more
        return known + unseen

    @property
    def _finished(self) -> int:
        return self._dispatcher.finished + self._from_journal.finished

    @property
    def _failures(self) -> int:
        return self._dispatcher.failures + self._from_journal.lost

    @property
    def start_error(self) -> str:
        """Why its worker cannot be started."""
        return self._dispatcher.start_error

    def _release(self, feed: Arrivals, taken: Taken) -> None:
        part, offset = taken.part, taken.start - taken.part.first
        again = {offset + row for row, _ in part.failures} - {lost.row for lost in taken.lost}
        first = taken.start
        for row in sorted(again):  # they will be asked for once more
            if row > first:
                feed.release(first, row - first)
            first = row + 1
        if taken.start + part.count > first:
            feed.release(first, taken.start + part.count - first)

    def remembered(self, taken: Taken) -> Iterable[Taken]:
        """Have the journal remember what has come back; return it under the numbers of the survey."""
        if self.sieve is None:
            return (taken,)
        self.sieve.record(taken)
        return self.sieve.place(taken)

    def remembered_lost(self, lost: Lost) -> Lost:
        """Have the journal remember a row that is lost by itself; return it under its number of the survey."""
        if self.sieve is None:
            return lost
        self.sieve.record_lost(lost)
        return lost._replace(row=self.sieve.number(lost.row))

    def deliver(self, taken: Taken) -> None:
        """Send finished rows on."""
        assert self.feed is not None
        if taken.part.count > len(taken.part.failures):
            self.put(piece_of(self.feed, taken))

    def note(self, item: Taken | Lost) -> None:
        """Take note of what has come back, and let go of what is no longer needed."""
        feed = self.feed
        assert feed is not None
        if isinstance(item, Lost):
            self._note_lost([item])
            feed.release(item.row, 1)
        else:
            self._note_rows(item)
        if isinstance(feed, Asked):
            feed.note(item)
        elif isinstance(feed, Arrivals) and isinstance(item, Taken):
            self._release(feed, item)

    def pull_the_rest(self) -> None:
        """Take note of rows that have come this far and will not be computed."""
        if self.sieve is not None:
            self._dispatcher.extend(self.sieve.pull_the_rest())
        elif isinstance(self.feed, Arrivals) and isinstance(self.feed.edge, Edge):
            self._dispatcher.extend(self.feed.pull_the_rest())

    def keep(self, taken: Taken) -> None:
        """Keep the answers of rows."""
        if self.holds:
            self._parts.append((taken.start, bare(taken.part)))

    def _note_rows(self, taken: Taken) -> None:
        part, options = taken.part, self.options
        self.keep(taken)
        self._seconds.extend(part.seconds)
        self._counts.extend(part.counts)
        if len(self._seconds) >= MOST_UNCOUNTED:
            self.count()
        if part.raw_stats:
            self._note_stats(part.raw_stats)
        if options.verbose >= 3:
            self.tell(RowsFinished(self.name, taken.start, taken.start + part.count))
        if taken.lost:
            self._note_lost(taken.lost)
        if options.out_func is not None:
            self.count()
            for pset, answer in self.rows_of(taken):
                self._call_out_func({"pset": pset, "result": answer})

    def _note_stats(self, raw_stats: dict[str, list[float]]) -> None:
        try:
            self.stats.combine_stats(raw_stats)
        except OptionError as exc:  # the worker put something else there; its answers are none the worse for it
            self.tell(StatsRefused(self.name, str(exc)))

    def _note_lost(self, lost: list[Lost]) -> None:
        """Take note of rows that are lost: at once, because thousands may be."""
        feed = self.feed
        assert feed is not None
        if not isinstance(feed, Asked):
            self.lost += lost
        if isinstance(feed, Arrivals):
            for one in lost:
                feed.note_lost(one.row)
        self.progress.exceptions += sum(one.failure.kind == "raised" for one in lost)
        self.tell(RowsLost(self.name, lost, feed.pset))
        if self.options.on_failure == "stop" and self.stop is None:
            self.stop = lost[0]
        if self.options.out_func is not None:
            for one in lost:
                text, stack = one.failure.text, one.failure.traceback
                self._call_out_func({"pset": feed.pset(one.row), "exception": text, "traceback": stack})

    def tell_progress(self) -> None:
        """Tell the observers how far it has come, if it is time."""
        now = time.monotonic()
        if now >= self._tell_at:
            self._tell_at = now + self._pause()
            self.count()
            self.tell(Progressed(self.name, self.progress, self.stats))

    def _pause(self) -> float:
        """Return the seconds between two times that observers are told of progress."""
        if self.options.verbose >= 3:
            return 0.0
        return PROGRESS_SECONDS if self.options.progress_dt is None else min(self.options.progress_dt, PROGRESS_SECONDS)

    def rows_of(self, taken: Taken) -> Iterator[tuple[Pset, Pset]]:
        """Make the psets and the answers of rows that have come back."""
        assert self.feed is not None
        part = taken.part
        failed = {row for row, _ in part.failures}
        rows = [row for row in range(part.first, part.first + part.count) if row not in failed]
        offset = taken.start - part.first
        answers = psets_of(part.keys, part.columns, len(rows))
        for row, answer in zip(rows, answers, strict=True):
            yield self.feed.pset(offset + row), answer

    def _call_out_func(self, user_ret: dict[str, Any]) -> None:
        options = self.options
        assert options.out_func is not None
        if not self._calls_out_func:
            return
        system_kwargs = {
            "name": self.name,
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
            # the loop has been told already, and brings in what is finished; whoever waits for the end of a slow
            # function does not wait for one call more for each of those rows
            self._calls_out_func = False
        except Exception as exc:  # noqa: BLE001 - the survey outlives what its user's function raises
            self.progress.exceptions += 1
            self.tell(OutFuncFailed(self.name, safe_repr(exc), traceback.format_exc()))

    def count(self) -> None:
        """Bring `progress` and `stats` up to date."""
        if self._seconds:
            # lists, if they are short: then they are added without numpy, which takes its time to begin
            few = len(self._seconds) < FEW
            seconds, counts = (self._seconds.tolist(), self._counts.tolist()) if few else (self._seconds, self._counts)
            self.stats.add(self.name, seconds, counts)
            self._seconds, self._counts = array("d"), array("q")
        self.progress.total = self._total
        self.progress.active = self._dispatcher.active
        self.progress.finished = self._finished
        self.progress.failures = self._failures
        self.progress.from_journal = self._from_journal.finished

    def forget(self) -> None:
        """Let go of the rows, after somebody has taken the results: a stage may ask for thousands of surveys."""
        self.feed, self.lane, self.sieve, self._parts = None, None, None, []

    # What came of it

    def missing(self) -> list[Lost]:
        """Return the rows without an answer, by number."""
        return sorted((*self.lost, *self._cancelled()), key=lambda one: one.row)

    def _cancelled(self) -> Iterator[Lost]:
        for rows in self._dispatcher.remaining():
            for row in rows:
                number = row if self.sieve is None else self.sieve.number(row)
                yield Lost(number, CANCELLED, self._dispatcher.attempts(row), self._dispatcher.tried(row))

    def results(self, settled: Settled | None = None) -> MapResults:
        """Return what is finished, and as missing all that is not; in the final order, if the run knows it."""
        import numpy as np

        from paramsurvey.results import Call, MapResults  # imports pandas: the workers need not wait for that

        feed, lost = self._feed_or_none(), self.missing()
        numbers = np.array([one.row for one in lost], np.int64)
        psets = feed.lost(numbers)
        if isinstance(feed, Arrivals) and settled is not None:
            psets, numbers = in_order(psets, numbers, settled)
            by_number = {one.row: one for one in lost}
            lost = [by_number[number] for number in numbers.tolist()]
        self.count()
        return MapResults(
            table=self.output(settled)[0],
            psets=psets,
            lost=lost,
            progress=attrs.evolve(self.progress, active=0),
            stats=self.stats,
            name=self.name,
            details=self.output(settled, details=True)[0] if self._has_details else None,
            call=None if self._work is None else Call(self._work, feed.table().keys),
        )

    @property
    def _has_details(self) -> bool:
        return any("_status" in part.keys or "_stdout" in part.keys for _, part in self._parts)

    def output(self, settled: Settled | None = None, *, details: bool = False) -> tuple[Table, Any]:
        """Return the rows that have an answer, and their numbers; in the final order, if the run knows it.

        With `details` they have those instead of the answers.
        """
        import numpy as np

        from paramsurvey.tables import joined

        feed = self._feed_or_none()
        if not self.holds:
            return feed.table().take(np.empty(0, np.int64)), np.empty(0, np.int64)
        psets = feed.table()
        parts = [(start, of_keys(part, details)) for start, part in self._parts]
        table, numbers = joined(psets, parts)
        table = table.brought()
        if numbers is None:
            numbers = np.arange(table.count, dtype=np.int64)
        if isinstance(feed, Arrivals) and settled is not None:
            shapes = sorted(((start, part.keys) for start, part in parts), key=itemgetter(0))
            return in_order(table, numbers, settled, (feed.shapes(), shapes), set(table.keys) - set(psets.keys))
        return table, numbers

    def _feed_or_none(self) -> Feed:
        """Return the feed, one without rows if it never began."""
        from paramsurvey.tables import Table

        return self.feed or Direct(WholeTable(Table((), [], 0)))


def bare(part: Part) -> Part:
    """Return a part without what has been counted already: a survey may keep millions, and the garbage collector looks
    at every container in them.
    """
    return Part(part.first, part.count, part.keys, part.columns, part.failures or _NO_FAILURES, (), (), _NO_STATS)


_NO_STATS: dict[str, list[float]] = {}
_NO_FAILURES: list[tuple[int, Failure]] = []
OUT_FUNC = frozenset({Survey._call_out_func.__code__})
"""The code in which a user's function runs in the driver."""
