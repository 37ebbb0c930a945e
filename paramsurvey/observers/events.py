"""What observers are told: tuples, because thousands may be made in a second, and the classes at every import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from paramsurvey.engine.columns import Pset
    from paramsurvey.engine.dispatcher import Lost
    from paramsurvey.progress import MapProgress
    from paramsurvey.stats import PerfStats


class SurveyStarted(NamedTuple):
    """A survey begins."""

    name: str
    total: int
    backend: str
    slots: int
    options: str


class RowsFinished(NamedTuple):
    """Rows `start` up to `stop` have come back."""

    name: str
    start: int
    stop: int


class RowsLost(NamedTuple):
    """Psets that have come back together will have no result; `pset` makes that of a row, as long as one is told."""

    name: str
    lost: Sequence[Lost]
    pset: Callable[[int], Pset]


class StageToldSoFar(NamedTuple):
    """A stage that asks for surveys says how far it has come."""

    name: str
    text: str


class OutFuncFailed(NamedTuple):
    """The user's ``out_func`` raised."""

    name: str
    text: str
    traceback: str


class StatsRefused(NamedTuple):
    """A worker put something into its ``raw_stats`` that is no time."""

    name: str
    text: str


class ColumnAbsent(NamedTuple):
    """No row has had a column that a row-wise stage expects in some."""

    name: str
    text: str


class JournalSpoke(NamedTuple):
    """There is something to be said of the journal: it cannot be written, or is damaged; on a terminal from a certain
    ``verbose`` on.
    """

    text: str
    verbose: int = 1


class Progressed(NamedTuple):
    """Time has passed; `progress` is as it is now."""

    name: str
    progress: MapProgress
    stats: PerfStats


class SurveyEnded(NamedTuple):
    """A survey is over, after so many seconds; `reason` is empty if it came to its own end."""

    name: str
    progress: MapProgress
    stats: PerfStats
    seconds: float
    reason: str


Event: TypeAlias = (
    SurveyStarted
    | RowsFinished
    | RowsLost
    | StageToldSoFar
    | OutFuncFailed
    | StatsRefused
    | ColumnAbsent
    | JournalSpoke
    | Progressed
    | SurveyEnded
)


class Observer(Protocol):
    """Somebody who watches surveys. It must not raise, and must not take long: it is told in the thread of the loop."""

    def see(self, event: Event) -> None:
        """Take note of an event."""
        ...
