"""What calling the workers of a run takes: how often, and how many bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from paramsurvey.engine.columns import is_plain
from paramsurvey.engine.culprit import culprit_of
from paramsurvey.engine.pickling import Buffers, dumps, dumps_by_value
from paramsurvey.pipeline import Step
from paramsurvey.plans.plan import Calls, Count
from paramsurvey.plans.psets import MEASURED_ROWS, evenly_spread
from paramsurvey.stages.map import Map
from paramsurvey.stages.reduce import Reduce
from paramsurvey.survey import Survey

if TYPE_CHECKING:
    from paramsurvey.engine.records import Work
    from paramsurvey.options import Options
    from paramsurvey.runs.run import Run
    from paramsurvey.tables import Table


MEASURED_BYTES: Final = 20_000_000


def works_of(run: Run) -> dict[str, Work]:
    """Return what would be published for every stage that has a worker."""
    works: dict[str, Work] = {}
    for name, step in run.pipeline.steps.items():
        node = run.nodes[name]
        if isinstance(node, Survey):
            works[name] = _work(node.stage, name, node.options)
        elif isinstance(step.stage, Reduce) and step.stage.worker is not None:
            stage = Map(step.stage.worker, **step.stage.options)
            works[name] = _work(stage, name, run.options_of(stage.given))
    return works


def _work(stage: Map, name: str, options: Options) -> Work:
    return stage.work(name, options, options.chdir)


def published_bytes(work: Work) -> tuple[int | None, str]:
    """Return the bytes that would be published; or why there would be none."""
    buffers = Buffers()
    try:
        data = dumps_by_value(work, buffers)
    except Exception as exc:  # noqa: BLE001 - as above
        return None, f"{type(exc).__name__}: {exc}; what cannot is {culprit_of(work)}"
    return len(data) + sum(buffer.raw().nbytes for buffer in buffers), ""


def calls_of(
    step: Step, counts: Mapping[str, Count], works: Mapping[str, tuple[int | None, str]], rows: Table | None
) -> Calls:
    """Return what calling the worker of a stage takes, from some rows that it gets, if any are known."""
    count = counts[step.after[0]] if step.kind == "map" else counts[step.name]  # a row for each call
    published, why_not = works[step.name]
    task, row = (None, None) if rows is None else _bytes_of_tasks(rows)
    return Calls(count, published, why_not, task, row)


def _bytes_of_tasks(table: Table) -> tuple[int | None, float | None]:
    """Return the bytes of one row on its way to a worker, and of each further one that travels with it."""
    one = _bytes_of_rows(table, 1)
    if not one:
        return None, None
    count = int(max(2, min(table.count, MEASURED_ROWS, MEASURED_BYTES // one)))
    several = _bytes_of_rows(table, count) if table.count > 1 else None
    return one, None if several is None else (several - one) / (count - 1)


def _bytes_of_rows(table: Table, count: int) -> int | None:
    if table.count < count:
        return None
    rows = table.take(evenly_spread(table.count, count)).rows(0, count, 1)
    try:
        # as the pool does: what is not plain may be the user's own, and goes by value
        return len((dumps if all(map(is_plain, rows.columns)) else dumps_by_value)(tuple(rows)))
    except Exception:  # noqa: BLE001 - as above; it is told elsewhere
        return None
