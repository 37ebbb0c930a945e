"""What a greedy search gives back: the picks, and all the evidence for them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from paramsurvey.engine.columns import HOLE, Column, Pset, pack
from paramsurvey.tables import Table

if TYPE_CHECKING:
    from paramsurvey.progress import MapProgress
    from paramsurvey.stages.greedy_pool import Members
    from paramsurvey.stages.greedy_search import Task
    from paramsurvey.stages.greedy_trace import Round, Seen, Step


class GreedyResults:
    """What came of a greedy search.

    Parameters
    ----------
    task : Task
        The search.

    Attributes
    ----------
    picks : DataFrame
        A row for each pick: the round, the candidate's columns, the metric as it was with it, the gain (what is better
        is positive), costs, how many tied, the runner-up and by how much it was worse, and how many evaluations had
        been needed by then.
    trace : DataFrame
        A row for each set that was looked at, by round: see `Seen`.
    value : number or tuple
        What the picks are worth, by the metric or the metrics; None if that is not known.
    stopped : str
        Why the search ended.
    missing : DataFrame
        The sets without a value, and why.
    progress : MapProgress
        The counts of the evaluations.
    """

    def __init__(self, task: Task) -> None:
        self.name = task.spec.name
        self.stopped = task.stopped
        self._task = task

    # The picks

    @cached_property
    def table(self) -> Table:
        """The rows of `picks`."""
        return _picks(self._task)

    @property
    def picks(self) -> pd.DataFrame:
        """A row for each pick."""
        return self.table.frame()

    @property
    def keys(self) -> list[Hashable]:
        """The keys of the picks, in order."""
        return [self._task.pool.keys[each] for each in self._task.final.members]

    @property
    def value(self) -> Any:
        """What the picks are worth."""
        task = self._task
        if task.final.score is None:
            return None if task.final.value is None else task.book.metric.signs[0] * task.final.value
        values = tuple(sign * each for sign, each in zip(task.book.metric.signs, task.final.score, strict=True))
        return values[0] if len(values) == 1 else values

    # The evidence

    @cached_property
    def trace(self) -> pd.DataFrame:
        """A row for each set that was looked at, by round."""
        rows = [_trace_row(self._task, each, seen) for each in self._task.rounds for seen in each.seen]
        return _frame(rows, ("round", self._task.pool.column, "status", "picked"))

    @cached_property
    def missing(self) -> pd.DataFrame:
        """The sets without a value, and why."""
        task, rows = self._task, []
        for outcome, replicate in task.book.outcomes():
            if outcome.trouble is not None:
                row = task.book.pset(outcome.members, replicate)
                rows.append({**row, "_kind": outcome.trouble.kind, "_exception": outcome.trouble.text})
        return _frame(rows, (*task.spec.told, "_kind", "_exception"))

    @property
    def progress(self) -> MapProgress:
        """The counts of the evaluations, with those that were asked for ahead of need."""
        return self._task.book.progress

    @property
    def evaluations(self) -> int:
        """How many evaluations the search has needed."""
        return self._task.book.evaluations

    def __len__(self) -> int:
        return len(self._task.final.members)

    def __repr__(self) -> str:
        picks = ", ".join(str(key) for key in self.keys[:8]) + (", ..." if len(self) > 8 else "")
        value = "" if self.value is None else f", {self.value!r}"
        return (
            f"<GreedyResults {self.name}: {picks or 'no picks'}{value}; {self.evaluations} evaluations; {self.stopped}>"
        )


def _frame(rows: Sequence[Pset], names: Iterable[Hashable]) -> pd.DataFrame:
    """Make a frame of dicts; without any it has these columns."""
    if rows:
        keys = tuple(dict.fromkeys(name for row in rows for name in row))
        return Table(keys, [pack([row.get(key, HOLE) for row in rows]) for key in keys], len(rows)).frame()
    return Table(tuple(names), [[] for _ in names], 0).frame()


def _picks(task: Task) -> Table:
    import numpy as np

    members = task.final.members
    steps = {each: step for step in task.final.steps for each in step.added}
    rows = [_pick_row(task, place, each, steps.get(each)) for place, each in enumerate(members)]
    metrics, own = task.book.names or task.spec.metric or (), task.spec.own_columns

    def part(names: Sequence[Hashable]) -> Table:
        columns: list[Column] = [pack([row.get(name, HOLE) for row in rows]) for name in names]
        return Table(tuple(names), columns, len(rows))

    taken = task.pool.table.take(np.array(members, dtype=np.int64))
    taken = Table(taken.keys, taken.columns, taken.count, None, taken.typed, taken.header)
    return part(["round"]).beside(taken).beside(part([*metrics, *own[1:]]))


def _pick_row(task: Task, place: int, member: int, step: Step | None) -> Pset:
    pool = task.pool
    row: Pset = {"round": 0 if step is None else step.number}
    if pool.costs is not None:
        row |= {"cost": pool.costs[member], "total_cost": pool.cost(task.final.members[: place + 1])}
    if step is None:
        return row
    row |= {"ties": step.ties, "evaluations": step.evaluations}
    if member == step.added[-1]:  # of a pair, the second
        row |= _metrics(task, step.score)
        row |= {} if step.gain is None else {"gain": step.gain}
    if step.runner_up is not None:
        row |= {"runner_up": _shown(task, step.runner_up), "margin": step.margin}
    return row


def _metrics(task: Task, score: Any) -> Pset:
    if score is None:
        return {}
    return {name: sign * each for name, sign, each in zip(task.book.names, task.book.metric.signs, score, strict=True)}


def _shown(task: Task, numbers: Members) -> Any:
    """Return a key, or the keys of a pair."""
    keys = tuple(task.pool.keys[each] for each in numbers)
    return keys[0] if len(keys) == 1 else keys


def _trace_row(task: Task, each: Round, seen: Seen) -> Pset:
    row: Pset = {"round": each.number, task.pool.column: _shown(task, seen.changed), "status": seen.status}
    row |= {"picked": seen.picked}
    return row
