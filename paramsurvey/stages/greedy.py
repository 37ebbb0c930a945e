"""The greedy stage: the best next choice, and the next, with the evidence.

What it is told, and what of that contradicts itself, is in this module. `greedy_pool` makes numbers of candidates,
`greedy_book` knows what sets are worth and asks for it, and the searches are programs that say what they need to know:
`greedy_search` has the plain ones, `greedy_lazy` the one that spares evaluations, `greedy_noise` that of metrics with
noise. `greedy_trace` remembers what they saw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeAlias

import attrs
import numpy as np
import pandas as pd

from paramsurvey.callables import Worker, as_worker
from paramsurvey.engine.columns import RESERVED
from paramsurvey.errors import OptionError, StageError
from paramsurvey.greedy_results import OWN_IN_TRACE, GreedyResults
from paramsurvey.options import TABLE, check, is_real, is_truth, nearest_or_all, shown, whole
from paramsurvey.stages.base import Ask, Columns, Made
from paramsurvey.stages.greedy_beyond import backward, beamed, floating, swapped
from paramsurvey.stages.greedy_book import Book, Need
from paramsurvey.stages.greedy_lazy import Rose, lazily
from paramsurvey.stages.greedy_noise import afresh
from paramsurvey.stages.greedy_pool import pool_of, refuse_columns
from paramsurvey.stages.greedy_search import Task, both, forward, no_gain, started
from paramsurvey.tables import Table

Names: TypeAlias = tuple[Hashable, ...]

OWN_COLUMNS: Final = ("round", "gain", "cost", "total_cost", "ties", "runner_up", "margin", "evaluations")
"""The columns of the picks that are neither the candidates' nor metrics."""


# --- what the constructor accepts -----------------------------------------------------------------


def _refusal(name: str, value: Any, wanted: str) -> OptionError:
    return OptionError(f"Greedy({name}={shown(value)}): {name} must be {wanted}")


def _count(name: str, least: int = 1) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        try:
            number = whole(value)
        except (TypeError, ValueError):
            number = least - 1
        if number < least:
            raise _refusal(name, value, f"a whole number, {least} or more")
        return number

    return convert


def _real(name: str, least: float = -math.inf) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if not is_real(value) or not value >= least:
            raise _refusal(name, value, "a number" + (f", {least:g} or more" if least > -math.inf else ""))
        return value.item() if isinstance(value, np.generic) else value

    return convert


def _truth(name: str) -> Callable[[Any], bool]:
    def convert(value: Any) -> bool:
        if not is_truth(value):
            raise _refusal(name, value, "True or False")
        return bool(value)

    return convert


