"""How many rows come out of every stage: bounds, which stages know, and estimates, which need a sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from paramsurvey.pipeline import Pipeline
from paramsurvey.plans.plan import Count, Seen
from paramsurvey.plans.sample import Trial
from paramsurvey.stages.base import Bounds, bounds_after, fan_out_of
from paramsurvey.stages.tables import Best, Concat, Top

if TYPE_CHECKING:
    from paramsurvey.tables import Table


def counted(pipeline: Pipeline, tables: Mapping[str, Table], trial: Trial | None) -> dict[str, Count]:
    """Count the rows that come out of every stage."""
    counts: dict[str, Count] = {}
    for name, step in pipeline.steps.items():
        if step.kind == "source":
            counts[name] = Count(tables[name].count, tables[name].count)
            continue
        inputs = [counts[above] for above in step.after]
        seen = trial.seen.get(name) if trial is not None else None
        counts[name] = _estimated(rows_after(step.stage, inputs), step.stage, step.kind, inputs, seen)
    return counts


def rows_after(stage: Any, inputs: Sequence[Count]) -> Count:
    """Return the bounds of how many rows come out of a stage, from those of what goes in.

    Parameters
    ----------
    stage : object
        A stage of any kind.
    inputs : list of Count
        How many rows come from each stage above.

    Examples
    --------
    >>> from paramsurvey.stages.tables import Concat
    >>> rows_after(Concat(), [Count(3, 3), Count(0, 5)])
    Count(least=3, most=8, about=None, spread=0.0)
    """
    bounds = bounds_after(stage, *(Bounds(each.least, math.inf if each.most is None else each.most) for each in inputs))
    return Count(bounds.least, None if bounds.most == math.inf else int(bounds.most))


def _estimated(count: Count, stage: Any, kind: str, inputs: Sequence[Count], seen: Seen | None) -> Count:
    """Add what the sample lets expect."""
    if seen is None:
        return count
    if seen.failures:
        count = Count(0, count.most)
    if count.is_exact:
        return count
    guess = _guess(stage, kind, inputs, seen)
    if guess is None:
        return count
    about, spread = guess
    about = max(about, count.least)
    return attrs.evolve(count, about=about if count.most is None else min(about, count.most), spread=spread)


def _guess(stage: Any, kind: str, inputs: Sequence[Count], seen: Seen) -> tuple[float, float] | None:
    """Return how many rows the sample lets expect, and the standard error of that."""
    expected = [each.expected for each in inputs if each.expected is not None]
    if len(expected) < len(inputs):
        return None
    if isinstance(stage, Concat):
        return sum(expected), math.hypot(*(each.spread for each in inputs))
    if isinstance(stage, Top | Best) and stage.within is None:
        return min(stage.count if isinstance(stage, Top) else 1, expected[0]), 0.0
    scales = [
        (rows / given, each.spread / rows if rows else 0.0)
        for rows, each, given in zip(expected, inputs, seen.rows_in, strict=True)
        if given
    ]
    if seen.growth is None or not scales:
        return None
    scale, error = max(scales)
    about = seen.rows_out * scale**seen.growth
    if not about:
        return 0.0, scale  # as if it had been one
    fan_out = fan_out_of(stage) if kind == "rows" else Bounds()
    own = (
        0.0
        if fan_out.least == fan_out.most
        else _ratio_error(seen.rows_out / max(seen.rows_in)) / math.sqrt(seen.rows_out)
    )
    return about, about * math.hypot(error, own)


def _ratio_error(ratio: float) -> float:
    """Return what the relative error of a number of rows that came of others is, times its root: binomial or Poisson.

    That is: each row came or did not; or, if there are more than went in, they came independently of one another.
    """
    return math.sqrt(1 - ratio) if ratio <= 1 else 1.0
