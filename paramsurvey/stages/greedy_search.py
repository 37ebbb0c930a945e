"""The plain searches: forward, with a beam, backward, floating, and the exchange of picks in the end.

Each is a generator that yields what it needs to know, a `Need`, and finds it in the book when it goes on. Plain greedy
is the textbook's: Nemhauser, Wolsey and Fisher (Mathematical Programming 14, 265, 1978) showed that for a metric whose
gains can only fall as the set grows, and are never negative, it is worth at least 1 - 1/e = 63 % of the best set of its
size.
"""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from paramsurvey.errors import StageError
from paramsurvey.stages.greedy_book import Book, Need, Outcome
from paramsurvey.stages.greedy_pool import Members, Pool
from paramsurvey.stages.greedy_trace import Move, Round, Seen, State, Step, difference

if TYPE_CHECKING:
    from paramsurvey.stages.greedy import Greedy

Search: TypeAlias = Generator[Need, None, State]


@attrs.define(eq=False)
class Task:
    """One search: what is wanted, who there is, what is known, and what came of it.

    Attributes
    ----------
    spec : Greedy
        What is wanted.
    pool : Pool
        Who there is.
    book : Book
        What is known.
    rounds : list of Round
        What was looked at.
    final : State
        The picks.
    stopped : str
        Why it ended.
    """

    spec: Greedy
    pool: Pool
    book: Book
    rounds: list[Round] = attrs.field(factory=list, init=False)
    final: State = attrs.field(factory=lambda: State(()), init=False)
    stopped: str = attrs.field(default="", init=False)

    # What is next

    def moves(self, state: State) -> list[Members]:
        """Return the sets with one more candidate, or the pairs that may come first, in declared order."""
        budget = self.spec.budget
        if self.spec.first == 2 and not state.members:
            return [pair for pair in combinations(self.pool.unpicked, 2) if self.pool.is_allowed(pair, budget)]
        return [(*state.members, each) for each in self.pool.eligible(state.members, budget)]

    # When it is enough

    def enough(self, state: State) -> str:
        """Say why a search that adds is to stop at a set, if it is."""
        if self.spec.picks is not None and len(state.members) >= self.spec.picks:
            return f"picks={self.spec.picks} reached"
        return self.target_reached(state)

    def target_reached(self, state: State) -> str:
        """Say so if a set is as good as it should be."""
        target, sign = self.spec.target, self.book.metric.signs[0]
        if target is None or state.value is None or state.value < sign * target:
            return ""
        return f"target={target:g} reached"

    def none_left(self, state: State) -> str:
        """Say why nobody can be added to a set."""
        others = self.pool.others(state.members)
        if not others:
            return "no candidates are left"
        if self.spec.budget is not None and any(self.pool.is_allowed((*state.members, each), None) for each in others):
            left = self.spec.budget - self.pool.cost(state.members)
            return f"no candidate fits what is left of budget={self.spec.budget:g}, {max(left, 0):g}"
        return "no candidate is left that conflicts= and requires= allow"

    def too_many(self, sets: Sequence[Members], more: int = 0) -> str:
        """Say so if a round could need more evaluations than are allowed."""
        limit = self.spec.max_evaluations
        if limit is None:
            return ""
        wanted, left = self.book.new(sets, self.spec.replicates) + more, limit - self.book.evaluations
        if wanted <= left:
            return ""
        return f"the next round could need {wanted} evaluations, and max_evaluations={limit} leaves {left}"

    def too_little(self, gain: Any) -> str:
        """Say so if the best gain is not worth a step."""
        if self.spec.min_gain is None or gain is None or gain >= self.spec.min_gain:
            return ""
        return f"the best gain, {gain:g}, is below min_gain={self.spec.min_gain:g}"

    def failed(self, sets: Sequence[Members], outcomes: Iterable[Outcome]) -> str:
        """Say so if no set of a round has a value, or one has none and that is to end the search."""
        without = [each for each in outcomes if each.score is None]
        if not without or (len(without) < len(sets) and self.spec.on_failure != "stop"):
            return ""
        first = without[0].trouble
        why = "" if first is None else f"; the first: {first.kind}: {first.text}"
        strict = f" of {len(sets)}, and on_failure='stop'" if len(without) < len(sets) else ""
        one = "1 set has" if len(without) == 1 else f"{len(without)} sets have"
        return f"{'all ' if not strict and len(sets) > 1 else ''}{one} no value{strict}{why}"


# --- forward --------------------------------------------------------------------------------------


def searched(task: Task) -> Generator[Need, None, None]:
    """Search as the task wants it, and leave in it what came of that."""
    task.final = yield from forward(task, (yield from started(task)))


def started(task: Task) -> Search:
    """Return the set to begin with: nothing, or what is in from the start, whose value is needed."""
    spec, sign = task.spec, task.book.metric.signs[0]
    if spec.baseline is not None:
        return State((), sign * spec.baseline)
    if not task.pool.start:
        return State((), 0 if sign > 0 else None)
    yield Need([()], spec.replicates)
    score = task.book.outcome((), spec.replicates).score
    return State((), None if score is None else score[0], score)


