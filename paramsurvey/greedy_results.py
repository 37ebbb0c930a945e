"""What a greedy search gives back: the picks, and all the evidence for them.

It is of results, not of the search (`stages.greedy`): who reads old ones needs neither a strategy nor a backend.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import attrs
import numpy as np
import pandas as pd

from paramsurvey.engine.columns import DETAILS, HOLE, Column, Pset, pack
from paramsurvey.engine.dispatcher import Lost
from paramsurvey.errors import OptionError, StageError, WorkerError
from paramsurvey.options import is_real, nearest_or_all, shown
from paramsurvey.results import first_line, missing_frame
from paramsurvey.stages.greedy_certificate import Certificate, Diagnosis, certificate_of, diagnosed
from paramsurvey.stages.greedy_trace import State
from paramsurvey.stats import PerfStats
from paramsurvey.tables import Table

if TYPE_CHECKING:
    import os

    from paramsurvey.charts import Chart
    from paramsurvey.progress import MapProgress
    from paramsurvey.stages.greedy_book import Score
    from paramsurvey.stages.greedy_pool import Members
    from paramsurvey.stages.greedy_search import Task
    from paramsurvey.stages.greedy_trace import Round, Seen, Step

OWN_IN_TRACE = (
    "round", "move", "rule", "beam", "instead_of", "status", "picked", "given_up", "replicates", "bound",
    "gain", "seconds",
)  # fmt: skip
"""The columns of the trace that are neither keys nor answers; an answer of such a name is called ``answer_...``."""


class GreedyResults:
    """What came of a greedy search.

    Parameters
    ----------
    task : Task
        The search.

    Attributes
    ----------
    picks : DataFrame
        A row for each pick: the round, the candidate's columns, the metric with it, the gain (what is better is
        positive), costs, how many were as good, the runner-up and by how much it was worse, and how many evaluations
        had been needed by then.
    trace : DataFrame
        A row for each set that was looked at in a round: the candidate, whether it was ``"evaluated"``, known from
        before (``"memo"``), not worth an evaluation (``"pruned"``) or without a value (``"failed"``), whether it was
        picked, or given up for something better in the end, what its gain could be at most (lazy search), its gain,
        its metric and whatever else the worker answered, and how many seconds that took; with ``details=True`` or
        ``capture=`` also what evaluations say of themselves (of several replicates, the first).
    value : number or tuple
        What the picks are worth, by the metric or the metrics; None if that is not known.
    keys : list
        The keys of the picks, in order.
    stopped : str
        Why the search ended.
    certificate : Certificate or None
        How sure it is that these are plain greedy's picks, and how far from the optimum they can be; None for searches
        that want something else (a beam, floating, backward, exchange).
    diagnosis : Diagnosis or None
        After a plain search: how many gains rose, and how many evaluations `lazy` would have needed.
    sizes : DataFrame
        The best set of each size that was on the way.
    missing : DataFrame
        The sets without a value, and why, as in `MapResults.missing`; if the worker answered, but not with a number,
        its ``_kind`` is ``"no value"``.
    progress : MapProgress
        The counts of the evaluations.
    stats : PerfStats
        How long they took.
    evaluations : int
        How many evaluations the search has needed. On several slots, lazy search makes more, which the others wait for.

    Examples
    --------
    >>> from paramsurvey import Pipeline
    >>> from paramsurvey.stages.greedy import Greedy
    >>> def letters(pset, system_kwargs, user_kwargs):
    ...     return {"letters": len(set("".join([*pset["picked"], pset["candidate"]])))}
    >>> words = [{"candidate": word} for word in ("to", "cup", "teapot", "milk")]
    >>> best = Pipeline().add(Greedy(letters, picks=2)).run(words, verbose=0)["greedy"]
    >>> best
    <GreedyResults greedy: teapot, milk; value 9; 7 evaluations; picks=2 reached>
    >>> best.picks[["candidate", "letters", "gain", "runner_up", "margin"]]
      candidate  letters  gain runner_up  margin
    0    teapot        5     5      milk       1
    1      milk        9     4       cup       2
    >>> print(best.diagnosis)
    0 of 3 gains rose (0%); with lazy=True 5 evaluations would have been enough, instead of 7
    """

    def __init__(self, task: Task) -> None:
        self.name = task.spec.name
        self.stopped = task.stopped
        self._task = task

    def __getstate__(self) -> dict[str, Any]:
        known = {"certificate": self.certificate, "diagnosis": self.diagnosis}  # which ask for more than is kept
        return {**self.__dict__, **known, "_task": _portable(self._task)}

    # The picks

    @cached_property
    def table(self) -> Table:
        """The rows of `picks`, before they are a DataFrame."""
        return _picks(self._task)

    @cached_property
    def picks(self) -> pd.DataFrame:
        """A row for each pick."""
        return self.table.frame()

    @property
    def keys(self) -> list[Hashable]:
        """The keys of the picks, in order."""
        return _keys(self._task, self._task.final.members)

    @property
    def value(self) -> Any:
        """What the picks are worth."""
        task = self._task
        score = _score_in_the_end(task)
        if score is None:
            return None if task.final.value is None else task.book.metric.signs[0] * task.final.value
        values = tuple(_metrics(task, score).values())
        return values[0] if len(values) == 1 else values

    @cached_property
    def sizes(self) -> pd.DataFrame:
        """The best set of each size that was on the way."""
        task = self._task
        states = {len(each.members): each for each in _states(task.final)} | task.best_of_size
        rows = [
            {"size": size, "members": _keys(task, states[size].members), **_metrics(task, states[size].score)}
            for size in sorted(states)
            if size
        ]
        return _frame(rows, ("size", "members"))

    # The evidence

    @cached_property
    def trace(self) -> pd.DataFrame:
        """A row for each set that was looked at, by round."""
        return _trace(self._task)

    @cached_property
    def certificate(self) -> Certificate | None:
        """How sure it is that these are plain greedy's picks, and how far from the optimum they can be."""
        return certificate_of(self._task)

    @cached_property
    def diagnosis(self) -> Diagnosis | None:
        """Return how many gains rose in a plain search, and how many evaluations lazy search would have needed."""
        return diagnosed(self._task)

    def pareto(self, metrics: Any) -> pd.DataFrame:
        """Return the sets, of all that were evaluated, than which none is better in one metric and as good in all.

        Parameters
        ----------
        metrics : key, list of keys, or mapping of keys to bool
            Keys of the answers, ``"cost"`` for what a set costs (if that is known), or ``"size"``. A mapping says of
            each whether more is better. Without it, more is better of what is not the metric itself, less of costs
            and sizes.

        Returns
        -------
        DataFrame
            A row for each, with its ``members``, by the first metric; the best is first.

        Raises
        ------
        OptionError
            There are none.
        StageError
            No set that was evaluated has such a number.
        """
        several = metrics if isinstance(metrics, list | tuple | Mapping) else [metrics]
        directions = dict(several) if isinstance(several, Mapping) else dict.fromkeys(several)
        if not directions:
            raise OptionError(f"pareto({shown(metrics)}): name the metrics in which sets are to be compared")
        rows = _rows_to_compare(self._task, directions)
        signs = [_direction(self._task, name, given) for name, given in directions.items()]
        points = np.array([[sign * row[name] for name, sign in zip(directions, signs, strict=True)] for row in rows])
        kept = [place for place, point in enumerate(points) if not _is_beaten(point, points)]
        kept.sort(key=lambda place: tuple(-points[place]))
        return _frame([rows[place] for place in kept], ("members", *directions))

    @cached_property
    def missing(self) -> pd.DataFrame:
        """The sets without a value, and why."""
        book, rows = self._task.book, []
        lost: list[Lost] = []
        for outcome, replicate in book.outcomes():
            if outcome.trouble is not None:
                rows.append(book.pset(outcome.members, replicate))
                lost.append(Lost(len(lost), outcome.trouble, outcome.attempts, outcome.earlier))
        return missing_frame(_table_of(rows, self._task.spec.told), lost)

    @property
    def progress(self) -> MapProgress:
        """The counts of the evaluations, with those that were made ahead of need."""
        return self._task.book.progress

    @cached_property
    def stats(self) -> PerfStats:
        """How long the evaluations took."""
        return PerfStats({self.name: self._task.book.seconds()})

    @property
    def evaluations(self) -> int:
        """How many evaluations the search has needed."""
        return self._task.book.evaluations

    # To be seen

    def plot(self, path: str | os.PathLike[str] | None = None) -> Chart:
        """Draw the value by round, the gains of all candidates as dots, and below how many evaluations were needed.

        Parameters
        ----------
        path : path, optional
            A file to save it in, which ends in ``.svg``, or ``.png`` (which needs ``paramsurvey[plot]``). Notebooks
            show what is returned.
        """
        from paramsurvey.stages.greedy_plot import chart_of  # few want a picture

        chart = chart_of(self._task)
        if path is not None:
            chart.save(path)
        return chart

    def __len__(self) -> int:
        return len(self._task.final.members)

    def __repr__(self) -> str:
        return f"<GreedyResults {self.name}: {self._in_words()}>"

    def _in_words(self) -> str:
        names = ", ".join(str(key) for key in self.keys[:8]) + (", ..." if len(self) > 8 else "")
        value = "" if self.value is None else f"value {_short(self.value)}; "
        sure = "" if self.certificate is None or self.certificate.standing == "exact" else self.certificate.standing
        missing = f"; {_several(len(self.missing), 'set')} without a value" if len(self.missing) else ""
        count = _several(self.evaluations, "evaluation") + (f" ({sure})" if sure else "")
        return f"{names or 'no picks'}; {value}{count}{missing}; {first_line(self.stopped)}"

    def _repr_html_(self) -> str:
        from html import escape  # here, because its table of entities takes longer to import than this module

        shown = self.picks._repr_html_() or ""  # type: ignore[operator]
        return f"<p><b>{escape(self.name)}</b>: {escape(self._in_words())}</p>{shown}"


