"""Line 11: the driver's own work with 10,000 slots, in simulated time. ``python benchmarks/scale.py`` runs 1e7 rows.

The dispatcher and the loop are the real ones. The backend is a heap of due times, which costs what a heap costs, and
that is taken off; the clock is a number that jumps to the next of them whenever the loop would wait. So a survey that
takes three hours of ten thousand cores runs in minutes, and what is left of them is what the driver spends.
"""

from __future__ import annotations

import heapq
import resource
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import attrs

from benchmarks.figures import Bound, Effort, Figure
from paramsurvey.engine.chunking import Chunker
from paramsurvey.engine.dispatcher import Dispatcher, Taken
from paramsurvey.engine.loop import Lane, Loop
from paramsurvey.engine.records import ChunkRows, GivenBack, Part, TaskOptions

SLOTS = 10_000
SECONDS = 10.0
SPREAD = 0.5  # a row takes 5 to 15 s: equal ones would come back in herds of 10,000


class Clock:
    """A clock of the processor seconds that the driver spends, those of the fake backend left out."""

    def __init__(self) -> None:
        self.spent = 0.0
        self._since = time.thread_time()

    def stop(self) -> None:
        """The driver has called the backend."""
        self.spent += time.thread_time() - self._since

    def go_on(self) -> None:
        """The call returns."""
        self._since = time.thread_time()


@attrs.define(eq=False)
class FakeBackend:
    """Slots that compute for so long, on a clock that never waits."""

    room: int
    clock: Clock = attrs.field(factory=Clock)
    now: float = 0.0  # in simulated seconds
    most_flights: int = 0
    busy_seconds: float = 0.0  # of all slots together
    recalls: int = 0
    _due: list[tuple[float, int, Future[Any], TaskOptions, int]] = attrs.field(factory=list)
    _count: int = 0
    _recalled: set[Future[Any]] = attrs.field(factory=set)

    name = "fake"
    can_kill = True

    def slots(self) -> int:
        """Return how many there are."""
        return self.room

    def publish(self, obj: Any) -> Any:
        """Nobody loads it."""
        return obj

    def submit(self, _fn: Callable[..., Any], /, *args: Any, options: TaskOptions) -> Future[Any]:
        """Note when it will be done."""
        self.clock.stop()
        future: Future[Any] = Future()
        self._count += 1
        count = ChunkRows(*args[1]).count
        seconds = count * SECONDS * (1 - SPREAD + 2 * SPREAD * (self._count * 0.6180339887 % 1.0))
        heapq.heappush(self._due, (self.now + seconds, self._count, future, options, count))
        self.busy_seconds += seconds
        self.most_flights = max(self.most_flights, len(self._due))
        self.clock.go_on()
        return future

    def advance(self) -> bool:
        """Complete what is due next; the loop calls it when it has nothing else to do."""
        self.clock.stop()
        if self._due:
            self.now, number, future, options, count = heapq.heappop(self._due)
            seconds = [SECONDS] * min(count, 1)
            part = Part(0, count, ("answer",), [[number] * count], [], seconds, [count], {}, 50 * count)
            if future in self._recalled:
                self._recalled.discard(future)
                options.on_part(GivenBack(count))
            future.set_result(part)
        self.clock.go_on()
        return bool(self._due)

    def recall(self, future: Future[Any]) -> None:
        """All its rows have begun, it will say in the end."""
        self.recalls += 1
        self._recalled.add(future)

    def kill(self, future: Future[Any]) -> None:
        """Nothing is left when the loop ends."""

    def resources(self) -> Mapping[str, Any]:
        """Return the cores that there would be."""
        return {"num_cores": self.room}

    def close(self) -> None:
        """Nothing is open."""


@attrs.define(eq=False)
class Numbers:
    """A table whose rows are their own numbers."""

    closed: bool = True
    expected: int = 0

    def pull(self) -> int:
        """All are there."""
        return 0

    def rows(self, start: int, stop: int, attempt: int) -> ChunkRows:
        """Return them as they travel."""
        return ChunkRows(("row",), [list(range(start, stop))], stop - start, attempt)


@attrs.frozen(kw_only=True)
class Outcome:
    """What a simulation has shown."""

    finished: int
    chunks: int
    spent: float  # seconds of the driver
    simulated: float  # seconds that the survey would have taken
    busy: float  # share of the slots' time
    most_flights: int


def simulate(rows: int, slots: int, *, group_size: int | None = None) -> Outcome:
    """Run a survey of so many rows on so many slots, and keep nothing of it."""
    backend = FakeBackend(slots)
    dispatcher = Dispatcher(rows, Chunker(slots, fixed=group_size))
    loop = Loop(backend, prepare=backend.advance)
    loop.add(Lane(dispatcher, "a handle", Numbers(), TaskOptions()))  # type: ignore[arg-type] # nobody loads it
    finished = 0
    backend.clock.go_on()
    for news in loop.run():
        if news is not None and isinstance(news[1], Taken):
            finished += news[1].part.count
    backend.clock.stop()
    return Outcome(
        finished=finished,
        chunks=backend._count,
        spent=backend.clock.spent,
        simulated=backend.now,
        busy=backend.busy_seconds / (slots * backend.now),
        most_flights=backend.most_flights,
    )


def scale(effort: Effort) -> list[Figure]:
    """Line 11: 10,000 slots and rows of 10 s, in simulated time: what the driver spends."""
    return figures_of(effort.choose(full=1_000_000, quick=200_000))


def figures_of(rows: int) -> list[Figure]:
    """Run so many rows one by one on all slots; a tenth of them on 100 slots; and all of them by the hundred."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    one_by_one = simulate(rows, SLOTS)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    few = simulate(rows // 10, SLOTS // 100)
    grouped = simulate(rows, SLOTS, group_size=100)
    for outcome in (one_by_one, few, grouped):
        assert outcome.finished in (rows, rows // 10)
        print(f"  {outcome}")
    each = one_by_one.spent / one_by_one.chunks * 1e6
    few_each = few.spent / few.chunks * 1e6
    by_chunk = grouped.spent / grouped.chunks * 1e6
    title = f"{rows:,} rows of 10 s on {SLOTS:,} fake slots"
    return [
        Figure(
            line=11,
            name=f"{title}, one by one: driver",
            value=each,
            unit="µs per row",
            bound=Bound(limit=50),
            others={f"on {SLOTS // 100} slots": few_each},
        ),
        Figure(line=11, name=f"{title}: slots' time used", value=100 * one_by_one.busy, unit="%"),
        Figure(line=11, name=f"{title}: slots that it could keep busy", value=SECONDS * 1e6 / each, unit="slots"),
        Figure(line=11, name=f"{title}: driver's memory", value=grown, unit="MB"),
        Figure(line=11, name=f"{title}, `group_size=100`: driver", value=by_chunk, unit="µs per chunk"),
    ]


if __name__ == "__main__":
    for each in figures_of(10_000_000):
        print(
            f"{each.name}: {each.value:.3g} {each.unit}",
            *(f"({name}: {value:.3g})" for name, value in each.others.items()),
        )
