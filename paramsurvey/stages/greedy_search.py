"""Plain greedy search, and what all searches have in common.

A search is a generator that yields what it needs to know, a `Need`, and finds it in the book when it goes on. Plain
greedy is the textbook's: Nemhauser, Wolsey and Fisher (Mathematical Programming 14, 265, 1978) showed that for a metric
whose gains can only fall as the set grows, and are never negative, it is worth at least 1 - 1/e = 63 % of the best set
of its size.

With a budget it can pick by gain, or by gain per cost, and try every set on the way with the best single candidate that
fits. How often each finds the best of all sets of 9 candidates that fit, in 60 instances of weighted coverage, and its
share of that one's value, at least and in the mean (``python tests/test_greedy_beyond.py`` prints it):

======== ========   ======  ======
rule     the best   least   mean
======== ========   ======  ======
gain     32 of 60   60.0 %  93.5 %
ratio    52 of 60   79.7 %  98.6 %
both     56 of 60   93.2 %  99.6 %
======== ========   ======  ======
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations, count
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from paramsurvey.errors import StageError
from paramsurvey.stages.greedy_book import Book, Need, Outcome
from paramsurvey.stages.greedy_noise import weighed
from paramsurvey.stages.greedy_pool import Members, Pool
from paramsurvey.stages.greedy_trace import Round, Seen, State, Step, difference

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
    checked : int
        How many gains lazy search has evaluated again.
    rose : list of str
        What it found where they had risen.
    rose_ahead : int
        How many had risen that were evaluated ahead of need.
    pruned : bool
        Whether it has spared any evaluation.
    replayed : bool
        Whether plain greedy was done after all.
    taken : str
        Which of several searches was the better one.
    best_of_size : dict of int to State
        By floating search: the best set of each size.
    """

    spec: Greedy
    pool: Pool
    book: Book
    rounds: list[Round] = attrs.field(factory=list, init=False)
    final: State = attrs.field(factory=lambda: State(()), init=False)
    stopped: str = attrs.field(default="", init=False)
    checked: int = attrs.field(default=0, init=False)
    rose: list[str] = attrs.field(factory=list, init=False)
    rose_ahead: int = attrs.field(default=0, init=False)
    pruned: bool = attrs.field(default=False, init=False)
    replayed: bool = attrs.field(default=False, init=False)
    taken: str = attrs.field(default="", init=False)
    best_of_size: dict[int, State] = attrs.field(factory=dict, init=False)

    # What is next

    def moves(self, state: State) -> list[Members]:
        """Return the sets with one more candidate, or the pairs that may come first, in declared order."""
        budget = self.spec.budget
        if self.is_for_a_pair(state):
            return [pair for pair in combinations(self.pool.unpicked, 2) if self.pool.is_allowed(pair, budget)]
        return [(*state.members, each) for each in self.pool.eligible(state.members, budget)]

    def is_for_a_pair(self, state: State) -> bool:
        """Tell whether two are to be picked at once."""
        return self.spec.first == 2 and not state.members

    def need(self, sets: Sequence[Members]) -> Need:
        """Need to know what sets are worth."""
        return Need(list(sets), self.spec.replicates)

    def outcome(self, members: Members) -> Outcome:
        """Return what is known of a set."""
        return self.book.outcome(members, self.spec.replicates)

    # When it is enough

    def enough(self, state: State) -> str:
        """Say why a search that adds is to stop at a set, if it is."""
        if self.spec.picks is not None and len(state.members) >= self.spec.picks:
            return f"picks={self.spec.picks} reached"
        if self.is_good(state):
            return f"target={self.spec.target:g} reached"
        return ""

    def is_good(self, state: State) -> bool:
        """Tell whether a set is as good as it should be."""
        target, sign = self.spec.target, self.book.metric.signs[0]
        return target is not None and state.value is not None and bool(state.value >= sign * target)

    def none_left(self, state: State) -> str:
        """Say why nobody can be added to a set."""
        others, budget = self.pool.others(state.members), self.spec.budget
        if not others:
            return "no candidates are left"
        if budget is not None and any(self.pool.is_allowed((*state.members, each), None) for each in others):
            left = max(budget - self.pool.cost(state.members), 0)
            return f"no candidate fits what is left of budget={budget:g}, {left:g}"
        return "no candidate is left that conflicts= and requires= allow"

    def too_many(self, sets: Sequence[Members], state: State) -> str:
        """Say so if a round could need more evaluations than are allowed."""
        limit = self.spec.max_evaluations
        if limit is None:
            return ""
        wanted, left = self.book.new(sets, self.spec.replicates), limit - self.book.evaluations
        if self.spec.ties == "all":
            wanted += 1  # of what ties, together
        if self.spec.replicates > 1:
            wanted += self.spec.replicates * (len(state.members) + 1)  # afresh, in the end
        if wanted <= left:
            return ""
        return f"the next round could need {wanted} evaluations, and max_evaluations={limit} leaves {left}"

    def too_little(self, choice: Choice | None) -> str:
        """Say so if the best gain is not worth a step."""
        if self.spec.min_gain is None or choice is None or choice.gain is None or choice.gain >= self.spec.min_gain:
            return ""
        return f"the best gain, {choice.gain:g}, is below min_gain={self.spec.min_gain:g}"

    def failed(self, outcomes: Iterable[Outcome]) -> str:
        """Say so if no set of a round has a value, or one has none and that is to end the search."""
        found = list(outcomes)
        without = [each for each in found if each.score is None]
        if not without or (len(without) < len(found) and self.spec.on_failure != "stop"):
            return ""
        trouble = without[0].trouble
        assert trouble is not None  # as for every set without a value
        why = trouble.end
        if len(found) == 1:
            return f"the only set of the round has no value: {why}"
        if len(without) == len(found):
            return f"none of the {len(found)} sets of the round has a value; the first: {why}"
        return f"{len(without)} of {len(found)} sets have no value, and on_failure='stop'; the first: {why}"