def forward(task: Task, state: State, rule: str = "gain") -> Search:
    """Add the best candidate, and the next, until it is enough."""
    for number in _from_1():
        moves = task.moves(state)
        more = task.spec.ties == "all"
        stop = task.enough(state) or ("" if moves else task.none_left(state)) or task.too_many(moves, more)
        if stop:
            break
        known = {each for each in moves if task.book.is_needed(each)}
        yield Need(moves)
        outcomes = {each: task.book.outcome(each) for each in moves}
        choice = chosen(task, state, outcomes, rule, number)
        stop = task.failed(moves, outcomes.values()) or task.too_little(choice.gain if choice else None)
        picked = choice.sets if choice and not stop else []
        task.rounds.append(_round(number, state, outcomes, known, picked))
        if stop or choice is None:
            break
        task.final = state = yield from stepped(task, state, choice, number)
    task.stopped = stop
    return state


def _from_1() -> Iterable[int]:
    number = 0
    while True:
        number += 1
        yield number


@attrs.frozen(eq=False)
class Choice:
    """Which of several sets a search goes on with.

    Attributes
    ----------
    sets : list of tuples of int
        They: one, or all that tied.
    gain : number or None
        By how much the first metric is better than before.
    ties : int
        How many were as good.
    runner_up : tuple of int or None
        The best of the others.
    margin : number or None
        How much worse that is, by the rule by which was picked.
    """

    sets: list[Members]
    gain: Any
    ties: int
    runner_up: Members | None
    margin: Any


def chosen(task: Task, state: State, outcomes: dict[Members, Outcome], rule: str, number: int) -> Choice | None:
    """Choose the best set, in declared order; None if none has a value."""
    merits = {
        members: merit(task, state, members, outcome, rule)
        for members, outcome in outcomes.items()
        if outcome.score is not None
    }
    if not merits:
        return None
    best = max(merits.values())
    tied = [members for members, each in merits.items() if each == best]
    sets = _of_tied(task, tied, number)
    others = [members for members in merits if members not in sets]
    runner_up = max(others, key=lambda members: merits[members], default=None)  # of equals the first
    margin = None if runner_up is None else difference(best[0], merits[runner_up][0])
    score = outcomes[sets[0]].score
    assert score is not None
    return Choice(sets, difference(score[0], state.value), len(tied), runner_up, margin)


def _of_tied(task: Task, tied: list[Members], number: int) -> list[Members]:
    if task.spec.ties == "all":
        return tied
    if task.spec.ties == "random" and len(tied) > 1:
        return [random.Random(f"{task.spec.seed or 0} {number}").choice(tied)]
    return tied[:1]


def merit(task: Task, state: State, members: Members, outcome: Outcome, rule: str) -> tuple[Any, ...]:
    """Return by what a set is compared with others: its metrics, or its gain per cost before them."""
    assert outcome.score is not None
    if rule == "gain":
        return outcome.score
    gain = difference(outcome.score[0], state.value)
    if gain is None:
        raise StageError(
            f"stage {task.spec.name!r} picks by gain per cost, and the metric without any pick is not known: give "
            "it as baseline=, or rule='gain'"
        )
    added = [each for each in members if each not in state.members]
    return (_per_cost(gain, task.pool.cost(added)), *outcome.score)


def _per_cost(gain: Any, cost: float) -> Any:
    if cost:
        return gain / cost
    return math.inf if gain > 0 else -math.inf if gain < 0 else 0


def stepped(task: Task, state: State, choice: Choice, number: int) -> Search:
    """Take a step; if several candidates tied and are added at once, what they are worth together is needed."""
    steps, members = list(state.steps), state.members
    for each in choice.sets:
        added = tuple(one for one in each if one not in state.members)
        if len(choice.sets) > 1 and not task.pool.is_allowed((*members, *added), task.spec.budget):
            continue
        members = (*members, *added)
        score = task.book.outcome(each).score
        details = (choice.gain, choice.ties, choice.runner_up, choice.margin, task.book.evaluations)
        steps.append(Step(number, "add", added, (), score, *details))
    if len(choice.sets) > 1:
        yield Need([members])
    score = task.book.outcome(members).score
    return State(members, None if score is None else score[0], score, tuple(steps))


def _round(
    number: int,
    state: State,
    outcomes: dict[Members, Outcome],
    known: set[Members],
    picked: Sequence[Members],
    move: Move = "add",
) -> Round:
    seen = [
        Seen(
            members=members,
            changed=tuple(each for each in members if each not in state.members),
            status="failed" if outcome.score is None else "memo" if members in known else "evaluated",
            gain=None if outcome.score is None else difference(outcome.score[0], state.value),
            score=outcome.score,
            picked=members in picked,
        )
        for members, outcome in outcomes.items()
    ]
    return Round(number, move, tuple(seen), state.members, state.value)
