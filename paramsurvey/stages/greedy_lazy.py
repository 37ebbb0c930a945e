"""Lazy greedy search: evaluate again only who can still win.

If the gain of a candidate can only fall as the set grows (a submodular metric), what it was in an earlier round bounds
what it is now. So the candidates are evaluated in the order of their bounds, and when the best that is known now is
as good as every bound that is left, it is the best (Minoux 1978; Leskovec et al., KDD 2007, call it CELF).

Whether gains can only fall is not known but assumed, and it is *checked*: every gain that is evaluated again must not
be more than its bound. Every twentieth evaluation is spent on checking the oldest bound of those that are not needed.

Which evaluations are needed follows from the values alone, as if there were one slot. On several slots those are
evaluated ahead of need that would be needed next if those under way turned out badly. So the picks, the trace and the
certificate are the same for any number of slots, and for any order in which the answers come.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

import attrs

from paramsurvey.stages.greedy_book import Need, Outcome
from paramsurvey.stages.greedy_pool import ROUNDING, Members
from paramsurvey.stages.greedy_search import (
    Choice,
    Search,
    Single,
    Task,
    better_single,
    chosen,
    forward,
    label,
    new_in,
    per_cost,
    seen_of,
    stepped,
    with_best_single,
)
from paramsurvey.stages.greedy_trace import Round, Seen, State, difference

AUDITS = 0.05
"""The share of evaluations that is spent on checking bounds which nothing depends on."""


class Rose(Exception):
    """A gain was more than its bound."""


@attrs.frozen(eq=False)
class Bound:
    """What the gain of a candidate is at most, and in which round it was evaluated."""

    gain: Any
    number: int


def lazily(task: Task, start: State, rule: str) -> Search:
    """Search lazily; if a gain rises, do what the task wants then."""
    rounds = len(task.rounds)
    try:
        state = yield from _lazily(task, start, rule)
    except Rose:
        if task.spec.on_violation == "raise":
            raise
        del task.rounds[rounds:]
        task.replayed = True
        state = yield from forward(task, start, rule)
    return state


def _lazily(task: Task, state: State, rule: str) -> Search:
    bounds: dict[int, Bound] = {}
    best, audits = None, 0
    for number in count(1):
        moves = task.moves(state)
        stop = task.enough(state) or ("" if moves else task.none_left(state)) or task.too_many(moves, state)
        if stop:
            break
        known = task.book.needed(moves)
        this = _LazyRound(task, state, rule, number, moves, bounds, best)
        if audits + 1 <= AUDITS * task.book.evaluations:
            audits += this.plan_an_audit()
        yield from this.decided()
        yield from this.audited()
        choice = chosen(task, state, this.decisive(), rule, number)
        stop = task.failed(this.fresh.values()) or task.too_little(choice)
        picked = choice.sets if choice and not stop else ()
        task.pruned |= len(this.fresh) < len(moves)
        look = partial(this.seen, known, picked)
        task.rounds.append(Round(number, "add", look, state.members, state.value, label(task, rule)))
        if stop or choice is None:
            break
        if rule == "ratio":
            best = better_single(task, best, state, this.decisive(), number)
        this.glance_ahead()
        task.final = after = yield from stepped(task, state, this.certain(choice), number)
        bounds, state = this.bounds_after(after), after
    task.stopped = stop
    return state if rule == "gain" else with_best_single(task, state, best)


def _depth_of_caller() -> int:
    """Return how far up the stack the user's line is, counted from who asks: a warning is to name that, not ours."""
    frame, depth = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("paramsurvey."):
        frame, depth = frame.f_back, depth + 1
    return depth


