"""What a greedy search remembers: every set that it looked at, and every step that it took."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any, Literal, TypeAlias

import attrs

from paramsurvey.stages.greedy_book import Score
from paramsurvey.stages.greedy_pool import Members

Move: TypeAlias = Literal["add", "remove", "swap"]
Status: TypeAlias = Literal["evaluated", "memo", "pruned", "failed"]


@attrs.frozen(eq=False)
class Seen:
    """A set that was looked at in a round: a row of the trace.

    Attributes
    ----------
    members : tuple of int
        The set.
    changed : tuple of int
        Who came in, or, where somebody is to be removed, who was taken away.
    instead : tuple of int
        Of whom, where picks are exchanged.
    status : str
        Whether it was evaluated, known from before, not worth an evaluation, or without a value.
    gain : number or None
        By how much it is better than the set that it comes of.
    bound : number or None
        What the gain could have been at most, as far as was known.
    score : tuple or None
        Its metrics.
    picked : bool
        Whether the search went on with it.
    given_up : bool
        Whether it was picked, and something better without it was found in the end.
    parent : int
        Of which set of a beam it comes, from 1 on; 0 where there is no beam.
    replicates : int
        On how many evaluations its score rests.
    """

    members: Members
    changed: Members
    status: Status
    instead: Members = ()
    gain: Any = None
    bound: Any = None
    score: Score | None = None
    picked: bool = False
    given_up: bool = False
    parent: int = 0
    replicates: int = 1


@attrs.frozen(eq=False, slots=False)  # which cannot have cached properties before attrs 23.3
class Round:
    """All that was looked at before one step.

    Parameters
    ----------
    look : callable
        Returns the sets that were looked at. It is called when somebody wants to see them: between two rounds, all
        slots wait for the search.

    Attributes
    ----------
    number : int
        Of the round, from 1 on.
    move : str
        What was considered: to add, to remove, or to swap somebody.
    before : tuple of int
        The set at its beginning; of a beam the best.
    value : number or None
        What that is worth.
    rule : str
        Which of several searches it belongs to; empty if there is one.
    """

    number: int
    move: Move
    look: Callable[[], Iterable[Seen]]
    before: Members
    value: Any
    rule: str = ""

    @cached_property
    def seen(self) -> tuple[Seen, ...]:
        """The sets, as rows of the trace."""
        return tuple(self.look())

    def __reduce__(self) -> tuple[type[Round], tuple[Any, ...]]:
        """What travels has been looked at: what the search had to look with, the user's functions too, stays here."""
        return Round, (self.number, self.move, partial(tuple, self.seen), self.before, self.value, self.rule)

    def with_picks(self, *picks: Members) -> Round:
        """Return the round with other picks: those that it had are given up."""
        seen = [
            attrs.evolve(each, picked=True, given_up=False)
            if each.members in picks
            else attrs.evolve(each, picked=False, given_up=each.picked or each.given_up)
            for each in self.seen
        ]
        return attrs.evolve(self, look=partial(tuple, seen))


@attrs.frozen(eq=False)
class Step:
    """One step of a search.

    Attributes
    ----------
    number : int
        Of the round.
    move : str
        What was done.
    added, removed : tuple of int
        To whom.
    score : tuple or None
        What the set is worth after it; of several that tied and were added at once, each for itself.
    gain : number or None
        By how much it is better than before.
    ties : int
        How many were as good, itself among them.
    runner_up : tuple of int or None
        Who would have been next; None if that is not known.
    margin : number or None
        How much worse that is.
    evaluations : int
        How many evaluations had been needed by then.
    """

    number: int
    move: Move
    added: Members
    removed: Members
    score: Score | None
    gain: Any
    ties: int
    runner_up: Members | None
    margin: Any
    evaluations: int


@attrs.frozen(eq=False)
class State:
    """A set on the way of a search, and how it came about.

    Attributes
    ----------
    members : tuple of int
        Who is in.
    value : number or None
        Its first metric, with the sign turned so that more is better; None if it is not known.
    score : tuple or None
        All its metrics.
    steps : tuple of Step
        The way.
    """

    members: Members
    value: Any = None
    score: Score | None = None
    steps: tuple[Step, ...] = ()

    def after(self, step: Step, members: Members, score: Score | None) -> State:
        """Return the set after one more step."""
        return State(members, None if score is None else score[0], score, (*self.steps, step))


def difference(after: Any, before: Any) -> Any:
    """Return by how much one value is more than another; None if one is not known, and 0 between equal infinities."""
    if after is None or before is None:
        return None
    return 0 if after == before else after - before
