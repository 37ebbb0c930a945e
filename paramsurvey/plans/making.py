"""Making a plan of a run that has not begun."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from paramsurvey.errors import OptionError, PsetError
from paramsurvey.options import shown
from paramsurvey.pipeline import Step
from paramsurvey.plans.calls import calls_of, published_bytes, works_of
from paramsurvey.plans.counts import counted
from paramsurvey.plans.eta import eta_of
from paramsurvey.plans.findings import findings_of
from paramsurvey.plans.plan import Plan, StagePlan
from paramsurvey.plans.psets import looked_through
from paramsurvey.plans.sample import Start, Trial, tried
from paramsurvey.stages.base import Columns

if TYPE_CHECKING:
    from paramsurvey.runs import Run
    from paramsurvey.tables import Table


def check_arguments(psets: Mapping[str, Any], sample: Any) -> None:
    """Refuse what a plan cannot be made of, before anything is read.

    Parameters
    ----------
    psets : mapping
        What was given as psets, by name.
    sample : object
        What was given as the number of rows to run.

    Raises
    ------
    PsetError
        Psets come in an iterator, of which nothing would be left for the run.
    OptionError
        The sample is no number of rows.
    """
    for name, each in psets.items():
        if isinstance(each, Iterator):
            raise PsetError(
                f"plan() would use up {name}, a {type(each).__name__}, and leave nothing for the run: "
                "make a list of it first"
            )
    if sample is not None and not _is_number_of_rows(sample):
        raise OptionError(f"plan(sample={shown(sample)}): sample must be a number of rows, at least 1, or None")


def _is_number_of_rows(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, numbers.Integral) and int(value) > 0


def planned(run: Run, sample: int | None, start: Start) -> Plan:
    """Make the plan of a run that has not begun.

    Parameters
    ----------
    run : Run
        What would be done.
    sample : int or None
        How many rows of the first source to run, to see.
    start : callable
        Makes the run of the sample.

    Raises
    ------
    StageError
        A column that a stage needs is in none of the psets.
    """
    pipeline = run.pipeline
    tables = {name: psets.table() for name, psets in run.psets.items()}
    columns = pipeline.columns({name: Columns(each.keys, open=not each.count) for name, each in tables.items()})
    works = {name: published_bytes(work) for name, work in works_of(run).items()}
    sends = run.backend.name != "serial"
    trial = None
    if sample is not None and not (sends and any(why for _, why in works.values())):
        trial = tried(run, tables, sample, start)
    counts = counted(pipeline, tables, trial)
    stages = []
    for name, step in pipeline.steps.items():
        ins = tuple(_seen_columns(columns[above], above, trial) for above in step.after)
        stages.append(
            StagePlan(
                name=name,
                kind=step.kind,
                after=step.after,
                rows=counts[name],
                columns_in=ins,
                columns=_seen_columns(columns[name], name, trial),
                psets=looked_through(tables[name]) if name in tables else None,
                calls=calls_of(step, counts, works, _rows_for(step, tables, trial)) if name in works else None,
                seen=trial.seen.get(name) if trial is not None else None,
            )
        )
    plan = Plan(pipeline.name, tuple(stages), run.backend.name, run.slots, None if trial is None else trial.sample)
    plan = attrs.evolve(plan, eta=eta_of(plan))
    findings = sorted(findings_of(plan, run, sample is not None), key=lambda each: not each.is_warning)
    return attrs.evolve(plan, findings=tuple(findings))


def _seen_columns(known: Columns, name: str, trial: Trial | None) -> Columns:
    """Return the columns that are known ahead; if there may be others, with those that the sample had."""
    if trial is None or not known.open or name not in trial.seen:
        return known
    table = trial.results.table(name)
    return known if table is None else known.with_more(table.keys)


def _rows_for(step: Step, tables: Mapping[str, Table], trial: Trial | None) -> Table | None:
    """Return rows that a map stage gets, if some are known."""
    if step.kind != "map":
        return None
    [above] = step.after
    if above in tables:
        return tables[above]
    return None if trial is None else trial.results.table(above)