def _choice(name: str, *choices: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if value not in choices or not isinstance(value, str):
            raise OptionError(f"Greedy({name}={shown(value)}): {nearest_or_all(str(value), choices)}")
        return value

    return convert


def _column(name: str) -> Callable[[Any], Hashable]:
    def convert(value: Any) -> Hashable:
        if value is None or not isinstance(value, Hashable) or value in RESERVED:
            raise _refusal(name, value, "the name of a column, and none of our own")
        return value

    return convert


def _metric(value: Any) -> Names | None:
    if value is None:
        return None
    names = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not names or len(set(names)) < len(names):
        raise _refusal("metric", value, "a key of the answers, or a list of different ones")
    return names


def _maximize(value: Any) -> bool | tuple[bool, ...]:
    several = isinstance(value, list | tuple)
    if not all(is_truth(each) for each in (value if several else [value])):
        raise _refusal("maximize", value, "True or False, or one of them for each metric")
    return tuple(map(bool, value)) if several else bool(value)


def _keys(name: str) -> Callable[[Any], Names]:
    def convert(value: Any) -> Names:
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise _refusal(name, value, "a list of keys of candidates")
        keys = tuple(value)
        for key in keys:
            if not isinstance(key, Hashable):
                raise OptionError(f"Greedy({name}=...): {shown(key)} is no key, which is hashable")
        return keys

    return convert


def _groups(value: Any) -> tuple[Names, ...]:
    groups = tuple(_keys("conflicts")(each) for each in _keys_or_groups(value))
    for group in groups:
        if len(set(group)) < 2:
            raise OptionError(f"Greedy(conflicts=...): the group {shown(group)} needs two different keys or more")
    return groups


def _keys_or_groups(value: Any) -> Iterable[Any]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise _refusal("conflicts", value, "a list of pairs or groups of keys, of which one may be picked")
    return value


def _requires(value: Any) -> Mapping[Hashable, Names]:
    if not isinstance(value, Mapping):
        raise _refusal("requires", value, "a mapping from keys to those that must be in before")
    return MappingProxyType(
        {key: _keys("requires")(needed if isinstance(needed, list | tuple | set | frozenset) else [needed])
         for key, needed in value.items()}
    )  # fmt: skip


def _cost(value: Any) -> Any:
    return MappingProxyType(dict(value)) if isinstance(value, Mapping) else _column("cost")(value)


def _gain_rise(value: Any) -> Any:
    return value if callable(value) else _real("gain_rise", 0)(value)


def _options(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _refusal("options", value, "a dict of options of paramsurvey.map")
    return check(value, "Greedy")


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _refusal("name", value, "a str with something in it")
    return value


def _given(default: Any, convert: Callable[[Any], Any]) -> Any:
    """Declare a keyword: its default, and what checks and converts a value. A default of None is not converted."""
    converter = attrs.converters.optional(convert) if default is None else convert
    return attrs.field(default=default, converter=converter, kw_only=True)


# --- the stage ------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class Greedy:
    """Picks candidates one by one, each time the one that makes the set of picks best.

    A worker is called for sets: its pset has the columns of one candidate, its key under `candidate`, and under
    `picked` the list of the keys of all others in the set, in order. What a set is worth is what the worker answers
    under `metric`. No set is evaluated twice.

    Parameters
    ----------
    worker : callable
        As for `paramsurvey.map`.
    picks : int, optional
        Stop when so many are picked; with ``direction="backward"``, when so many are left.
    metric : key or list of keys, optional
        What is to be made as good as possible: a key of the answer, or several, of which each decides where those
        before are equal. By default the only key that there is.
    maximize : bool or list of bools
        Whether more is better; a list has one for each metric.
    candidate, picked : hashable
        The columns under which the worker finds the candidate's key, and those of the others.
    key : hashable, optional
        The column of the candidates that tells them apart; by default the one called as `candidate` says, or the
        only one.
    ordered : bool
        Whether the order of picks makes a difference, so that (a, b) and (b, a) are two evaluations.
    baseline : number, optional
        What the metric is without any pick, if it is known. By default the set in `start` is evaluated once for that;
        without one, it is taken as 0 if more is better, as it is for coverage, and is unknown if less is.
    direction : {"forward", "backward"}
        Whether to begin with nothing and add, or with all and take away what is missed least.
    beam : int
        How many sets are pursued side by side.
    floating : bool
        Whether to look after every pick whether the set is better without one of the earlier ones (Pudil, Novovičová
        and Kittler, Pattern Recognition Letters 15, 1119, 1994). It begins with plain greedy's sets, so that the best
        of each size is never worse than that.
    first : {1, 2}
        With 2 the first pick is the best pair, where one alone is worth nothing, like an interferometer of one station.
    polish : {"swap"}, optional
        In the end, exchange picks for others as long as that is better.
    target : number, optional
        Stop when the (first) metric is as good as this.
    min_gain : number, optional
        Stop when no candidate improves the (first) metric by so much; it is not picked.
    max_evaluations : int, optional
        Stop before a round that could need more evaluations than this altogether.
    budget : number, optional
        What the picks may cost together. Candidates that no longer fit are left out.
    cost : column name or mapping, optional
        What each candidate costs: a column of theirs, or numbers by key.
    rule : {"ratio", "gain", "both"}, optional
        With `budget`: pick by gain per cost (the default), or by gain alone; or do both and take the better. By ratio,
        every set on the way is also tried with the best single candidate that fits, and the best of all is taken: this
        needs no further evaluations, and if gains can only fall and are never negative, it is worth at least half of
        the optimum (Yaroslavtsev, Zhou and Avdiukhin, AISTATS 2020).
    start : list of keys
        Who is in already, of the candidates; not counted among the picks. A second table of the stage can be given
        instead, which may have others.
    exclude : list of keys
        Who must not be picked.
    conflicts : list of pairs or groups of keys
        Of each group at most one may be in.
    requires : mapping
        For a key, those without which it must not be in: ``{"GLTS": ["GLT"]}``.
    ties : {"first", "random", "all"}
        Which of equals is picked: the first in declared order, one by chance, or all at once, even if that makes more
        than `picks`. The last is a trap: where one candidate alone is worth nothing, all are equal, and all are picked.
    seed : int, optional
        Of the chance in ``ties="random"``; 0 by default.
    lazy : bool
        Whether to spare the evaluation of candidates that cannot win if gains only fall as the set grows (Minoux 1978).
        See `on_violation` for what happens if they do not.
    on_violation : {"replay", "raise", "warn"}, optional
        When a gain has risen: throw the picks away and do plain greedy, from what is known (the default); raise a
        `StageError` that carries the results so far; or go on with a warning.
    gain_rise : number or function, optional
        With `lazy`: by how much one pick can raise the gain of another candidate at most, or a function that tells it
        of the pick's key, the candidate's, and the list of those that were in before the pick. It makes lazy search
        exact where gains can rise. It is called in this process, often.
    slack : number, optional
        With `lazy`: a difference in gains that is to be put down to noise.
    replicates : int
        How often a set is evaluated, because its metric is noisy: the replicates are numbered from 0 in the column
        `replicate`. Random numbers that a worker seeds by ``system_kwargs["seed"]``, or by that number, are the same
        for all sets in one replicate, and others in the next. So sets are compared in the same weather, most of them by
        few replicates (successive halving), and the picks are evaluated afresh in the end.
    replicate : hashable
        The column with the number of the replicate.
    on_failure : {"continue", "stop"}
        Whether a set without a value just cannot win, or ends the search.
    options : mapping
        Options of `paramsurvey.map` for the evaluations.
    name : str
        What the stage is called.

    Raises
    ------
    OptionError
        An option is impossible, or two contradict each other.
    WorkerError
        The worker cannot be called.

    Examples
    --------
    >>> from paramsurvey.tables import table_of
    >>> def seen(pset, system_kwargs, user_kwargs):
    ...     return {"letters": len(set("".join([*pset["picked"], pset["candidate"]])))}
    >>> talk = Greedy(seen, picks=2).table(table_of([{"candidate": word} for word in ("tea", "ten", "cup")]))
    >>> ask = next(talk)
    >>> ask.psets[2]
    {'candidate': 'cup', 'picked': []}
    >>> Greedy(seen, beam=2, lazy=True, picks=2)
    Traceback (most recent call last):
    ...
    paramsurvey.errors.OptionError: Greedy(lazy=True, beam=2): lazy search spares what cannot be the best, and a beam \
wants the second best, too; give up one of them
    """

    inputs: ClassVar[tuple[int, int | None]] = (1, 2)

    worker: Worker = attrs.field(converter=as_worker)
    picks: int | None = _given(None, _count("picks"))
    metric: Any = _given(None, _metric)
    maximize: Any = _given(True, _maximize)
    candidate: Hashable = _given("candidate", _column("candidate"))
    picked: Hashable = _given("picked", _column("picked"))
    key: Hashable | None = _given(None, _column("key"))
    ordered: bool = _given(False, _truth("ordered"))
    baseline: Any = _given(None, _real("baseline"))
    direction: str = _given("forward", _choice("direction", "forward", "backward"))
    beam: int = _given(1, _count("beam"))
    floating: bool = _given(False, _truth("floating"))
    first: int = _given(1, _count("first"))
    polish: str | None = _given(None, _choice("polish", "swap"))
    target: Any = _given(None, _real("target"))
    min_gain: Any = _given(None, _real("min_gain"))
    max_evaluations: int | None = _given(None, _count("max_evaluations"))
    budget: Any = _given(None, _real("budget", 0))
    cost: Any = _given(None, _cost)
    rule: str | None = _given(None, _choice("rule", "ratio", "gain", "both"))
    start: Any = _given((), _keys("start"))
    exclude: Any = _given((), _keys("exclude"))
    conflicts: Any = _given((), _groups)
    requires: Any = _given(MappingProxyType({}), _requires)
    ties: str = _given("first", _choice("ties", "first", "random", "all"))
    seed: int | None = _given(None, _count("seed", 0))
    lazy: bool = _given(False, _truth("lazy"))
    on_violation: str | None = _given(None, _choice("on_violation", "replay", "raise", "warn"))
    gain_rise: Any = _given(None, _gain_rise)
    slack: Any = _given(None, _real("slack", 0))
    replicates: int = _given(1, _count("replicates"))
    replicate: Hashable = _given("replicate", _column("replicate"))
    on_failure: str = _given("continue", _choice("on_failure", "continue", "stop"))
    options: Any = _given(MappingProxyType({}), _options)
    name: str = _given("greedy", _name)

    def __attrs_post_init__(self) -> None:
        for is_there, names, reason in CONTRADICTIONS:
            if is_there(self):
                given = ", ".join(f"{name}={_told(self, name)}" for name in names)
                raise OptionError(f"Greedy({given}): {reason}")
        _refuse_circles(self.requires)

    # What follows from what was given

    @property
    def has_an_end(self) -> bool:
        """Whether anything but a lack of candidates ends the search."""
        ends = (self.picks, self.target, self.min_gain, self.max_evaluations, self.budget)
        return any(each is not None for each in ends)

    @property
    def signs(self) -> tuple[int, ...]:
        """Return for each metric 1 where more is better, and -1 where less is."""
        if isinstance(self.maximize, tuple):
            return tuple(1 if each else -1 for each in self.maximize)
        return ((1 if self.maximize else -1),) * len(self.metric or (None,))

    @property
    def told(self) -> Names:
        """The columns in which workers are told the choice."""
        return (self.candidate, self.picked, *((self.replicate,) if self.replicates > 1 else ()))

    @property
    def own_columns(self) -> Names:
        """The columns of its table that are neither the candidates' nor metrics."""
        costs = {"cost", "total_cost"} if self.budget is None else {"cost"} if self.cost == "cost" else set()
        return tuple(name for name in OWN_COLUMNS if name not in costs)

    def columns(self, *inputs: Columns) -> Columns:
        """Return those of the candidates, the metrics if they are known, and those that tell of the choice."""
        candidates = inputs[0]
        if not candidates.open:
            refuse_columns(self, candidates.names)
        names = ("round", *candidates.names, *(self.metric or ()), *self.own_columns)
        return Columns(tuple(dict.fromkeys(names)), candidates.open or self.metric is None or self.replicates > 1)

    def table(self, *tables: Table) -> Generator[Ask, Any, Made]:
        """Ask for evaluations, and return the picks; what the results of a run show for it is a `GreedyResults`."""
        pool = pool_of(self, tables[0], tables[1] if len(tables) > 1 else None)
        task = Task(self, pool, Book(self, pool))
        try:
            for need in searched(task):
                yield from _with_so_far(task, task.book.fetch(need))
        except (GeneratorExit, KeyboardInterrupt):  # the run ends before its time, and the picks were paid for
            task.stopped = "interrupted"
        except Rose as rose:
            error = StageError(f"stage {self.name!r}: {rose}, and on_violation='raise'")
            error.results = GreedyResults(task)  # type: ignore[assignment] # of one stage of a run
            raise error from None
        results = GreedyResults(task)
        places = np.array([each if each < pool.count else -1 for each in task.final.members], dtype=np.int64)
        nowhere = np.full(len(places), -1, dtype=np.int64)
        return Made(results.table, (places, nowhere)[: len(tables)], shown=results)

    def __reduce__(self) -> Any:
        given = {field.name: getattr(self, field.name) for field in attrs.fields(Greedy)}
        views = {name: dict(value) for name, value in given.items() if isinstance(value, MappingProxyType)}
        return _again, ({**given, **views},)  # views of dicts cannot be pickled

    def psets_of(self, candidates: Any) -> Any:
        """Return what a user has as candidates as psets: names become dicts.

        Parameters
        ----------
        candidates : iterable of names, list of dicts, DataFrame, Table or MapResults
            They.

        Raises
        ------
        OptionError
            They are none.
        """
        if isinstance(candidates, str | bytes | Mapping) or not isinstance(candidates, Iterable | pd.DataFrame | Table):
            raise OptionError(
                f"the candidates are {shown(candidates)}, a {type(candidates).__name__}: give a list of names, a list "
                "of dicts, or a DataFrame with a row for each"
            )
        if isinstance(candidates, pd.DataFrame):
            return self._with_key_of_index(candidates)
        if isinstance(candidates, Table) or hasattr(candidates, "table"):
            return candidates
        each = list(candidates)
        if all(isinstance(one, Mapping) for one in each):
            return each
        return [{self.key if self.key is not None else self.candidate: name} for name in each]

    def _with_key_of_index(self, candidates: pd.DataFrame) -> pd.DataFrame:
        """Return candidates with their keys in a column, if they are in the index."""
        key, index = self.candidate if self.key is None else self.key, candidates.index.name
        if key in candidates.columns or index is None:
            return candidates
        if key == index:
            return candidates.reset_index()
        if self.key is None:
            raise OptionError(
                f"the candidates have no column {key!r}, and an index {index!r}: say which tells them apart, "
                f"key={index!r} or a column"
            )
        return candidates


def _again(given: Mapping[str, Any]) -> Greedy:
    return Greedy(**given)


def _with_so_far(task: Task, asks: Generator[Ask, Any, None]) -> Generator[Ask, Any, None]:
    """Say with the first ask of every round how far the search has come."""
    ask = next(asks, None)
    if ask is None:
        return
    value = "" if task.final.value is None else f", {shown(task.book.metric.signs[0] * task.final.value)} so far"
    so_far = f"round {len(task.rounds) + 1}: {len(task.final.members)} picked{value}"
    told = yield attrs.evolve(ask, so_far=so_far)
    while True:
        try:
            ask = asks.send(told)
        except StopIteration:
            return
        told = yield ask


def told_apart(given: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell keywords of a greedy search from options of the surveys that it asks for.

    Parameters
    ----------
    given : mapping
        All of them. ``name``, ``seed`` and ``on_failure`` are the search's own; those of the surveys go in ``options``.
    where : str
        What the call is named in messages.

    Raises
    ------
    OptionError
        One is neither, or is not for such a search.
    """
    own = [field.name for field in attrs.fields(Greedy) if field.name != "worker"]
    for name in given:
        if name not in own and name not in TABLE:
            raise OptionError(f"{where}() has no option {name!r}; {nearest_or_all(name, [*own, *TABLE])}")
    others = {name: value for name, value in given.items() if name not in own}
    if others.get("seed_by") is not None and given.get("replicates", 1) != 1:
        raise OptionError(f"{where}(seed_by={shown(others['seed_by'])}, replicates=...): {ONE_SEED}")
    return {name: value for name, value in given.items() if name in own}, others


def _told(spec: Greedy, name: str) -> str:
    value = getattr(spec, name)
    return shown(dict(value) if isinstance(value, MappingProxyType) else value)


ONE_SEED: Final = (
    "all sets of one replicate have one seed, so that they are compared by the same random numbers: leave seed_by out"
)

Contradiction: TypeAlias = tuple[Callable[[Greedy], object], tuple[str, ...], str]

_WANTED: Final[Mapping[str, Callable[[Greedy], object]]] = {
    "lazy": lambda g: g.lazy,
    "beam": lambda g: g.beam > 1,
    "floating": lambda g: g.floating,
    "direction": lambda g: g.direction == "backward",
    "first": lambda g: g.first == 2,
    "ties": lambda g: g.ties == "all",
    "ordered": lambda g: g.ordered,
    "budget": lambda g: g.budget is not None,
    "conflicts": lambda g: g.conflicts,
}
"""Whether a way of searching is wanted, by the option that says so."""


def _either(one: str, other: str, why: str) -> Contradiction:
    """Two ways of searching that exclude each other."""
    return (lambda g: _WANTED[one](g) and _WANTED[other](g)), (one, other), f"{why}; give up one of them"


CONTRADICTIONS: Final[tuple[Contradiction, ...]] = (
    (
        lambda g: len(g.signs) != len(g.metric or (None,)),
        ("metric", "maximize"),
        "there must be one direction for each metric",
    ),
    (
        lambda g: len(set(g.told)) < len(g.told),
        ("candidate", "picked", "replicate"),
        "workers are told these in different columns: give them different names",
    ),
    (
        lambda g: set(g.metric or ()) & {*g.own_columns, *g.told, *OWN_IN_TRACE},
        ("metric",),
        "picks or trace have a column of that name, for something else: have the worker give its answer another one",
    ),
    # lazy
    _either("lazy", "beam", "lazy search spares what cannot be the best, and a beam wants the second best, too"),
    _either("lazy", "direction", "the bounds of lazy search are for sets that grow"),
    _either("lazy", "floating", "floating search also makes sets smaller, for which lazy search has no bounds"),
    _either("lazy", "ordered", "that gains fall as a set grows is said of sets, not of orders"),
    (
        lambda g: g.lazy and not g.has_an_end,
        ("lazy",),
        "until nobody is left, everybody is evaluated, so there is nothing to spare: give picks=, target=, min_gain=, "
        "max_evaluations= or budget=",
    ),
    (
        lambda g: g.lazy and g.replicates > 1 and g.slack is None,
        ("lazy", "replicates"),
        "noise makes gains rise by chance: say with slack= which rise is to be put down to it, or give up one of them",
    ),
    (
        lambda g: not g.lazy and g.on_violation is not None,
        ("on_violation",),
        "it says what happens when lazy search sees a gain rise: give lazy=True",
    ),
    (
        lambda g: not g.lazy and g.gain_rise is not None,
        ("gain_rise",),
        "it is for the bounds of lazy search: give lazy=True",
    ),
    (lambda g: not g.lazy and g.slack is not None, ("slack",), "it is for the bounds of lazy search: give lazy=True"),
    # budget
    (lambda g: g.cost is not None and g.budget is None, ("cost",), "costs count only against a budget: give budget="),
    (
        lambda g: g.budget is not None and g.cost is None,
        ("budget",),
        "nothing costs anything: say what candidates cost with cost=",
    ),
    (
        lambda g: g.rule is not None and g.budget is None,
        ("rule",),
        "it says how a budget is spent: give budget= and cost=",
    ),
    _either("budget", "beam", "a beam compares sets of one size, and of one budget sets of many sizes can be had"),
    _either(
        "budget", "floating", "floating search compares sets of one size, and a budget pays for sets of many sizes"
    ),
    _either("budget", "direction", "backward search begins with all candidates, which it could not pay for"),
    # the ways of searching
    _either("ties", "beam", "a beam keeps sets of one size side by side, and all that tie make sets of many sizes"),
    _either("ties", "floating", "floating search goes up one by one, and all that tie come at once"),
    _either("ties", "direction", "taking away all that tie could leave nothing of what made them worth nothing"),
    (
        lambda g: g.seed is not None and g.ties != "random",
        ("seed", "ties"),
        "only ties='random' needs a seed; that of the evaluations is one of the options=",
    ),
    _either("floating", "beam", "floating search follows one set up and down, and a beam several upwards"),
    _either("direction", "beam", "a beam only goes forward"),
    _either("direction", "floating", "floating search goes forward with steps back"),
    _either("direction", "first", "backward search begins with all candidates, not with a pair"),
    _either("direction", "conflicts", "backward search begins with all candidates together, also those in conflict"),
    (lambda g: g.first > 2, ("first",), "the first pick is one candidate or a pair: give 1 or 2"),
    (lambda g: g.first == 2 and g.picks == 1, ("first", "picks"), "a pair is two picks: give picks=2 or more"),
    (
        lambda g: g.ordered and (g.floating or g.direction == "backward" or g.polish is not None or g.first == 2),
        ("ordered", "floating", "direction", "polish", "first"),
        "only a search that adds one by one knows in which order; give up ordered=, or all of the others",
    ),
    (
        lambda g: g.replicates > 1 and "seed_by" in g.options,
        ("replicates", "options"),
        ONE_SEED,
    ),
    (
        lambda g: g.max_evaluations is not None and g.max_evaluations < g.replicates,
        ("max_evaluations", "replicates"),
        "not one set could be evaluated",
    ),
    # who may be in
    (
        lambda g: set(g.start) & set(g.exclude),
        ("start", "exclude"),
        "somebody is in from the start and must not be picked: name them once",
    ),
    (
        lambda g: any(set(needed) & set(g.exclude) for key, needed in g.requires.items() if key not in g.exclude),
        ("requires", "exclude"),
        "somebody requires who must not be picked, and so could never be picked: exclude both",
    ),
    (
        lambda g: any(
            key in group and set(needed) & set(group) for key, needed in g.requires.items() for group in g.conflicts
        ),
        ("requires", "conflicts"),
        "somebody requires whom it is in conflict with, and so could never be picked",
    ),
)
"""What cannot be wanted together: whether it is, the options, and why not."""


def searched(task: Task) -> Generator[Need, None, None]:
    """Search as is wanted, and leave in the task what came of it."""
    spec = task.spec
    task.final = start = yield from started(task)
    if spec.direction == "backward":
        task.final = yield from backward(task, start)
    elif spec.floating:
        task.final = yield from floating(task, start)
    elif spec.beam > 1:
        task.final = yield from beamed(task, start)
    else:
        search = lazily if spec.lazy else forward
        rule = "gain" if spec.budget is None else spec.rule or "ratio"
        if rule != "gain" and start.value is None:
            raise no_gain(task)  # before a round is paid for
        task.final = yield from both(task, start, search) if rule == "both" else search(task, start, rule)
    if spec.polish is not None:
        task.final = yield from swapped(task, task.final)
    if spec.replicates > 1:
        yield from afresh(task)


def _refuse_circles(requires: Mapping[Hashable, Names]) -> None:
    try:
        TopologicalSorter(requires).prepare()
    except CycleError as error:
        circle = " → ".join(map(repr, error.args[1]))
        raise OptionError(f"Greedy(requires=...): none of these could ever be the first: {circle}") from None
