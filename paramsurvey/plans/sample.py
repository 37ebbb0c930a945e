"""A sample: some rows that run through all stages, and what that shows of each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np

from paramsurvey.errors import BackendError, PsetError, StageError, SurveyError, WorkerError
from paramsurvey.pipeline import Pipeline, Step
from paramsurvey.plans.memory import MemoryWatch
from paramsurvey.plans.plan import Sample, Seen, Timing
from paramsurvey.plans.psets import codes_of_rows, evenly_spread
from paramsurvey.results import MapResults, RunResults, first_line
from paramsurvey.stages.map import Map
from paramsurvey.stages.reduce import Reduce
from paramsurvey.stages.tables import Best, Concat, Join, Top
from paramsurvey.survey import Survey

if TYPE_CHECKING:
    from paramsurvey.runs.run import Run
    from paramsurvey.tables import Table


Start = Callable[[Pipeline, Mapping[str, Any]], "Run"]
"""Makes a run of a pipeline and its sources."""
LEFT_OUT: Final = ("out_func", "on_failure", "keep_results")
"""Options of a stage that a sample does without: what it computes is nobody's result."""


def options_of_sample(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for the run of a sample, from those that were given for the plan.

    It is silent and does not stop; its rows are kept, and no function of the user's hears of them.
    """
    kept = {name: value for name, value in given.items() if name not in ("name", "limit", *LEFT_OUT)}
    quiet = {"verbose": 0, "vstats": 0, "out_func": _unheard, "on_failure": "continue", "keep_results": True}
    return {**kept, **quiet, "keep": "all", "allow_missing": True}


def _unheard(user_ret: object, system_kwargs: object, user_kwargs: object) -> None:
    """Take an answer of a sample, instead of an ``out_func`` that the session may have."""


@attrs.frozen
class _Holder:
    """What has a table, as the results of a survey have: rows that are taken as they are."""

    table: Table


@attrs.frozen(eq=False)
class Trial:
    """A sample, what came of it, and what it has shown of each stage."""

    sample: Sample
    results: RunResults
    seen: dict[str, Seen]


def tried(run: Run, tables: Mapping[str, Table], count: int, start: Start) -> Trial | None:
    """Run a sample; None if there is nothing to run."""
    source, table = next(iter(tables.items()))
    if not table.count:
        return None
    rows = evenly_spread(table.count, int(count))
    sources = {name: _Holder(each.take(rows) if name == source else each) for name, each in tables.items()}
    trial = start(_without_side_effects(run.pipeline), sources)
    began = time.monotonic()
    why = ""
    with MemoryWatch() as watch:
        try:
            results = trial.run()
        except (SurveyError, BackendError, WorkerError, PsetError, StageError) as exc:
            results = exc.results if isinstance(exc.results, RunResults) else trial.results()
            why = first_line(str(exc), 300)
    sample = Sample(source, len(rows), table.count, time.monotonic() - began, watch.most, why)
    return Trial(sample, results, _all_seen(trial, results))


def _without_side_effects(pipeline: Pipeline) -> Pipeline:
    """Return the same pipeline; its map stages keep their rows, call no function of the user's, and do not stop."""
    return Pipeline(
        pipeline.name,
        sources=pipeline.sources,
        steps=[
            attrs.evolve(step, stage=_bare(step.stage)) for step in pipeline.steps.values() if step.kind != "source"
        ],
    )


def _bare(stage: Any) -> Any:
    if type(stage) is not Map or not any(name in stage.given for name in LEFT_OUT):
        return stage
    return Map(stage.worker, **{name: value for name, value in stage.given.items() if name not in LEFT_OUT})


def _all_seen(trial: Run, results: RunResults) -> dict[str, Seen]:
    """Return what is seen of each stage; nothing of one that a whole-table stage has kept from running."""
    nodes = set(map(id, trial.nodes.values()))
    asked = [each for each in trial.surveys if id(each) not in nodes]
    seen: dict[str, Seen] = {}
    for name, step in trial.pipeline.steps.items():
        has_run = getattr(trial.nodes[name], "psets", True) is not None
        above = [trial.pipeline.steps[each] for each in step.after]
        if step.kind != "source" and has_run and all(each.kind == "source" or each.name in seen for each in above):
            seen[name] = _seen(step, results, [each for each in asked if _asked_by(each, step)])
    return seen


def _asked_by(survey: Survey, step: Step) -> bool:
    """Tell whether a survey is one that a whole-table stage has asked for: by its name, which no other stage has."""
    options = getattr(step.stage, "options", None)
    given = options.get("name") if isinstance(options, Mapping) else None
    return step.kind == "table" and (survey.name == given or survey.name.rpartition(" ")[0] == step.name)


def _seen(step: Step, results: RunResults, asked: Sequence[Survey]) -> Seen:
    rows_in = tuple(_count_of(results, above) for above in step.after)
    rows_out, growth = _count_of(results, step.name), _growth(step, results)
    found = results[step.name]
    if isinstance(found, MapResults):
        progress = found.progress
        rows_in, rows_out = (progress.finished + progress.failures,), progress.finished
        return Seen(rows_in, rows_out, growth, progress.failures, _first_failure(found), _timing_of(found))
    failures = sum(each.progress.failures for each in asked)
    told = [each.results() for each in asked]
    failure = next((_first_failure(each) for each in told if each.progress.failures), "")
    return Seen(rows_in, rows_out, growth, failures, failure, _timing_of(told[0]) if len(told) == 1 else None)


def _count_of(results: RunResults, name: str) -> int:
    table = results.table(name)
    return 0 if table is None else table.count


def _first_failure(found: MapResults) -> str:
    missing = found.missing[~found.missing["_kind"].isin(["upstream", "cancelled"])]
    if not len(missing):
        return ""
    first = missing.iloc[0]
    return f"{first['_kind']}: {first_line(str(first['_exception']))}"


def _timing_of(found: MapResults) -> Timing | None:
    read = found.stats.read_stats(found.name)
    if read is None:
        return None
    count, mean, histogram = read
    return Timing(count, mean, float(histogram.get_stddev()) / 1e6 if count > 1 else 0.0)


def _growth(step: Step, results: RunResults) -> float | None:
    """Return the power with which the rows of a stage grow with those that it gets."""
    stage = step.stage
    if step.kind != "table" or isinstance(stage, Join | Concat):
        return 1.0
    by = stage.by if isinstance(stage, Reduce) else stage.within if isinstance(stage, Top | Best) else None
    rows = results.table(step.after[0])
    if by is None or rows is None or rows.count < 2 or any(name not in rows.keys for name in by):
        return None
    groups = codes_of_rows(rows.only(by))[0]
    half = len(groups) // 2
    first, whole = len(np.unique(groups[:half])), len(np.unique(groups))
    return max(0.0, min(1.0, math.log(whole / first) / math.log(len(groups) / half)))
