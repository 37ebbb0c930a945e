"""What the picks are worth: how sure it is that they are plain greedy's, and how far they may be from the optimum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import attrs

from paramsurvey.stages.greedy_lazy import lazily
from paramsurvey.stages.greedy_pool import ROUNDING
from paramsurvey.stages.greedy_search import Task, started
from paramsurvey.stages.greedy_trace import Round, State

Standing: TypeAlias = Literal["exact", "replayed", "assumed"]


@attrs.frozen
class Certificate:
    """How sure it is that the picks are those of plain greedy, which evaluates everybody in every round.

    Attributes
    ----------
    standing : {"exact", "replayed", "assumed"}
        ``"exact"``: they are, because all were evaluated, or because nobody was left out who could have won by
        `gain_rise`. ``"replayed"``: they are, because a gain had risen and plain greedy was done after all.
        ``"assumed"``: they are if gains can only fall, and nothing that was seen speaks against it (or, with
        ``on_violation="warn"``, something does: see `rose`).
    checked : int
        How many gains were evaluated again, and compared with what they were to be at most.
    rose : tuple of str
        Those that had risen.
    at_most : number or None
        No set of the same size (with a budget: of the same cost) is better than this, if gains can only fall and are
        never negative: the bound of Leskovec et al. (KDD 2007). None where that cannot be said, as after a gain rose.
    rose_ahead : int
        How many gains had risen that were evaluated ahead of need, on slots that would have been idle. Nothing was
        decided by them, so that the picks do not depend on the number of slots. But if there are any, do not believe
        ``"assumed"``.
    """

    standing: Standing
    checked: int
    rose: tuple[str, ...]
    at_most: Any
    rose_ahead: int = attrs.field(default=0, eq=False)


@attrs.frozen
class Diagnosis:
    """What a plain search tells about lazy search, without any further evaluation.

    Attributes
    ----------
    compared : int
        How many gains were evaluated again in a later round.
    rose : int
        How many of them had risen. If none had, ``lazy=True`` would have found the same picks.
    lazy_evaluations : int or None
        How many evaluations lazy search would have needed; None if it would have picked something else.
    evaluations : int
        How many were needed.
    """

    compared: int
    rose: int
    lazy_evaluations: int | None
    evaluations: int

    @property
    def share(self) -> float:
        """The share of gains that rose."""
        return self.rose / self.compared if self.compared else 0.0

    def __str__(self) -> str:
        found = f"{self.rose} of {self.compared} gains rose ({self.share:.0%})"
        if self.lazy_evaluations is None:
            return f"{found}; lazy=True would have looked at other sets, too, before it saw that"
        if self.lazy_evaluations >= self.evaluations:
            return f"{found}; lazy=True would have spared none of the {self.evaluations} evaluations"
        fewer = f"{self.lazy_evaluations} evaluations would have been enough, instead of {self.evaluations}"
        return f"{found}; with lazy=True {fewer}"


def certificate_of(task: Task) -> Certificate | None:
    """Return the certificate of a search; None for one that is not greedy in the plain sense."""
    spec = task.spec
    if not is_plain(task) or spec.polish is not None:
        return None
    standing: Standing = "exact"
    if task.replayed:
        standing = "replayed"
    elif task.pruned and (spec.gain_rise is None or task.rose or spec.slack is not None):
        standing = "assumed"
    return Certificate(standing, task.checked, tuple(task.rose), _at_most(task), task.rose_ahead)


def is_plain(task: Task) -> bool:
    """Tell whether a search adds the best, and the next, and nothing else."""
    spec = task.spec
    return spec.direction == "forward" and spec.beam == 1 and not spec.floating and not spec.ordered


def _at_most(task: Task) -> Any:
    """Return the least of Leskovec's bounds on the optimum at every set on the way."""
    spec, sign = task.spec, task.book.metric.signs[0]
    if task.rose or spec.replicates > 1 or spec.gain_rise is not None or risen(task.rounds)[1] or _fell(task.rounds):
        return None
    count, bounds = len(task.final.members), list[Any]()
    for gains, value in _gains_by_round(task.rounds):
        everybody = {*task.pool.unpicked}
        if value is None or not everybody <= gains.keys() | set(value[1]):
            continue
        left = {each: gain for each, gain in gains.items() if each not in value[1]}
        bounds.append(
            value[0] + (_best_by_count(left.values(), count) if spec.budget is None else _knapsack(task, left))
        )
    return sign * min(bounds) if bounds else None