def _portable(task: Task) -> Task:
    """Return a search that is over without what may not be pickled: the functions that it was given."""
    gain_rise = None if callable(task.spec.gain_rise) else task.spec.gain_rise
    task, book = copy.copy(task), copy.copy(task.book)
    task.spec = book.spec = attrs.evolve(task.spec, worker=forgotten, options={}, gain_rise=gain_rise)
    task.book, book.options = book, {}
    return task


def forgotten(_pset: Pset, _system_kwargs: object, _user_kwargs: object) -> NoReturn:
    """Stand for the worker of a search whose results were pickled."""
    raise WorkerError("these results do not know their worker any more: they were pickled")


def _several(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def _keys(task: Task, members: Members) -> list[Hashable]:
    return [task.pool.keys[each] for each in members]


def _frame(rows: Sequence[Pset], names: Iterable[Hashable]) -> pd.DataFrame:
    """Make a frame of dicts; without any it has these columns."""
    return _table_of(rows, names).frame()


def _table_of(rows: Sequence[Pset], names: Iterable[Hashable]) -> Table:
    return _table(tuple(dict.fromkeys(name for row in rows for name in row)) if rows else tuple(names), rows)


def _table(keys: Sequence[Hashable], rows: Sequence[Pset]) -> Table:
    columns: list[Column] = [pack([row.get(key, HOLE) for row in rows]) for key in keys]
    return Table(tuple(keys), columns, len(rows))


def _metrics(task: Task, score: Score | None) -> Pset:
    """Return metrics as the worker said them."""
    if score is None:
        return {}
    return {name: sign * each for name, sign, each in zip(task.book.names, task.book.metric.signs, score, strict=True)}


def _score_in_the_end(task: Task) -> Score | None:
    """Return what the picks are worth; of a metric with noise, evaluated afresh."""
    return task.final.score if task.spec.replicates == 1 else _afresh(task, task.final.members)


def _afresh(task: Task, members: Members) -> Score | None:
    count = task.spec.replicates
    known = task.book.has_replicates(members, count, first=count)
    return task.book.outcome(members, count, first=count).score if known else None


def _states(state: State) -> list[State]:
    """Return the sets on the way to one."""
    added = {each for step in state.steps for each in step.added}
    removed = (each for step in state.steps for each in step.removed)
    members = tuple(each for each in (*state.members, *removed) if each not in added)  # with which it began
    states, rounds = list[State](), Counter(step.number for step in state.steps)
    for place, step in enumerate(state.steps):
        members = (*(each for each in members if each not in step.removed), *step.added)
        if rounds[step.number] == 1:  # of several that tied it is not known
            states.append(State(members, None, step.score, state.steps[: place + 1]))
    return [*(each for each in states if len(each.members) != len(state.members)), state]


# --- picks ----------------------------------------------------------------------------------------


def _picks(task: Task) -> Table:
    members, spec = task.final.members, task.spec
    steps = {each: step for step in task.final.steps for each in step.added}
    rows = [_pick_row(task, place, each, steps.get(each)) for place, each in enumerate(members)]
    metrics = task.book.names or spec.metric or ()
    fresh = tuple(f"{name}_afresh" for name in metrics) if spec.replicates > 1 else ()
    taken = task.pool.table.take(np.array(members, dtype=np.int64))
    taken = Table(taken.keys, taken.columns, taken.count, None, taken.typed, taken.header)
    return _table(["round"], rows).beside(taken).beside(_table([*metrics, *fresh, *spec.own_columns[1:]], rows))


def _pick_row(task: Task, place: int, member: int, step: Step | None) -> Pset:
    pool, members = task.pool, task.final.members
    row: Pset = {"round": 0 if step is None else step.number}
    if pool.costs is not None:
        row |= {"cost": pool.costs[member], "total_cost": pool.cost(members[: place + 1])}
    if step is None:
        return row
    row |= {"ties": step.ties, "evaluations": step.evaluations}
    if member == step.added[-1]:  # of a pair the second, with which it is worth something
        row |= _metrics(task, step.score) | ({} if step.gain is None else {"gain": step.gain})
        if task.spec.replicates > 1:
            fresh = _metrics(task, _afresh(task, members[: place + 1]))
            row |= {f"{name}_afresh": value for name, value in fresh.items()}
    if step.runner_up is not None:
        row |= {"runner_up": _named(task, step.runner_up), "margin": step.margin}
    return row


def _named(task: Task, members: Members) -> Any:
    """Return a key, or the keys of a pair."""
    keys = tuple(_keys(task, members))
    return keys[0] if len(keys) == 1 else keys


# --- trace ----------------------------------------------------------------------------------------


def _trace(task: Task) -> pd.DataFrame:
    seen = [(each, one) for each in task.rounds for one in each.seen]
    rows = [_trace_row(task, each, one) for each, one in seen]
    if any(one.given_up for _, one in seen):
        rows = [
            (row | {"given_up": one.given_up}, answers) for (row, answers), (_, one) in zip(rows, seen, strict=True)
        ]
    answers = dict.fromkeys(name for row, _ in rows for name in row) | dict.fromkeys(
        name for _, row in rows for name in row
    )
    order = [name for name in _trace_order(task) if any(name in row for row, _ in rows) or not rows]
    others = [name for name in answers if name not in order and name not in DETAILS]
    details = [name for name in DETAILS if name in answers]
    return _table((*order, *others, *details), [one | two for one, two in rows]).frame()


def _trace_order(task: Task) -> tuple[Hashable, ...]:
    return ("round", "move", "rule", "beam", task.pool.column, *OWN_IN_TRACE[4:-1], *task.book.names, "seconds")


def _trace_row(task: Task, each: Round, seen: Seen) -> tuple[Pset, Pset]:
    """Return what the search says of a set, and what the worker said, and its details."""
    row: Pset = {"round": each.number, "move": each.move, task.pool.column: _named(task, seen.changed)}
    row |= {"rule": each.rule} if each.rule else {}
    row |= {"beam": seen.parent} if seen.parent else {}
    row |= {"instead_of": _named(task, seen.instead)} if seen.instead else {}
    row |= {"status": seen.status, "picked": seen.picked}
    row |= {"replicates": seen.replicates} if task.spec.replicates > 1 else {}
    row |= {name: value for name, value in (("bound", seen.bound), ("gain", seen.gain)) if value is not None}
    if seen.status == "pruned":
        return row, {}
    outcome = task.book.outcome(seen.members, seen.replicates)
    row |= _metrics(task, seen.score)
    row |= {} if outcome.seconds is None else {"seconds": outcome.seconds}
    own = {*OWN_IN_TRACE, task.pool.column, *task.book.names}
    others = {name: value for name, value in outcome.answers.items() if name not in task.book.names}
    return row, {f"answer_{name}" if name in own else name: value for name, value in others.items()} | outcome.details


# --- pareto ---------------------------------------------------------------------------------------


def _rows_to_compare(task: Task, names: Mapping[Hashable, Any]) -> list[Pset]:
    rows = []
    for outcome, _ in task.book.outcomes():
        known: Pset = {"size": len(task.pool.start) + len(outcome.members), **outcome.answers}
        known |= {} if task.pool.costs is None else {"cost": task.pool.cost(outcome.members)}
        if all(is_real(known.get(name)) and known[name] == known[name] for name in names):
            members = _keys(task, (*task.pool.start, *outcome.members))
            rows.append({"members": members, **{name: known[name] for name in names}})
    if not rows:
        answered = {name: None for outcome, _ in task.book.outcomes() for name in outcome.answers}
        there = [str(name) for name in (*answered, "size", *(["cost"] if task.pool.costs is not None else []))]
        unknown = [name for name in names if str(name) not in there] or list(names)
        hint = nearest_or_all(str(unknown[0]), there)
        raise StageError(f"pareto(): no set that was evaluated has a number {unknown[0]!r}; {hint}")
    return rows


def _direction(task: Task, name: Hashable, given: Any) -> int:
    if given is not None:
        return 1 if given else -1
    by_name = dict(zip(task.book.names, task.book.metric.signs, strict=True))
    return by_name.get(name, -1 if name in ("cost", "size") else 1)


def _is_beaten(point: Any, points: Any) -> bool:
    return bool(((points >= point).all(axis=1) & (points > point).any(axis=1)).any())
