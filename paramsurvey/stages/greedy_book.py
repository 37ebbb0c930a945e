"""What is known of sets: the memo of a greedy search, and how it asks for what it does not know.

The search itself is a program that runs in one thread of thought: it says which sets it *needs* to know before it can
go on, and decides by their values alone. Who answers first, and how many answer at once, cannot make a difference. It
may also say what might be useful next; the book asks for that as long as slots would be idle, so that the answer is
there by the time it is needed. What was asked for ahead of need and was never needed costs time of idle slots, and
decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Hashable, Iterable, Iterator, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from paramsurvey.engine.columns import Pset
from paramsurvey.engine.records import Failure
from paramsurvey.errors import StageError
from paramsurvey.options import nearest_or_all, shown
from paramsurvey.progress import MapProgress
from paramsurvey.stages.base import Answers, Ask, listed
from paramsurvey.stages.greedy_pool import Members, Pool

if TYPE_CHECKING:
    from paramsurvey.stages.greedy import Greedy

Score: TypeAlias = tuple[Any, ...]
"""The metrics of a set, in order of importance, with their signs turned so that more is better."""

Key: TypeAlias = Hashable
"""What tells sets apart: a frozenset of numbers, or a tuple of them where the order counts."""

Evaluation: TypeAlias = tuple[Key, int]
"""A set, and the number of the replicate."""

NO_VALUE: Any = "no value"
"""The kind of failure of a set whose evaluation came back without a number to compare; only searches know it."""


OF_FINISHED = ("_status", "_attempts", "_ends")
"""The details that `missing` has columns for in any case, or that say of finished rows alone that they are."""


@attrs.frozen(eq=False)
class Outcome:
    """What is known of one set.

    Attributes
    ----------
    members : tuple of int
        The set, as it was handed to the worker.
    score : tuple or None
        Its metrics; None if it has none.
    answers : dict
        All that the worker said.
    trouble : Failure or None
        Why it has none; its kind is one of those in `MapResults.missing`, or `NO_VALUE` if the worker answered, but not
        with a number.
    seconds : float or None
        How long that took, if it is known.
    attempts : int
        How often it was tried; 0 if the answer was in the journal.
    earlier : tuple of Failure
        How the attempts before the last one ended, if that failed, too.
    details : dict
        What the evaluation says of itself, if it was asked to.
    """

    members: Members
    score: Score | None
    answers: Pset
    trouble: Failure | None = None
    seconds: float | None = None
    attempts: int = 1
    earlier: tuple[Failure, ...] = ()
    details: dict[str, Any] = attrs.field(factory=dict)

    def without_value(self, reason: str) -> Outcome:
        """Return the same, as one that came back without a number to compare."""
        facts = tuple((key, value) for key, value in self.details.items() if key not in OF_FINISHED)
        return attrs.evolve(self, score=None, trouble=Failure(NO_VALUE, reason, facts=facts))


@attrs.frozen(eq=False)
class Need:
    """What a search has to know before it goes on.

    Attributes
    ----------
    sets : list of tuples of int
        The sets; the last member of each is handed over as the candidate.
    replicates : int
        How many evaluations of each, where the metric is noisy.
    first : int
        The number of the first of them.
    ahead : callable or None
        Returns sets that are likely to be needed next, the most likely first, as far as is known by now.
    """

    sets: list[Members]
    replicates: int = 1
    first: int = 0
    ahead: Callable[[], Iterable[Members]] | None = None


@attrs.frozen(eq=False)
class Metric:
    """How answers become scores.

    Attributes
    ----------
    names : tuple or None
        The keys of the answers, the most important first; None for the only one that there is.
    signs : tuple of int
        1 where more is better, and -1 where less is.
    """

    names: tuple[Hashable, ...] | None
    signs: tuple[int, ...]

    def score(self, answers: Pset) -> Score | str:
        """Return the score of an answer, or why it has none."""
        assert self.names is not None
        score = []
        for name, sign in zip(self.names, self.signs, strict=True):
            if name not in answers:
                return f"its answer has no {name!r}; it has: {listed(answers)}"
            value = number(answers[name])
            if value is None:
                return f"its {name!r} is {shown(answers[name])}, which is no number to compare"
            score.append(value if sign > 0 else -value)
        return tuple(score)


def number(value: Any) -> Any:
    """Return a metric as a number of Python's; None if it is none, or not a number."""
    if type(value) is int or (type(value) is float and value == value):  # nearly always, and between two rounds
        return value
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, bool):
        value = int(value)
    return value if isinstance(value, Real) and value == value else None


