"""Progress on standard error, by ``verbose`` and ``vstats``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

import attrs

from paramsurvey.engine.worker import safe_repr
from paramsurvey.observers.events import (
    ColumnAbsent,
    Event,
    JournalSpoke,
    OutFuncFailed,
    Progressed,
    RowsFinished,
    RowsLost,
    StageToldSoFar,
    StatsRefused,
    SurveyEnded,
    SurveyStarted,
)

if TYPE_CHECKING:
    from paramsurvey.engine.dispatcher import Lost
    from paramsurvey.progress import MapProgress
    from paramsurvey.stats import PerfStats

SECONDS_BETWEEN = {0: float("inf"), 1: 30.0, 2: 1.0, 3: 0.0}
MOST_FAILURES_SHOWN = 3
LONGEST_LINE = 400


@attrs.define(eq=False, repr=False)
class Terminal:
    """Prints lines of progress to standard error.

    Parameters
    ----------
    verbose, vstats : int
        How much, as in the options.
    progress_dt : float, optional
        Seconds between two lines of progress, instead of what `verbose` means.
    log_name : str, optional
        Where the user can read more.
    clock : callable, optional
        Tells the time in seconds.
    """

    verbose: int
    vstats: int
    progress_dt: float | None = None
    log_name: str | None = None
    clock: Callable[[], float] = attrs.field(default=time.monotonic, kw_only=True)
    _began: float = attrs.field(init=False)
    _progress_at: float = attrs.field(init=False)
    _stats_at: float = attrs.field(init=False)
    _told_at: float = attrs.field(init=False)
    _failures_shown: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._began = self._progress_at = self._stats_at = self._told_at = self.clock()

    def see(self, event: Event) -> None:
        """Print what is due."""
        if isinstance(event, Progressed):
            self._in_between(event)
        elif isinstance(event, SurveyEnded):
            self._ended(event)
        elif self.verbose == 0:
            return
        elif isinstance(event, JournalSpoke) and self.verbose >= event.verbose:
            say(event.text)
        elif isinstance(event, RowsLost):
            for lost in event.lost:
                self._lost(event, lost)
        elif isinstance(event, StageToldSoFar):
            self._told_so_far(event)
        elif isinstance(event, OutFuncFailed):
            say(f"{event.name}: out_func raised {event.text}")
        elif isinstance(event, StatsRefused | ColumnAbsent):
            say(f"{event.name}: {event.text}")
        elif isinstance(event, SurveyStarted) and self.verbose >= 2:
            say(f"{event.name}: {event.total} psets on {event.slots} x {event.backend}; {event.options}")
        elif isinstance(event, RowsFinished) and self.verbose >= 3:
            say(f"{event.name}: psets {event.start} to {event.stop - 1} have come back")

    @property
    def _pause(self) -> float:
        return SECONDS_BETWEEN[self.verbose] if self.progress_dt is None else self.progress_dt

    def _told_so_far(self, event: StageToldSoFar) -> None:
        now = self.clock()
        if now - self._told_at >= self._pause:
            self._told_at = now
            say(f"{event.name}: {event.text}")

    def _in_between(self, event: Progressed) -> None:
        now = self.clock()
        if self.verbose and now - self._progress_at >= self._pause:
            self._progress_at = now
            say(f"{event.name}: {event.progress}{_remaining(event.progress, now - self._began)}")
        if now - self._stats_at >= max(1.0, SECONDS_BETWEEN[self.vstats]):
            self._stats_at = now
            self._print_stats(event.stats)

    def _lost(self, event: RowsLost, lost: Lost) -> None:
        self._failures_shown += 1
        if self.verbose < 3 and self._failures_shown > MOST_FAILURES_SHOWN:
            if self._failures_shown == MOST_FAILURES_SHOWN + 1:
                say(f"{event.name}: further failures are not shown here{self._see_log()}")
            return
        failure = lost.failure
        text = shortened(failure.text, LONGEST_LINE)
        say(f"{event.name}: pset {lost.row} is missing ({failure.kind}): {text}{self._see_log()}")
        if self.verbose >= 2:
            say(f"  {shortened(safe_repr(event.pset(lost.row)), LONGEST_LINE)}")
        if self.verbose >= 2 and failure.traceback:
            say(failure.traceback.rstrip())

    def _ended(self, event: SurveyEnded) -> None:
        if self.verbose:
            reason = f" ({event.reason})" if event.reason else ""
            say(f"{event.name}: {event.progress}; {event.seconds:.3g} s{reason}")
        if self.vstats >= 2 or event.seconds >= SECONDS_BETWEEN[self.vstats]:
            self._print_stats(event.stats)

    def _see_log(self) -> str:
        return f" (see {self.log_name})" if self.log_name else ""

    def _print_stats(self, stats: PerfStats) -> None:
        if self.vstats >= 3:
            on_stderr(lambda stderr: stats.print_histograms(file=stderr))
        elif self.vstats == 2 or (self.vstats and self.verbose):  # 1 is the default, and verbose=0 prints nothing
            on_stderr(lambda stderr: stats.print_percentiles(file=stderr))


def say(text: str) -> None:
    """Print a line to standard error."""
    on_stderr(lambda stderr: print(f"paramsurvey: {text}", file=stderr, flush=True))


def on_stderr(write: Callable[[TextIO], None]) -> None:
    """Have something written to standard error as it is now (notebooks and tests replace it), if that is possible."""
    stderr: TextIO | None = sys.stderr  # None in programs without a terminal
    try:
        if stderr is not None:
            write(stderr)
    except Exception:  # noqa: BLE001, S110 - a closed, full or strange stream is no reason to lose a survey
        pass


def shortened(text: str, most: int) -> str:
    """Return a text of at most so many characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def _remaining(progress: MapProgress, seconds: float) -> str:
    done = progress.finished + progress.failures
    if not done or done == progress.total:
        return ""
    return f"; {seconds:.0f} s, about {seconds / done * (progress.total - done):.0f} s to go"