# --- forward --------------------------------------------------------------------------------------


def started(task: Task) -> Search:
    """Return the set to begin with: nothing, or what is in from the start, whose value is needed."""
    spec, sign = task.spec, task.book.metric.signs[0]
    if spec.baseline is not None:
        return State((), sign * spec.baseline)
    if not task.pool.start:
        return State((), 0 if sign > 0 else None)
    yield task.need([()])
    score = task.outcome(()).score
    return State((), None if score is None else score[0], score)


def forward(task: Task, state: State, rule: str) -> Search:
    """Add the best candidate, and the next, until it is enough."""
    best = None
    for number in count(1):
        moves = task.moves(state)
        stop = task.enough(state) or ("" if moves else task.none_left(state)) or task.too_many(moves, state)
        if stop:
            break
        known = task.book.needed(moves)
        outcomes, left = yield from weighed(task, moves)
        choice = chosen(task, state, outcomes, rule, number)
        others = (task.book.outcome(each.members, each.replicates) for each in left)
        stop = task.failed([*outcomes.values(), *others]) if left else ""
        stop = stop or task.failed(outcomes.values()) or task.too_little(choice)
        picked = choice.sets if choice and not stop else ()
        look = partial(seen_of, state, outcomes, known, picked, task.spec.replicates, left)
        task.rounds.append(Round(number, "add", look, state.members, state.value, label(task, rule)))
        if stop or choice is None:
            break
        if rule == "ratio":
            best = better_single(task, best, state, outcomes, number)
        task.final = state = yield from stepped(task, state, choice, number)
    task.stopped = stop
    return state if rule == "gain" else with_best_single(task, state, best)


def label(task: Task, rule: str) -> str:
    """Return the rule, if it tells apart the rounds of several searches."""
    return rule if task.spec.rule == "both" else ""


def both(task: Task, start: State, search: Callable[[Task, State, str], Search]) -> Search:
    """Search by gain alone and by gain per cost, and return the better set: what Leskovec et al. (KDD 2007) advise."""
    found = []
    for rule in ("gain", "ratio"):
        state = yield from search(task, start, rule)
        found.append((state, task.stopped))
    (one, why), (other, why_other) = found
    is_other = other.score is not None and (one.score is None or other.score > one.score)
    task.stopped, task.taken = (why_other, "ratio") if is_other else (why, "gain")
    task.rounds = [each if each.rule == task.taken else each.with_picks() for each in task.rounds]
    return other if is_other else one


# --- choices and steps ----------------------------------------------------------------------------


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


def chosen(task: Task, state: State, outcomes: Mapping[Members, Outcome], rule: str, number: int) -> Choice | None:
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
    sets = _of_tied(task, state, tied, number)
    together = {each for members in sets for each in members}
    others = [members for members in merits if members[-1] not in together or not together.issuperset(members)]
    runner_up = max(others, key=lambda members: merits[members], default=None)  # of equals the first
    margin = None if runner_up is None else difference(best[0], merits[runner_up][0])
    score = outcomes[sets[0]].score
    assert score is not None
    return Choice(sets, difference(score[0], state.value), len(tied), runner_up, margin)


def _of_tied(task: Task, state: State, tied: list[Members], number: int) -> list[Members]:
    if task.spec.ties == "all":
        return _possible_together(task, state, tied)
    if task.spec.ties == "random" and len(tied) > 1:
        return [random.Random(f"{task.spec.seed or 0} {number}").choice(tied)]
    return tied[:1]


