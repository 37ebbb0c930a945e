"""Metrics with noise: several evaluations of a set, most of them for those that may be the best.

The replicates of all sets have the same numbers, and the evaluations of one replicate the same seed, whatever the set,
so that sets are compared in the same weather (common random numbers). A round begins with one replicate of each set;
the better half goes on to twice as many, and so on until `replicates` are reached: successive halving (Karnin, Koren
and Somekh, ICML 2013; Jamieson and Talwalkar, AISTATS 2016). What wins of many by noisy values looks better than it is,
so the picks are evaluated afresh in the end, with other numbers.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING

from paramsurvey.stages.greedy_book import Need, Outcome
from paramsurvey.stages.greedy_pool import Members
from paramsurvey.stages.greedy_trace import Seen, Status

if TYPE_CHECKING:
    from paramsurvey.stages.greedy_search import Task


def weighed(
    task: Task, moves: Sequence[Members]
) -> Generator[Need, None, tuple[Mapping[Members, Outcome], list[Seen]]]:
    """Evaluate the sets of a round: those that may win in full, and the others as far as needed to see that.

    Returns
    -------
    outcomes : mapping
        Of those that may win, in the order in which they were given.
    left : list of Seen
        The others.
    """
    most, number, alive, left = task.spec.replicates, 1, list(moves), list[Seen]()
    while number < most and len(alive) > 1:
        yield Need(alive, number)
        outcomes = {members: task.book.outcome(members, number) for members in alive}
        kept = _better_half(outcomes)
        left += [_left(members, outcomes[members], number) for members in alive if members not in kept]
        alive, number = [members for members in alive if members in kept], 2 * number
    yield Need(alive, most)
    return {members: task.book.outcome(members, most) for members in alive}, left


def _better_half(outcomes: Mapping[Members, Outcome]) -> set[Members]:
    """Return the better half, of equals the first; sets without a value are the worst."""
    order = sorted(
        outcomes, key=lambda members: (outcomes[members].score is not None, outcomes[members].score), reverse=True
    )
    return set(order[: (len(order) + 1) // 2])


def _left(members: Members, outcome: Outcome, number: int) -> Seen:
    status: Status = "failed" if outcome.score is None else "evaluated"
    return Seen(members, members[-1:], status, score=outcome.score, replicates=number)


def afresh(task: Task) -> Generator[Need, None, None]:
    """Evaluate the picks, and every set on the way to them, with numbers that nobody was chosen by."""
    number = task.spec.replicates
    yield Need(ways(task), number, first=number)


def ways(task: Task) -> list[Members]:
    """Return the sets on the way to the picks, if they were only added one after another; else only the picks."""
    members, steps = task.final.members, task.final.steps
    if [each for step in steps for each in step.added] != list(members):
        return [members] if members else []
    sizes = [sum(len(step.added) for step in steps[: place + 1]) for place in range(len(steps))]
    return [members[:size] for size in sizes]
