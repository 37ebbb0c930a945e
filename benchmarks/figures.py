"""What a benchmark hands back: figures with their bounds, and the times of contenders that took turns.

Every ratio here is the *median of the ratios of single rounds*. In a round all contenders run once, one after another,
so whatever slows the machine for a while slows all of them; dividing within a round takes it out again.
"""

from __future__ import annotations

import enum
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs

Given = TypeVar("Given")
Answer = TypeVar("Answer")

RATIO = "×"  # noqa: RUF001 - the sign for "times", in tables that people read
OURS = "paramsurvey"


class Effort(enum.Enum):
    """How much time may be spent; in a rehearsal hardly any: it shows that all of it runs, and measures nothing."""

    FULL = "full"
    QUICK = "quick"
    REHEARSAL = "rehearsal"

    def choose(self, *, full: Answer, quick: Answer) -> Answer:
        """Return the one of the two that fits; for a rehearsal the quick one, with numbers a twentieth as large."""
        match self:
            case Effort.FULL:
                return full
            case Effort.QUICK:
                return quick
        return _reduced(quick)


def _reduced(given: Any) -> Any:
    match given:
        case int():
            return max(1, given // 20)
        case tuple() | list():
            return type(given)(map(_reduced, given))
        case dict():
            return {_reduced(key): _reduced(value) for key, value in given.items()}
    return given


@attrs.frozen(kw_only=True)
class Bound:
    """What the issue asks of a figure."""

    limit: float
    at_least: bool = False

    def holds_for(self, value: float) -> bool:
        """Say whether `value` is on the right side."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


@attrs.frozen(kw_only=True)
class Figure:
    """One measured number.

    Parameters
    ----------
    line : int
        The numbered line of the list "How fast, how small" that it belongs to.
    name : str
        What was measured.
    value : float or None
        Ours divided by the reference if the unit is `RATIO`, else ours in that unit; None if ours could not be run.
    unit : str
        `RATIO`, or that of a bound which is not a ratio.
    reference : str
        What the ratio is relative to; empty for others.
    bound : Bound or None
        None for what is printed for comparison only.
    others : mapping of str to float
        Ours divided by each peer if the unit is `RATIO`, else the same measurement of each peer.
    """

    line: int
    name: str
    value: float | None
    unit: str = RATIO
    reference: str = ""
    bound: Bound | None = None
    others: Mapping[str, float] = attrs.field(factory=dict)

    @property
    def is_met(self) -> bool:
        """Whether nothing is left to wish for."""
        return self.bound is None or (self.value is not None and self.bound.holds_for(self.value))

    @property
    def verdict(self) -> str:
        """The bound and whether it is met, as the tables say it."""
        if self.value is None:
            return "not measured"
        if self.bound is None:
            return ""
        return "met" if self.is_met else "NOT met"


@attrs.frozen
class Timings:
    """Seconds that each contender took in each round."""

    seconds: Mapping[str, Sequence[float]]

    def median(self, name: str) -> float:
        """Return the median time of a contender."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, reference: str) -> float:
        """Return the median over the rounds of the ratio of two contenders."""
        pairs = zip(self.seconds[name], self.seconds[reference], strict=True)
        return statistics.median(one / other for one, other in pairs)

    def quickest(self, names: Sequence[str]) -> str:
        """Return the one of the names with the smallest median."""
        return min((name for name in names if name in self.seconds), key=self.median)

    def figure(
        self, *, line: int, name: str, reference: str, bound: float | None, ours: str = OURS, others: Sequence[str] = ()
    ) -> Figure:
        """Return the ratio of ours to a reference as a figure, with the ratios to other contenders beside it."""
        if ours not in self.seconds:
            return Figure(line=line, name=name, value=None, reference=reference, bound=at_most(bound))
        return Figure(
            line=line,
            name=name,
            value=self.ratio(ours, reference),
            reference=reference,
            bound=at_most(bound),
            others={
                other: self.ratio(ours, other) for other in others if other in self.seconds.keys() - {ours, reference}
            },
        )

    def converted(self, *, line: int, name: str, unit: str, bound: Bound, by: Callable[[float], float]) -> Figure:
        """Return the median time of ours, converted to another unit, with those of all others beside it."""
        values = {contender: by(self.median(contender)) for contender in self.seconds}
        return Figure(line=line, name=name, value=values.pop(OURS, None), unit=unit, bound=bound, others=values)


def at_most(limit: float | None) -> Bound | None:
    """Return the bound of a ratio, if it has one."""
    return None if limit is None else Bound(limit=limit)


def interleave(
    contenders: Mapping[str, Callable[[Given], Answer]],
    *,
    rounds: int,
    given: Callable[[], Given],
    check: Callable[[Answer], bool],
) -> Timings:
    """Let the contenders take turns, round after round, and take their times.

    Each starts from a collected heap with the collector switched on, as it is in a user's program. What `given` returns
    is made, and what comes back is checked and thrown away, outside of the time taken.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            taken, is_right = _timed(contender, given(), check)
            if not is_right:
                raise ValueError(f"{name} returned wrong answers: its time would mean nothing")
            seconds[name].append(taken)
    return Timings(seconds)


def _timed(contender: Callable[[Given], Answer], given: Given, check: Callable[[Answer], bool]) -> tuple[float, bool]:
    gc.collect()
    started = time.perf_counter()
    answer = contender(given)
    taken = time.perf_counter() - started
    return taken, check(answer)


def show(title: str, timings: Timings, *, per: int = 1) -> None:
    """Print the absolute times of a comparison, for whoever watches."""
    print(f"\n  {title}")
    for name in sorted(timings.seconds, key=timings.median):
        best, median = min(timings.seconds[name]), timings.median(name)
        each = f"  {median / per * 1e6:9.2f} µs per pset" if per > 1 else ""
        print(f"    {name:<34} median {median * 1e3:10.2f} ms   best {best * 1e3:10.2f} ms{each}", flush=True)