def _possible_together(task: Task, state: State, tied: list[Members]) -> list[Members]:
    """Return those whose picks may be added at once, without those that tied and were declared before being against."""
    members, sets = state.members, list[Members]()
    for each in tied:
        added = tuple(one for one in each if one not in members)
        if added and task.pool.is_allowed((*members, *added), task.spec.budget):
            members, sets = (*members, *added), [*sets, each]
    return sets


def merit(task: Task, state: State, members: Members, outcome: Outcome, rule: str) -> tuple[Any, ...]:
    """Return by what a set is compared with others: its metrics, or its gain per cost before them."""
    assert outcome.score is not None
    if rule == "gain":
        return outcome.score
    gain = difference(outcome.score[0], state.value)
    if gain is None:
        raise no_gain(task)
    return (per_cost(gain, task.pool.cost(new_in(members, state))), *outcome.score)


def no_gain(task: Task) -> StageError:
    """Return the error of a search by gain per cost that cannot know any gain."""
    return StageError(
        f"stage {task.spec.name!r} picks by gain per cost, and the metric without any pick is not known: give it as "
        "baseline=, or rule='gain'"
    )


def per_cost(gain: Any, cost: float) -> Any:
    """Divide a gain by a cost, which may be nothing."""
    if cost:
        return gain / cost
    return math.inf if gain > 0 else -math.inf if gain < 0 else 0


def new_in(members: Members, state: State) -> Members:
    """Return who is in a set and was not before."""
    return tuple(each for each in members if each not in state.members)


def stepped(task: Task, state: State, choice: Choice, number: int) -> Search:
    """Take a step; if several candidates tied and are added at once, what they are worth together is needed."""
    steps, members = list(state.steps), state.members
    runner_up = None if choice.runner_up is None else new_in(choice.runner_up, state)
    for each in choice.sets:
        added = tuple(one for one in each if one not in members)  # of pairs that tie, some may share one
        members = (*members, *added)
        details = (choice.gain, choice.ties, runner_up, choice.margin, task.book.evaluations)
        steps.append(Step(number, "add", added, (), task.outcome(each).score, *details))
    if len(choice.sets) > 1:
        yield task.need([members])
    score = task.outcome(members).score
    return State(members, None if score is None else score[0], score, tuple(steps))


def seen_of(
    state: State,
    outcomes: Mapping[Members, Outcome],
    known: set[Members],
    picked: Sequence[Members],
    replicates: int = 1,
    left: Iterable[Seen] = (),
) -> list[Seen]:
    """Return the rows of the trace for sets that were evaluated in full, and for those that were `left` before."""
    seen = [
        Seen(
            members=members,
            changed=new_in(members, state),
            status="failed" if outcome.score is None else "memo" if members in known else "evaluated",
            instead=tuple(each for each in state.members if each not in members),
            gain=None if outcome.score is None else difference(outcome.score[0], state.value),
            score=outcome.score,
            picked=members in picked,
            replicates=replicates,
        )
        for members, outcome in outcomes.items()
    ]
    return [*seen, *left]


@attrs.frozen(eq=False)
class Single:
    """The best set that is one on the way of a search, with one more candidate that need not be the next one."""

    way: State
    step: Step
    members: Members
    score: tuple[Any, ...]


def better_single(
    task: Task, best: Single | None, state: State, outcomes: Mapping[Members, Outcome], number: int
) -> Single | None:
    """Return the best single candidate to end with, among those that were evaluated up to this round."""
    scores = {members: each.score for members, each in outcomes.items() if each.score is not None}
    members = max(scores, key=lambda each: scores[each], default=None)  # of equals the first
    if members is None or (best is not None and scores[members] <= best.score):
        return best
    gain, added = difference(scores[members][0], state.value), new_in(members, state)
    step = Step(number, "add", added, (), scores[members], gain, 1, None, None, task.book.evaluations)
    return Single(state, step, members, scores[members])


def with_best_single(task: Task, state: State, best: Single | None) -> State:
    """Return the better of a set and of an earlier one with one single candidate; the trace is to tell of that one.

    Yaroslavtsev, Zhou and Avdiukhin, "Bring Your Own Greedy"+Max (AISTATS 2020). It needs no evaluation.
    """
    if best is None or (state.score is not None and state.score >= best.score):
        return state
    first, own = best.step.number, label(task, "ratio")
    task.rounds = [
        each.with_picks(*([best.members] if each.number == first else []))
        if each.number >= first and each.rule == own
        else each
        for each in task.rounds
    ]
    instead = ", ".join(repr(task.pool.keys[each]) for each in new_in(state.members, State(best.members)))
    task.stopped += f"; {task.pool.keys[best.members[-1]]!r} instead of {instead} is better"
    return best.way.after(best.step, best.members, best.score)