@attrs.define(eq=False)
class Book:
    """The memo of one search.

    Parameters
    ----------
    spec : Greedy
        What is asked.
    pool : Pool
        Who the numbers are.

    Attributes
    ----------
    metric : Metric
        How answers become scores; its names are known once the first answer is there.
    calls : int
        How many evaluations have been asked for, with those ahead of need.
    options : mapping
        Those of the evaluations.
    """

    spec: Greedy
    pool: Pool
    metric: Metric = attrs.field(init=False)
    _told: tuple[Pset, ...] = attrs.field(init=False)  # of each candidate what a worker gets, but for the others
    _others: Members = attrs.field(default=(), init=False)  # in the set that a worker was last told of,
    _their_keys: list[Hashable] = attrs.field(factory=list, init=False)
    calls: int = attrs.field(default=0, init=False)
    slots: int | None = attrs.field(default=None, init=False)
    options: Mapping[str, Any] = attrs.field(init=False)
    _known: dict[Evaluation, Outcome] = attrs.field(factory=dict, init=False)
    _needed: dict[Evaluation, None] = attrs.field(factory=dict, init=False)
    _sizes: set[int] = attrs.field(factory=set, init=False)  # of the sets among them
    _sent: list[tuple[Evaluation, Members, Pset]] = attrs.field(factory=list, init=False)  # told what finishes first
    _answered: set[Hashable] = attrs.field(factory=set, init=False)  # the keys of all answers
    _under_way: set[Evaluation] = attrs.field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        self.metric = Metric(self.spec.metric, self.spec.signs)
        self.options = self.spec.options
        if self.spec.replicates > 1:  # common random numbers: the seed is that of the replicate, whatever the set
            self.options = {**self.options, "seed_by": (self.spec.replicate,)}
        named = zip(self.pool.rows, self.pool.keys, strict=True)
        self._told = tuple({**row, self.spec.candidate: key} for row, key in named)

    # What is known

    def key(self, members: Members) -> Key:
        """Tell sets apart."""
        return members if self.spec.ordered else frozenset(members)

    @property
    def evaluations(self) -> int:
        """How many evaluations the search has needed so far, which does not depend on slots or on who was first."""
        return len(self._needed)

    def unused(self) -> Book:
        """Return a book that knows the same and has needed nothing."""
        book = Book(self.spec, self.pool)
        book.metric, book._known = self.metric, self._known
        return book

    def has(self, need: Need) -> bool:
        """Tell whether all that is needed is known."""
        return _evaluations_of(self, need).keys() <= self._known.keys()

    def note(self, need: Need) -> None:
        """Note that something was needed that is known."""
        self._note_needed(_evaluations_of(self, need))

    def _note_needed(self, evaluations: Mapping[Evaluation, Members]) -> None:
        self._needed.update(dict.fromkeys(evaluations))
        self._sizes.update(map(len, evaluations.values()))

    def new(self, sets: Iterable[Members], replicates: int = 1) -> int:
        """Count the evaluations that these would add to those that were needed."""
        wanted = {(self.key(members), each) for members in sets for each in range(replicates)}
        return len(wanted - self._needed.keys())

    def needed(self, sets: Iterable[Members]) -> set[Members]:
        """Return those of these sets that the search has needed before."""
        return {members for members in sets if len(members) in self._sizes and (self.key(members), 0) in self._needed}

    def outcome(self, members: Members, replicates: int = 1, first: int = 0) -> Outcome:
        """Return what is known of a set: of several replicates the means of their metrics."""
        key = self.key(members)
        if replicates == 1:
            return self._known[key, first]
        return self._mean([self._known[key, each] for each in range(first, first + replicates)])

    def has_replicates(self, members: Members, replicates: int, first: int) -> bool:
        """Tell whether all of these are known."""
        return self.has(Need([members], replicates, first))

    def seconds(self) -> list[float]:
        """Return how long evaluations took, of those of which it is known."""
        return [each.seconds for each in self._known.values() if each.seconds is not None]

    def glimpsed(self, members: Members) -> Outcome | None:
        """Return what is known of a set, perhaps ahead of need: no decision may depend on it."""
        return self._known.get((self.key(members), 0))

    def outcomes(self) -> Iterator[tuple[Outcome, int]]:
        """Yield all that was needed, in the order in which it was, with the number of the replicate."""
        for each in self._needed:
            if each in self._known:
                yield self._known[each], each[1]

    def _mean(self, found: list[Outcome]) -> Outcome:
        troubled = next((each for each in found if each.trouble is not None), None)
        seconds = [each.seconds for each in found if each.seconds is not None]
        total = sum(seconds) if seconds else None
        scores = [each.score for each in found if each.score is not None]
        if troubled is not None:
            return attrs.evolve(troubled, members=found[0].members, answers=found[0].answers, score=None, seconds=total)
        score = tuple(math.fsum(values) / len(values) for values in zip(*scores, strict=True))
        means = {name: sign * value for name, sign, value in zip(self.names, self.metric.signs, score, strict=True)}
        return attrs.evolve(found[0], score=score, answers={**found[0].answers, **means}, seconds=total)

    @property
    def names(self) -> tuple[Hashable, ...]:
        """The metrics' names; none before the first answer if they were not given."""
        return self.metric.names or ()

    # How it is asked for

    def fetch(self, need: Need) -> Generator[Ask, Any, None]:
        """Ask until all that is needed is known."""
        wanted = _evaluations_of(self, need)
        self._note_needed(wanted)
        waiting = {each for each in wanted if each not in self._known}
        if not waiting:
            return
        batch = {each: members for each, members in wanted.items() if each in waiting and each not in self._under_way}
        while waiting:
            room = (self.slots or 1) - len(self._under_way) - len(batch)
            if need.ahead is not None and room > 0:
                batch |= self._likely(need.ahead(), room, batch)
            waiting.difference_update((yield from self._asked(batch)))
            batch = {}
        self._refuse_if_none_has_the_metric(wanted)

    def _likely(
        self, ahead: Iterable[Members], room: int, batch: Mapping[Evaluation, Members]
    ) -> dict[Evaluation, Members]:
        """Return so many sets that may be needed next, and that nobody has asked for."""
        found: dict[Evaluation, Members] = {}
        for members in ahead:
            if len(found) == room:
                break
            each = (self.key(members), 0)
            if each not in self._known and each not in self._under_way and each not in batch:
                found[each] = members
        return found

    def _asked(self, batch: Mapping[Evaluation, Members]) -> Generator[Ask, Answers, list[Evaluation]]:
        """Ask for some more, and take what has come since; return what that is."""
        psets = [self.pset(members, each[1]) for each, members in batch.items()]
        self._sent += zip(batch, batch.values(), psets, strict=True)
        self._under_way.update(batch)
        self.calls += len(batch)
        told = yield Ask(self.spec.worker, psets, self.options, until="first")
        self.slots = told.slots
        for place, row in told.rows:
            each, members, pset = self._sent[place]
            answers = {name: value for name, value in row.items() if name not in pset}
            outcome = Outcome(
                members,
                None,
                answers,
                seconds=told.seconds.get(place),
                attempts=told.attempts.get(place, 1),
                details=told.details.get(place, {}),
            )
            self._put(each, self._read(outcome))
        for place, failure in told.lost:
            each, members, _ = self._sent[place]
            outcome = Outcome(
                members,
                None,
                {},
                failure,
                attempts=told.attempts.get(place, 1),
                earlier=told.earlier.get(place, ()),
                details=dict(failure.facts),
            )
            self._put(each, outcome)
        return [self._sent[place][0] for place, _ in (*told.rows, *told.lost)]

    def pset(self, members: Members, replicate: int) -> Pset:
        """Return what a worker gets to evaluate a set: the columns of its last member, and the keys of the others."""
        whole = members if not self.pool.start else (*self.pool.start, *members)
        if whole[:-1] != self._others:  # of most sets the same as of the one before
            self._others, self._their_keys = whole[:-1], [self.pool.keys[each] for each in whole[:-1]]
        row = self._told[whole[-1]].copy()
        row[self.spec.picked] = self._their_keys.copy()
        if self.spec.replicates > 1:
            row[self.spec.replicate] = replicate
        return row

    def _read(self, outcome: Outcome) -> Outcome:
        """Return what an answer says of a set."""
        answers = outcome.answers
        if (
            not answers and self.spec.metric is None
        ):  # of which nobody can say what the only key is, whoever answers first
            return outcome.without_value("its answer is empty")
        if self.metric.names is None:
            self.metric = attrs.evolve(self.metric, names=(self._only_key(answers),))
        self._answered.update(answers)
        score = self.metric.score(answers)
        return outcome.without_value(score) if isinstance(score, str) else attrs.evolve(outcome, score=score)

    def _put(self, each: Evaluation, outcome: Outcome) -> None:
        self._under_way.discard(each)
        self._known[each] = outcome

    def _only_key(self, answers: Pset) -> Hashable:
        if len(answers) == 1:
            [name] = answers
            attrs.evolve(self.spec, metric=[name])  # which refuses what it would refuse as metric=
            return name
        raise StageError(
            f"stage {self.spec.name!r}: the answers have the keys {', '.join(map(repr, answers))}: "
            "say which is to be made as good as possible with metric="
        )

    def _refuse_if_none_has_the_metric(self, wanted: Collection[Evaluation]) -> None:
        """Tell a misspelt metric, which no answer has had so far, from evaluations that failed."""
        unknown = [name for name in self.names if name not in self._answered]
        if not unknown or len(wanted) < 2:
            return
        answers = [self._known[each].answers for each in wanted if self._known[each].answers]
        if answers:
            raise StageError(
                f"stage {self.spec.name!r}: no answer has the metric {unknown[0]!r}; "
                f"{nearest_or_all(str(unknown[0]), [str(name) for name in answers[0]])}"
            )

    @property
    def progress(self) -> MapProgress:
        """The counts of all evaluations, also of those ahead of need."""
        known = self._known.values()
        failed = [each.trouble.kind for each in known if each.trouble is not None]
        failed = [kind for kind in failed if kind != NO_VALUE]
        return MapProgress(
            total=self.calls,
            active=len(self._under_way),
            finished=len(self._known) - len(failed),
            failures=len(failed),
            exceptions=failed.count("raised"),
            from_journal=sum(not each.attempts for each in known),
        )


def _evaluations_of(book: Book, need: Need) -> dict[Evaluation, Members]:
    key = tuple if book.spec.ordered else frozenset
    if need.replicates == 1:
        return {(key(members), need.first): members for members in need.sets}
    numbers = range(need.first, need.first + need.replicates)
    return {(key(members), each): members for members in need.sets for each in numbers}
