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
from paramsurvey.plans.plan import Count, Plan, StagePlan
from paramsurvey.plans.psets import looked_through
from paramsurvey.plans.sample import Start, Trial, tried
from paramsurvey.stages.base import Columns

if TYPE_CHECKING:
    from paramsurvey.runs.run import Run
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
    known = _known(run, sample, start)
    stages = tuple(map(known.of_stage, run.pipeline.steps.values()))
    ran = None if known.trial is None else known.trial.sample
    plan = Plan(run.pipeline.name, stages, run.backend.name, run.slots, ran)
    plan = attrs.evolve(plan, eta=eta_of(plan))
    findings = sorted(findings_of(plan, run, sample is not None), key=lambda each: not each.is_warning)
    return attrs.evolve(plan, findings=tuple(findings))


def _known(run: Run, sample: int | None, start: Start) -> _Known:
    """Find out all that does not depend on the plan; run the sample, unless its workers cannot be sent."""
    tables = {name: psets.table() for name, psets in run.psets.items()}
    columns = run.pipeline.columns({name: Columns(each.keys, open=not each.count) for name, each in tables.items()})
    works = {name: published_bytes(work) for name, work in works_of(run).items()}
    sends = run.backend.name != "serial"
    trial = None
    if sample is not None and not (sends and any(why for _, why in works.values())):
        trial = tried(run, tables, sample, start)
    return _Known(tables, columns, works, trial, counted(run.pipeline, tables, trial))


@attrs.frozen(eq=False)
class _Known:
    """What is known of a run, by the names of its stages."""

    tables: Mapping[str, Table]
    columns: Mapping[str, Columns]
    works: Mapping[str, tuple[int | None, str]]
    trial: Trial | None
    counts: Mapping[str, Count]

    def of_stage(self, step: Step) -> StagePlan:
        """Return what is known of one stage."""
        name = step.name
        return StagePlan(
            name=name,
            kind=step.kind,
            after=step.after,
            rows=self.counts[name],
            columns_in=tuple(map(self._columns_of, step.after)),
            columns=self._columns_of(name),
            psets=looked_through(self.tables[name]) if name in self.tables else None,
            calls=calls_of(step, self.counts, self.works, self._rows_for(step)) if name in self.works else None,
            seen=self.trial.seen.get(name) if self.trial is not None else None,
        )

    def _columns_of(self, name: str) -> Columns:
        """Return the columns that are known ahead; if there may be others, with those that the sample had."""
        ahead = self.columns[name]
        if self.trial is None or not ahead.open or name not in self.trial.seen:
            return ahead
        table = self.trial.results.table(name)
        return ahead if table is None else ahead.with_more(table.keys)

    def _rows_for(self, step: Step) -> Table | None:
        """Return rows that a map stage gets, if some are known."""
        if step.kind != "map":
            return None
        [above] = step.after
        if above in self.tables:
            return self.tables[above]
        return None if self.trial is None else self.trial.results.table(above)
