"""The chart of a greedy search: its values by round, with the gains of all candidates, and what it took."""

from __future__ import annotations

from typing import Any

from paramsurvey.charts import Chart, Column
from paramsurvey.stages.greedy_search import Task
from paramsurvey.stages.greedy_trace import Round, Seen


def chart_of(task: Task) -> Chart:
    """Return the chart of a search; of two that were compared, that of the better one."""
    sign = task.book.metric.signs[0]
    rounds = [each for each in task.rounds if each.rule in ("", task.taken)]
    before = rounds[0].value if rounds else None
    name = str(task.book.names[0]) if task.book.names else "value"
    picks = len(task.final.members)
    count = task.book.evaluations
    title = f"{task.spec.name}: {picks} pick{'' if picks == 1 else 's'}, {count} evaluation{'' if count == 1 else 's'}"
    after = [*(each.value for each in rounds), task.final.value][1:] if rounds else []
    columns = tuple(_column(task, each, sign, value) for each, value in zip(rounds, after, strict=True))
    return Chart(title, name, columns, None if before is None else float(sign * before))


def _column(task: Task, each: Round, sign: int, after: Any) -> Column:
    picked = [seen for seen in each.seen if seen.picked]
    dots = tuple(float(sign * seen.score[0]) for seen in each.seen if seen.score is not None)
    limits: tuple[float, ...] = ()
    if each.value is not None:
        limits = tuple(
            float(sign * (each.value + seen.bound))
            for seen in each.seen
            if seen.status == "pruned" and seen.bound is not None
        )
    value = max((seen.score[0] for seen in picked if seen.score is not None), default=None)
    if task.spec.ties == "all" and len(picked) > 1:  # and what they are worth together is another set's value
        value = after
    count = sum(seen.replicates for seen in each.seen if seen.status in ("evaluated", "failed"))
    return Column(_label(task, picked), None if value is None else float(sign * value), dots, limits, count)


def _label(task: Task, picked: list[Seen]) -> str:
    if not picked:
        return "—"
    names = [_of_one(task, seen) for seen in picked]
    return names[0] if len(names) == 1 else f"{names[0]} (+{len(names) - 1})"


def _of_one(task: Task, seen: Seen) -> str:
    keys: list[Any] = [task.pool.keys[each] for each in seen.changed]
    return "+".join(map(str, keys))