@attrs.define(eq=False)
class _LazyRound:
    """One round: who was evaluated in it, and what bounds all others.

    Attributes
    ----------
    fresh : dict
        What was evaluated in this round.
    audit : tuple of int or None
        The set that is evaluated only to check its bound.
    """

    task: Task
    state: State
    rule: str
    number: int
    moves: Sequence[Members]
    bounds: Mapping[int, Bound]
    best_single: Single | None
    fresh: dict[Members, Outcome] = attrs.field(factory=dict, init=False)
    audit: Members | None = attrs.field(default=None, init=False)

    def decided(self) -> Generator[Need, None, None]:
        """Evaluate until no other candidate can win."""
        while stale := self._contenders(self.fresh.values()):
            unbounded = [members for members in stale if self.bound(members) is None]
            yield from self._evaluated(unbounded or stale[:1])

    def plan_an_audit(self) -> bool:
        """Choose the one whose bound is the oldest, to be evaluated when a slot is idle; tell whether there is one."""
        bounded = [members for members in self.moves if self.bound(members) is not None]
        self.audit = min(bounded, key=lambda members: self.bounds[members[-1]].number, default=None)
        return self.audit is not None

    def audited(self) -> Generator[Need, None, None]:
        """Evaluate whoever is to be audited, if that was not needed anyway."""
        if self.audit is not None and self.audit not in self.fresh:
            yield from self._evaluated([self.audit])

    def decisive(self) -> dict[Members, Outcome]:
        """Return what was evaluated, in declared order."""
        return {members: self.fresh[members] for members in self.moves if members in self.fresh}

    def bound(self, members: Members) -> Bound | None:
        """Return what is known of the gain of a candidate."""
        pair = len(members) > len(self.state.members) + 1
        return None if pair or self.state.value is None else self.bounds.get(members[-1])

    def _evaluated(self, sets: list[Members]) -> Generator[Need, None, None]:
        plain = self.task.spec.max_evaluations is not None or self.task.spec.replicates > 1
        ahead = None if plain or len(self.fresh) + len(sets) == len(self.moves) else self._ahead
        yield attrs.evolve(self.task.need(sets), ahead=ahead)
        for members in sets:
            outcome = self.task.outcome(members)
            self.fresh[members] = outcome
            bound = self.bound(members)
            if bound is not None and outcome.score is not None:
                self.task.checked += 1
                self._check(members, outcome, bound)

    def _check(self, members: Members, outcome: Outcome, bound: Bound) -> None:
        if not self._is_above(outcome, bound):
            return
        assert outcome.score is not None
        key = self.task.pool.keys[members[-1]]
        gain = difference(outcome.score[0], self.state.value)
        text = f"the gain of {key!r} rose to {gain} in round {self.number}, and was to be {bound.gain} at most"
        self.task.rose.append(text)
        if self.task.spec.on_violation != "warn":
            raise Rose(text)
        if len(self.task.rose) == 1:
            missed = f"stage {self.task.spec.name!r}: {text}: lazy search may have missed the best"
            warnings.warn(missed, stacklevel=_depth_of_caller())

    def _is_above(self, outcome: Outcome, bound: Bound) -> bool:
        assert outcome.score is not None
        gain = difference(outcome.score[0], self.state.value)
        return bool(gain > bound.gain + self._tolerance(bound.gain))

    def _tolerance(self, gain: Any) -> Any:
        """Return by how much a gain may be above its bound because of rounding, or of the noise that was announced."""
        slack = self.task.spec.slack or 0
        value = self.state.value
        if isinstance(gain, int) and isinstance(value, int):
            return slack
        return slack + ROUNDING * max(abs(value), abs(value + gain))

    # Who can still win

    def _contenders(self, outcomes: Any) -> list[Members]:
        """Return who might be better than what is known, the most promising first."""
        known = [each for each in outcomes if each.score is not None]
        winner = chosen(self.task, self.state, {each.members: each for each in known}, self.rule, self.number)
        stale = [members for members in self.moves if members not in self.fresh]
        if winner is not None:
            stale = [members for members in stale if self._can_matter(members, known)]
        return sorted(stale, key=self._promise)  # which keeps the declared order of equals

    def _promise(self, members: Members) -> Any:
        bound = self.bound(members)
        if bound is None:
            return (0, 0)
        gain = bound.gain if self.rule == "gain" else per_cost(bound.gain, self.task.pool.cost(members[-1:]))
        return (1, -gain)

    def _can_matter(self, members: Members, known: Sequence[Outcome]) -> bool:
        bound = self.bound(members)
        if bound is None:
            return True
        most = self.state.value + bound.gain + self._tolerance(bound.gain)
        top = max(each.score for each in known if each.score is not None)
        if self.rule == "gain":
            if most != top[0] or len(top) > 1 or self.task.spec.ties != "first":
                return not most < top[0]
            return members[-1] < min(each.members[-1] for each in known if each.score == top)
        single = top if self.best_single is None else max(top, self.best_single.score)
        if not most < single[0]:
            return True
        rates = [
            per_cost(difference(each.score[0], self.state.value), self.task.pool.cost(new_in(each.members, self.state)))
            for each in known
            if each.score is not None
        ]
        gain = bound.gain + self._tolerance(bound.gain)
        return not per_cost(gain, self.task.pool.cost(members[-1:])) < max(rates)

    def _ahead(self) -> Iterator[Members]:
        """Yield who would be needed next as far as can be seen from all that is there, also ahead of need."""
        glimpsed = dict(self.fresh)
        for members in self.moves:
            outcome = self.task.book.glimpsed(members)
            if outcome is not None:
                glimpsed[members] = outcome
        yield from self._contenders(glimpsed.values())
        if self.audit is not None:
            yield self.audit

    def glance_ahead(self) -> None:
        """Count gains that rose among what was evaluated ahead of need; nothing is decided by it."""
        for members in self.moves:
            outcome, bound = self.task.book.glimpsed(members), self.bound(members)
            if members not in self.fresh and outcome is not None and outcome.score is not None and bound is not None:
                self.task.rose_ahead += self._is_above(outcome, bound)

    # What is left of it

    def seen(self, known: set[Members], picked: Sequence[Members]) -> tuple[Seen, ...]:
        """Return the rows of the trace."""
        rows = {
            each.members: each for each in seen_of(self.state, self.fresh, known, picked, self.task.spec.replicates)
        }
        pruned = [Seen(members, new_in(members, self.state), "pruned") for members in self.moves if members not in rows]
        rows |= {each.members: each for each in pruned}
        bounds = {members: self.bound(members) for members in self.moves}
        return tuple(
            attrs.evolve(rows[members], bound=None if bound is None else bound.gain)
            for members, bound in bounds.items()
        )

    def certain(self, choice: Choice) -> Choice:
        """Return a choice without its runner-up if somebody who was not evaluated might be that."""
        if choice.runner_up is None:
            return choice
        second = self.fresh[choice.runner_up].score
        assert second is not None
        for members in self.moves:
            bound = self.bound(members)
            if members not in self.fresh and (bound is None or not self.state.value + bound.gain < second[0]):
                return attrs.evolve(choice, runner_up=None, margin=None)
        return choice

    def bounds_after(self, after: State) -> dict[int, Bound]:
        """Return what bounds the gains in the next round."""
        found = {}
        added = new_in(after.members, self.state)
        for members in self.moves:
            outcome = self.fresh.get(members)
            if outcome is not None and outcome.score is not None and len(members) == len(self.state.members) + 1:
                gain = difference(outcome.score[0], self.state.value)
                bound = None if gain is None else Bound(gain, self.number)
            else:
                bound = self.bound(members)
            if bound is not None:
                found[members[-1]] = Bound(bound.gain + self._rise(added, members[-1]), bound.number)
        gone = {each: bound for each, bound in self.bounds.items() if each not in found}
        found |= {each: Bound(bound.gain + self._rise(added, each), bound.number) for each, bound in gone.items()}
        return found

    def _rise(self, added: Members, candidate: int) -> Any:
        """Return by how much picks may have raised the gain of a candidate."""
        rise, keys = self.task.spec.gain_rise, self.task.pool.keys
        if rise is None:
            return 0
        if not callable(rise):
            return rise * len(added)
        whole, more = [keys[each] for each in (*self.task.pool.start, *self.state.members)], 0
        for each in added:
            more += rise(keys[each], keys[candidate], whole.copy()) if each != candidate else 0
            whole.append(keys[each])
        return more
