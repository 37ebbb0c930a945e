"""Pictures of pipelines and of runs: which boxes there are, and what is written into them; `drawing` draws them.

They stand above pipelines and results, which show themselves by them, and beside plans, which have their own notes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, cast

from paramsurvey.drawing.boxes import Box, Drawing, Kind
from paramsurvey.pipeline import Pipeline, Step
from paramsurvey.results import MapResults, RunResults
from paramsurvey.stats import readable_time


class Pictured(Protocol):
    """What has a box in a picture: a step of a pipeline, or a stage of a plan."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def kind(self) -> str:
        """What kind of stage it is."""
        ...

    @property
    def after(self) -> tuple[str, ...]:
        """The names of those from which arrows lead to it."""
        ...


def drawing_of(pipeline: Pipeline, notes: Mapping[str, Iterable[str]] | None = None) -> Drawing:
    """Draw a pipeline: a box for every stage, from the sources on.

    Parameters
    ----------
    pipeline : Pipeline
        What to draw.
    notes : mapping, optional
        By the names of stages: what to write into their boxes, a line each.

    Examples
    --------
    >>> print(drawing_of(Pipeline("ranks").top(3, by="n"), {"psets": ["40 rows"]}))
    ranks
    ○ psets  source  40 rows
    ◆ top    table
    """
    steps, said = list(pipeline.steps.values()), {} if notes is None else notes
    return drawn(pipeline.name, [box_of(step, said.get(step.name, ())) for step in steps], steps)


def box_of(stage: Pictured, notes: Iterable[str] = (), *, warning: bool = False, done: float | None = None) -> Box:
    """Return the box of a stage, with notes in it, a line each."""
    lines: Any = tuple(notes)  # Any: mypy cannot tell what the converter of the field takes
    return Box(stage.name, cast(Kind, stage.kind), stage.name, lines, warning, done)


def drawn(title: str, boxes: Any, stages: Iterable[Pictured]) -> Drawing:  # Any: as above
    """Put boxes into a picture, with an arrow to each stage from those that it comes after."""
    return Drawing(title, boxes, [(above, stage.name) for stage in stages for above in stage.after])


def drawing_of_run(results: RunResults) -> Drawing:
    """Draw what came of a run: its pipeline with counts, failures and times.

    Parameters
    ----------
    results : RunResults
        Of a run that is over, or of one that is going on (`RunStream.results`).

    Examples
    --------
    >>> pipeline = Pipeline("halves").map(lambda pset, system, user: {"half": pset["n"] / 2}, name="half")
    >>> print(drawing_of_run(pipeline.run([{"n": 1}, {"n": "x"}], verbose=0)))
    halves
    ○ psets    source                  2 rows
    ◆ half   ! map     ████░░░░  50 %  1 of 2 rows  1 failed  ... each
    """
    steps = list(results.pipeline.steps.values())
    return drawn(results.pipeline.name, [_box_with_results(step, results) for step in steps], steps)


def _box_with_results(step: Step, results: RunResults) -> Box:
    found = results[step.name] if step.kind == "map" else None
    if not isinstance(found, MapResults):
        table = results.table(step.name)
        return box_of(step, () if table is None else (_rows(table.count),))
    progress = found.progress
    total, failures = progress.total, progress.failures
    notes = [_rows(total) if progress.finished == total else f"{progress.finished:,} of {_rows(total)}"]
    if failures:
        notes.append(f"{failures:,} failed")
    read = found.stats.read_stats(found.name)
    if read is not None:
        notes.append(f"{readable_time(read[1])} each")
    return box_of(step, notes, warning=failures > 0, done=progress.finished / total if total else None)


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"