def _gains_by_round(rounds: Iterable[Round]) -> Iterable[tuple[dict[int, Any], Any]]:
    """Yield for each round what is known of the gain of everybody, and what the set is worth, with its members."""
    known: dict[int, Any] = {}
    rule = ""
    for each in rounds:
        if each.rule != rule:
            known, rule = {}, each.rule
        for seen in each.seen:
            if len(seen.changed) == 1:
                gain = seen.gain if seen.gain is not None else seen.bound
                if gain is not None:
                    known[seen.changed[0]] = gain
        yield known, None if each.value is None else (each.value, each.before)


def _best_by_count(gains: Iterable[Any], count: int) -> Any:
    return sum(sorted((gain for gain in gains if gain > 0), reverse=True)[:count])


def _knapsack(task: Task, gains: dict[int, Any]) -> Any:
    """Return what the gains are worth that fit the budget, if candidates could be bought in parts."""
    left, worth = task.spec.budget, 0
    priced = [(gain, task.pool.cost((each,))) for each, gain in gains.items() if gain > 0]
    for gain, cost in sorted(priced, key=lambda item: item[0] / item[1] if item[1] else float("inf"), reverse=True):
        part = 1 if cost <= left else left / cost
        worth += gain * part
        left -= cost * part
        if part < 1:
            break
    return worth


def risen(rounds: Iterable[Round]) -> tuple[int, int]:
    """Count the gains that were evaluated in one round and again in a later one, and those that had risen."""
    compared, rose = 0, 0
    last: dict[tuple[str, int], Any] = {}
    for each in rounds:
        for seen in each.seen:
            if len(seen.changed) != 1 or seen.gain is None or each.move != "add":
                continue
            before = last.get((each.rule, seen.changed[0]))
            if before is not None:
                compared += 1
                rose += bool(seen.gain > before + _rounding(each.value, seen.gain, before))
            last[each.rule, seen.changed[0]] = seen.gain
    return compared, rose


def _rounding(value: Any, *gains: Any) -> Any:
    """Return by how much a gain may seem to rise because sums of floats are rounded."""
    if all(isinstance(each, int) for each in (value, *gains)):
        return 0
    return ROUNDING * max(abs(value), *(abs(value + gain) for gain in gains))


def _fell(rounds: Iterable[Round]) -> bool:
    """Tell whether any candidate has made a set worse."""
    return any(seen.gain is not None and seen.gain < 0 for each in rounds for seen in each.seen)


def diagnosed(task: Task) -> Diagnosis | None:
    """Tell from a plain search whether lazy search would have done; None for any other one."""
    if not is_plain(task) or task.spec.lazy or task.spec.replicates > 1 or task.spec.rule == "both":
        return None
    compared, rose = risen(task.rounds)
    return Diagnosis(compared, rose, _lazy_evaluations(task), task.book.evaluations)


def _lazy_evaluations(task: Task) -> int | None:
    """Do lazy search with what is known; count what it needs."""
    if not task.spec.has_an_end:
        return None
    book = task.book.unused()
    lazy = Task(attrs.evolve(task.spec, on_violation="replay", lazy=True), task.pool, book)
    for need in _lazily(lazy):
        if not book.has(need):
            return None
        book.note(need)
    return book.evaluations if _added(lazy.rounds) == _added(task.rounds) else None


def _added(rounds: Iterable[Round]) -> list[Any]:
    return [seen.changed for each in rounds for seen in each.seen if seen.picked and each.move == "add"]


def _lazily(task: Task) -> Any:
    start: State = yield from started(task)
    task.final = yield from lazily(task, start, "gain" if task.spec.budget is None else task.spec.rule or "ratio")
